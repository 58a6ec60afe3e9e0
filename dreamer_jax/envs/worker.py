"""A process of one environment: what it brings along, how it ends, and what it says when it fails.

In place of the one that comes with ``gymnasium.vector.AsyncVectorEnv``, for which an environment is open only once
it could be, which hands over only errors that it can send, and which a signal to all processes ends first.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, forkserver, spawn
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

import cloudpickle
import gymnasium
from gymnasium.vector.utils import write_to_shared_memory

from dreamer_jax.config.schema import ConfigError, EnvConfig
from dreamer_jax.envs.preview import Preview
from dreamer_jax.envs.signals import handled_by, hold
from dreamer_jax.envs.wrappers import EnvironmentFailed, EpisodeStart, Stream, in_words, open_stream, stream_spaces

CLOSING_SECONDS = 10.0
"""How long an environment may take to close before its process is killed."""

_starting = threading.Lock()


class Elsewhere(gymnasium.Env):
    """An environment with the spaces of one that a process of its own will open."""

    def __init__(
        self,
        config: EnvConfig,
        found: Preview,
        known: bytes,
        *,
        seed: int,
        purpose: int,
        index: int,
        start: EpisodeStart | None,
        render: bool,
    ) -> None:
        self.observation_space, self.action_space = stream_spaces(found.spec, found.log_names)
        self._config, self._known, self._spec = config, known, found.spec
        self._options: dict[str, Any] = dict(seed=seed, purpose=purpose, index=index, start=start, render=render)

    def open(self) -> Stream:
        """Raises ConfigError if that can't be done."""
        _learn(self._config.task, self._known)
        return open_stream(self._config, alike=self._spec, **self._options)


def only_here(task: str) -> bytes:
    """What other processes can't import of ``task``: a callable of the script or notebook, or an id registered there.

    Raises:
      ConfigError: it can't be sent.
    """
    module, _, name = task.partition(":")
    if module == "__main__":
        known = getattr(sys.modules["__main__"], name, None)
    else:
        known = gymnasium.registry.get(task.removeprefix("gym/"))
    try:
        return cloudpickle.dumps(known)
    except BaseException as error:
        raise ConfigError(
            f"env.task: {task!r} can't be sent to other processes, {in_words(error)}; define it in a module of its own"
        ) from error


def _learn(task: str, known: bytes) -> None:
    """Make what ``only_here`` took known in this process."""
    try:
        found = cloudpickle.loads(known)
    except BaseException as error:
        raise ConfigError(
            f"env.task: {task!r} can't be read in another process, {in_words(error)}; define it in a module of its own"
        ) from error
    module, _, name = task.partition(":")
    if module == "__main__":
        setattr(sys.modules["__main__"], name, found)
    elif found is not None:
        gymnasium.registry.setdefault(found.id, found)


@contextmanager
def starting_workers() -> Iterator[str]:
    """The start method; processes that are started meanwhile don't run the script that started this one.

    multiprocessing would have them do that, and so train within training where the script doesn't ask whether it
    is ``__main__``; all that is needed of it is ``only_here``.
    """
    with _starting:
        prepare = spawn.get_preparation_data
        spawn.get_preparation_data = lambda name: {
            field: value for field, value in prepare(name).items() if not field.startswith("init_main_from")
        }
        try:
            if "forkserver" in multiprocessing.get_all_start_methods():
                forkserver.set_forkserver_preload([__name__])  # imported once for all; and not the script
                yield "forkserver"
            else:
                yield "spawn"
        finally:
            spawn.get_preparation_data = prepare


def work(
    index: int, make: Any, pipe: Connection, parent_pipe: Connection, shared: Any, errors: Any, _: Any = None
) -> None:
    """What a process does until it is told to close, its environment fails, or the main process has ended.

    Signals are left to the main process, because both of them may be sent to all processes of a run.
    """
    parent_pipe.close()
    with handled_by(_leave_to_the_main_process):
        threading.Thread(target=_end_with_the_main_process, daemon=True).start()
        stream: Stream | None = None
        try:
            pipe.recv()
            pipe.send(((True, True), True))  # Gymnasium's question about the spaces, which are those of ``Elsewhere``
            stream = make().open()
            _serve(stream, index, pipe, shared)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            pass  # nobody is there any more
        except BaseException as error:
            known = error if isinstance(error, ConfigError | EnvironmentFailed) else EnvironmentFailed(in_words(error))
            errors.put((index, type(known), known, ""))
            errors.close()
            errors.join_thread()  # it is on its way before somebody looks for it
            with suppress(OSError):
                pipe.send((None, False))
        finally:
            if stream is not None:
                stream.close()


def _serve(stream: Stream, index: int, pipe: Connection, shared: Any) -> None:
    while True:
        command, data = pipe.recv()
        record: Any = None
        answer: Any
        match command:
            case "step":
                record, *answer = stream.step(data)
            case "reset":
                record, *answer = stream.reset(**data)
            case "_call":
                name, arguments, named = data
                found = getattr(stream, name)
                answer = found(*arguments, **named) if callable(found) else found
            case "close":
                return
        hold()
        if record is not None:
            write_to_shared_memory(stream.observation_space, index, record, shared)
            answer = (None, *answer)
        pipe.send((answer, True))


def end_workers(pipes: Sequence[Connection | None], processes: Sequence[Any]) -> None:
    """Have all environments closed, and their processes ended before this returns."""
    ends = time.monotonic() + CLOSING_SECONDS
    open_ones: dict[Any, Any] = {
        pipe: process for pipe, process in zip(pipes, processes, strict=True) if pipe and not pipe.closed
    }
    for pipe in open_ones:
        with suppress(OSError):
            pipe.send(("close", None))
    # Not by waiting for processes: of a server that was ended by a signal nobody hears when they do.
    while open_ones and (ready := connection.wait(list(open_ones), max(0.0, ends - time.monotonic()))):
        for pipe in open_ones.keys() & ready:
            try:
                pipe.recv_bytes()  # answers that nobody waits for
            except (EOFError, OSError):
                del open_ones[pipe]
    for process in open_ones.values():
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    for process in processes:
        process.join(max(1.0, ends - time.monotonic()))
        process.kill()  # one that has lost its pipe
        process.join()


def _leave_to_the_main_process(number: int, _: FrameType | None) -> None:
    """Not SIG_IGN, which programs that an environment starts would inherit."""


def _end_with_the_main_process() -> None:
    """An environment that is in the middle of something when that is killed does not notice it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    time.sleep(CLOSING_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
