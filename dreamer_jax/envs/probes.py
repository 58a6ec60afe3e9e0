"""Tiny worlds with known best and random returns, to test agents and the plumbing around them.

Each is a generator: it yields observation, reward and how the episode ends, if it does, and is sent
the next action. ``optimal`` and ``random`` are expected returns of the best and a uniform policy.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

End = Literal["", "terminated", "truncated"]
Episode = Generator[tuple[Sequence[float] | np.ndarray, float, End], Any, None]
TWO: spaces.Discrete = spaces.Discrete(2)


class Probe(NamedTuple):
    episode: Callable[[np.random.Generator], Episode]
    action: spaces.Space
    width: int  # of the observation
    optimal: float
    random: float


def constant_reward(rng: np.random.Generator) -> Episode:
    """Reward 1 for each of 10 steps, whatever is done."""
    for step in range(10):
        yield [step / 10], float(step > 0), ""
    yield [1.0], 1.0, "terminated"


def delayed_reward(rng: np.random.Generator) -> Episode:
    """The first action should name the cue; the reward for it comes 5 steps later, at the end."""
    cue = int(rng.integers(2))
    first = yield [cue * 2 - 1, 0.0], 0.0, ""
    for step in range(1, 5):
        yield [0.0, step / 5], 0.0, ""
    yield [0.0, 1.0], float(first == cue), "terminated"


def action_reward(rng: np.random.Generator) -> Episode:
    """Reward 1 for each of 10 actions that equals the bit just seen."""
    reward = 0.0
    for _ in range(10):
        bit = int(rng.integers(2))
        action = yield [float(bit)], reward, ""
        reward = float(action == bit)
    yield [0.0], reward, "terminated"


def continuous_target(rng: np.random.Generator) -> Episode:
    """Reward 1 - |action - target| for each of 10 actions; the target is seen and always new."""
    reward = 0.0
    for _ in range(10):
        target = float(np.float32(rng.uniform(-1, 1)))
        action = yield [target], reward, ""
        reward = 1.0 - abs(float(action[0]) - target)
    yield [0.0], reward, "terminated"


def recall(rng: np.random.Generator, steps: int) -> Episode:
    """A cue is seen once; the last of ``steps`` actions should name it."""
    cue = int(rng.integers(2))
    action = yield [cue * 2 - 1, 0.0], 0.0, ""
    for step in range(1, steps):
        action = yield [0.0, step / steps], 0.0, ""
    yield [0.0, 1.0], float(action == cue), "terminated"


def echo(rng: np.random.Generator) -> Episode:
    """The observation is the action that led to it, zeros at first; there is no reward."""
    action = np.zeros(2)
    for _ in range(8):
        action = yield action, 0.0, ""
    yield action, 0.0, "truncated"


def terminal_reward(rng: np.random.Generator) -> Episode:
    """Reward 1 on the terminal record alone, after 4 actions."""
    for step in range(4):
        yield [step / 4], 0.0, ""
    yield [1.0], 1.0, "terminated"


def time_limit(rng: np.random.Generator) -> Episode:
    """Reward 1 for each of 6 actions, then the time is up; nothing shows how much is left."""
    for step in range(6):
        yield [0.5], float(step > 0), ""
    yield [0.5], 1.0, "truncated"


PROBES = {
    "constant_reward": Probe(constant_reward, TWO, 1, optimal=10, random=10),
    "delayed_reward": Probe(delayed_reward, TWO, 2, optimal=1, random=0.5),
    "action_reward": Probe(action_reward, TWO, 1, optimal=10, random=5),
    "continuous_target": Probe(continuous_target, spaces.Box(-1, 1, (1,)), 1, optimal=10, random=10 / 3),
    "memory": Probe(partial(recall, steps=4), TWO, 2, optimal=1, random=0.5),
    "long_memory": Probe(partial(recall, steps=65), TWO, 2, optimal=1, random=0.5),  # the cue is 64 steps back
    "echo": Probe(echo, spaces.Box(-1, 1, (2,)), 2, optimal=0, random=0),
    "terminal_reward": Probe(terminal_reward, TWO, 1, optimal=1, random=1),
    "time_limit": Probe(time_limit, TWO, 1, optimal=6, random=6),
}


class ProbeEnv(gymnasium.Env):
    """Plays the episodes of one probe."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self.observation_space = spaces.Box(-1, 1, (probe.width,), np.float32)
        self.action_space = probe.action

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._episode = self._probe.episode(self.np_random)
        observation, _, _ = next(self._episode)
        return np.asarray(observation, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, reward, end = self._episode.send(action)
        return np.asarray(observation, np.float32), float(reward), end == "terminated", end == "truncated", {}


def make(name: str) -> ProbeEnv:
    return ProbeEnv(PROBES[name])
