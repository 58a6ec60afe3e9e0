"""One environment as an endless stream of records that are named, typed and exactly repeatable."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.config.schema import ConfigError, EnvConfig
from dreamer_jax.envs.actions import plan_actions
from dreamer_jax.envs.observations import plan_observations
from dreamer_jax.envs.results import reset_result, step_result
from dreamer_jax.envs.signals import by_a_person, hold
from dreamer_jax.envs.suites import make_env
from dreamer_jax.specs import ArraySpec, EnvSpec

log = logging.getLogger(__name__)

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
    """Where a stream begins: in episode number ``episode``, after ``actions`` of shapes [n, ...].

    ``record`` is what they led to, without what was said for the log, and ``pending`` an action that was taken then
    and failed.
    """

    episode: int
    actions: dict[str, np.ndarray]
    record: dict[str, np.ndarray]
    pending: dict[str, np.ndarray] | None = None


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
        self._env = env
        self._config = config
        self._seed = (seed, purpose, index)
        self._label = f"environment {index} ({config.task})"
        try:
            self.observations = plan_observations(getattr(env, "observation_space", None))
            self.actions = plan_actions(getattr(env, "action_space", None))
            self.log_names = tuple(env.get_wrapper_attr("log_names")) if env.has_wrapper_attr("log_names") else ()
        except BaseException as error:
            self.close()
            pass_on(error)
            reason = str(error) if isinstance(error, ConfigError) else f"its spaces can't be read, {in_words(error)}"
            raise ConfigError(f"env.task: {config.task!r}: {reason}") from None
        self._start = start
        self._episode = start.episode - 1 if start else -1
        self._count = 0  # actions since the reset
        self._ended = True
        self.env_spec = EnvSpec(
            {leaf.name: leaf.spec for leaf in self.observations.leaves},
            {leaf.name: leaf.spec for leaf in self.actions.leaves},
        )
        self.observation_space, self.action_space = stream_spaces(self.env_spec, self.log_names)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, np.ndarray], dict]:
        """Start the next episode, or that of number ``options["episode"]``; the first call goes on from the start.

        Where the start is not repeated a new episode begins, and the info says ``changed``. ``seed`` is ignored:
        episodes are seeded by their number.
        """
        del seed
        if options is not None:
            self._episode = options["episode"] - 1
        record = self._begin()
        start, self._start = self._start, None
        if start is None:
            return record, {}
        for step in range(len(next(iter(start.actions.values())))):
            if self._ended:  # the simulator has changed
                break
            record = self._advance({name: rows[step] for name, rows in start.actions.items()})
        if any(record[name].tobytes() != before.tobytes() for name, before in start.record.items()):
            return self._begin(), {"changed": True}
        return record if start.pending is None else self.step(start.pending)[0], {}

    def step(self, action: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        record = self._begin() if self._ended else self._advance(action)
        return record, 0.0, False, False, {}

    @property
    def time_limit(self) -> int:
        """Actions of an episode at most, as settings and the environment say; 0 where neither does."""
        try:
            known, said = self._env.has_wrapper_attr("most_frames"), self._env.spec
            frames: Any = self._env.get_wrapper_attr("most_frames") if known else said and said.max_episode_steps
            actions = -(-int(frames) // self._config.action_repeat)
        except Exception:  # it says nothing, or nothing that can be read
            actions = 0
        return min((limit for limit in (self._config.time_limit, actions) if limit > 0), default=0)

    def render(self) -> Any:
        return self._env.render()

    def close(self) -> None:
        close_env(self._env, self._label)

    def _begin(self) -> dict[str, np.ndarray]:
        self._episode += 1
        self._count = 0
        try:
            observation, info = reset_result(self._env.reset(seed=episode_seed(*self._seed, self._episode)))
            return self._record(observation, 0.0, info, first=True)
        except BaseException as error:
            raise self._failure("reset", error) from None

    def _advance(self, action: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            result = step_result(self._env.step(self.actions.build(action)))
            observation, reward, terminated, truncated, info = result
            self._count += 1
            truncated = truncated or self._count == self._config.time_limit
            return self._record(observation, reward, info, terminated=terminated, truncated=truncated)
        except BaseException as error:
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

    def _failure(self, call: str, error: BaseException) -> EnvironmentFailed:
        pass_on(error)
        failure = EnvironmentFailed(f"{self._label}: {call}() failed in episode {self._episode}: {in_words(error)}")
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
    render: bool = False,
    alike: EnvSpec | None = None,
) -> Stream:
    """Open environment ``index``; ``alike`` are the observations and actions of the others.

    Raises:
      ConfigError: it can't be opened or used, or is not like the others.
    """
    stream = Stream(open_env(config, render=render), config, seed=seed, purpose=purpose, index=index, start=start)
    if alike not in (None, stream.env_spec):
        stream.close()
        raise ConfigError(f"env.task: {config.task!r}: environment {index} shows or takes other things than others")
    return stream


def open_env(config: EnvConfig, *, render: bool = False) -> gymnasium.Env:
    """``make_env`` that raises a ConfigError, whatever the environment raises."""
    try:
        return make_env(config, render=render)
    except ConfigError:
        raise
    except BaseException as error:
        pass_on(error)
        raise ConfigError(f"env.task: {config.task!r}: opening it failed with {in_words(error)}") from error
    finally:
        hold()


def close_env(env: gymnasium.Env, label: str) -> None:
    """Close it; what it raises then is a warning, because whatever it was needed for is done."""
    try:
        env.close()
    except BaseException as error:
        pass_on(error)
        log.warning("%s: close() failed with %s", label, in_words(error))


def pass_on(error: BaseException) -> None:
    """Raise ``error`` where it is no environment's: somebody wants the end of everything."""
    if by_a_person(error):
        raise error


def in_words(error: BaseException) -> str:
    """An error of others in one line."""
    try:
        text = " ".join(str(error).split())
    except Exception as another:
        text = f"(no message: str() raised {type(another).__name__})"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def stream_spaces(spec: EnvSpec, log_names: Sequence[str]) -> tuple[spaces.Dict, spaces.Dict]:
    """Of the records of a stream, and of its actions."""
    log = {"log": ArraySpec((len(log_names),), "float32")} if log_names else {}
    records = {name: _box(part) for name, part in (spec.observation | SIGNALS | log).items()}
    return spaces.Dict(records), spaces.Dict({name: _box(part) for name, part in spec.action.items()})


def _box(spec: ArraySpec) -> spaces.Space:
    """The Gymnasium space of an array that has already been flattened."""
    if spec.classes is not None:
        return spaces.Box(0, spec.classes - 1, spec.shape, np.int32)
    if spec.dtype == "float32":
        return spaces.Box(-np.inf, np.inf, spec.shape, np.float32)
    return spaces.Box(0, 1 if spec.dtype == "bool" else 255, spec.shape, np.dtype(spec.dtype).type)
