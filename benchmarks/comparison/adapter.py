"""One of our environments as algorithms of other libraries want it: a vector, motors, and the ends as flags."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.config.schema import EnvConfig
from dreamer_jax.envs.wrappers import Stream, open_stream
from dreamer_jax.evaluation.forecasts import side_by_side
from dreamer_jax.specs import EnvSpec
from dreamer_jax.types import Array, ArrayDict


def vector(spec: EnvSpec, observation: ArrayDict, axes: int) -> np.ndarray:
    """All numbers of observations {name: [*axes, ...]} side by side, [*axes, D] float32."""
    return side_by_side({name: observation[name] for name in spec.observation}, axes).astype(np.float32)


def motors(spec: EnvSpec, action: Array) -> ArrayDict:
    """Actions [*axes, A] by name {name: [*axes, ...]}."""
    sizes = [int(np.prod(leaf.shape)) for leaf in spec.action.values()]
    parts = np.split(np.asarray(action, np.float32), np.cumsum(sizes)[:-1], -1)
    return {
        name: part.reshape(*part.shape[:-1], *leaf.shape)
        for (name, leaf), part in zip(spec.action.items(), parts, strict=True)
    }


def spaces_of(spec: EnvSpec) -> tuple[spaces.Box, spaces.Box]:
    """Of the vector and of the motors.

    Raises:
      ValueError: something is an image or a choice.
    """
    leaves = {**spec.observation, **spec.action}
    if unlike := [name for name, leaf in leaves.items() if leaf.image or leaf.discrete]:
        raise ValueError(f"{', '.join(unlike)}: images or choices; this comparison is of numbers")
    seen, done = (sum(int(np.prod(leaf.shape)) for leaf in part.values()) for part in (spec.observation, spec.action))
    return spaces.Box(-np.inf, np.inf, (seen,), np.float32), spaces.Box(-1, 1, (done,), np.float32)


class Flat(gymnasium.Env):
    """The records of a stream. Its seeds are its own, so that ``reset(seed)`` changes nothing."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.observation_space, self.action_space = spaces_of(stream.env_spec)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self._seen(self._stream.reset()[0]), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        record = self._stream.step(motors(self._stream.env_spec, action))[0]
        terminal = bool(record["is_terminal"])
        return self._seen(record), float(record["reward"]), terminal, bool(record["is_last"]) and not terminal, {}

    def close(self) -> None:
        self._stream.close()

    def _seen(self, record: dict[str, np.ndarray]) -> np.ndarray:
        return vector(self._stream.env_spec, record, 0)


def spec_of(config: EnvConfig) -> EnvSpec:
    """What an environment shows and takes."""
    with closing(open_stream(config, seed=0, purpose=0, index=0)) as stream:
        return stream.env_spec
