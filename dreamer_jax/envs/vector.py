"""Many environments stepped together, in one process or a process each, that can be saved and resumed exactly."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from dreamer_jax.config.schema import ConfigError, EnvConfig
from dreamer_jax.envs.wrappers import SIGNALS, EnvironmentFailed, EpisodeStart, Stream, open_stream
from dreamer_jax.specs import EnvSpec
from dreamer_jax.types import ArrayDict, TimeStep

log = logging.getLogger(__name__)

MESSAGE_SECONDS = 150e-6
"""What one process costs the main one per step: an action sent, an answer awaited. About 0.2 ms on two busy cores."""


def make_envs(
    config: EnvConfig,
    *,
    seed: int,
    purpose: int = 0,
    num_envs: int | None = None,
    first: int = 0,
    state: dict[str, np.ndarray] | None = None,
    render: bool = False,
) -> VectorEnvs:
    """Open ``num_envs`` (else ``config.num_envs``) environments of one task, number ``first`` and those that follow.

    ``purpose`` separates the episodes of, say, training and evaluation under one ``seed``;
    ``state`` is what ``VectorEnvs.state`` gave; ``render`` makes ``VectorEnvs.render`` possible where the
    environment must know beforehand.

    Raises:
      ConfigError: the task can't be opened or used, or ``state`` belongs to other environments.
    """
    count = config.num_envs if num_envs is None else num_envs
    sample = open_stream(config, seed=seed, purpose=purpose, index=0)
    try:
        spec, log_names = sample.env_spec, sample.log_names
        kind = config.vectorization
        if kind == "auto":
            faster = count > 1 and processes_are_faster(_seconds_per_step(sample), count, _cores())
            kind = "async" if faster else "sync"
    finally:
        sample.close()
    numbers = range(first, first + count)
    return VectorEnvs(
        config, spec, kind, log_names, seed=seed, purpose=purpose, numbers=numbers, state=state, render=render
    )


class VectorEnvs:
    """``E`` streams in lockstep. Actions are raw policy outputs, named as in ``spec.action``.

    Every array handed out is the caller's own. ``log`` holds the numbers [E] that environments gave for the
    log with the last records, by name; most give none.
    """

    def __init__(
        self,
        config: EnvConfig,
        spec: EnvSpec,
        vectorization: str,
        log_names: tuple[str, ...] = (),
        *,
        seed: int,
        purpose: int,
        numbers: range,
        state: dict[str, np.ndarray] | None,
        render: bool = False,
    ) -> None:
        self.spec = spec
        self.num_envs = num_envs = len(numbers)
        self._numbers = numbers
        self.vectorization = vectorization
        self.log_names = log_names
        self.log: dict[str, np.ndarray] = {}
        self._saved = None if state is None else _saved_step(state)
        starts = [None] * num_envs if state is None else _unpack_starts(state, spec, num_envs)
        # The log from which an episode can be simulated again: its number and its actions so far.
        self._episode = np.array([start.episode - 1 if start else -1 for start in starts], np.int64)
        self._actions: list[list[dict[str, np.ndarray]]] = [[] for _ in range(num_envs)]
        self._last: TimeStep | None = None
        self._busy = False
        makers = [
            partial(
                open_stream,
                config,
                seed=seed,
                purpose=purpose,
                index=index,
                start=start,
                main_process=os.getpid(),
                render=render,
            )
            for index, start in zip(numbers, starts, strict=True)
        ]
        self._task = config.task
        self._envs: SyncVectorEnv | AsyncVectorEnv
        with self._failing_in_one_line():
            # Records are copied here, once.
            options: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED, "copy": False}
            if vectorization == "sync":
                self._envs = SyncVectorEnv(makers, **options)
            else:
                self._envs = AsyncVectorEnv(makers, context=_start_method(), **options)
        self._starts = starts

    def reset(self) -> TimeStep:
        """First records; once, in environments made from a saved state, its last records instead."""
        record: dict[str, np.ndarray]
        with self._failing_in_one_line():
            record, _ = self._envs.reset()
        self._episode += 1
        for index, start in enumerate(self._starts):
            self._actions[index] = _rows(start.actions) if start else []
        if self._saved is not None:
            record = self._replace_changed(record, self._saved)
        self._saved = None
        self._starts = [None] * self.num_envs
        return self._emit(record)

    def step(self, action: dict[str, np.ndarray]) -> TimeStep:
        """Next records. After ``is_last`` an action is ignored and the record is ``is_first``."""
        action = {
            name: np.asarray(action[name], spec.dtype).reshape(self.num_envs, *spec.shape)
            for name, spec in self.spec.action.items()
        }
        record: dict[str, np.ndarray]
        with self._failing_in_one_line():
            record, *_ = self._envs.step(action)
        last = self._emit(record)
        for index, first in enumerate(last.is_first):
            if first:
                self._episode[index] += 1
                self._actions[index] = []
            else:
                self._actions[index].append({name: array[index].copy() for name, array in action.items()})
        return last

    def render(self) -> np.ndarray:
        """A picture of environment 0 as it is now, [height, width, 3] uint8.

        Raises:
          ConfigError: it draws none.
        """
        try:
            picture = (self._envs.render() or (None,))[0]
        except ConfigError:
            raise
        except Exception as error:  # whatever a simulator does without a display
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ConfigError(f"--video: {self._task!r} can't be drawn, render() failed with {reason}") from error
        if not isinstance(picture, np.ndarray) or picture.ndim != 3:
            raise ConfigError(f"--video: {self._task!r} draws no pictures")
        return picture

    def state(self) -> dict[str, np.ndarray]:
        """Arrays that bring back the last records: episode numbers, actions since, and the records.

        Actions of all environments lie one after the other; ``length`` [E] says how many are whose.
        """
        if self._last is None:
            raise RuntimeError("reset the environments before asking for their state")
        rows = [row for actions in self._actions for row in actions]
        packed = {
            f"action/{name}": np.stack([row[name] for row in rows]) if rows else np.zeros((0, *spec.shape), spec.dtype)
            for name, spec in self.spec.action.items()
        }
        signals = {f"record/{name}": getattr(self._last, name).copy() for name in SIGNALS}
        observation = {f"record/observation/{k}": v.copy() for k, v in self._last.observation.items()}
        length = np.array([len(actions) for actions in self._actions], np.int64)
        return {"episode": self._episode.copy(), "length": length} | packed | signals | observation

    def close(self) -> None:
        """Stop everything; safe to call twice, and after a failure or an interrupt."""
        envs = getattr(self, "_envs", None)
        if envs is None or envs.closed:
            return
        if self._busy and isinstance(envs, AsyncVectorEnv):
            # An answer may be half read, so that an orderly goodbye would wait for ever.
            for process in envs.processes:
                process.terminate()
            for process in envs.processes:
                process.join()
            envs.closed = True
        else:
            envs.close()

    def _emit(self, record: dict[str, np.ndarray]) -> TimeStep:
        self.log = {name: np.array(record["log"][:, column]) for column, name in enumerate(self.log_names)}
        self._last = _time_step(record)
        return self._last

    def _replace_changed(self, record: dict[str, np.ndarray], saved: TimeStep) -> dict[str, np.ndarray]:
        """Begin a new episode wherever simulating the old one again gave something else."""
        before = {name: getattr(saved, name) for name in SIGNALS} | saved.observation
        changed = np.array(
            [
                any(record[name][index].tobytes() != before[name][index].tobytes() for name in before)
                for index in range(self.num_envs)
            ]
        )
        if not changed.any():
            return record
        which = ", ".join(str(self._numbers[index]) for index in np.flatnonzero(changed))
        log.warning("environments %s did not repeat their saved episode and begin a new one", which)
        with self._failing_in_one_line():
            record, _ = self._envs.reset(options={"reset_mask": changed})
        for index in np.flatnonzero(changed):
            self._episode[index] += 1
            self._actions[index] = []
        return record

    @contextmanager
    def _failing_in_one_line(self) -> Iterator[None]:
        self._busy = True
        # Gymnasium prints a worker's traceback through `%`, which fails on a percent sign in it.
        level, gymnasium.logger.min_level = gymnasium.logger.min_level, gymnasium.logger.ERROR + 1
        try:
            yield
        except EnvironmentFailed as error:
            self.close()
            # From a process it comes wrapped once more.
            raise error.args[0] if isinstance(error.args[0], EnvironmentFailed) else error from None
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            dead = self._dead()
            self.close()
            raise EnvironmentFailed(f"{dead} without a word (out of memory, or killed?)") from error
        finally:
            gymnasium.logger.min_level = level
        self._busy = False

    def _dead(self) -> str:
        for index, process in enumerate(getattr(getattr(self, "_envs", None), "processes", [])):
            process.join(timeout=0.2)
            if process.exitcode is not None:
                return f"environment {self._numbers[index]}: its process ended with code {process.exitcode}"
        return "an environment's process ended"


def processes_are_faster(step_seconds: float, num_envs: int, cores: int) -> bool:
    """Whether a process per environment beats stepping them in turn.

    In turn costs ``num_envs`` steps. Processes share the steps among the cores, less the one on
    which the agent runs, and cost a message each. They also take seconds to start and memory, so
    they have to halve the time.
    """
    in_turn = num_envs * step_seconds
    shared = in_turn / min(num_envs, max(1, cores - 1)) + num_envs * MESSAGE_SECONDS
    return shared < in_turn / 2


def _seconds_per_step(stream: Stream, budget: float = 0.2) -> float:
    """Mean time of a random step, resets included, over at most 64 steps or ``budget`` seconds."""
    stream.action_space.seed(0)
    stream.reset()
    stream.step(stream.action_space.sample())  # the first one warms caches up
    steps, begin = 0, time.perf_counter()
    while steps < 64 and time.perf_counter() - begin < budget:
        stream.step(stream.action_space.sample())
        steps += 1
    return (time.perf_counter() - begin) / steps


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_method() -> str:
    # JAX's threads make a plain fork unsafe: a child would inherit locks that nobody holds.
    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def _time_step(record: dict[str, np.ndarray]) -> TimeStep:
    observation: ArrayDict = {
        name: np.array(array) for name, array in record.items() if name not in SIGNALS and name != "log"
    }
    return TimeStep(observation, **{name: np.array(record[name]) for name in SIGNALS})


def _saved_step(state: dict[str, np.ndarray]) -> TimeStep:
    """The last records of a saved state. Only there names have prefixes, as an observation may be called anything."""
    return TimeStep(_part(state, "record/observation"), **{name: state[f"record/{name}"] for name in SIGNALS})


def _part(state: dict[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(f"{part}/"): array for name, array in state.items() if name.startswith(f"{part}/")}


def _rows(actions: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """One dict per action from arrays of all actions."""
    count = len(next(iter(actions.values())))
    return [{name: array[index] for name, array in actions.items()} for index in range(count)]


def _unpack_starts(state: dict[str, np.ndarray], spec: EnvSpec, num_envs: int) -> list[EpisodeStart]:
    """Cut the packed actions of a saved state apart.

    Raises:
      ConfigError: the state has another number of environments, observations or actions.
    """
    saved = len(state["episode"])
    if saved != num_envs:
        raise ConfigError(f"env.num_envs: got {num_envs}, but the saved environments are {saved}")
    actions = _part(state, "action")
    shapes = {f"action {name}": array.shape[1:] for name, array in actions.items()}
    shapes |= {f"observation {name}": array.shape[1:] for name, array in _part(state, "record/observation").items()}
    wanted = {f"action {name}": part.shape for name, part in spec.action.items()}
    wanted |= {f"observation {name}": part.shape for name, part in spec.observation.items()}
    if shapes != wanted:
        name = sorted(name for name in shapes.keys() | wanted.keys() if shapes.get(name) != wanted.get(name))[0]
        raise ConfigError(f"env.task: its {name} is {wanted.get(name)}, the saved one was {shapes.get(name)}")
    ends = np.cumsum(state["length"])
    return [
        EpisodeStart(int(episode), {name: np.array(array[end - length : end]) for name, array in actions.items()})
        for episode, length, end in zip(state["episode"], state["length"], ends, strict=True)
    ]
