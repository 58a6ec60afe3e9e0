"""Feeding the update from replay: the train ratio, prefetching, late write-back, and the watch for NaN.

While the device computes, the host writes the previous latents back, samples the next batches and sends
them on their way. Everything happens at fixed points of the program's order, so that a run repeats bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.config.schema import Config
from dreamer_jax.devices.data_parallel import Updates, check_devices
from dreamer_jax.interfaces import Agent
from dreamer_jax.ops.train_ratio import in_prefill, least_windows, updates_after
from dreamer_jax.processes.group import ProcessGroup
from dreamer_jax.processes.shards import Arrays, below
from dreamer_jax.replay.host import Replay
from dreamer_jax.runs.metrics import MetricBuffer
from dreamer_jax.training.schedule import updates_per_dispatch
from dreamer_jax.types import Array, TrainState, TrajectoryBatch


class NotFinite(RuntimeError):
    """A loss became NaN or infinite. The message is one line for a person."""


class NoUpdates(RuntimeError):
    """Runs have come to their end without any of the updates that they were to make; a checkpoint is there.

    The message is one line for a person.
    """

    def __init__(self, reasons: Mapping[Path, str]) -> None:
        super().__init__("; ".join(f"{run_dir}: no update was made: {why}" for run_dir, why in reasons.items()))
        self.run_dirs = tuple(reasons)


class _Batches(NamedTuple):
    """K batches for one dispatch, and where their windows lie in replay."""

    batch: TrajectoryBatch  # [K, B, T, ...]
    windows: np.ndarray  # [K, B, 2]
    sent: Any  # the batch on its way to the device


@dataclass
class _Flight:
    """A dispatch whose latents are not in replay yet; restored ones have no batch."""

    step: int  # updates before it
    windows: np.ndarray  # [K, B, 2]
    batch: TrajectoryBatch | None
    results: jax.Array | None  # on the device; None once they have been read
    latents: Arrays = field(default_factory=dict)  # [K, B, T, ...], once they have


class Learner:
    """Owns the train state and decides when to update it, all ``group`` at the same times."""

    def __init__(
        self,
        config: Config,
        agent: Agent,
        replay: Replay,
        state: TrainState,
        root: Array,
        failures: Path,
        group: ProcessGroup | None = None,
        updates: Updates | None = None,
    ) -> None:
        train = self._train = config.train
        self._agent, self._replay, self._root, self._failures = agent, replay, root, failures
        self._group = group = group or ProcessGroup()
        self._rows = len(group.local_range(train.batch_size))
        self._least_windows = least_windows(train) / group.process_count
        self.per_dispatch = updates_per_dispatch(config)
        self._parallel = updates or Updates(agent, check_devices(train.devices, train.batch_size))
        self._update = self._parallel.__call__
        self._state = self._parallel.place(state)
        self.metrics = MetricBuffer()
        self.grad_steps = int(jax.device_get(state.step))
        self.started_at = -1  # agent steps at which updates began
        self._next: _Batches | None = None
        self._flights: list[_Flight] = []  # oldest first; two only between a dispatch and ``_settle``
        self._ahead = False  # whether the newest one is still to be settled

    @property
    def state(self) -> TrainState:
        return self._parallel.taken(self._state)

    def put(self, state: TrainState) -> None:
        """Go on with another state."""
        self._state = self._parallel.place(state)

    @property
    def params(self) -> Any:
        """Of ``state``, without the rest."""
        return self._parallel.taken(self._state.params)

    def prepare(self, example: TrajectoryBatch) -> Callable[[], None]:
        """Compile the update for batches like ``example`` [rows, T]; return a trial that changes nothing."""
        batches = self._parallel.put(jax.tree.map(lambda x: np.stack([x] * self.per_dispatch), example))
        self._parallel.compile(self._state, self._root, batches)

        @jax.jit
        def copied(state: TrainState) -> TrainState:
            return jax.tree.map(jnp.copy, state)

        def trial() -> None:
            # The update gives its input state away.
            jax.block_until_ready(self._update(copied(self._state), self._root, batches))

        return trial

    def due(self, agent_steps: int) -> int:
        """Updates that are to be done by now; none during the prefill or with too little in replay."""
        train = self._train
        if self.started_at < 0:
            if not train.train_ratio or in_prefill(train, agent_steps):
                return 0
            if not all(self._group.all_gather(self._replay.windows >= self._least_windows)):
                return 0
            self.started_at = agent_steps
        return updates_after(train, agent_steps - self.started_at)

    def dispatch_early(self, agent_steps: int) -> None:
        """Dispatch an update that ``agent_steps`` will make due, before their records are in replay.

        It computes what it would later, because its batch was drawn already and the records decide nothing else.
        ``catch_up`` is to follow.
        """
        if self.started_at >= 0 and self._next is not None and self._is_due(agent_steps):
            self._dispatch(self._next)
            self._ahead = True

    def catch_up(self, agent_steps: int, stopped: Callable[[], bool], after: Callable[[Array], None]) -> None:
        """Dispatch what is due, whole dispatches only; ``after`` takes results of each that are still to come.

        Raises:
          NotFinite: a loss of an earlier dispatch is not finite.
        """
        if self._ahead:
            self._settle(after)
        while self._is_due(agent_steps) and not stopped() and self.advance(after):
            pass

    def advance(self, after: Callable[[Array], None]) -> bool:
        """One more dispatch, due or not; false where replay has no window at the moment. As ``catch_up``."""
        batches = self._next or self._sample(self.grad_steps)
        if batches is None:
            return False
        self._dispatch(batches)
        self._settle(after)
        return True

    def waiting(self, agent_steps: int) -> str:
        """What updates that are to come wait for, for a person; nothing where they don't wait."""
        train = self._train
        if not train.train_ratio:
            return ""
        if self.started_at < 0:
            if agent_steps < train.prefill:
                return f"{agent_steps:,} of {train.prefill:,} agent steps of random actions (train.prefill)"
            if self._replay.windows < self._least_windows:
                return self._replay.missing(int(np.ceil(self._least_windows)))
            return ""  # others have not
        return self._replay.missing(1) if self._next is None and self._is_due(agent_steps) else ""

    def _is_due(self, agent_steps: int) -> bool:
        return self.due(agent_steps) - self.grad_steps >= self.per_dispatch

    def _dispatch(self, batches: _Batches) -> None:
        self._state, results = self._update(self._state, self._root, batches.sent)
        self._flights.append(_Flight(self.grad_steps, batches.windows, batches.batch, results))
        self._next = None

    def _settle(self, after: Callable[[Array], None]) -> None:
        """While a dispatch computes: finish the one before, and get ready for the one behind."""
        self._ahead = False
        newest = self._flights[-1]
        if len(self._flights) > 1:
            self._finish(self._flights[0])
        self.grad_steps += self.per_dispatch
        self._next = self._sample(self.grad_steps)
        assert newest.results is not None
        after(newest.results)

    def _sample(self, counter: int) -> _Batches | None:
        """None where replay has no window at the moment, here or at one of the processes."""
        if self._replay.may_run_dry and not all(self._group.all_gather(self._replay.windows > 0)):
            return None
        parts = [self._replay.sample(self._rows, counter + k) for k in range(self.per_dispatch)]
        batch = jax.tree.map(lambda *xs: np.stack(xs), *(part[0] for part in parts))
        return _Batches(batch, np.stack([part[1] for part in parts]), self._parallel.put(batch))

    def _finish(self, flight: _Flight) -> None:
        """Put the latents of the oldest dispatch in flight into replay, once its losses are known to be finite."""
        self._read(flight)
        for k, index in enumerate(flight.windows):
            self._replay.write_back(index, {name: value[k] for name, value in flight.latents.items()})
        self._flights.remove(flight)

    def check(self) -> None:
        """Wait for what is in flight; ``metrics`` has it then.

        Raises:
          NotFinite: a loss is not finite; the batch has been written to the failures folder.
        """
        for flight in self._flights:
            self._read(flight)

    def _read(self, flight: _Flight) -> None:
        if flight.results is None:
            return
        metrics, latents = self._parallel.fetch(flight.results)
        losses = {name: value for name, value in metrics.items() if name.startswith("loss/")}
        finite = np.all([np.isfinite(value) for value in losses.values()], axis=0)
        if not np.all(finite):
            k = int(np.argmin(finite))
            names = [name for name, value in losses.items() if not np.isfinite(value[k])]
            batch = jax.tree.map(lambda x: x[k], flight.batch)
            raise NotFinite(dump(self._failures, flight.step + k, names, batch))
        flight.latents, flight.results = latents, None
        self.metrics.add(metrics)

    def saved(self) -> Arrays:
        """Everything but the train state that a checkpoint needs. Call ``check`` first."""
        arrays: Arrays = {"started_at": np.asarray(self.started_at, np.int64)}
        for flight in self._flights:
            arrays |= {f"flight/latents/{name}": np.array(value) for name, value in flight.latents.items()}
            arrays["flight/index"] = flight.windows
        if self._next is not None:
            arrays |= {f"next/batch/{name}": value for name, value in batch_arrays(self._next.batch).items()}
            arrays["next/index"] = self._next.windows
        return arrays

    def restore(self, arrays: Arrays) -> None:
        """Go on from what ``saved`` gave."""
        self.started_at = int(arrays["started_at"])
        if "flight/index" in arrays:
            latents = below(arrays, "flight/latents")
            self._flights = [_Flight(self.grad_steps, arrays["flight/index"], None, None, latents)]
        if "next/index" in arrays:
            batch = arrays_batch(below(arrays, "next/batch"))
            self._next = _Batches(batch, arrays["next/index"], self._parallel.put(batch))


def dump(folder: Path, step: int, names: list[str], batch: TrajectoryBatch) -> str:
    """Write the batch of update ``step``, whose losses ``names`` are not finite, and say so in one line."""
    arrays = {name: np.asarray(value, _portable(value.dtype)) for name, value in batch_arrays(batch).items()}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"update_{step}.npz"
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    culprits = [name for name, value in arrays.items() if value.dtype.kind == "f" and not np.isfinite(value).all()]
    cause = f"its {', '.join(culprits)} already had such values" if culprits else "its values were finite"
    return f"update {step}: {', '.join(names)} is NaN or infinite; the batch is in {path}, {cause}"


def batch_arrays(batch: TrajectoryBatch) -> Arrays:
    """A batch as arrays by name."""
    groups = ("observation", "prev_action", "context")
    arrays = {f"{group}/{k}": v for group in groups for k, v in (getattr(batch, group) or {}).items()}
    arrays |= {name: getattr(batch, name) for name in ("reward", "is_first", "is_last", "is_terminal")}
    return {name: np.asarray(value) for name, value in arrays.items()}


def arrays_batch(arrays: Arrays) -> TrajectoryBatch:
    """The batch that ``batch_arrays`` took apart."""
    observation, action, context = (below(arrays, group) for group in ("observation", "prev_action", "context"))
    flags = {name: arrays[name] for name in ("reward", "is_first", "is_last", "is_terminal")}
    return TrajectoryBatch(observation, action, **flags, context=context or None)


def _portable(dtype: np.dtype) -> np.dtype:
    """numpy files know no bfloat16."""
    return np.dtype(np.float32) if dtype.name == "bfloat16" else dtype
