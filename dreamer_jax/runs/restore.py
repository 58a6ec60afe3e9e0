"""Where a run goes on: its arrays from a checkpoint, and its replay, whatever number of processes wrote them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dreamer_jax.config.schema import Config
from dreamer_jax.interfaces import Agent
from dreamer_jax.processes.group import ProcessGroup
from dreamer_jax.processes.shards import Arrays, below, reshard, shard
from dreamer_jax.replay.curious import make_curiosity
from dreamer_jax.replay.host import Replay
from dreamer_jax.replay.reshard import reshard_rings, ring_folder
from dreamer_jax.replay.smoothing import make_kernel
from dreamer_jax.replay.storage import clear
from dreamer_jax.runs.checkpoint import Checkpoints, open_rings
from dreamer_jax.specs import EnvSpec
from dreamer_jax.types import TrainState

SEEDS_APART = 64
"""Bits by which the seeds of the processes' replays are apart."""


class Restored(NamedTuple):
    """What a checkpoint gives to one process. ``arrays`` and ``facts`` are empty for a new run."""

    state: TrainState
    carry: Any
    arrays: Arrays
    facts: dict[str, Any]
    replay: Replay


class Restore:
    """Opens what a run needs, for one of ``group``."""

    def __init__(
        self, config: Config, run_dir: Path, spec: EnvSpec, agent: Agent, capacity: int, group: ProcessGroup
    ) -> None:
        self._config, self._run_dir, self._spec, self._agent = config, run_dir, spec, agent
        self._rows, self._group = capacity // config.env.num_envs, group
        self._envs = group.local_range(config.env.num_envs)
        self._folder = ring_folder(run_dir, group.process_index, group.process_count)

    def new(self, state: TrainState) -> Restored:
        """A run that begins with ``state``."""
        clear(self._folder)  # without a checkpoint it holds nothing but a start that was cut off
        carry = jax.jit(self._agent.reset, static_argnums=1)(state.params, len(self._envs))
        return Restored(state, carry, {}, {"agent_steps": 0, "seconds": 0.0}, self._replay(self._rows))

    def checkpoint(
        self, checkpoints: Checkpoints, step: int, shapes: TrainState, note: Callable[[str], None]
    ) -> Restored:
        """As of checkpoint ``step``; ``shapes`` are those of a train state.

        Raises:
          ConfigError: a ring is missing or damaged.
          OSError: the disk has no room for streams that are dealt out.
        """
        parts, total = self._group.process_count, self._config.env.num_envs
        carry = jax.eval_shape(lambda params: self._agent.reset(params, total), shapes.params)
        # All is read, and compared with its checksums, before any process changes a file.
        state, carry, arrays, facts = self._group.all_succeed(lambda: checkpoints.restore(step, shapes, carry))
        before = facts.get("processes", 1)
        rings, compared = self._group.all_succeed(lambda: self._rings(arrays, before, step))
        if self._group.is_primary:
            checkpoints.drop_after(step)
        if parts > 1:
            carry = jax.tree.map(lambda x: x[self._envs.start : self._envs.stop] if x.ndim else x, carry)
        if before == parts:
            arrays = shard(arrays, self._group.process_index, parts, total)
            replay = self._replay(self._rows)
            replay.restore(below(arrays, "replay"), step, compared=compared)
            return Restored(state, carry, arrays, facts, replay)
        rows = rings[0].rows
        note(
            f"the checkpoint is of {_processes(before)}: {total} streams of {len(rows):,} records are dealt out to "
            f"{_processes(parts)}, and the batch that was drawn ahead is drawn again"
        )
        dealt = shard(reshard(arrays, before, parts, total), self._group.process_index, parts, total)
        clear(self._folder)
        size = rings[0].capacity // rings[0].num_envs
        replay = self._replay(size if rows.start else max(size, self._rows))  # a ring that has wrapped keeps its size
        reshard_rings(rings, replay, self._envs.start, below(dealt, "replay"), step)
        self._finish(arrays, replay)
        return Restored(state, carry, dealt, facts, replay)

    def _rings(self, arrays: Arrays, before: int, step: int) -> tuple[list[Replay], bool]:
        """Those that this process needs, for reading, and whether all they hold is compared with its checksums.

        Raises:
          ConfigError: one is missing or damaged.
        """
        config = self._config
        parts = [self._group.process_index] if before == self._group.process_count else range(before)
        places = self._run_dir, arrays, parts, before, config.env.num_envs
        rings = open_rings(*places, step, config.train.batch_length)
        return rings, all(ring.compare() for ring in rings)

    def _finish(self, arrays: Arrays, replay: Replay) -> None:
        """Write latents that were in flight back into the streams that are here."""
        latents = below(arrays, "learner/flight/latents")
        for k, index in enumerate(arrays.get("learner/flight/index", ())):
            here = (index[:, 0] >= self._envs.start) & (index[:, 0] < self._envs.stop)
            if here.any():
                mine = {name: value[k][here] for name, value in latents.items()}
                replay.write_back(index[here] - [self._envs.start, 0], mine)

    def _replay(self, rows: int) -> Replay:
        config, count = self._config, len(self._envs)
        return Replay(
            self._folder,
            self._spec,
            self._agent.latent_spec,
            num_envs=count,
            capacity=rows * count,
            batch_length=config.train.batch_length,
            online=config.replay.online,
            seed=config.seed + (self._group.process_index << SEEDS_APART),
            validation_fraction=config.replay.validation_fraction,
            sampling=config.replay.sampling,
            ends=config.replay.ends,
            recent=config.replay.recent,
            mark_first=config.replay.mark_first,
            smoothing=make_kernel(config.replay),
            curiosity=make_curiosity(config.replay),
        )


def _processes(count: int) -> str:
    return f"{count} processes" if count > 1 else "one process"


def to_arrays(carry: Any) -> Arrays:
    """A policy's carry, for messages."""
    return {str(index): np.asarray(leaf) for index, leaf in enumerate(jax.tree.leaves(jax.device_get(carry)))}


def join_carries(like: Any, shares: list[Arrays]) -> Any:
    """One for the environments of all processes, of the structure of ``like``."""
    leaves = [[mine[str(index)] for mine in shares] for index in range(len(shares[0]))]
    joined = [np.concatenate(pieces) if pieces[0].ndim else pieces[0] for pieces in leaves]
    return jax.tree.unflatten(jax.tree.structure(like), joined)
