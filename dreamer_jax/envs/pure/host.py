"""A pure environment as one of Gymnasium, for everything that goes step by step on the host."""

from __future__ import annotations

from typing import Any

import gymnasium
import jax
import numpy as np
from gymnasium import spaces

from dreamer_jax.envs.pure.streams import Episode, advance, begin
from dreamer_jax.interfaces.environment import Environment
from dreamer_jax.specs import ArraySpec


class PureEnv(gymnasium.Env):
    """Compiled for the CPU, whatever else there is: a step at a time would keep an accelerator waiting.

    The episode of a seed is that of ``jax.random.key(seed)``, as in ``streams``.
    """

    def __init__(self, env: Environment) -> None:
        self.observation_space, self.action_space = _space(env.spec.observation, np.inf), _space(env.spec.action, 1)
        self.most_frames, self.log_names = env.time_limit, env.log_names
        self._cpu = jax.devices("cpu")[0]
        self._episode: Episode | None = None

        @jax.jit
        def reset(seed: Any) -> Any:
            return begin(env, jax.random.key(seed))

        @jax.jit
        def step(episode: Episode, action: Any) -> Any:
            return advance(env, episode, action)

        self._reset, self._step = reset, step

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, np.ndarray], dict]:
        super().reset(seed=seed)
        with jax.default_device(self._cpu):
            number = np.uint32(self.np_random.integers(2**31) if seed is None else seed)
            self._episode, observation = self._reset(number)
        return jax.device_get(observation), {"log": dict.fromkeys(self.log_names, 0.0)}

    def step(self, action: dict[str, Any]) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        assert self._episode is not None, "reset() comes before step()"
        with jax.default_device(self._cpu):
            self._episode, found = self._step(self._episode, action)
        found = jax.device_get(found)
        ends = bool(found.terminated), bool(found.truncated)
        return found.observation, float(found.reward), *ends, {"log": found.log}


def _space(specs: dict[str, ArraySpec], bound: float) -> spaces.Dict:
    """``bound`` is that of numbers."""

    def part(spec: ArraySpec) -> spaces.Space:
        if spec.classes is None and spec.dtype == "uint8":
            return spaces.Box(0, 255, spec.shape, np.uint8)
        if spec.classes is None:
            return spaces.Box(-bound, bound, spec.shape, np.float32)
        return spaces.MultiDiscrete(np.full(spec.shape, spec.classes)) if spec.shape else spaces.Discrete(spec.classes)

    return spaces.Dict({name: part(spec) for name, spec in specs.items()})
