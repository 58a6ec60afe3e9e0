"""One environment as an endless stream of records that are named, typed and exactly repeatable."""

from __future__ import annotations

import os
import signal
import traceback
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.config.schema import ConfigError, EnvConfig
from dreamer_jax.envs.actions import plan_actions
from dreamer_jax.envs.observations import plan_observations
from dreamer_jax.envs.results import reset_result, step_result
from dreamer_jax.envs.suites import make_env
from dreamer_jax.specs import ArraySpec, EnvSpec

SIGNALS = {
    "reward": ArraySpec((), "float32"),
    "is_first": ArraySpec((), "bool"),
    "is_last": ArraySpec((), "bool"),
    "is_terminal": ArraySpec((), "bool"),
}


class EnvironmentFailed(RuntimeError):
    """An environment raised or broke its own declaration. The message is one line for a person."""


@dataclass(frozen=True)
class EpisodeStart:
    """Where a stream begins: in episode number ``episode``, after ``actions`` of shapes [n, ...]."""

    episode: int
    actions: dict[str, np.ndarray]


def episode_seed(seed: int, purpose: int, index: int, episode: int) -> int:
    """The seed of one episode of one environment: nothing that happened before plays a part."""
    words = np.random.SeedSequence([seed, purpose, index, episode]).generate_state(1)
    return int(words[0] >> 1)  # 31 bits, because simulators written in C often hold a signed integer


class Stream(gymnasium.Env):
    """Emits every record of every episode in turn, ends of episodes included.

    An observation is a flat dict of the environment's own arrays and ``reward``, ``is_first``,
    ``is_last``, ``is_terminal``. Gymnasium's own reward and end flags stay 0 and False, so that a
    vector environment never resets by itself: the step after an ``is_last`` record ignores its
    action and yields the separate ``is_first`` record, with reward 0, of the next episode.

    An environment with numbers for the log, which no agent sees and no replay stores, names them in its
    attribute ``log_names`` and gives them in ``info["log"]``; ``log`` then holds them, float32 [names].
    """

    def __init__(
        self,
        env: gymnasium.Env,
        config: EnvConfig,
        *,
        seed: int,
        purpose: int,
        index: int,
        start: EpisodeStart | None = None,
    ) -> None:
        try:
            self.observations = plan_observations(getattr(env, "observation_space", None))
            self.actions = plan_actions(getattr(env, "action_space", None))
        except ConfigError as error:
            env.close()
            raise ConfigError(f"env.task: {config.task!r}: {error}") from None
        self._env = env
        self._config = config
        self._seed = (seed, purpose, index)
        self._label = f"environment {index} ({config.task})"
        self.log_names = tuple(env.get_wrapper_attr("log_names")) if env.has_wrapper_attr("log_names") else ()
        self._start = start
        self._episode = start.episode - 1 if start else -1
        self._count = 0  # actions since the reset
        self._ended = True
        self.env_spec = EnvSpec(
            {leaf.name: leaf.spec for leaf in self.observations.leaves},
            {leaf.name: leaf.spec for leaf in self.actions.leaves},
        )
        log = {"log": ArraySpec((len(self.log_names),), "float32")} if self.log_names else {}
        arrays = self.env_spec.observation | SIGNALS | log
        self.observation_space = spaces.Dict({name: _box(spec) for name, spec in arrays.items()})
        self.action_space = spaces.Dict({k: _box(v) for k, v in self.env_spec.action.items()})

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, np.ndarray], dict]:
        """Start the next episode; the first call goes on from the given start instead.

        ``seed`` is ignored: episodes are seeded by their number.
        """
        del seed, options
        record = self._begin()
        if self._start is not None:
            actions, self._start = self._start.actions, None
            for step in range(len(next(iter(actions.values())))):
                if self._ended:  # the simulator has changed; whoever compares the records will notice
                    break
                record = self._advance({name: rows[step] for name, rows in actions.items()})
        return record, {}

    def step(self, action: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        record = self._begin() if self._ended else self._advance(action)
        return record, 0.0, False, False, {}

    def render(self) -> Any:
        return self._env.render()

    def close(self) -> None:
        self._env.close()

    def _begin(self) -> dict[str, np.ndarray]:
        self._episode += 1
        self._count = 0
        try:
            observation, info = reset_result(self._env.reset(seed=episode_seed(*self._seed, self._episode)))
            return self._record(observation, 0.0, info, first=True)
        except Exception as error:
            raise self._failure("reset", error) from None

    def _advance(self, action: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            result = step_result(self._env.step(self.actions.build(action)))
            observation, reward, terminated, truncated, info = result
            self._count += 1
            truncated = truncated or self._count == self._config.time_limit
            return self._record(observation, reward, info, terminated=terminated, truncated=truncated)
        except Exception as error:
            raise self._failure("step", error) from None

    def _record(
        self,
        observation: Any,
        reward: float,
        info: dict[str, Any],
        *,
        first: bool = False,
        terminated: bool = False,
        truncated: bool = False,
    ) -> dict[str, np.ndarray]:
        self._ended = terminated or truncated
        record = self.observations.flatten(observation) | {
            "reward": np.asarray(reward, np.float32),
            "is_first": np.asarray(first),
            "is_last": np.asarray(self._ended),
            "is_terminal": np.asarray(terminated or (truncated and self._config.timeouts_terminate)),
        }
        if self.log_names:
            record["log"] = np.array([info["log"][name] for name in self.log_names], np.float32)
        return record

    def _failure(self, call: str, error: Exception) -> EnvironmentFailed:
        message = f"{type(error).__name__}: {' '.join(str(error).split())}"
        failure = EnvironmentFailed(f"{self._label}: {call}() failed in episode {self._episode}: {message}")
        # As a note it crosses the border of a process, where a cause would be lost.
        failure.add_note("".join(traceback.format_exception(error)).rstrip())
        return failure


def open_stream(
    config: EnvConfig,
    *,
    seed: int,
    purpose: int,
    index: int,
    start: EpisodeStart | None = None,
    main_process: int | None = None,
    render: bool = False,
) -> Stream:
    """Open environment ``index``; in a process of its own Ctrl-C is left to ``main_process``.

    It lives here because each process imports its module, and this one does not import JAX.
    """
    if main_process is not None and main_process != os.getpid():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return Stream(make_env(config, render=render), config, seed=seed, purpose=purpose, index=index, start=start)


def _box(spec: ArraySpec) -> spaces.Space:
    """The Gymnasium space of an array that has already been flattened."""
    if spec.classes is not None:
        return spaces.Box(0, spec.classes - 1, spec.shape, np.int32)
    if spec.dtype == "float32":
        return spaces.Box(-np.inf, np.inf, spec.shape, np.float32)
    return spaces.Box(0, 1 if spec.dtype == "bool" else 255, spec.shape, np.dtype(spec.dtype).type)
