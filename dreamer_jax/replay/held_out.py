"""Which episodes training never sees: whole ones, in blocks that have room for a window."""

from __future__ import annotations

import numpy as np

WINDOWS = 2
"""A block of held-out episodes has at least the length of so many windows."""


class HeldOut:
    """Decides, stream by stream, at the start of each episode. A function of the streams' flags alone."""

    def __init__(self, fraction: float, num_envs: int, window: int) -> None:
        self._fraction, self._least = fraction, WINDOWS * window
        self._now = np.zeros(num_envs, bool)
        self._block = np.zeros(num_envs, np.int64)  # records since the last change
        self._held = np.zeros(num_envs, np.int64)
        # As if some streams had begun earlier, so that not all hold out at the same time.
        self._all = (self._least / fraction * np.arange(num_envs) / num_envs).astype(np.int64)

    def step(self, is_first: np.ndarray) -> np.ndarray:
        """Whether the next record of every stream is held out, [E]."""
        room = self._held + self._least <= self._fraction * (self._all + self._least)
        change = is_first & (self._block >= self._least) & (self._now | room)
        self._now = self._now ^ change
        self._block = np.where(change, 1, self._block + 1)
        self._held, self._all = self._held + self._now, self._all + 1
        return self._now

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint must keep."""
        return {f"held_out/{name}": getattr(self, f"_{name}").copy() for name in ("now", "block", "held", "all")}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        for name in self.state():
            setattr(self, f"_{name.removeprefix('held_out/')}", np.array(state[name]))
