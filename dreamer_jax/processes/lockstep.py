"""Runs that go in step, each in a thread of this process: they meet, and nobody waits for one that has ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from dreamer_jax.processes.group import ProcessGroup

T = TypeVar("T")


class BrokenRendezvous(Exception):
    """Another thread that was to come has ended."""


class Rendezvous:
    """Where all come again and again: each brings something, and takes its share of what is made of it all.

    ``make(brought) -> shares`` is called by the last who comes; what it raises, it raises there.
    """

    def __init__(self, count: int, make: Callable[[list[Any]], Sequence[Any]]) -> None:
        self._make = make
        self._brought: list[Any] = [None] * count
        self._shares: Sequence[Any] = ()
        self._barrier = threading.Barrier(count, self._all_here)

    def __call__(self, index: int, brought: Any) -> Any:
        """Wait for all others.

        Raises:
          BrokenRendezvous: one of them won't come.
        """
        self._brought[index] = brought
        try:
            self._barrier.wait()
        except threading.BrokenBarrierError:
            raise BrokenRendezvous from None
        # There are no other shares before all have come again.
        return self._shares[index]

    def end(self) -> None:
        """Nobody is to wait here any longer."""
        self._barrier.abort()

    def _all_here(self) -> None:
        self._shares = self._make(self._brought)


class Lockstep:
    """The runs' threads; ``between`` is called whenever all have met to exchange messages."""

    def __init__(self, names: Sequence[str], between: Callable[[], None] = lambda: None) -> None:
        self.names, self._between = tuple(names), between
        self._meetings: list[Rendezvous] = []
        self.all_gather = self.meeting(len(names), self._pass_on)

    def meeting(self, count: int, make: Callable[[list[Any]], Sequence[Any]]) -> Rendezvous:
        """One that ends when somebody leaves."""
        self._meetings.append(Rendezvous(count, make))
        return self._meetings[-1]

    def leave(self) -> None:
        """Let all others know that somebody won't come any more."""
        for meeting in self._meetings:
            meeting.end()

    def _pass_on(self, messages: list[Any]) -> list[list[Any]]:
        self._between()
        return [list(messages) for _ in messages]


class ThreadGroup(ProcessGroup):
    """The threads as the one of number ``index`` sees them. It has a whole run of its own."""

    separate_runs = True

    def __init__(self, threads: Lockstep, index: int) -> None:
        self._threads, self._index = threads, index
        self.names, self.members = threads.names, len(threads.names)

    def all_gather(self, message: Any) -> list[Any]:
        return self._threads.all_gather(self._index, message)

    def all_succeed(self, action: Callable[[], T]) -> T:
        """What ``action`` returns here, once it went well for all; what it raises ends this thread."""
        result = action()
        self.all_gather(None)
        return result

    def primary_first(self, action: Callable[[], T]) -> T:
        if self._index:
            self.all_gather(None)
        try:
            return action()
        finally:
            if not self._index:
                self.all_gather(None)
