"""Crafter (Hafner 2021, arXiv 2109.06780): an open world with 22 achievements, seen from above."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

TASKS = ("reward",)


class Crafter(gymnasium.Env):
    """Pictures ``image`` [size, size, 3] uint8, 17 actions. An episode depends on its seed and actions alone.

    Death terminates, the limit of 10,000 steps truncates. The log of a step holds, for every achievement,
    1.0 if it has been unlocked in this episode.
    """

    def __init__(self, size: int) -> None:
        simulator, achievements = _simulator()
        self._world = simulator(size=(size, size))
        self.log_names = tuple(f"achievement_{name}" for name in achievements)
        self.observation_space = spaces.Dict({"image": spaces.Box(0, 255, (size, size, 3), np.uint8)})
        self.action_space = spaces.Discrete(len(self._world.action_names))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, np.ndarray], dict]:
        super().reset(seed=seed)
        # Its episodes are numbered and their seeds made from the number: each is a first one here.
        self._world._seed = int(self.np_random.integers(2**31)) if seed is None else seed
        self._world._episode = 0
        return {"image": self._world.reset()}, {"log": dict.fromkeys(self.log_names, 0.0)}

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        image, reward, over, info = self._world.step(int(action))
        log = {f"achievement_{name}": float(count > 0) for name, count in info["achievements"].items()}
        dead = info["discount"] == 0
        return {"image": image}, float(reward), dead, bool(over) and not dead, {"log": log}


def crafter_score(success_rates: Iterable[float] | Mapping[str, float]) -> float:
    """exp(mean(ln(1 + s))) - 1 with ``s`` in percent of all training episodes, one for each achievement (section 3.3).

    Args:
      success_rates: the share of episodes, from 0 to 1, in which each achievement was unlocked.
    """
    rates = success_rates.values() if isinstance(success_rates, Mapping) else success_rates
    return float(np.expm1(np.mean(np.log1p(100 * np.array(list(rates))))))


def _simulator() -> tuple[type, list[str]]:
    """Crafter's environment, and its achievements. One difference: which of several creatures disappears is repeatable.

    It keeps them in a set, whose order is that of addresses in memory, and picks one by its place.

    Raises:
      ImportError: crafter is not installed.
    """
    import crafter
    from crafter import constants

    class Repeatable(crafter.Env):
        def _balance_chunk(self, chunk: tuple, creatures: set) -> None:
            super()._balance_chunk(chunk, [creature for creature in self._world.objects if creature in creatures])

    return Repeatable, constants.achievements
