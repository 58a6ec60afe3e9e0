"""Environments under a shift: opened anew, or a live one for a while."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium

from dreamer_jax.config.schema import ConfigError, EnvConfig
from dreamer_jax.envs.dmc import ControlSuite
from dreamer_jax.envs.shifts.shift import Shift, Std
from dreamer_jax.envs.shifts.table import SHIFTS
from dreamer_jax.envs.suites import make_env


def shifted(config: EnvConfig, name: str, severity: int, *, seed: int, std: Std | None = None) -> gymnasium.Env:
    """Open ``config.task`` under a shift of severity 1, 2 or 3; 0 goes the same way and changes nothing.

    Args:
      seed: of what the shift draws; the same for every episode.
      std: of the observations, by name; ``observation_noise`` needs it.

    Raises:
      ConfigError: there is no such shift, or this environment can't have it.
    """
    shift = find(name)
    _check(name, severity)
    env = make_env(config)
    try:
        reason = refusal(env, shift)
        if reason:
            raise ConfigError(f"shift {name!r}: {config.task!r} can't have it: {reason}")
        under_shift = shift.apply(env, severity, seed=seed, std=std)
        _redraw(env, shift)
        return under_shift
    except BaseException:
        env.close()
        raise


@contextmanager
def under(env: ControlSuite, name: str, severity: int, *, seed: int) -> Iterator[None]:
    """A live environment as a shift of its pictures lets it look; afterwards as it was, to the last bit.

    States go on meanwhile as if nothing were: those of ``restore`` are drawn again under the shift.

    Raises:
      ConfigError: there is no such shift, it is not of pictures alone, or this environment can't have it.
    """
    shift = find(name)
    _check(name, severity)
    reason = "it can't be undone; open an environment of its own" if shift.fields is None else refusal(env, shift)
    if reason:
        raise ConfigError(f"shift {name!r}: {reason}")
    model, hooks = env.physics.model, (env.draw_more, env.after_drawing)
    before = {field: operator.attrgetter(field)(model).copy() for field in shift.fields or ()}
    try:
        shift.apply(env, severity, seed=seed)
        _redraw(env, shift)
        yield
    finally:
        for field, values in before.items():
            operator.attrgetter(field)(model)[...] = values
        env.draw_more, env.after_drawing = hooks
        _redraw(env, shift)


def not_applicable(config: EnvConfig) -> dict[str, str]:
    """The shifts that a task can't have, and why; it has all others."""
    env = make_env(config)
    try:
        reasons = {name: refusal(env, shift) for name, shift in SHIFTS.items()}
    finally:
        env.close()
    return {name: reason for name, reason in reasons.items() if reason}


def find(name: str) -> Shift:
    """A shift by its name.

    Raises:
      ConfigError: there is none.
    """
    if name not in SHIFTS:
        close = difflib.get_close_matches(name, SHIFTS, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"shift {name!r}: unknown{hint}; allowed: {', '.join(SHIFTS)}")
    return SHIFTS[name]


def refusal(env: gymnasium.Env, shift: Shift) -> str:
    """Why it can't have the shift; nothing, if it can."""
    if shift.edit is not None:
        if not isinstance(env, ControlSuite):
            return "only tasks of DeepMind Control can be changed like this"
        if shift.alters_pictures and not env.shows_pictures:
            return "it changes pictures, and env.observation is state"
    return shift.refusal(env)


def _redraw(env: Any, shift: Shift) -> None:
    """Make the next picture one of the model as it is now."""
    if not shift.fields:
        return
    import mujoco

    physics = env.physics
    mujoco.mj_camlight(physics.model.ptr, physics.data.ptr)  # where cameras and lights are, and nothing else
    if "tex_data" in shift.fields:
        with physics.contexts.gl.make_current() as gl:
            for number in range(physics.model.ntex):
                gl.call(mujoco.mjr_uploadTexture, physics.model.ptr, physics.contexts.mujoco.ptr, number)


def _check(name: str, severity: int) -> None:
    if severity not in range(4):
        raise ConfigError(f"shift {name!r}: severity {severity!r}; allowed: 1, 2, 3, or 0 for none")
