"""Other senses: noise, values that stay away, actions and observations that come late. For any environment."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.envs.actions import plan_actions
from dreamer_jax.envs.shifts.shift import Std


class Sensing(gymnasium.Wrapper):
    """What it draws in an episode depends on ``seed`` and that of the reset alone."""

    def __init__(self, env: gymnasium.Env, seed: int) -> None:
        super().__init__(env)
        self._seed = seed
        self.rng = np.random.default_rng(seed)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.rng = np.random.default_rng([self._seed, seed])
        observation, info = self.env.reset(seed=seed, options=options)
        return self.first(observation), info

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self.next(observation), reward, terminated, truncated, info

    def first(self, observation: Any) -> Any:
        """What is shown of the first observation of an episode."""
        return self.next(observation)

    def next(self, observation: Any) -> Any:
        return observation


class Noise(Sensing):
    """Gaussian, of ``amount`` standard deviations ``std`` of each number."""

    def __init__(self, env: gymnasium.Env, amount: float, seed: int, std: Std | None) -> None:
        super().__init__(env, seed)
        self._boxes = numbers(env)
        self._deviation = {name: amount * _std_of(name, space, std) for name, space in self._boxes.items()}

    def next(self, observation: Any) -> Any:
        def noisy(name: str, value: np.ndarray) -> np.ndarray:
            return value + self._deviation[name] * self.rng.standard_normal(np.shape(value))

        return _with_numbers(self._boxes, observation, noisy)


class Dropout(Sensing):
    """Each number stays what was shown before with probability ``amount``."""

    def __init__(self, env: gymnasium.Env, amount: float, seed: int, std: Std | None) -> None:
        super().__init__(env, seed)
        self._boxes = numbers(env)
        self._probability = amount
        self._shown: dict[str, np.ndarray] = {}

    def first(self, observation: Any) -> Any:
        self._shown = {}
        return self.next(observation)

    def next(self, observation: Any) -> Any:
        def held(name: str, value: np.ndarray) -> np.ndarray:
            lost = self.rng.random(np.shape(value)) < self._probability
            self._shown[name] = np.where(lost, self._shown.get(name, value), value)
            return self._shown[name]

        return _with_numbers(self._boxes, observation, held)


class ActionDelay(Sensing):
    """What is done now was decided ``steps`` steps ago; first the middle of each interval, the first of each choice."""

    def __init__(self, env: gymnasium.Env, steps: int, seed: int, std: Std | None) -> None:
        super().__init__(env, seed)
        actions = plan_actions(env.action_space)
        self._steps = steps
        self._idle = actions.build({leaf.name: np.zeros(leaf.spec.shape, leaf.spec.dtype) for leaf in actions.leaves})
        self._waiting: deque[Any] = deque()

    def first(self, observation: Any) -> Any:
        self._waiting = deque([self._idle] * self._steps)
        return observation

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self._waiting.append(action)
        return self.env.step(self._waiting.popleft())


class ObservationDelay(Sensing):
    """What is shown now was seen ``steps`` steps ago, at first the first observation. Rewards and ends are in time."""

    def __init__(self, env: gymnasium.Env, steps: int, seed: int, std: Std | None) -> None:
        super().__init__(env, seed)
        self._steps = steps
        self._waiting: deque[Any] = deque()

    def first(self, observation: Any) -> Any:
        self._waiting = deque([observation] * self._steps)
        return self.next(observation)

    def next(self, observation: Any) -> Any:
        self._waiting.append(observation)
        return self._waiting.popleft()


def numbers(env: gymnasium.Env) -> dict[str, spaces.Box]:
    """The observations that are floats, by name; one without a name is ``observation``."""
    space = env.observation_space
    parts = space.spaces if isinstance(space, spaces.Dict) else {"observation": space}
    return {
        name: part
        for name, part in parts.items()
        if isinstance(part, spaces.Box) and np.issubdtype(part.dtype, np.floating)
    }


def has_numbers(env: Any) -> str:
    return "" if numbers(env) else "none of its observations is a Box of floats, nor a Dict with one"


def _std_of(name: str, space: spaces.Box, std: Std | None) -> np.ndarray:
    if std is None or name not in std or np.shape(std[name]) != space.shape:
        given = None if std is None else {known: np.shape(value) for known, value in std.items()}
        raise ConfigError(
            f"shift observation_noise: std of {name!r} must have shape {space.shape}; the shapes given are {given}"
        )
    return np.asarray(std[name], np.float64)


def _with_numbers(
    boxes: dict[str, spaces.Box], observation: Any, change: Callable[[str, np.ndarray], np.ndarray]
) -> Any:
    """The observation with its floats changed, in their own types."""
    keyed = isinstance(observation, dict)
    changed = {
        name: np.asarray(change(name, observation[name] if keyed else observation), space.dtype)
        for name, space in boxes.items()
    }
    return {**observation, **changed} if keyed else changed["observation"]
