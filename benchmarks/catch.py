"""A ball falls, a bar catches it (Mnih et al. 2014, "Recurrent Models of Visual Attention", sec. 4.2), from pictures.

Small enough for a whole learning curve on one CPU core in minutes, also of slower programs: docs/reproduction.md has
curves of two. Gymnasium knows it by ``catch:Catch-v0`` where this folder is on PYTHONPATH:

    PYTHONPATH=benchmarks dreamer-jax train --config configs/catch.yaml

``catch:SmallCatch-v0`` has a field of 4 x 4 and a bar of one cell, in pictures of 32 x 32 pixels, the fewest that ours
take: learnt in a minute or two.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Catch(gymnasium.Env):
    """The ball begins in any column of the first row and falls a cell each step; the bar moves left, not, or right.

    It is over as the ball is in the last row: 1 where the bar is, -1 elsewhere. The best mean is 1, that of a bar which
    moves at random about -0.5.
    """

    action_space = spaces.Discrete(3)

    def __init__(self, cells: int = 8, bar: int = 2, pixels: int = 6) -> None:
        """``cells`` of a side of the field, ``bar`` cells of the bar, ``pixels`` of a side of a cell."""
        self._cells, self._bar_cells, self._pixels = cells, bar, pixels
        self.observation_space = spaces.Box(0, 255, (cells * pixels, cells * pixels, 1), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._ball = [0, int(self.np_random.integers(self._cells))]
        self._bar = (self._cells - self._bar_cells) // 2
        return self._picture(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._bar = min(max(self._bar + int(action) - 1, 0), self._cells - self._bar_cells)
        self._ball[0] += 1
        over = self._ball[0] == self._cells - 1
        caught = self._bar <= self._ball[1] < self._bar + self._bar_cells
        return self._picture(), (1.0 if caught else -1.0) if over else 0.0, over, False, {}

    def _picture(self) -> np.ndarray:
        field = np.zeros((self._cells, self._cells, 1), np.uint8)
        field[self._cells - 1, self._bar : self._bar + self._bar_cells] = 128
        field[tuple(self._ball)] = 255
        return field.repeat(self._pixels, 0).repeat(self._pixels, 1)


gymnasium.register("Catch-v0", entry_point="catch:Catch")
gymnasium.register("SmallCatch-v0", entry_point="catch:Catch", kwargs={"cells": 4, "bar": 1, "pixels": 8})
