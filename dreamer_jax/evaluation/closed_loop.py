"""An agent in the simulator, from states that were recorded: what really comes of what a model imagines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np

from dreamer_jax.envs.simulator_state import far_from_the_limit
from dreamer_jax.evaluation.recordings import Recording, Windows
from dreamer_jax.evaluation.simulator import Simulator
from dreamer_jax.evaluation.subject import Subject
from dreamer_jax.types import ArrayDict, LatentState, Mode, PolicyCarry, TimeStep, TrajectoryBatch

Change = Callable[[ArrayDict, int], ArrayDict]
"""Of actions {name: [S, ...]} at a step, counted from 0."""


class Played(NamedTuple):
    """``S`` rows of ``H`` steps."""

    reward: np.ndarray  # [S, H] float32, 0 behind an end
    going_on: np.ndarray  # [S] bool: not ended
    start: LatentState  # [S, ...] of the agent, before the first step
    end: LatentState  # and behind the last


def restored(recordings: Sequence[Recording], windows: Windows) -> np.ndarray:
    """The simulator's states [S, Q] at the last records that were seen."""
    pairs = zip(windows.episode, windows.start, strict=True)
    return np.stack([_simulator(recordings[index])[time] for index, time in pairs])


def _simulator(recording: Recording) -> np.ndarray:
    assert recording.simulator is not None, "recordings of a dataset have no states to go on from"
    return recording.simulator


def play_on(
    subject: Subject,
    windows: Windows,
    states: np.ndarray,
    simulator: Simulator,
    *,
    horizon: int,
    seed: int,
    mode: Mode = "sample",
    change: Change | None = None,
    endless: bool = False,
) -> Played:
    """Go on from ``states`` [S, Q] with an agent that has seen the same records as the model.

    Args:
      change: what becomes of its actions; it knows what was done.
      endless: whether no time limit ends an episode; a termination does.
    """
    assert subject.agent is not None
    act, key = jax.jit(subject.agent.policy, static_argnames="mode"), jax.random.key(seed)
    carry, action = watch(subject, windows.seen, seed, mode)
    start, alive, rewards = carry.latent, np.ones(len(states), bool), []
    none = np.zeros(len(states), bool)
    for step in range(horizon):
        chosen: ArrayDict = jax.device_get(action)
        if change is not None:
            chosen = change(chosen, step)
            carry = replace(carry, prev_action=chosen)
        ended = np.full(len(alive), endless) | ~alive  # what has ended goes on, too, and counts no more
        states = np.where(ended[:, None], far_from_the_limit(states), states)
        rows = simulator.step(states, chosen)
        rewards.append(rows.reward * alive)
        alive = alive & ~rows.is_last
        states = rows.state
        timestep = TimeStep(rows.observation, rows.reward, none, none, none)
        carry, action, _ = act(subject.params, jax.random.fold_in(key, 1000 + step), carry, timestep, mode=mode)
    return Played(np.stack(rewards, 1), alive, start, carry.latent)


def watch(subject: Subject, seen: TrajectoryBatch, seed: int, mode: Mode) -> tuple[PolicyCarry, ArrayDict]:
    """What the agent remembers of records [S, C], and its action after the last of them."""
    assert subject.agent is not None
    agent, key = subject.agent, jax.random.key(seed)
    act = jax.jit(agent.policy, static_argnames="mode")
    carry = jax.jit(agent.reset, static_argnums=1)(subject.params, len(seen.reward))
    action: ArrayDict = {}
    for time in range(seen.reward.shape[1]):
        carry = replace(carry, prev_action={name: x[:, time] for name, x in seen.prev_action.items()})
        timestep = record(seen, time)
        carry, action, _ = act(subject.params, jax.random.fold_in(key, time), carry, timestep, mode=mode)
    return carry, action


def record(batch: TrajectoryBatch, time: int) -> TimeStep:
    """One of the records of each row."""
    flags = [np.asarray(x)[:, time] for x in (batch.reward, batch.is_first, batch.is_last, batch.is_terminal)]
    return TimeStep({name: x[:, time] for name, x in batch.observation.items()}, *flags)
