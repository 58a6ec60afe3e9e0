"""Checkpoints of everything that a run needs to go on exactly, through Orbax; and loading an agent to use it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from dreamer_jax.agent import make_agent
from dreamer_jax.config.loading import load as load_config
from dreamer_jax.config.paths import path_of
from dreamer_jax.config.schema import Config, ConfigError
from dreamer_jax.interfaces import Agent
from dreamer_jax.numerics import fixed_numerics
from dreamer_jax.replay.deal import ring_folder
from dreamer_jax.replay.export import open_read_only
from dreamer_jax.replay.host import Replay
from dreamer_jax.specs import EnvSpec
from dreamer_jax.training.shares import Arrays, below, share
from dreamer_jax.types import TrainState

ITEMS = ("train_state", "carry", "arrays", "facts")
_ONE_BEGINS = threading.Lock()
"""Orbax numbers what is being saved for the whole process; what goes on in the background may overlap."""


class Checkpoints:
    """Folder ``checkpoints/<agent steps>`` of a run; a checkpoint appears there whole or not at all."""

    def __init__(self, run_dir: Path, *, keep: int | None = None) -> None:
        """Open for writing, keeping the ``keep`` newest, or without it for reading only."""
        path = (run_dir / "checkpoints").absolute()
        if keep is not None:
            path.mkdir(parents=True, exist_ok=True)
        elif not path.is_dir():
            raise ConfigError(f"{run_dir}: no checkpoints there; is it the directory of a run?")
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            read_only=keep is None,
            create=False,  # Orbax would have all processes take part
            enable_async_checkpointing=True,
            cleanup_tmp_directories=keep is not None,  # what a kill cut off
            multiprocessing_options=_alone(),
        )
        self._manager = ocp.CheckpointManager(path, options=options, item_names=ITEMS)
        self._pending: int | None = None

    def latest(self) -> int | None:
        """The newest complete checkpoint."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """All complete ones, oldest first."""
        return sorted(self._manager.all_steps())

    def facts(self, step: int) -> dict[str, Any]:
        """What ``save`` took of them."""
        return self._manager.restore(step, args=ocp.args.Composite(facts=ocp.args.JsonRestore()))["facts"]["facts"]

    def drop_after(self, step: int | None) -> None:
        """Forget those after ``step``, or all, to save there again."""
        for later in self.steps():
            if step is None or later > step:
                self._manager.delete(later)

    def save(self, step: int, state: TrainState, carry: Any, arrays: Arrays, facts: dict[str, Any]) -> None:
        """Begin to write; what was handed over may change as soon as this returns."""
        # On the CPU a fetched array can be the device's own memory, which the next update reuses.
        state, carry = jax.tree.map(np.array, jax.device_get((state, carry)))
        arrays = {name: np.array(value) for name, value in arrays.items()}
        # Orbax takes no arrays without elements.
        empty = {name: [list(x.shape), x.dtype.name] for name, x in arrays.items() if not x.size}
        filled = {name: x for name, x in arrays.items() if x.size}
        items = ocp.args.Composite(
            train_state=ocp.args.StandardSave(state),
            carry=ocp.args.StandardSave(carry),
            arrays=ocp.args.StandardSave(filled),
            facts=ocp.args.JsonSave({"facts": facts, "empty": empty}),
        )
        with _ONE_BEGINS:
            self._manager.save(step, args=items)
        self._pending = step

    def completed(self, *, wait: bool = False) -> int | None:
        """The checkpoint that has become complete since it was last asked for, if any."""
        if wait:
            self._manager.wait_until_finished()
        if self._pending is None or self._manager.is_saving_in_progress():
            return None
        # Raises what went wrong in the background, a full disk for example.
        self._manager.wait_until_finished()
        done, self._pending = self._pending, None
        return done

    def restore(self, step: int, state: TrainState, carry: Any) -> tuple[TrainState, Any, Arrays, dict[str, Any]]:
        """What ``save`` took; ``state`` and ``carry`` give the structure and shapes."""
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                train_state=ocp.args.StandardRestore(_on_one_device(state)),
                carry=ocp.args.StandardRestore(_on_one_device(carry)),
                arrays=ocp.args.StandardRestore(),
                facts=ocp.args.JsonRestore(),
            ),
        )
        arrays = _with_empty(restored)
        return restored["train_state"], restored["carry"], arrays, restored["facts"]["facts"]

    def restore_state(self, step: int, target: TrainState) -> TrainState:
        """The train state alone."""
        args = ocp.args.Composite(train_state=ocp.args.StandardRestore(_on_one_device(target)))
        return self._manager.restore(step, args=args)["train_state"]

    def restore_arrays(self, step: int) -> tuple[Arrays, dict[str, Any]]:
        """The arrays and facts alone."""
        args = ocp.args.Composite(arrays=ocp.args.StandardRestore(), facts=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=args)
        return _with_empty(restored), restored["facts"]["facts"]

    def close(self) -> None:
        self._manager.close()


def _alone() -> ocp.options.MultiprocessingOptions:
    """Orbax is to ask no other process: one alone writes, and each reads by itself."""
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    part = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=part, active_processes={part}, barrier_sync_key_prefix=f"process{part}"
    )


def _with_empty(restored: Any) -> Arrays:
    empty = {name: np.zeros(shape, dtype) for name, (shape, dtype) in restored["facts"]["empty"].items()}
    return {**restored["arrays"], **empty}


def _on_one_device(target: Any) -> Any:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), target)


def read_run(run_dir: str | Path) -> tuple[Config, EnvSpec]:
    """The settings of a run, and the shapes of its environment.

    Raises:
      ConfigError: it is no run directory, or one of its files is damaged.
    """
    run_dir = path_of(run_dir)
    for name in ("config.yaml", "env.json"):
        if not (run_dir / name).is_file():
            raise ConfigError(f"{run_dir}: no {name} there; is it the directory of a run?")
    try:
        spec = EnvSpec.from_json(json.loads((run_dir / "env.json").read_text())["spec"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{run_dir / 'env.json'}: damaged ({error!r})") from error
    return load_config(files=[run_dir / "config.yaml"]), spec


def read_replays(run_dir: Path, batch_length: int = 1) -> list[Replay]:
    """A run's replay as of its newest checkpoint, for reading; no process may be training there.

    One for each process that shared the run, in the order of their environments.

    Raises:
      ConfigError: there is no complete checkpoint, or no such replay.
    """
    config, _ = read_run(run_dir)
    checkpoints = Checkpoints(run_dir)
    try:
        latest = checkpoints.latest()
        if latest is None:
            raise ConfigError(f"{run_dir}: no complete checkpoint")
        arrays, facts = checkpoints.restore_arrays(latest)
    finally:
        checkpoints.close()
    return open_rings(run_dir, arrays, facts.get("processes", 1), config.env.num_envs, latest, batch_length)


def open_rings(
    run_dir: Path, arrays: Arrays, processes: int, num_envs: int, step: int, batch_length: int
) -> list[Replay]:
    """The rings of a run at checkpoint ``step``, whose ``arrays`` are given, for reading.

    Raises:
      ConfigError: one is missing or damaged.
    """
    states = (share(arrays, part, processes, num_envs) for part in range(processes))
    return [
        open_read_only(ring_folder(run_dir, part, processes), below(state, "replay"), step, batch_length)
        for part, state in enumerate(states)
    ]


@fixed_numerics()
def load(run_dir: str | Path, step: int | None = None) -> tuple[Agent, TrainState]:
    """The agent of a run and its train state at checkpoint ``step`` (agent steps), or the newest.

    Needs neither the environment nor the replay. See ``Agent`` for how to act with it.

    Raises:
      ConfigError: there is no such run or checkpoint.
    """
    run_dir = path_of(run_dir)
    config, spec = read_run(run_dir)
    agent = make_agent(config, spec)
    checkpoints = Checkpoints(run_dir)
    try:
        step = checkpoints.latest() if step is None else step
        if step is None or not (run_dir / "checkpoints" / str(step)).is_dir():
            raise ConfigError(f"{run_dir}: no complete checkpoint{'' if step is None else f' {step}'}")
        return agent, checkpoints.restore_state(step, jax.eval_shape(lambda: agent.init(jax.random.key(0))))
    finally:
        checkpoints.close()
