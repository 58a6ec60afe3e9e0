"""Processes that share one run: each steps environments of its own and takes its rows of every batch.

All go through the same program in the same order. What only one of them can know, such as that a signal came,
it tells the others with ``all_gather``.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any, TypeVar

import jax
import numpy as np
from flax import serialization

from dreamer_jax.config.schema import ConfigError

FRAME = 1024
"""Bytes that processes send each other at first; where a message is longer, all send the rest in pieces."""
PIECE = 1 << 22
START_TIMEOUT = 600
"""How long a process waits for the others until there is a ``Heartbeat``."""
EXIT_STATUS = 75
"""Of a process that others have left alone. EX_TEMPFAIL of sysexits.h: the same command may do better."""

T = TypeVar("T")


class ParametersDiffer(RuntimeError):
    """Processes have come to different parameters. The message is one line for a person."""


class ProcessGroup:
    """A run's processes, or runs in step, as one of them sees them: here it is the only one."""

    process_index, process_count = 0, 1
    members = 1
    """How many go in step."""
    separate_runs = False
    """Whether each of them has a whole run of its own."""
    names: tuple[str, ...] = ()
    """Of their runs' directories, if so."""

    @property
    def is_primary(self) -> bool:
        """Whether this one writes what there is once for all."""
        return self.process_index == 0

    def local_range(self, count: int) -> range:
        """Which of ``count`` environments or rows are this one's."""
        size = count // self.process_count
        return range(self.process_index * size, (self.process_index + 1) * size)

    def all_gather(self, message: Any) -> list[Any]:
        """Wait for all; their messages in the same order everywhere. Numbers, text, arrays, and dicts and lists."""
        return [message]

    def beat(self) -> None:
        """Show that this one moves on, where it takes long until the next exchange."""

    def primary_first(self, action: Callable[[], T]) -> T:
        """What ``action`` returns; of several in one process the first does it before the others, and compiles it."""
        return action()

    def all_succeed(self, action: Callable[[], T]) -> T:
        """What ``action`` returns here, once it went well for all.

        Raises:
          ConfigError: the first one that an action raised, for all; where it is another error, for the others.
        """
        result: T | None = None
        error_here: Exception | None = None
        try:
            result = action()
        except Exception as error:
            error_here = error
        problem = None if error_here is None else " ".join(f"{error_here}".split()) or type(error_here).__name__
        for part, found in enumerate(self.all_gather(problem)):
            if found is not None:
                if error_here is not None and not isinstance(error_here, ConfigError):
                    raise error_here
                raise ConfigError(found if part == 0 else f"process {part}: {found}")
        return result  # type: ignore[return-value]


class DistributedGroup(ProcessGroup):
    """The processes of ``jax.distributed``; after ``timeout`` seconds in which all stand still they give up."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.process_index, self.process_count = jax.process_index(), jax.process_count()
        self.members = self.process_count
        self.begun = 0  # exchanges
        self.moves = 0
        self.watched = False

    def beat(self) -> None:
        self.moves += 1

    def all_gather(self, message: Any) -> list[Any]:
        self.begun += 1
        limit = threading.Timer(START_TIMEOUT, _give_up)
        limit.daemon = True
        if not self.watched:
            limit.start()
        try:
            messages = _gather(serialization.msgpack_serialize(message))
        except (ValueError, RuntimeError) as error:  # as XLA's connections raise
            if self.watched:
                raise
            raise ConfigError("another process has ended before all had met") from error
        finally:
            limit.cancel()
        return [serialization.msgpack_restore(data) for data in messages]


def _give_up() -> None:
    os.write(2, f"\ndreamer-jax: other processes have not come as far within {START_TIMEOUT} seconds\n".encode())
    os._exit(EXIT_STATUS)


def _gather(data: bytes) -> list[bytes]:
    """The bytes of every process. Two shapes only, because a program is compiled for each."""
    from jax.experimental import multihost_utils

    def send(piece: bytes, size: int) -> list[bytes]:
        frame = np.zeros(size, np.uint8)
        frame[: len(piece)] = np.frombuffer(piece, np.uint8)
        return [row.tobytes() for row in multihost_utils.process_allgather(frame)]

    head = 8
    found = send(len(data).to_bytes(head, "little") + data[: FRAME - head], FRAME)
    lengths = [int.from_bytes(each[:head], "little") for each in found]
    found = [each[head:] for each in found]
    for start in range(FRAME - head, max(lengths), PIECE):  # the same for all
        found = [each + more for each, more in zip(found, send(data[start : start + PIECE], PIECE), strict=True)]
    return [each[:length] for each, length in zip(found, lengths, strict=True)]


def start(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Become one of several processes; what is not given, JAX finds in the variables of Slurm, Open MPI or a TPU.

    To be called before JAX is used. Signs of life are the business of ``Heartbeat``, which is quicker and says more.

    Raises:
      ConfigError: it can't be found out, or the others can't be reached.
    """
    if coordinator is not None and not re.fullmatch(r"\S+:[0-9]+", coordinator):
        raise ConfigError(f"--coordinator: got {coordinator!r}, expected a host and a port, such as 10.0.0.1:8476")
    meet = partial(
        jax.distributed.initialize,
        coordinator,
        processes,
        process,
        heartbeat_timeout_seconds=24 * 3600,
        initialization_timeout=300,
    )
    try:
        # In another thread: this one would hear of no signal while it waits for the others in C++.
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(meet)
            while not waiting.done():
                wait([waiting], 0.2)
            waiting.result()
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        asked = "--distributed" if coordinator is None else f"--coordinator {coordinator}"
        raise ConfigError(f"{asked}: the processes do not find each other ({reason})") from error


def present(timeout: float) -> ProcessGroup:
    """The group that this process is in."""
    return DistributedGroup(timeout) if jax.process_count() > 1 else ProcessGroup()
