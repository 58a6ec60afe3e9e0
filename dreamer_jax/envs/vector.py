"""Many environments stepped together, in one process or a process each, that can be saved and resumed exactly."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.util import Finalize
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from dreamer_jax.config.schema import ConfigError, EnvConfig
from dreamer_jax.envs.preview import Preview, preview, vectorization
from dreamer_jax.envs.signals import hold
from dreamer_jax.envs.worker import Elsewhere, end_workers, only_here, starting_workers, work
from dreamer_jax.envs.wrappers import SIGNALS, EnvironmentFailed, EpisodeStart, Stream, in_words, open_stream, pass_on
from dreamer_jax.specs import EnvSpec
from dreamer_jax.types import ArrayDict, TimeStep

log = logging.getLogger(__name__)


def make_envs(
    config: EnvConfig,
    *,
    seed: int,
    purpose: int = 0,
    num_envs: int | None = None,
    first: int = 0,
    state: dict[str, np.ndarray] | None = None,
    render: bool = False,
    found: Preview | None = None,
) -> VectorEnvs:
    """Open ``num_envs`` (else ``config.num_envs``) environments of one task, number ``first`` and those that follow.

    ``purpose`` separates the episodes of, say, training and evaluation under one ``seed``;
    ``state`` is what ``VectorEnvs.state`` gave; ``render`` makes ``VectorEnvs.render`` possible where the
    environment must know beforehand; without ``found``, its preview, one more is opened and closed before.

    Raises:
      ConfigError: the task can't be opened or used, or ``state`` belongs to other environments.
      EnvironmentFailed: one of them failed in its first steps.
    """
    count = config.num_envs if num_envs is None else num_envs
    found = found or preview(config, seed=seed, purpose=purpose, most=count)
    kind = vectorization(config, found, count)
    numbers = range(first, first + count)
    options: dict[str, Any] = dict(seed=seed, purpose=purpose, numbers=numbers, state=state, render=render)
    try:
        return VectorEnvs(config, found, kind, **options)
    except (ConfigError, EnvironmentFailed) as error:
        if kind == "sync":
            raise
        problem = f"an environment does not open in a process of its own: {error}"
        if config.vectorization == kind:
            raise ConfigError(f"env.vectorization: {problem}; sync needs no other processes") from error
        log.warning("env.vectorization: all environments share one process, %s", problem)
        return VectorEnvs(config, found, "sync", **options)


class VectorEnvs:
    """``E`` streams in lockstep. Actions are raw policy outputs, named as in ``spec.action``.

    Every array handed out is the caller's own. ``log`` holds the numbers [E] that environments gave for the
    log with the last records, by name; most give none. Environments are closed by ``close``, when an error is raised,
    and when nobody has them any more.
    """

    def __init__(
        self,
        config: EnvConfig,
        found: Preview,
        vectorization: str,
        *,
        seed: int,
        purpose: int,
        numbers: range,
        state: dict[str, np.ndarray] | None,
        render: bool = False,
    ) -> None:
        self.spec, self.log_names = found.spec, found.log_names
        self.num_envs = num_envs = len(numbers)
        self._numbers = numbers
        self.vectorization = vectorization
        self.log: dict[str, np.ndarray] = {}
        self._starts = [None] * num_envs if state is None else _unpack_starts(state, self.spec, num_envs)
        # The log from which an episode can be simulated again: its number and its actions so far.
        self._episode = np.full(num_envs, -1, np.int64)
        self._actions: list[list[dict[str, np.ndarray]]] = [[] for _ in range(num_envs)]
        self._last: TimeStep | None = None
        self._pending: dict[str, np.ndarray] | None = None
        """An action whose records there are not yet."""
        self._task = config.task
        options: list[dict[str, Any]] = [
            dict(seed=seed, purpose=purpose, index=index, start=start, render=render)
            for index, start in zip(numbers, self._starts, strict=True)
        ]
        self._envs: SyncVectorEnv | AsyncVectorEnv
        with self._failing_in_one_line():
            if vectorization == "sync":
                self._envs = _in_turn([partial(open_stream, config, **each) for each in options])
            else:
                known = only_here(config.task)
                self._envs = _side_by_side([partial(Elsewhere, config, found, known, **each) for each in options])
                self._end = Finalize(self, end_workers, (self._envs.parent_pipes, self._envs.processes), exitpriority=1)
            specs = self._envs.call("env_spec")
            if others := [number for number, spec in zip(numbers, specs, strict=True) if spec != self.spec]:
                self.close()
                raise ConfigError(
                    f"env.task: {config.task!r}: observations or actions of environment {others[0]} are others than "
                    "those of one opened before"
                )

    def reset(self, *, episode: int | None = None) -> TimeStep:
        """First records of the next episodes, or of those of number ``episode``.

        Once, in environments made from a saved state, its last records instead, or those that its last actions would
        have led to had they not failed.
        """
        record: dict[str, np.ndarray]
        with self._failing_in_one_line():
            record, infos = self._envs.reset(options=None if episode is None else {"episode": episode})
        self._episode = self._episode + 1 if episode is None else np.full_like(self._episode, episode)
        self._actions = [[] for _ in range(self.num_envs)]
        changed = np.array(infos.get("changed", [False] * self.num_envs))
        for index, start in enumerate(self._starts):
            if start is not None:
                self._episode[index] = start.episode + changed[index]
                self._actions[index] = [] if changed[index] else _rows(start.actions)
                if start.pending is not None and not changed[index]:
                    self._note_action(index, start.pending, bool(start.record["is_last"]))
        self._starts = [None] * self.num_envs
        if changed.any():
            which = ", ".join(str(self._numbers[index]) for index in np.flatnonzero(changed))
            log.warning("environments %s did not repeat their saved episode and begin a new one", which)
        return self._emit(record)

    def step(self, action: dict[str, np.ndarray]) -> TimeStep:
        """Next records. After ``is_last`` an action is ignored and the record is ``is_first``.

        Raises:
          EnvironmentFailed: one of them did; ``state`` is then that of before with the actions that failed.
        """
        self._pending = action = {
            name: np.array(action[name], spec.dtype).reshape(self.num_envs, *spec.shape)
            for name, spec in self.spec.action.items()
        }
        record: dict[str, np.ndarray]
        with self._failing_in_one_line():
            record, *_ = self._envs.step(action)
        last = self._emit(record)
        for index, first in enumerate(last.is_first):
            self._note_action(index, {name: array[index] for name, array in action.items()}, bool(first))
        self._pending = None
        return last

    def _note_action(self, index: int, action: dict[str, np.ndarray], begins: bool) -> None:
        if begins:
            self._episode[index] += 1
            self._actions[index] = []
        else:
            self._actions[index].append(action)

    def render(self) -> np.ndarray:
        """A picture of environment 0 as it is now, [height, width, 3] uint8.

        Raises:
          ConfigError: it draws none.
        """
        try:
            picture = (self._envs.render() or (None,))[0]
        except BaseException as error:  # whatever a simulator does without a display
            pass_on(error)
            reason = in_words(error)
            raise ConfigError(f"--video: {self._task!r} can't be drawn, render() failed with {reason}") from error
        if not isinstance(picture, np.ndarray) or picture.ndim != 3:
            raise ConfigError(f"--video: {self._task!r} draws no pictures")
        return picture

    def state(self) -> dict[str, np.ndarray]:
        """Arrays that bring back the last records: episode numbers, actions since, and the records.

        Actions of all environments lie one after the other; ``length`` [E] says how many are whose. Where ``waiting``
        [E], actions ``pending`` [E, ...] were taken and failed.
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
        waiting = np.full(self.num_envs, self._pending is not None)
        pending = {
            f"pending/{name}": self._pending[name]
            if self._pending is not None
            else np.zeros((self.num_envs, *spec.shape), spec.dtype)
            for name, spec in self.spec.action.items()
        }
        books = {"episode": self._episode.copy(), "length": length, "waiting": waiting}
        return books | packed | pending | signals | observation

    def close(self) -> None:
        """Stop everything; safe to call twice, and after a failure or an interrupt."""
        envs = getattr(self, "_envs", None)
        if envs is None or envs.closed:
            return
        if isinstance(envs, SyncVectorEnv):
            envs.close()
        else:
            self._end()
            envs.closed = True
        hold()

    def _emit(self, record: dict[str, np.ndarray]) -> TimeStep:
        self.log = {name: np.array(record["log"][:, column]) for column, name in enumerate(self.log_names)}
        self._last = _time_step(record)
        return self._last

    @contextmanager
    def _failing_in_one_line(self) -> Iterator[None]:
        # Gymnasium logs what failed in a process, without the environment's number.
        level, gymnasium.logger.min_level = gymnasium.logger.min_level, gymnasium.logger.ERROR + 1
        try:
            yield
        except (EnvironmentFailed, ConfigError) as error:
            self.close()
            # From a process it comes wrapped once more.
            raise error.args[0] if isinstance(error.args[0], Exception) else error from None
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            dead = self._dead()
            self.close()
            raise EnvironmentFailed(dead) from error
        finally:
            gymnasium.logger.min_level = level
            hold()

    def _dead(self) -> str:
        for index, process in enumerate(getattr(getattr(self, "_envs", None), "processes", [])):
            process.join(timeout=0.2)
            if process.exitcode is not None:
                code = process.exitcode
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
                return f"environment {self._numbers[index]}: its process {how} without a word (out of memory?)"
        return "an environment's process ended without a word (out of memory, or killed?)"


VECTOR_OPTIONS: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED, "copy": False}
"""Streams reset themselves, and records are copied here, once."""


def _in_turn(makers: Sequence[partial[Stream]]) -> SyncVectorEnv:
    streams: list[Stream] = []
    try:
        for make in makers:
            streams.append(make())
    except BaseException:
        for stream in streams:
            stream.close()
        raise
    return SyncVectorEnv([partial(_same, stream) for stream in streams], **VECTOR_OPTIONS)


def _same(stream: Stream) -> Stream:
    return stream


def _side_by_side(makers: Sequence[partial[Elsewhere]]) -> AsyncVectorEnv:
    with starting_workers() as method:
        # Not daemons, because those may start no processes, which simulators do.
        return AsyncVectorEnv(makers, context=method, worker=work, daemon=False, **VECTOR_OPTIONS)


def _time_step(record: dict[str, np.ndarray]) -> TimeStep:
    observation: ArrayDict = {
        name: np.array(array) for name, array in record.items() if name not in SIGNALS and name != "log"
    }
    return TimeStep(observation, **{name: np.array(record[name]) for name in SIGNALS})


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
    record, pending = _part(state, "record"), _part(state, "pending")
    waiting = state.get("waiting", np.zeros(num_envs, bool))  # older checkpoints have none
    ends = np.cumsum(state["length"])
    return [
        EpisodeStart(
            int(state["episode"][index]),
            {name: np.array(array[end - length : end]) for name, array in actions.items()},
            {name.removeprefix("observation/"): array[index] for name, array in record.items()},
            {name: array[index] for name, array in pending.items()} if waiting[index] else None,
        )
        for index, (length, end) in enumerate(zip(state["length"], ends, strict=True))
    ]
