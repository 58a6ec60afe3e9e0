"""SIGINT and SIGTERM belong to whoever runs environments: simulators install handlers of their own for both."""

from __future__ import annotations

import _signal
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

NUMBERS = (signal.SIGINT, signal.SIGTERM)

Handler = Callable[[int, FrameType | None], None]

_handler: Handler | None = None
"""Of both signals, as long as one is to hold."""
_interrupted = _opened = False
"""Whether ``interrupt`` has raised its error, and whether there has been an environment."""
_install = signal.signal


class Interrupted(KeyboardInterrupt):
    """A signal came, and there is nothing to save; ``status`` is what to exit with."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.status = 128 + number


def interrupt(number: int, _: FrameType | None) -> None:
    """A handler that ends whatever is going on; by an error, so that environments are closed, once there are any.

    Before, and at a second signal, at once: an error in the middle of an import becomes another one or an abort, and in
    a callback, as JAX has one for the garbage collector, Python ignores it.
    """
    global _interrupted
    error = Interrupted(number)
    if _interrupted or not _opened:
        os.write(2, f"dreamer-jax: {error}\n".encode())
        os._exit(error.status)
    _interrupted = True
    raise error


@contextmanager
def handled_by(handler: Handler) -> Iterator[None]:
    """While entered, ``handler`` gets both signals, whatever handlers environments install.

    ``signal.signal`` leaves them alone meanwhile; ``hold`` undoes what was done in other ways. In a thread that is
    not the main one nothing is changed, because signals reach that one alone.
    """
    global _handler, _interrupted
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _interrupted = False
    before, installed = _handler, {number: signal.getsignal(number) for number in NUMBERS}
    _handler, signal.signal = handler, _leave_ours  # type: ignore[assignment]
    _take()
    try:
        yield
    finally:
        _handler = before
        if before is None:
            signal.signal = _install
        for number, previous in installed.items():
            if previous is not None:  # of code in C
                _install(number, previous)


def hold() -> None:
    """After code of an environment: take both signals back if it has taken or blocked them without Python.

    Cheap enough for every step.
    """
    global _opened
    _opened = True
    _take()


def _take() -> None:
    if _handler is not None and threading.current_thread() is threading.main_thread():
        for number in NUMBERS:
            _signal.signal(number, _handler)  # what signal.signal adds takes twenty times as long
        signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)


@contextmanager
def held_back() -> Iterator[None]:
    """While entered, both signals wait, also in programs that are started: until those unblock them, handlers ready."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def by_a_person(error: BaseException) -> bool:
    """Whether somebody has asked for the end of everything with it; otherwise it is of the code that raised it."""
    if _handler is None and threading.current_thread() is threading.main_thread():
        return isinstance(error, KeyboardInterrupt)
    return isinstance(error, Interrupted)


_masks = threading.local()
"""What was blocked before a fork, in the thread that forks."""


def _block() -> None:
    """A signal to what is being forked waits until that has let go of our handlers, which would swallow it there."""
    if _handler is not None:
        _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)


def _unblock() -> None:
    if (before := _masks.__dict__.pop("before", None)) is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _let_go() -> None:
    """What an environment forks is its own, and has to end when it is told to."""
    global _handler
    if _handler is not None:
        _handler, signal.signal = None, _install
        _install(signal.SIGINT, signal.default_int_handler)
        _install(signal.SIGTERM, signal.SIG_DFL)
    _unblock()


os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_let_go)


def _leave_ours(number: int, handler: Any) -> Any:
    """In place of ``signal.signal``: who asks for one of both is told what is installed, and no more."""
    return signal.getsignal(number) if number in NUMBERS else _install(number, handler)
