"""Many environments stepped together, in one process or a process each, that can be saved and resumed exactly."""

from __future__ import annotations

import logging
import queue
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.util import Finalize
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from dreamer_jax.config.schema import ConfigError, EnvConfig
from dreamer_jax.envs.history import History, unpack
from dreamer_jax.envs.preview import Preview, preview, vectorization
from dreamer_jax.envs.signals import hold
from dreamer_jax.envs.worker import Elsewhere, end_workers, only_here, starting_workers, work
from dreamer_jax.envs.wrappers import SIGNALS, EnvironmentFailed, EpisodeStart, Stream, in_words, open_stream, pass_on
from dreamer_jax.numerics import process_numerics
from dreamer_jax.types import ArrayDict, TimeStep

log = logging.getLogger(__name__)

OPTIONS: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED, "copy": False}
"""Streams reset themselves, and records are copied here, once."""


@process_numerics()
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
    starts = [None] * count if state is None else unpack(state, found.spec, count)
    numbers = range(first, first + count)
    options: dict[str, Any] = dict(seed=seed, purpose=purpose, numbers=numbers, starts=starts, render=render)
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
        starts: Sequence[EpisodeStart | None],
        render: bool,
    ) -> None:
        self.spec, self.log_names, self.vectorization = found.spec, found.log_names, vectorization
        self.num_envs = len(numbers)
        self.log: dict[str, np.ndarray] = {}
        self._numbers, self._task, self._starts = numbers, config.task, starts
        self._history = History(self.spec, self.num_envs)
        self._last: TimeStep | None = None
        options: list[dict[str, Any]] = [
            dict(seed=seed, purpose=purpose, index=index, start=start, render=render)
            for index, start in zip(numbers, starts, strict=True)
        ]
        self._envs: SyncVectorEnv | AsyncVectorEnv
        with self._failing_in_one_line():
            if vectorization == "sync":
                self._envs = _in_turn([partial(open_stream, config, alike=self.spec, **each) for each in options])
            else:
                known = only_here(config.task)
                self._envs = _side_by_side([partial(Elsewhere, config, found, known, **each) for each in options])
                self._end = Finalize(self, end_workers, (self._envs.parent_pipes, self._envs.processes), exitpriority=1)
            self._envs.call("env_spec")  # once all are open

    @process_numerics()
    def reset(self, *, episode: int | None = None) -> TimeStep:
        """First records of the next episodes, or of those of number ``episode``.

        Once, in environments made from a saved state, its last records instead, or those that its last actions would
        have led to had they not failed.
        """
        record: dict[str, np.ndarray]
        with self._failing_in_one_line():
            record, infos = self._envs.reset(options=None if episode is None else {"episode": episode})
        self._history.reset(episode)
        changed = np.array(infos.get("changed", [False] * self.num_envs))
        for index, start in enumerate(self._starts):
            if start is not None:
                self._history.went_on(index, start, bool(changed[index]))
        self._starts = [None] * self.num_envs
        if changed.any():
            which = ", ".join(str(self._numbers[index]) for index in np.flatnonzero(changed))
            log.warning("environments %s did not repeat their saved episode and begin a new one", which)
        return self._emit(record)

    @process_numerics()
    def step(self, action: dict[str, np.ndarray]) -> TimeStep:
        """Next records. After ``is_last`` an action is ignored and the record is ``is_first``.

        Raises:
          EnvironmentFailed: one of them did; ``state`` is then that of before with the actions that failed.
        """
        action = {
            name: np.array(action[name], spec.dtype).reshape(self.num_envs, *spec.shape)
            for name, spec in self.spec.action.items()
        }
        record: dict[str, np.ndarray]
        self._history.take(action)
        with self._failing_in_one_line():
            record, *_ = self._envs.step(action)
        last = self._emit(record)
        self._history.took(last.is_first)
        return last

    @process_numerics()
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
        finally:
            hold()
        if not isinstance(picture, np.ndarray) or picture.ndim != 3:
            raise ConfigError(f"--video: {self._task!r} draws no pictures")
        return picture

    def state(self) -> dict[str, np.ndarray]:
        """Arrays that bring back the last records; see ``History.arrays``."""
        if self._last is None:
            raise RuntimeError("reset the environments before asking for their state")
        return self._history.arrays(self._last)

    @process_numerics()
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
        observation: ArrayDict = {
            name: np.array(array) for name, array in record.items() if name not in SIGNALS and name != "log"
        }
        self._last = TimeStep(observation, **{name: np.array(record[name]) for name in SIGNALS})
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
            failure = self._last_words() or EnvironmentFailed(self._dead())
            self.close()
            raise failure from error
        finally:
            gymnasium.logger.min_level = level
            hold()

    def _last_words(self) -> Exception | None:
        """Of a process that failed and ended before it was asked anything."""
        envs = getattr(self, "_envs", None)
        if isinstance(envs, AsyncVectorEnv):
            with suppress(queue.Empty):
                _, _, error, _ = envs.error_queue.get(timeout=0.2)
                return error
        return None

    def _dead(self) -> str:
        for index, process in enumerate(getattr(getattr(self, "_envs", None), "processes", [])):
            process.join(timeout=0.2)
            if process.exitcode is not None:
                code = process.exitcode
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
                return f"environment {self._numbers[index]}: its process {how} without a word (out of memory?)"
        return "an environment's process ended without a word (out of memory, or killed?)"


def _in_turn(makers: Sequence[partial[Stream]]) -> SyncVectorEnv:
    streams: list[Stream] = []
    try:
        for make in makers:
            streams.append(make())
    except BaseException:
        for stream in streams:
            stream.close()
        raise
    return SyncVectorEnv([partial(_same, stream) for stream in streams], **OPTIONS)


def _same(stream: Stream) -> Stream:
    return stream


def _side_by_side(makers: Sequence[partial[Elsewhere]]) -> AsyncVectorEnv:
    with starting_workers() as method:
        # Not daemons, because those may start no processes, which simulators do.
        return AsyncVectorEnv(makers, context=method, worker=work, daemon=False, **OPTIONS)
