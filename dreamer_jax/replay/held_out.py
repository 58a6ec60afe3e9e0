"""Which episodes training never sees: whole ones, in blocks that have room for a window."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

WINDOWS = 2
"""A block of held-out episodes has at least the length of so many windows."""


def share(fraction: float) -> tuple[int, int]:
    """Numerator and denominator: the same decisions come of 32 bits on a device."""
    return Fraction(fraction).limit_denominator(10_000).as_integer_ratio()


def begun_before(fraction: float, num_envs: int, window: int) -> np.ndarray:
    """Records [E] by which streams have begun earlier, as it were, so that not all hold out at the same time."""
    return (WINDOWS * window / fraction * np.arange(num_envs) / num_envs).astype(np.int64)


class HeldOut:
    """Decides, stream by stream, at the start of each episode. A function of the streams' flags alone."""

    def __init__(self, fraction: float, num_envs: int, window: int) -> None:
        self._share, self._least = share(fraction), WINDOWS * window
        self._now = np.zeros(num_envs, bool)
        self._block = np.zeros(num_envs, np.int64)  # records since the last change
        self._held = np.zeros(num_envs, np.int64)
        self._all = begun_before(fraction, num_envs, window)

    def step(self, is_first: np.ndarray) -> np.ndarray:
        """Whether the next record of every stream is held out, [E]."""
        numerator, denominator = self._share
        room = denominator * (self._held + self._least) <= numerator * (self._all + self._least)
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
