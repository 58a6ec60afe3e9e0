"""The simulator beside the model: states to go on from, what a state is made of, many rows with one environment."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from dreamer_jax.config.schema import EnvConfig
from dreamer_jax.envs.dmc import ControlSuite
from dreamer_jax.envs.wrappers import Stream, open_env
from dreamer_jax.types import ArrayDict

UNSEEN_JOINTS = {"rootx"}
"""Where a body is along its way, which no observation of the suite shows."""
HINGE, SLIDE = 3, 2
"""MuJoCo's numbers of kinds of joints."""


class Rows(NamedTuple):
    """``S`` states one step on."""

    state: np.ndarray  # [S, Q] float64
    observation: ArrayDict  # {name: [S, ...]} as a stream flattens it; nothing unless it is asked for
    reward: np.ndarray  # [S]
    is_last: np.ndarray  # [S] bool


class Simulator:
    """One environment that steps any number of rows in turn, from any states."""

    def __init__(self, config: EnvConfig) -> None:
        """Open it.

        Raises:
          ConfigError: it can't be opened.
          TypeError: it is none whose state can be set (those of dmc).
        """
        self.stream, self.env = _open(config)
        self._plain, self._stepping = self.stream, self.env  # what steps without drawing
        if config.observation == "image":
            self._plain, self._stepping = _open(replace(config, observation="state", image_size=EnvConfig.image_size))

    def step(self, states: np.ndarray, actions: ArrayDict, *, show: bool = True) -> Rows:
        """States [S, Q] one step ahead, by actions {name: [S, ...]} as agents give them."""
        after, rewards, ends, shown = [], [], [], []
        draws = self._stepping is not self.env
        for row, state in enumerate(states):
            self._stepping.restore(state)
            action = self._plain.actions.build({name: x[row] for name, x in actions.items()})
            observation, reward, terminated, truncated, _ = self._stepping.step(action)
            after.append(self._stepping.simulator_state())
            rewards.append(reward)
            ends.append(terminated or truncated)
            if show and not draws:
                shown.append(self.stream.observations.flatten(observation))
        reached = np.stack(after)
        seen = self.show(reached) if show and draws else _side_by_side(shown)
        return Rows(reached, seen, np.array(rewards, np.float32), np.array(ends))

    def show(self, states: np.ndarray) -> ArrayDict:
        """Observations {name: [S, ...]} of states [S, Q]."""
        return _side_by_side([self.stream.observations.flatten(self.env.restore(state)) for state in states])

    def close(self) -> None:
        for stream in {self.stream, self._plain}:
            stream.close()


def _side_by_side(rows: list[ArrayDict]) -> ArrayDict:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]} if rows else {}


def _open(config: EnvConfig) -> tuple[Stream, ControlSuite]:
    env = open_env(config)
    return Stream(env, config, seed=0, purpose=0, index=0), control_suite(env)


def control_suite(env: object) -> ControlSuite:
    """The environment itself, if its state can be set.

    Raises:
      TypeError: it can't.
    """
    inner = getattr(env, "unwrapped", env)
    if not isinstance(inner, ControlSuite):
        raise TypeError(f"{type(inner).__name__}: states can be set only in tasks of dmc")
    return inner


def targets(env: ControlSuite) -> dict[str, np.ndarray]:
    """What a good state of a task knows: {"observation", "angles", "velocities": [k] float64}.

    Angles are sines and cosines of hinges, and where slides are; what no observation shows is left out.
    """
    physics = env.physics
    angles: list[float] = []
    for joint in range(physics.model.njnt):
        position = float(physics.data.qpos[physics.model.jnt_qposadr[joint]])
        kind = int(physics.model.jnt_type[joint])
        if kind == HINGE:
            angles += [np.sin(position), np.cos(position)]
        elif kind == SLIDE and physics.model.id2name(joint, "joint") not in UNSEEN_JOINTS:
            angles.append(position)
    return {"observation": env.numbers(), "angles": np.array(angles), "velocities": np.array(physics.data.qvel)}
