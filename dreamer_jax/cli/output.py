"""What commands print: answers on stdout, everything else on stderr, a line at a time."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from dreamer_jax.config.schema import ConfigError

MOST_CHARACTERS = 4000
"""Of one line; whoever gave a value of a megabyte knows it."""


def say(text: str) -> None:
    """One line on stderr, whatever ``text`` holds."""
    print(f"dreamer-jax: {one_line(text)}", file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    """Ends of lines and other characters that don't print as Python writes them, and only so many of all."""
    shown = text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + " …"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown)


@contextmanager
def answers_alone() -> Iterator[TextIO]:
    """A stream to stdout for this command alone.

    Whatever an environment, a library (in C as well) or a process started meanwhile prints there goes to stderr.

    Raises:
      ConfigError: there is no stdout.
    """
    before = sys.stdout
    if before is None:
        raise ConfigError("--json: standard output is closed")
    _flush()
    ours = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    try:
        if _descriptor(before) == 1:
            with open(ours, "w", encoding=before.encoding, errors=before.errors, closefd=False) as stream:
                yield stream
        else:  # another stream in its place, as in tests and notebooks
            yield before
    finally:
        _flush(before)  # what was written through it was not ours
        sys.stdout = before
        os.dup2(ours, 1)
        os.close(ours)


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def _flush(*streams: TextIO) -> None:
    """What Python and C have yet to write."""
    for stream in (*streams, sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    ctypes.CDLL(None).fflush(None)
