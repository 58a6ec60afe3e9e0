"""DeepMind Control suite as Gymnasium environments; states only, nothing is ever rendered."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

PROPRIO_TASKS = (
    "acrobot_swingup",
    "ball_in_cup_catch",
    "cartpole_balance",
    "cartpole_balance_sparse",
    "cartpole_swingup",
    "cartpole_swingup_sparse",
    "cheetah_run",
    "finger_spin",
    "finger_turn_easy",
    "finger_turn_hard",
    "hopper_hop",
    "hopper_stand",
    "pendulum_swingup",
    "reacher_easy",
    "reacher_hard",
    "walker_run",
    "walker_stand",
    "walker_walk",
)
"""The benchmark of continuous control from states."""

ALIASES = {"cup_catch": "ball_in_cup_catch"}


class ControlSuite(gymnasium.Env):
    """One task. An episode depends on the seed of its reset and on its actions alone.

    dm_control's time-outs keep discount 1, so they truncate; discount 0 terminates.
    """

    def __init__(self, env: Any) -> None:
        self._env = env
        self._keys = {
            key: key.replace("/", "_") for key, spec in env.observation_spec().items() if int(np.prod(spec.shape))
        }
        self.observation_space = spaces.Dict(
            {
                name: spaces.Box(-np.inf, np.inf, env.observation_spec()[key].shape or (1,), np.float32)
                for key, name in self._keys.items()
            }
        )
        action = env.action_spec()
        low, high = (np.broadcast_to(bound, action.shape) for bound in (action.minimum, action.maximum))
        self.action_space = spaces.Box(low.astype(np.float64), high.astype(np.float64), dtype=np.float64)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, np.ndarray], dict]:
        del options
        if seed is not None:
            self._env.task.random.seed(seed)
        return self._observation(self._env.reset()), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        step = self._env.step(action)
        terminated = step.last() and step.discount == 0
        return self._observation(step), float(step.reward), terminated, step.last() and not terminated, {}

    def close(self) -> None:
        self._env.close()

    def _observation(self, step: Any) -> dict[str, np.ndarray]:
        return {name: np.atleast_1d(np.asarray(step.observation[key], np.float32)) for key, name in self._keys.items()}


def task_names() -> list[str]:
    """Every task of the installed suite as ``domain_task``."""
    return sorted(_tasks())


def make(name: str) -> ControlSuite:
    """Open the task ``domain_task``; ``cup`` is short for ``ball_in_cup``.

    Raises:
      KeyError: no such task.
      ImportError: dm_control is not installed.
    """
    domain, task = _tasks()[ALIASES.get(name, name)]
    from dm_control import suite

    # MuJoCo warns about a deprecated attribute in the suite's own models, of no use to who runs them.
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return ControlSuite(suite.load(domain, task, task_kwargs={"random": 0}))
    finally:
        logger.setLevel(level)


def _tasks() -> dict[str, tuple[str, str]]:
    with _without_opengl():
        from dm_control import suite
    # Domains and tasks both contain underscores, so names are looked up and never taken apart.
    return {f"{domain}_{task}": (domain, task) for domain, task in suite.ALL_TASKS}


@contextlib.contextmanager
def _without_opengl() -> Iterator[None]:
    """Let dm_control's first import choose no renderer.

    It would otherwise load an OpenGL library, which warns or even fails on a machine without a
    display. The variable is put back at once: other libraries and child processes never see it,
    and whoever wants pictures later reloads ``dm_control._render``.
    """
    if "dm_control" in sys.modules:
        yield
        return
    before = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "disable"
    try:
        yield
    finally:
        if before is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = before
