"""What commands print: answers on stdout, everything else on stderr, a line at a time."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.terminal import one_line, open_console

NAME = "dreamer-jax:"
_WRONG = re.compile(r"(?:argument |[^:]*:\d+: )?(--[^\s:]+|[^\s:]+(?=: ))")
"""The field, flag or file with which an error begins, after the place in a file or argparse's word."""


def say(text: str) -> None:
    """One line on stderr, whatever ``text`` holds."""
    print(f"{NAME} {one_line(text)}", file=sys.stderr, flush=True)


def complain(text: str) -> None:
    """The line of an error; on a terminal with colours what is wrong stands out."""
    from rich.text import Text

    message = Text(one_line(text))
    if wrong := _WRONG.match(message.plain):
        message.stylize("bold", *wrong.span(1))
    open_console(stderr=True).print(Text.assemble((NAME, "bold red"), " ", message), soft_wrap=True)


@contextmanager
def counted(noun: str, total: int) -> Iterator[Callable[[int, float], None]]:
    """A line on stderr, if that is a terminal, given how many of ``total`` there have been and the last score."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress

    console = open_console(stderr=True)
    if not console.is_interactive:  # rich 13 would end with an empty line
        yield lambda count, score: None
        return
    columns = BarColumn(20), noun, MofNCompleteColumn(), "{task.fields[score]}"
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        task = progress.add_task("", total=total, score="")
        yield lambda count, score: progress.update(task, completed=count, score=f"{score:.1f}", refresh=True)


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
