"""Checkpoints of everything that a run needs to go on exactly, through Orbax."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.processes.shards import Arrays, below, shard
from dreamer_jax.replay.export import open_read_only, ring_of
from dreamer_jax.replay.host import Replay
from dreamer_jax.replay.reshard import ring_folder
from dreamer_jax.runs.facts import check_folder, place, read_facts, seal_folder, steps, write_facts
from dreamer_jax.runs.integrity import read_run
from dreamer_jax.specs import ArraySpec
from dreamer_jax.types import Array, TrainState

log = logging.getLogger(__name__)

_LEFT = re.compile(r"\d+\..*tmp.*")
"""What a kill can leave in the folder of checkpoints."""
T = TypeVar("T")


class Checkpoints:
    """Folder ``checkpoints/<agent steps>`` of a run; a checkpoint appears there whole or not at all.

    All methods that read raise ``ConfigError`` where a file is damaged: it names that one, and the newest of the other
    checkpoints that could be read instead.
    """

    def __init__(self, run_dir: Path, *, keep: int | None = None) -> None:
        """Open for writing, keeping the ``keep`` newest, or without it for reading only. Writes nothing yet."""
        self._run_dir, self._keep = run_dir.absolute(), keep
        self._path = self._run_dir / "checkpoints"
        if keep is None and not self._path.is_dir():
            raise ConfigError(f"{run_dir}: no checkpoints there; is it the directory of a run?")
        self._background = ThreadPoolExecutor(1, "checkpoint")
        self._pending: tuple[int, Future[None]] | None = None
        self._tidy = False

    def latest(self) -> int | None:
        """The newest complete checkpoint."""
        return max(self.steps(), default=None)

    def steps(self) -> list[int]:
        """All complete ones, oldest first."""
        return steps(self._run_dir)

    def oldest(self) -> int | None:
        """The oldest that is kept."""
        return min(self.steps()[-(self._keep or 0) :], default=None)

    def facts(self, step: int) -> dict[str, Any]:
        """What ``save`` took of them."""
        return self._reading(step, lambda step: read_facts(self._run_dir, step)["facts"])

    def drop_after(self, step: int | None) -> None:
        """Forget those after ``step``, or all, to save there again."""
        for later in self.steps():
            if step is None or later > step:
                self._drop(later)

    def save(self, step: int, state: TrainState, carry: Any, arrays: Arrays, facts: dict[str, Any]) -> None:
        """Begin to write; what was handed over may change as soon as this returns."""
        # On the CPU a fetched array can be the device's own memory, which the next update reuses.
        state, carry = jax.tree.map(np.array, jax.device_get((state, carry)))
        arrays = {name: np.array(value) for name, value in arrays.items()}
        # Orbax takes no arrays without elements.
        empty = {name: [list(x.shape), x.dtype.name] for name, x in arrays.items() if not x.size}
        filled = {name: x for name, x in arrays.items() if x.size}
        trees = {"train_state": state, "carry": carry, "arrays": filled}
        self._pending = step, self._background.submit(self._write, step, trees, {"facts": facts, "empty": empty})

    def _write(self, step: int, trees: dict[str, Any], content: dict[str, Any]) -> None:
        """Orbax writes arrays; its own manager leaves no room for checksums before a checkpoint gets its name."""
        if not self._tidy:
            self._path.mkdir(parents=True, exist_ok=True)
            for left in [path for path in self._path.iterdir() if _LEFT.fullmatch(path.name)]:
                _remove(left)
            self._tidy = True
        folder = self._path / f"{step}.tmp"
        try:
            folder.mkdir()
            for name, tree in trees.items():
                with _checkpointer() as checkpointer:
                    checkpointer.save(folder / name, args=ocp.args.StandardSave(tree))
            write_facts(folder, content)
            seal_folder(folder)
            os.rename(folder, place(self._run_dir, step))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        for old in self.steps()[: -(self._keep or 1)]:
            self._drop(old)

    def _drop(self, step: int) -> None:
        """Under another name first, so that a kill leaves no half of a checkpoint that seems whole."""
        dropped = Path(tempfile.mkdtemp(prefix=f"{step}.dropped.tmp", dir=self._path))
        os.rename(place(self._run_dir, step), dropped)
        _remove(dropped)

    def completed(self, *, wait: bool = False) -> int | None:
        """The checkpoint that has become complete since it was last asked for, if any.

        Raises:
          OSError: it could not be written, as on a full disk.
        """
        if self._pending is None:
            return None
        step, writing = self._pending
        if not wait and not writing.done():
            return None
        self._pending = None
        writing.result()
        return step

    def restore(self, step: int, state: TrainState, carry: Any) -> tuple[TrainState, Any, Arrays, dict[str, Any]]:
        """What ``save`` took; ``state`` and ``carry`` give the structure and shapes."""

        def read(step: int) -> tuple[TrainState, Any, Arrays, dict[str, Any]]:
            arrays, facts = self._arrays(step)
            acting = _in_structure(self._tree(step, "carry", None), carry)
            return self._tree(step, "train_state", state), acting, arrays, facts

        return self._reading(step, read)

    def restore_state(self, step: int, target: TrainState) -> TrainState:
        """The train state alone."""
        return self._reading(step, lambda step: self._tree(step, "train_state", target))

    def restore_arrays(self, step: int) -> tuple[Arrays, dict[str, Any]]:
        """The arrays and facts alone."""
        return self._reading(step, self._arrays)

    def _arrays(self, step: int) -> tuple[Arrays, dict[str, Any]]:
        content = read_facts(self._run_dir, step)
        empty = {name: np.zeros(shape, dtype) for name, (shape, dtype) in content["empty"].items()}
        return {**self._tree(step, "arrays", None), **empty}, content["facts"]

    def _tree(self, step: int, item: str, target: Any) -> Any:
        """One item, of the structure of ``target`` if there is one."""
        folder = place(self._run_dir, step)
        if not folder.is_dir():
            raise ConfigError(f"{folder}: not a folder")
        check_folder(folder, {item})
        try:
            with _checkpointer() as checkpointer:
                args = ocp.args.StandardRestore(None if target is None else _on_one_device(target))
                return checkpointer.restore(folder / item, args=args)
        # Without checksums anything may be there, and Orbax raises whatever that leads to.
        except Exception as error:
            why = _first_words(error)
            raise ConfigError(f"{folder / item}: damaged, or of another agent or version ({why})") from error

    def _reading(self, step: int, read: Callable[[int], T]) -> T:
        try:
            return read(step)
        except ConfigError as error:
            raise ConfigError(f"{error}; {self._instead(step, read)}") from error.__cause__

    def _instead(self, step: int, read: Callable[[int], Any]) -> str:
        for other in reversed(self.steps()):
            if other != step:
                try:
                    read(other)
                except ConfigError:
                    continue
                return (
                    f"checkpoint {other} can be read: --checkpoint {other} where a command has it, or move "
                    f"checkpoints/{step} elsewhere, and all go back to that"
                )
        return "no other checkpoint can be read; plot and compare do without"

    def close(self) -> None:
        """Wait for what is being written."""
        self._background.shutdown()


def _remove(folder: Path) -> None:
    """A folder that nobody needs; one that can't be removed takes room, but does no harm."""
    try:
        shutil.rmtree(folder)
    except OSError as error:
        log.warning("%s: can't be removed (%s); the run does without", folder, error.strerror)


def _checkpointer() -> ocp.Checkpointer:
    alone = _alone()
    return ocp.Checkpointer(ocp.StandardCheckpointHandler(multiprocessing_options=alone), multiprocessing_options=alone)


def _first_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0][:100]


def _alone() -> ocp.options.MultiprocessingOptions:
    """Orbax is to ask no other process: one alone writes, and each reads by itself."""
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    part = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=part, active_processes={part}, barrier_sync_key_prefix=f"process{part}"
    )


def _in_structure(stored: Any, target: Any) -> Any:
    """The arrays of ``stored``, which has names and numbers in place of types, as a tree like ``target``.

    What holds no array there may have come or gone since.

    Raises:
      ConfigError: an array is not there.
    """

    def find(path: tuple[Any, ...], like: Any) -> Array:
        found = stored
        try:
            for key in path:
                found = found[next(getattr(key, name) for name in ("name", "key", "idx") if hasattr(key, name))]
        except (KeyError, IndexError, TypeError):
            raise ConfigError(f"the checkpoint has no policy state {jax.tree_util.keystr(path)}") from None
        return jax.device_put(found, jax.local_devices()[0])

    return jax.tree_util.tree_map_with_path(find, target)


def _on_one_device(target: Any) -> Any:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), target)


def read_replays(run_dir: Path, batch_length: int = 1) -> list[Replay]:
    """A run's replay as of its newest checkpoint, for reading; no process may be training there.

    One for each process that shared the run, in the order of their environments.

    Raises:
      ConfigError: there is no complete checkpoint, or no such replay.
    """
    config, spec = read_run(run_dir)
    checkpoints = Checkpoints(run_dir)
    try:
        latest = checkpoints.latest()
        if latest is None:
            raise ConfigError(f"{run_dir}: no complete checkpoint")
        arrays, facts = checkpoints.restore_arrays(latest)
    finally:
        checkpoints.close()
    if records := below(arrays, "ring"):  # a run on the device
        rows, slots = facts["agent_steps"] // config.env.num_envs, len(records["reward"])
        latents = {name: ArraySpec(x.shape[2:], x.dtype.name) for name, x in below(records, "latents").items()}
        ordered = {name: np.roll(x[:rows], -(rows % slots), 0) for name, x in records.items()}
        return [ring_of(ordered, spec, latents, batch_length)]
    processes = facts.get("processes", 1)
    return open_rings(run_dir, arrays, range(processes), processes, config.env.num_envs, latest, batch_length)


def open_rings(
    run_dir: Path, arrays: Arrays, parts: Iterable[int], processes: int, num_envs: int, step: int, batch_length: int
) -> list[Replay]:
    """The rings of some ``parts`` of a run at checkpoint ``step``, whose ``arrays`` are given, for reading.

    Raises:
      ConfigError: one is missing or damaged.
    """
    states = {part: below(shard(arrays, part, processes, num_envs), "replay") for part in parts}
    return [
        open_read_only(ring_folder(run_dir, part, processes), state, step, batch_length)
        for part, state in states.items()
    ]
