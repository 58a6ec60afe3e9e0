"""DeepMind Control suite as Gymnasium environments, from joint states or from pictures."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.envs import rendering, simulator_state

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

VISION_TASKS = (*PROPRIO_TASKS, "quadruped_run", "quadruped_walk")
"""The one from pictures."""

ALIASES = {"cup_catch": "ball_in_cup_catch"}
FILM_SIZE = 192
CAMERAS = {"quadruped": 2}
"""By domain; all others are seen from camera 0."""


class ControlSuite(gymnasium.Env):
    """One task. An episode depends on the seed of its reset and on its actions alone.

    dm_control's time-outs keep discount 1, so they truncate; discount 0 terminates. An action lasts
    ``action_repeat`` steps of the simulation, or until the episode ends; their rewards are summed. An
    ``image_size`` replaces the states by ``image``, uint8 [image_size, image_size, 3], drawn once an action.

    Shifts (``envs.shifts``) set the hooks: ``draw_more(physics, scene)`` adds to what is drawn, ``after_drawing``
    changes pictures, ``after_reset`` follows the task's own reset.
    """

    draw_more: Callable[[Any, Any], None] | None = None
    after_drawing: Callable[[np.ndarray], np.ndarray] | None = None
    after_reset: Callable[[], None] | None = None

    def __init__(self, env: Any, *, action_repeat: int = 1, image_size: int = 0, camera: int = 0) -> None:
        self._env = env
        self._repeat = action_repeat
        self._size = image_size
        self.camera = camera
        self._keys = {
            key: key.replace("/", "_") for key, spec in env.observation_spec().items() if int(np.prod(spec.shape))
        }
        self.observation_space = spaces.Dict(
            {"image": spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)}
            if image_size
            else {
                name: spaces.Box(-np.inf, np.inf, env.observation_spec()[key].shape or (1,), np.float32)
                for key, name in self._keys.items()
            }
        )
        action = env.action_spec()
        low, high = (np.broadcast_to(bound, action.shape) for bound in (action.minimum, action.maximum))
        self.action_space = spaces.Box(low.astype(np.float64), high.astype(np.float64), dtype=np.float64)

    @property
    def shows_pictures(self) -> bool:
        """Instead of states."""
        return self._size > 0

    @property
    def most_frames(self) -> float:
        """Of an episode."""
        return getattr(self._env, "_step_limit", math.inf)  # dm_control tells nobody

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, np.ndarray], dict]:
        del options
        if seed is not None:
            self._env.task.random.seed(seed)
        step = self._env.reset()
        if self.after_reset is not None:
            self.after_reset()
        return self._observation(step.observation), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        step, reward = self._advance(action)
        terminated = step.last() and step.discount == 0
        return self._observation(step.observation), reward, terminated, step.last() and not terminated, {}

    def render(self) -> np.ndarray:
        """What the camera sees, [FILM_SIZE, FILM_SIZE, 3] uint8, also where the agent sees states."""
        rendering.start()
        return self._picture(FILM_SIZE)

    def close(self) -> None:
        self._env.close()

    @property
    def physics(self) -> Any:
        """dm_control's, with the model and its state."""
        return self._env.physics

    def numbers(self) -> np.ndarray:
        """The joint states that the task shows now, side by side [k] float64, also where the agent sees pictures."""
        seen = self._env.task.get_observation(self.physics)
        return np.concatenate([np.ravel(seen[key]) for key in self._keys]).astype(np.float64)

    def simulator_state(self) -> np.ndarray:
        """Everything on which the next steps depend, float64 [Q]; see ``envs.simulator_state``."""
        return simulator_state.read(self._env)

    def restore(self, state: np.ndarray) -> dict[str, np.ndarray]:
        """Go on from a ``simulator_state`` of this task, also one of another environment; what is seen there.

        Raises:
          ConfigError: it is of another task.
        """
        simulator_state.write(self._env, state)
        return self._observation(self._env.task.get_observation(self.physics))

    def simulate(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        """The simulator state to which an action leads from ``state``, without drawing."""
        simulator_state.write(self._env, state)
        self._advance(action)
        return self.simulator_state()

    def _advance(self, action: np.ndarray) -> tuple[Any, float]:
        reward = 0.0
        for _ in range(self._repeat):
            step = self._env.step(action)
            reward += float(step.reward)
            if step.last():
                break
        return step, reward

    def _observation(self, seen: Any) -> dict[str, np.ndarray]:
        if self._size:
            return {"image": self._picture(self._size)}
        return {name: np.atleast_1d(np.asarray(seen[key], np.float32)) for key, name in self._keys.items()}

    def _picture(self, size: int) -> np.ndarray:
        picture = np.ascontiguousarray(
            self.physics.render(size, size, camera_id=self.camera, scene_callback=self.draw_more)
        )
        return picture if self.after_drawing is None else self.after_drawing(picture)


def task_names() -> list[str]:
    """Every task of the installed suite as ``domain_task``."""
    return sorted(_tasks())


def make(name: str, *, action_repeat: int = 1, image_size: int = 0) -> ControlSuite:
    """Open the task ``domain_task``; ``cup`` is short for ``ball_in_cup``.

    Raises:
      KeyError: no such task.
      ImportError: dm_control is not installed.
      ConfigError: pictures are wanted and nothing can be drawn.
    """
    domain, task = _tasks()[ALIASES.get(name, name)]
    if image_size:
        rendering.start()
    from dm_control import suite

    # MuJoCo warns about a deprecated attribute in the suite's own models, of no use to who runs them.
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        env = suite.load(domain, task, task_kwargs={"random": 0})
    finally:
        logger.setLevel(level)
    return ControlSuite(env, action_repeat=action_repeat, image_size=image_size, camera=CAMERAS.get(domain, 0))


def _tasks() -> dict[str, tuple[str, str]]:
    with rendering.without_opengl():
        from dm_control import suite
    # Domains and tasks both contain underscores, so names are looked up and never taken apart.
    return {f"{domain}_{task}": (domain, task) for domain, task in suite.ALL_TASKS}
