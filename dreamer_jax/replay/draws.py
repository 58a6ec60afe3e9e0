"""Windows of consecutive records of a stream: new ones in order, then all alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

TRIES, CANDIDATES = 100, 1024  # windows are drawn again until they are as wanted


class Windows:
    """Draws windows of ``length`` records of ``num_envs`` streams; with ``online`` each new one once at first.

    The online queue has windows that don't overlap: number ``k*E + env`` begins at row ``k * length``.
    """

    def __init__(self, num_envs: int, length: int, *, online: bool) -> None:
        self._num_envs, self._length, self._online = num_envs, length, online
        self.taken = 0  # windows of the online queue used or dropped so far

    def count(self, rows: range) -> int:
        """Different windows in these rows."""
        return self._num_envs * max(0, len(rows) - self._length + 1)

    def queue(self, rows: range) -> range:
        """Numbers of the windows that wait in the online queue."""
        oldest = -(-rows.start // self._length) * self._num_envs
        newest = rows.stop // self._length * self._num_envs if self._online else 0
        return range(max(self.taken, oldest), max(self.taken, oldest, newest))

    def draw(
        self,
        rng: np.random.Generator,
        count: int,
        rows: range,
        wholly: Callable[[np.ndarray, bool], np.ndarray],
        *,
        held_out: bool,
        online: bool,
    ) -> np.ndarray:
        """Environment and first row of so many windows, int64 [count, 2].

        ``wholly(index, held_out)`` says which windows are held out throughout, or nowhere; ``online`` empties the
        queue first.

        Raises:
          ValueError: there is no such window yet.
        """
        if not self.count(rows):
            raise ValueError(f"no window of {self._length} records to sample yet, only {len(rows)} records")
        index = np.zeros((0, 2), np.int64)
        for _ in range(TRIES):
            if online and not held_out:
                draws = self._drawn(rng, count, rows)
            else:
                draws = self._uniform(rng, CANDIDATES if held_out else count, rows)
            index = np.concatenate([index, draws[wholly(draws, held_out)]])[:count]
            if len(index) == count:
                break
        else:
            where = "in" if held_out else "outside"
            raise ValueError(f"no window of {self._length} records {where} held-out episodes")
        if online and self._online and not held_out:
            queue = self.queue(rows)[:count]
            start, env = np.divmod(np.asarray(queue, np.int64), self._num_envs)
            queued = np.stack([env, start * self._length], axis=1)
            queued = queued[wholly(queued, held_out)]
            index[: len(queued)] = queued
            self.taken = max(self.taken, queue.stop)
        return index

    def _drawn(self, rng: np.random.Generator, count: int, rows: range) -> np.ndarray:
        """At most so many windows to learn from."""
        return self._uniform(rng, count, rows)

    def _uniform(self, rng: np.random.Generator, count: int, rows: range) -> np.ndarray:
        start, env = np.divmod(rng.integers(0, self.count(rows), count), self._num_envs)
        return np.stack([env, start + rows.start], axis=1)
