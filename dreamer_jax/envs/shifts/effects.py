"""Whether a shift took effect, and touched nothing else: controls without which no number under a shift counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack, closing
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from dreamer_jax.config.schema import EnvConfig
from dreamer_jax.envs.dmc import ControlSuite
from dreamer_jax.envs.observations import plan_observations
from dreamer_jax.envs.shifts.opening import find, shifted, under
from dreamer_jax.envs.shifts.shift import Std
from dreamer_jax.envs.suites import make_env

PICTURES = 4
"""How many states are drawn; a picture takes up to 30 ms on a CPU."""
STILL = 1e-9
"""Numbers that vary less are left out where differences are measured in deviations."""


class Effect(NamedTuple):
    """``size`` in ``unit``, and the largest difference where there must be none."""

    shift: str
    severity: int
    size: float
    unit: str
    least: float
    unwanted: float

    @property
    def holds(self) -> bool:
        """Nothing unwanted; no effect of severity 0, one of the others, and of 3 one that is not small."""
        if self.severity == 0:
            return self.size == self.unwanted == 0.0
        return self.size > (self.least if self.severity == 3 else 0.0) and self.unwanted == 0.0


def effects(
    config: EnvConfig,
    name: str,
    *,
    seed: int,
    states: np.ndarray,
    actions: Sequence[Any],
    severities: Sequence[int] = (1, 2, 3),
    std: Std | None = None,
) -> list[Effect]:
    """Measure a shift at each of ``severities``.

    ===================  ======================================  ======================================
    kind                 size: differences of                    what must not differ
    ===================  ======================================  ======================================
    appearance, objects  pixels, in the same states              states, one action later
    thickness            pixels, in the same states
    dynamics             states, one control step later          the observation of the first one
    sensing              observations, after each of the         rewards, unless actions come late
                         actions from one reset on
    ===================  ======================================  ======================================

    Of pixels it is the mean, of states and observations the root mean square in units of their standard deviation.
    One control step, because a small change of physics ends as far away as a large one as soon as there are contacts.

    Args:
      states: simulator states [N, Q] of the task, none of them the last of an episode; not used for sensing.
      actions: the environment's own, one for each state.

    Raises:
      ConfigError: there is no such shift, or this environment can't have it.
    """
    shift = find(name)
    config = dataclasses.replace(config, action_repeat=1) if shift.kind == "dynamics" else config
    with ExitStack() as opened:
        clean: Any = opened.enter_context(closing(make_env(config)))
        if shift.fields is not None:
            measured = _of_pictures(clean, name, severities, seed, states, actions)
        else:
            others = [shifted(config, name, severity, seed=seed, std=std) for severity in severities]
            for other in others:
                opened.enter_context(closing(other))
            match shift.kind:
                case "sensing":
                    measured = _of_senses(clean, others, seed, actions, not shift.alters_states)
                case "dynamics":
                    measured = _of_physics(clean, others, states, actions)
                case _:
                    before = redraw(clean, states[:PICTURES])
                    measured = [(pixel_effect(before, redraw(other, states[:PICTURES])), 0.0) for other in others]
    unit = "levels of 255" if shift.alters_pictures else "deviations"
    found = zip(severities, measured, strict=True)
    return [Effect(name, severity, size, unit, shift.least, unwanted) for severity, (size, unwanted) in found]


def in_order(found: Sequence[Effect]) -> bool:
    """Whether each is larger than the one before."""
    return all(one.size < other.size for one, other in pairwise(found))


def redraw(env: Any, states: np.ndarray) -> np.ndarray:
    """Pictures of simulator states as a task of DeepMind Control draws them now, uint8 [N, height, width, 3]."""
    return np.stack([env.restore(state)["image"] for state in states])


def pixel_effect(before: np.ndarray, after: np.ndarray) -> float:
    """Mean absolute difference, in levels of 255."""
    return float(np.abs(after.astype(np.float64) - before).mean())


def one_step_effect(clean: Any, other: Any, states: np.ndarray, actions: Sequence[Any]) -> float:
    """How far positions and velocities are apart one action after each of ``states``, in standard deviations."""
    ends: list[list[np.ndarray]] = [[], []]
    for state, action in zip(states, actions, strict=True):
        for env, end in zip((clean, other), ends, strict=True):
            env.simulate(state, action)
            end.append(env.physics.get_state())
    return _rms(np.stack(ends[0]), np.stack(ends[1]))


def _of_pictures(
    env: ControlSuite, name: str, severities: Sequence[int], seed: int, states: np.ndarray, actions: Sequence[Any]
) -> list[tuple[float, float]]:
    def next_states() -> np.ndarray:
        return np.stack([env.simulate(state, action) for state, action in zip(states, actions, strict=True)])

    before, expected, measured = redraw(env, states[:PICTURES]), next_states(), []
    for severity in severities:
        with under(env, name, severity, seed=seed):
            size = pixel_effect(before, redraw(env, states[:PICTURES]))
            measured.append((size, _largest(expected, next_states())))
    return measured


def _of_physics(
    clean: ControlSuite, others: Sequence[Any], states: np.ndarray, actions: Sequence[Any]
) -> list[tuple[float, float]]:
    seen, measured = clean.restore(states[0]), []
    for other in others:
        same = other.restore(states[0])
        unwanted = max(_largest(seen[key], same[key]) for key in seen)
        measured.append((one_step_effect(clean, other, states, actions), unwanted))
    return measured


def _of_senses(
    clean: Any, others: Sequence[Any], seed: int, actions: Sequence[Any], same_rewards: bool
) -> list[tuple[float, float]]:
    seen, rewards = _played(clean, seed, actions)
    measured = []
    for other in others:
        shown, gained = _played(other, seed, actions)
        count = min(len(seen), len(shown))  # actions that come late may end an episode at another time
        unwanted = _largest(rewards[: count - 1], gained[: count - 1]) if same_rewards else 0.0
        measured.append((_rms(seen[:count], shown[:count]), unwanted))
    return measured


def _played(env: Any, seed: int, actions: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Observations [T + 1, D] and rewards [T] of one episode, or its beginning."""
    flatten = plan_observations(env.observation_space).flatten
    seen, rewards = [flatten(env.reset(seed=seed)[0])], []
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        seen.append(flatten(observation))
        rewards.append(float(reward))
        if terminated or truncated:
            break
    rows = [np.concatenate([array.ravel() for array in arrays.values()]) for arrays in seen]
    return np.stack(rows).astype(np.float64), np.array(rewards)


def _rms(one: np.ndarray, other: np.ndarray) -> float:
    """Of differences [N, D], in standard deviations of ``one``; what never changes is left out."""
    deviation = one.std(0)
    moving = deviation > STILL
    return float(np.sqrt(np.mean(((other - one)[:, moving] / deviation[moving]) ** 2))) if moving.any() else 0.0


def _largest(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(np.asarray(one, np.float64) - other).max(initial=0.0))
