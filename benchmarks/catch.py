"""A ball falls, a bar catches it (Mnih et al. 2014, "Recurrent Models of Visual Attention", sec. 4.2), from pictures.

Small enough for a whole learning curve on one CPU core in minutes, also of slower programs: docs/reproduction.md has
curves of two. Gymnasium knows it by ``catch:Catch-v0`` where this folder is on PYTHONPATH:

    PYTHONPATH=benchmarks dreamer-jax train --config configs/catch.yaml
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

CELLS, PIXELS = 8, 6
"""Of a side of the field, and of a side of a cell."""
BAR = 2


class Catch(gymnasium.Env):
    """The ball begins in any column of the first row and falls a cell each step; the bar moves left, not, or right.

    It is over as the ball is in the last row: 1 where the bar is, -1 elsewhere. The best mean is 1, that of a bar which
    moves at random about -0.5.
    """

    observation_space = spaces.Box(0, 255, (CELLS * PIXELS, CELLS * PIXELS, 1), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._ball = [0, int(self.np_random.integers(CELLS))]
        self._bar = (CELLS - BAR) // 2
        return self._picture(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._bar = min(max(self._bar + int(action) - 1, 0), CELLS - BAR)
        self._ball[0] += 1
        over = self._ball[0] == CELLS - 1
        caught = self._bar <= self._ball[1] < self._bar + BAR
        return self._picture(), (1.0 if caught else -1.0) if over else 0.0, over, False, {}

    def _picture(self) -> np.ndarray:
        field = np.zeros((CELLS, CELLS, 1), np.uint8)
        field[CELLS - 1, self._bar : self._bar + BAR] = 128
        field[tuple(self._ball)] = 255
        return field.repeat(PIXELS, 0).repeat(PIXELS, 1)


gymnasium.register("Catch-v0", entry_point="catch:Catch")
