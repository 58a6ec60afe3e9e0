"""Ring buffer of experience in files of the host: append, sample windows, write latents back, survive a crash.

One stream of records per environment, all in lockstep: row ``t`` (counted from the start of the
run, never reused) of every stream is appended at once and lives in slot ``t % C``. A record holds an
observation, the reward and the flags that arrived with it, the action taken AFTER seeing it, and the
latents that the policy computed there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dreamer_jax.config.paths import path_of
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.replay.blocks import Blocks
from dreamer_jax.replay.curious import Curiosity, CuriousWindows
from dreamer_jax.replay.draws import Windows
from dreamer_jax.replay.episodes import FLAGS, Episodes
from dreamer_jax.replay.held_out import HeldOut
from dreamer_jax.replay.journal import Group, Journal
from dreamer_jax.replay.smoothing import Kernel, smooth
from dreamer_jax.replay.storage import Layout, Store, part_of, record_fields
from dreamer_jax.replay.windows import align, gather
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import MODEL_LOSS, ArrayDict, TimeStep, TrajectoryBatch

_ROWS, _LATENTS = 0, 1  # the journal's groups


class Replay:
    """Streams of ``E`` environments, newest ``capacity`` records kept. Not safe for several threads.

    A directory that holds a ring already is opened, and must then be brought to a checkpoint with
    ``restore`` before anything else; to start anew there, call ``storage.clear`` first. If the ring
    has never wrapped at that checkpoint, it grows to a larger ``capacity``; else it keeps its own.

    About ``validation_fraction`` of the records belong to episodes that are held out: ``sample`` gives no
    window that touches them, unless it is asked for them. ``sampling``, ``ends`` and ``recent`` choose
    windows as ``Episodes`` says, ``curiosity`` as ``CuriousWindows`` does, else all alike. ``mark_first`` sets
    ``is_first`` in the first record of each, and ``smoothing`` spreads the rewards of batches over the steps around
    them, as far as the ring has these.

    Raises:
      ConfigError: the ring there has other fields or environments, or ``capacity`` has no room
        for one window of ``batch_length + 1`` records in every stream.
    """

    def __init__(
        self,
        directory: Path | str,
        spec: EnvSpec,
        latent_spec: dict[str, ArraySpec],
        *,
        num_envs: int,
        capacity: int,
        batch_length: int,
        online: bool,
        seed: int,
        validation_fraction: float = 0.0,
        sampling: Literal["windows", "episodes", "curious"] = "windows",
        ends: str = "uniform",
        recent: float = 0.0,
        mark_first: bool = False,
        smoothing: Kernel | None = None,
        curiosity: Curiosity | None = None,
        writable: bool = True,
    ) -> None:
        if capacity // num_envs < batch_length + 1:
            raise ConfigError(
                f"replay.capacity: {capacity} is {capacity // num_envs} records of each of {num_envs} environments, "
                f"a window needs {batch_length + 1} (train.batch_length + 1)"
            )
        directory = path_of(directory)
        fields = record_fields(spec, latent_spec, held_out=validation_fraction > 0)
        layout = Layout(capacity // num_envs, num_envs, fields)
        stored = Layout.read(directory)
        if stored and (difference := stored.difference(layout)):
            raise ConfigError(f"{directory}: holds another replay: {difference}")
        if not stored and not writable:
            raise ConfigError(f"{directory}: no replay there")
        self._store = Store(directory, stored, writable=writable) if stored else Store.create(directory, layout)
        self._ready = not stored
        self._wanted_rows, self._length = layout.rows, batch_length
        self._seed, self._mark_first, self._smoothing = seed, mark_first, smoothing
        self._curious: CuriousWindows | None = None
        if curiosity is not None:
            options: dict[str, Any] = dict(curiosity=curiosity, slots=self._store.layout.rows)
            self._curious = CuriousWindows(num_envs, batch_length + 1, online=online, **options)
        self._windows = self._curious or Windows(num_envs, batch_length + 1, online=online)
        self.episodes: Episodes | None = None
        if sampling == "episodes":
            self.episodes = Episodes(num_envs, batch_length, ends=ends, recent=recent)
        # In the files' order, not the caller's: entries of the undo log rely on it.
        self._latent_names = tuple(part_of(self.fields, "latents"))
        self._rows = 0  # appended so far to each stream
        self._episode = np.full(num_envs, -1, np.int32)
        self._episode_step = np.full(num_envs, -1, np.int32)
        self._held_out = HeldOut(validation_fraction, num_envs, batch_length + 1) if validation_fraction else None
        self._attach()

    def _attach(self) -> None:
        layout, self._flat = self._store.layout, self._store.flat
        envs = np.arange(layout.num_envs)

        # Slots are numbered as they are first filled: by row, and for the latents by row and environment.
        def group(slots: int, names: Sequence[str], cells: Callable[[np.ndarray], np.ndarray]) -> Group:
            return Group(slots, [self._flat[name] for name in names], cells, partial(self._store.expect, names=names))

        rows = group(layout.rows, tuple(self._flat), lambda slot: layout.cells(envs, slot[:, None]))
        latents = [f"latents/{name}" for name in self._latent_names]
        pairs = group(layout.rows * len(envs), latents, lambda slot: layout.cells(slot % len(envs), slot // len(envs)))
        self._journal = Journal(self._store.directory, [rows, pairs])
        self._blocks = Blocks(self._store, latents)

    @property
    def num_envs(self) -> int:
        return self._store.layout.num_envs

    @property
    def capacity(self) -> int:
        """Records kept over all environments."""
        return self._store.layout.rows * self.num_envs

    @property
    def rows(self) -> range:
        """Rows (of every stream) that the ring still holds."""
        return range(max(0, self._rows - self._store.layout.rows), self._rows)

    @property
    def windows(self) -> int:
        """Different windows that can be sampled now."""
        return self._windows.count(self.rows) if self.episodes is None else self.episodes.windows

    @property
    def may_run_dry(self) -> bool:
        """Whether there may be no window where there has been one."""
        return self.episodes is not None and self.rows.start > 0

    def missing(self, windows: int) -> str:
        """What it takes until there are so many, for a person."""
        if self.episodes is not None and not self.windows:
            return self.episodes.missing()
        return f"{self.windows:,} of {windows:,} windows in replay (train.start_windows)"

    @property
    def queued(self) -> int:
        """Windows that wait in the online queue."""
        return len(self._windows.queue(self.rows))

    def append(self, timestep: TimeStep, action: ArrayDict, latents: ArrayDict) -> None:
        """Add one record per environment: what it emitted, the action taken then, the policy's latents.

        Raises:
          ValueError: an array is missing, or has the wrong shape or kind of type.
          OSError: the disk is full; the ring is as before.
          ConfigError: what is about to be overwritten is damaged; likewise below, for what is read.
        """
        self._check_ready()
        first = np.asarray(timestep.is_first)
        episode = np.where(first | (self._episode < 0), self._episode + 1, self._episode)
        step = np.where(first, 0, self._episode_step + 1)
        record: ArrayDict = {f"observation/{name}": value for name, value in timestep.observation.items()}
        record |= {f"action/{name}": value for name, value in action.items()}
        record |= {f"latents/{name}": value for name, value in latents.items()}
        record |= {"reward": timestep.reward, "is_first": first, "is_last": timestep.is_last}
        record |= {"is_terminal": timestep.is_terminal, "episode": episode, "episode_step": step}
        if self._held_out is not None:
            record["held_out"] = self._held_out.step(first)
        layout = self._store.layout
        checked = layout.checked(record)
        slot = self._rows % layout.rows
        self._store.reserve(slot)
        if self._rows >= layout.rows:
            self._store.expect_next_block(slot)
        block, offset = divmod(slot, layout.block)
        self._blocks.change(block)
        self._journal.preserve(_ROWS, np.array([slot]))
        self._journal.exempt(_LATENTS, np.arange(slot * self.num_envs, (slot + 1) * self.num_envs))
        for name, value in checked.items():
            self._store.arrays[name][block, :, offset] = value
        self._episode[:], self._episode_step[:] = episode, step
        self._rows += 1
        if self._curious is not None:
            self._curious.append(self.rows, record.get("held_out", np.zeros(self.num_envs, bool)))
        if self.episodes is not None:
            self.episodes.append(self._rows - 1, checked, self.rows.start)

    def sample(
        self, batch_size: int, counter: int, *, online: bool = True, held_out: bool = False
    ) -> tuple[TrajectoryBatch, np.ndarray]:
        """A batch of windows, and their ``index`` (environment, first row) int64 ``[B, 2]``.

        Windows of ``T+1`` consecutive records of one stream: first those that wait in the online queue, then
        drawn ones (a function of the seed and ``counter`` only). What leads to a drawn episode's first record has
        no meaning. ``online=False`` leaves the queue alone, for reports; ``held_out`` asks for windows of held-out
        episodes alone, without the queue. Every array is new.

        Raises:
          ValueError: there is no such window yet.
        """
        self._check_ready(writing=False)
        rng = np.random.default_rng([self._seed, counter])
        if self.episodes is None:
            index = self._windows.draw(rng, batch_size, self.rows, self._wholly, held_out=held_out, online=online)
            cells = self._window_cells(index)
        else:
            index = self.episodes.draw(rng, batch_size, held_out)
            cells = self._window_cells(index)
            # What lies before an episode may have been overwritten, or never written.
            cells[:, 0] = np.where(self._flat["is_first"][cells[:, 1]], cells[:, 1], cells[:, 0])
        window = gather(self._store, cells)
        if self._smoothing is not None:
            window["reward"] = self._smoothed(self._smoothing, index)
        return align(window, mark_first=self._mark_first), index

    def _smoothed(self, kernel: Kernel, index: np.ndarray) -> np.ndarray:
        """Rewards of windows [B, T+1], with what the ring has around them."""
        env, row = index[:, :1], index[:, 1:] + np.arange(-kernel.before, self._length + 1 + kernel.after)
        known = (row >= self.rows.start) & (row < self.rows.stop)
        row = np.clip(row, self.rows.start, self.rows.stop - 1)
        names = ["reward", "is_first"]
        self._blocks.compare(self._block_of(row), names)
        cells = self._store.layout.cells(env, row)
        self._store.expect(cells.reshape(-1), names)
        reward, first = (np.take(self._flat[name], cells) for name in names)
        return smooth(kernel, reward, first, known)

    def _wholly(self, index: np.ndarray, held_out: bool) -> np.ndarray:
        """Which windows are wholly held out, or wholly not."""
        if "held_out" not in self._flat:
            return np.full(len(index), not held_out)
        env, row = self._window_rows(index)
        self._blocks.compare(self._block_of(row), ["held_out"])
        return (self._flat["held_out"][self._store.layout.cells(env, row)] == held_out).all(1)

    def _window_rows(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return index[:, :1], index[:, 1:] + np.arange(self._length + 1)

    def _window_cells(self, index: np.ndarray) -> np.ndarray:
        env, row = self._window_rows(index)
        self._blocks.compare(self._block_of(row))
        return self._store.layout.cells(env, row)

    def _block_of(self, row: np.ndarray) -> np.ndarray:
        return row % self._store.layout.rows // self._store.layout.block

    def write_back(self, index: np.ndarray, latents: ArrayDict) -> None:
        """Replace the latents of rows 1..T of each window by ``{name: [B, T, ...]}``; evicted rows are skipped.

        Args:
          latents: with ``MODEL_LOSS`` [B, T], too, where windows are drawn by it.

        Raises:
          OSError: the disk is full; the ring is as before.
        """
        self._check_ready()
        env, row = index[:, :1], index[:, 1:] + np.arange(1, self._length + 1)
        kept = (row >= self.rows.start) & (row < self.rows.stop)
        if self._curious is not None and MODEL_LOSS in latents:
            envs = np.broadcast_to(env, row.shape)
            self._curious.learnt(envs[kept], row[kept], np.asarray(latents[MODEL_LOSS])[kept], self.rows)
        if not self._latent_names:
            return
        some = slice(None) if kept.all() else kept  # a slice copies nothing
        layout = self._store.layout
        slots, cells = (row % layout.rows * self.num_envs + env)[some], layout.cells(env, row)[some]
        values = {f"latents/{name}": np.asarray(latents[name])[some] for name in self._latent_names}
        self._blocks.change(self._block_of(row)[some].reshape(-1), latents_only=True)
        self._journal.preserve(_LATENTS, slots.reshape(-1))
        for name, value in values.items():
            self._flat[name][cells] = value

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint must keep beside the files."""
        return {
            "rows": np.asarray(self._rows, np.int64),
            "taken": np.asarray(self._windows.taken, np.int64),
            "episode": self._episode.copy(),
            "episode_step": self._episode_step.copy(),
            **(self._held_out.state() if self._held_out is not None else {}),
            **(self._curious.state(self.rows) if self._curious is not None else {}),
        }

    def snapshot(self, name: int, *, sync: bool = False) -> dict[str, np.ndarray]:
        """Make the present content restorable as checkpoint ``name``, and return its ``state``.

        Names increase. Costs no copy now, but one of every slot that is overwritten from here on, in
        the journal. ``sync`` also waits until the disk has all (slow: every page changed since); it
        narrows what a power failure can destroy, but does not make the ring safe against one.
        """
        self._check_ready()
        if sync:
            self.flush()
        self._journal.begin(name, self._valid())
        return self.state() | {"checksums": self._blocks.take(len(self.rows))}

    def committed(self, name: int) -> None:
        """The checkpoint ``name`` is complete; those before it can't be restored any more."""
        self._journal.committed(name)

    def restore(self, state: dict[str, np.ndarray], name: int, *, compared: bool = False) -> None:
        """Bring the ring to its content at ``snapshot(name)``, bit for bit. May be interrupted and repeated.

        What has other checksums there is found when it is used, or by ``compare``; unless that was ``compared``.

        Raises:
          ConfigError: the undo log does not lead there.
        """
        undone = self._journal.undo(name)
        self._rows, self._windows.taken = int(state["rows"]), int(state["taken"])
        self._episode[:], self._episode_step[:] = state["episode"], state["episode_step"]
        if self._store.writable:
            if self._held_out is not None:
                self._held_out.restore(state)
            self._journal.resume(name, self._valid())  # before growing: old entries name slots of the old ring
            self._store.assume_reserved(len(self.rows))
            if self._rows <= self._store.layout.rows < self._wanted_rows:
                self._journal.close()
                self._store.grow(self._wanted_rows)
                self._attach()
                self._journal.resume(name, self._valid())
        hint = f" at checkpoint {name}, unless the damage is in {', '.join(path.name for path in undone)}"
        self._blocks.expect(state.get("checksums"), len(self.rows), hint, waits=not compared)
        if self.episodes is not None:
            envs = range(self.num_envs)
            columns = {name: [self.column(name, env, self.rows) for env in envs] for name in FLAGS & self.fields.keys()}
            self.episodes.rebuild(self.rows, {name: np.stack(column, 1) for name, column in columns.items()})
        if self._curious is not None:
            held_out = np.zeros((self.num_envs, len(self.rows)), bool)
            if "held_out" in self.fields:
                held_out = np.stack([self.column("held_out", env, self.rows) for env in range(self.num_envs)])
            self._curious.restore(state, self.rows, self._store.layout.rows, held_out)
        self._ready = True

    def compare(self) -> bool:
        """Read all that the ring holds and compare it with its checksums, unless that takes long; whether it did.

        Raises:
          ConfigError: a file is damaged.
        """
        return self._blocks.compare_all()

    def fill(self, state: dict[str, np.ndarray], name: int, column: Callable[[str, int, range], np.ndarray]) -> None:
        """Make an empty ring what another one was at its ``snapshot(name)``.

        Args:
          state: that snapshot's, of these streams.
          column: gives a field of some rows of a stream, as the method of that name.

        Raises:
          OSError: the disk is full.
        """
        self._rows = int(state["rows"])
        kept, layout = self.rows, self._store.layout
        if kept:
            self._store.reserve(min(self._rows, layout.rows) - 1)
        for start in range(kept.start, kept.stop, layout.block):
            rows = range(start, min(start + layout.block, kept.stop))
            for field, env in product(self.fields, range(self.num_envs)):
                self._flat[field][layout.cells(env, np.asarray(rows, np.int64))] = column(field, env, rows)
        self._journal.begin(name, self._valid())
        self.restore(state, name)

    def column(self, name: str, env: int, rows: range) -> np.ndarray:
        """A copy of one field, by its name in the layout, for consecutive rows of one stream."""
        self._blocks.compare(self._block_of(np.asarray(rows, np.int64)), [name])
        cells = self._store.layout.cells(env, np.asarray(rows, np.int64))
        self._store.expect(cells, [name])
        return np.take(self._flat[name], cells, axis=0)

    @property
    def fields(self) -> dict[str, ArraySpec]:
        return self._store.layout.fields

    def flush(self) -> None:
        """Wait until the disk has everything that was written so far."""
        self._store.flush()
        self._journal.sync()

    def close(self) -> None:
        self._journal.close()

    def _valid(self) -> tuple[int, int]:
        return len(self.rows), len(self.rows) * self.num_envs  # before the first wrap slots fill from 0

    def _check_ready(self, *, writing: bool = True) -> None:
        if not self._ready:
            raise ConfigError(f"{self._store.directory}: holds records of an earlier run; restore or clear them first")
        if writing and not self._store.writable:
            raise ConfigError(f"{self._store.directory}: opened for reading only")
