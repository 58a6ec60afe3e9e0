"""What a shift is: a named change of an environment in three severities, the same for the same seed."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np

from dreamer_jax.envs.dmc import ControlSuite

Kind = Literal["appearance", "dynamics", "sensing", "layout"]
Std = dict[str, np.ndarray]
"""Standard deviation of each number of the observations, by name."""
Edit = Callable[[ControlSuite, float, np.random.Generator], None]
"""Changes a task of DeepMind Control by an amount. What it draws is the same for every amount."""
Wrap = Callable[[gymnasium.Env, Any, int, Std | None], gymnasium.Env]
"""Of any environment, with an amount, a seed and ``std``."""


def _everywhere(env: Any) -> str:
    return ""


class Shift(NamedTuple):
    """One by ``edit`` or by ``wrap``; ``neutral`` is the amount that changes nothing."""

    name: str
    kind: Kind
    meaning: str
    severities: tuple[float, float, float]
    edit: Edit | None = None
    wrap: Wrap | None = None
    neutral: float = 0
    refusal: Callable[[Any], str] = _everywhere  # why an environment has no such shift; nothing, if it has
    fields: tuple[str, ...] | None = None  # the parts of the model that it changes; None: it can't be undone
    alters_states: bool = False  # whether other states follow the same actions
    least: float = 0.0  # what its effect exceeds, see effects.py
    costly: bool = False  # whether every picture is drawn twice

    @property
    def alters_pictures(self) -> bool:
        return self.kind in ("appearance", "layout")

    def apply(self, env: Any, severity: int, *, seed: int, std: Std | None = None) -> gymnasium.Env:
        """The environment shifted: itself, or wrapped. Severity 0 goes the same way and changes nothing."""
        amount = self.severities[severity - 1] if severity else self.neutral
        rng = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        if self.wrap is not None:
            return self.wrap(env, amount, int(rng.integers(2**31)), std)
        assert self.edit is not None
        self.edit(env, amount, rng)
        return env
