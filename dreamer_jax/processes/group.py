"""Processes that share one run: each steps environments of its own and takes its rows of every batch.

All go through the same program in the same order. What only one of them can know, such as that a signal came,
it tells the others with ``exchange``.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from flax import serialization

from dreamer_jax.config.schema import ConfigError

FRAME = 1024
"""Bytes that processes send each other at first; where a message is longer, all send the rest in pieces."""
PIECE = 1 << 22
START_SECONDS = 600
"""How long a process waits for the others until there is a ``Watch``."""
EXIT_STATUS = 75
"""Of a process that others have left alone. EX_TEMPFAIL of sysexits.h: the same command may do better."""

T = TypeVar("T")


class OutOfStep(RuntimeError):
    """Processes have come to different parameters. The message is one line for a person."""


class Peers:
    """Nobody else. ``part`` of ``parts`` is this process's share of a run."""

    part, parts = 0, 1
    members = 1
    """Those that go in step."""
    apart = False
    """Whether each of them has a whole run of its own."""
    names: tuple[str, ...] = ()
    """Of their runs' directories, if so."""

    @property
    def leads(self) -> bool:
        """Whether this one writes what all share."""
        return self.part == 0

    def share(self, count: int) -> range:
        """Which of ``count`` environments or rows are this one's."""
        size = count // self.parts
        return range(self.part * size, (self.part + 1) * size)

    def exchange(self, message: Any) -> list[Any]:
        """Wait for all; their messages in the same order everywhere. Numbers, text, arrays, and dicts and lists."""
        return [message]

    def mark(self) -> None:
        """Show that this one moves on, where it takes long until the next exchange."""

    def one_first(self, action: Callable[[], T]) -> T:
        """What ``action`` returns; of several in one process the first does it before the others, and compiles it."""
        return action()

    def agree(self, action: Callable[[], T]) -> T:
        """What ``action`` returns here, once it went well for all.

        Raises:
          ConfigError: the first one that an action raised, for all; where it is another error, for the others.
        """
        result: T | None = None
        mine: Exception | None = None
        try:
            result = action()
        except Exception as error:
            mine = error
        problem = None if mine is None else " ".join(f"{mine}".split()) or type(mine).__name__
        for part, found in enumerate(self.exchange(problem)):
            if found is not None:
                if mine is not None and not isinstance(mine, ConfigError):
                    raise mine
                raise ConfigError(found if part == 0 else f"process {part}: {found}")
        return result  # type: ignore[return-value]


class Processes(Peers):
    """The processes of ``jax.distributed``; after ``patience`` seconds in which all stand still they give up."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.part, self.parts = jax.process_index(), jax.process_count()
        self.members = self.parts
        self.begun = 0  # exchanges
        self.moves = 0
        self.watched = False

    def mark(self) -> None:
        self.moves += 1

    def exchange(self, message: Any) -> list[Any]:
        self.begun += 1
        limit = threading.Timer(START_SECONDS, _left_alone)
        limit.daemon = True
        if not self.watched:
            limit.start()
        messages = _gather(serialization.msgpack_serialize(message))
        limit.cancel()
        return [serialization.msgpack_restore(data) for data in messages]


def _left_alone() -> None:
    os.write(2, f"\ndreamer-jax: other processes have not come as far within {START_SECONDS} seconds\n".encode())
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

    To be called before JAX is used. Signs of life are the business of ``Watch``, which is quicker and says more.

    Raises:
      ConfigError: it can't be found out, or the others can't be reached.
    """
    if coordinator is not None and not re.fullmatch(r"\S+:[0-9]+", coordinator):
        raise ConfigError(f"--coordinator: got {coordinator!r}, expected a host and a port, such as 10.0.0.1:8476")
    try:
        jax.distributed.initialize(
            coordinator, processes, process, heartbeat_timeout_seconds=24 * 3600, initialization_timeout=300
        )
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        asked = "--distributed" if coordinator is None else f"--coordinator {coordinator}"
        raise ConfigError(f"{asked}: the processes do not find each other ({reason})") from error


def present(patience: float) -> Peers:
    """Those that this process goes in step with."""
    return Processes(patience) if jax.process_count() > 1 else Peers()
