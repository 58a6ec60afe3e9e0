"""Which episodes have ended, and windows within them: episodes are drawn alike, however long they are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

NEWEST = 4
"""Draws of ``recent`` are from so many episodes."""
FEW = 0.1
"""A share of the episodes that is said to be small."""
FLAGS = {"is_first", "is_last", "held_out"}
"""What is read of a record, the last where episodes are held out."""
_EPISODE = np.dtype([("env", "i8"), ("first", "i8"), ("length", "i8")])


class Episodes:
    """Ended episodes that are wholly in the ring and have at least ``length`` = T records, in order of their end.

    An episode is the records from one with ``is_first`` to one with ``is_last``; an abandoned one ends before
    the next ``is_first``. What lies before the first ``is_first`` of a stream belongs to none.

    A draw is an episode, each alike, then a start in it. Of n records ``ends`` makes it ``uniform`` in [0, n - T];
    ``skipped`` in [0, n - T), or 0 if n = T, as DreamerV1's code has it (so no window has the last record of a longer
    episode); ``prioritized`` in [0, n] and clipped to n - T, as DreamerV2's code may.
    A share ``recent`` of a batch (rounded) is from
    the ``NEWEST`` episodes alone and the rest from all, which is a simple form of PlaNet's mixture: there one loader
    draws from old episodes and another, refreshed every 1000 draws, from those that were added since.
    """

    def __init__(self, num_envs: int, length: int, *, ends: str = "uniform", recent: float = 0.0) -> None:
        self._length, self._ends, self._recent = length, ends, recent
        self._begun = np.full(num_envs, -1, np.int64)  # first row of the episode that goes on, or -1
        self._held_out = np.zeros(num_envs, bool)  # whether that one is
        self._ended: dict[bool, np.ndarray] = {held_out: np.zeros(0, _EPISODE) for held_out in (False, True)}
        self._new: dict[bool, list[tuple[int, int, int]]] = {False: [], True: []}  # to be added to ``_ended``
        self.ended = self.long = self.longest = 0  # episodes; those of ``length`` records or more; records of one
        self._oldest = 0  # row of the ring
        self._first = 0  # row of ``_ended``

    def append(self, row: int, flags: Mapping[str, np.ndarray], oldest: int) -> None:
        """Take ``FLAGS`` [E] of row ``row``; the ring has the rows from ``oldest`` on."""
        is_first = flags["is_first"]
        self._end(is_first, row)
        self._begun = np.where(is_first, row, self._begun)
        self._held_out = np.where(is_first, flags.get("held_out", False), self._held_out)
        self._end(flags["is_last"], row + 1)
        self._oldest = oldest

    def _end(self, ended: np.ndarray, stop: int) -> None:
        """The episodes of these streams, if any go on, have ended before row ``stop``."""
        for env in np.flatnonzero(ended & (self._begun >= 0)).tolist():
            first = int(self._begun[env])
            self.ended += 1
            self.longest = max(self.longest, stop - first)
            if stop - first >= self._length:
                self.long += 1
                self._new[bool(self._held_out[env])].append((env, first, stop - first))
            self._begun[env] = -1

    def rebuild(self, rows: range, flags: Mapping[str, np.ndarray]) -> None:
        """Start again from ``FLAGS`` [rows, E] of all rows that the ring has."""
        self._begun[:] = -1
        self._ended = {pool: ended[:0] for pool, ended in self._ended.items()}
        self._new = {False: [], True: []}
        self.ended = self.long = self.longest = 0
        self._oldest = rows.start
        for index in np.flatnonzero((flags["is_first"] | flags["is_last"]).any(1)).tolist():  # others change nothing
            self.append(rows[index], {name: flag[index] for name, flag in flags.items()}, rows.start)

    @property
    def windows(self) -> int:
        """Different windows that training can draw now."""
        spare = self._pool(False)["length"] - self._length
        return int((np.maximum(spare, 1) if self._ends == "skipped" else spare + 1).sum())

    def missing(self) -> str:
        """Why there is no window, for a person."""
        if not self.ended:
            return "no episode has ended yet"
        if not self.long:
            return f"none of {self.ended:,} ended episodes has {self._length} records, the longest has {self.longest}"
        return f"no ended episode of {self._length} records is whole in replay"

    def few(self) -> str:
        """What is to be known where windows come from few of the episodes, for a person; else nothing."""
        if not self.long or self.long > FEW * self.ended:
            return ""
        return (
            f"replay.sampling episodes: all updates draw from {self.long:,} of {self.ended:,} ended episodes; the "
            f"others have less than {self._length} records (train.batch_length)"
        )

    def draw(self, rng: np.random.Generator, count: int, held_out: bool) -> np.ndarray:
        """Environment and row before the first record of so many windows, int64 [count, 2].

        Raises:
          ValueError: there is no such episode yet.
        """
        pool = self._pool(held_out)
        if not len(pool):
            kind = "held-out episode" if held_out else "episode"
            raise ValueError(f"no {kind} of at least {self._length} records has ended yet")
        recent = 0 if held_out else int(self._recent * count + 0.5)
        lowest = np.where(np.arange(count) < recent, max(0, len(pool) - NEWEST), 0)
        episode = pool[rng.integers(lowest, len(pool))]
        spare = episode["length"] - self._length
        match self._ends:
            case "skipped":
                start = rng.integers(0, np.maximum(spare, 1))
            case "prioritized":
                start = np.minimum(rng.integers(0, episode["length"] + 1), spare)
            case _:
                start = rng.integers(0, spare + 1)
        return np.stack([episode["env"], episode["first"] + start - 1], axis=1)

    def _pool(self, held_out: bool) -> np.ndarray:
        """Episodes that are held out, or those that are not."""
        if any(self._new.values()) or self._first < self._oldest:
            for kind, new in self._new.items():
                ended = np.concatenate([self._ended[kind], np.array(new, _EPISODE)])
                self._ended[kind] = ended[ended["first"] >= self._oldest]
                new.clear()
            firsts = (int(ended["first"].min()) for ended in self._ended.values() if len(ended))
            self._first = min(firsts, default=self._oldest)
        return self._ended[held_out]
