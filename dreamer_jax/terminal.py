"""What a person reads, through rich: tables, and where there are colours. Rich is imported once something is drawn."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Answer = list["str | Table"]
"""What a command has to say: lines and tables."""

MOST_CHARACTERS = 4000
"""Of one line; whoever gave a value of a megabyte knows it."""
UNBOUNDED = 1_000_000
"""Width of what is no terminal."""


def one_line(text: str) -> str:
    """Ends of lines and other characters that don't print as Python writes them, and only so many of all."""
    shown = text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + " …"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown)


def open_console(*, stderr: bool = False) -> Console:
    """Of stdout or stderr as it is now: styles on a terminal only, and none at all where ``NO_COLOR`` is set."""
    from rich.console import Console

    # In a notebook rich would go round the stream, and so round whoever has put another in its place.
    return Console(
        stderr=stderr,
        color_system=None if os.environ.get("NO_COLOR") else "auto",
        highlight=False,
        force_jupyter=False,
    )


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[str] = ()) -> Table:
    """Columns without lines between them, so that they can be copied; those in ``right`` are flush right."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        drawn.add_column(Text(heading), justify="right" if heading in right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(one_line(cell)) for cell in row))
    return drawn


def render(answer: Answer) -> str:
    """Text for stdout, lines as they are; a terminal folds long cells of tables, elsewhere each row is a line."""
    console = open_console()
    if not console.file.isatty():
        console.width = UNBOUNDED
    lines: list[str] = []
    for part in answer:
        if isinstance(part, str):
            lines.append(part)
            continue
        with console.capture() as captured:
            console.print(part)
        # Without the blanks that fill the last column.
        lines += (line.rstrip(" ") for line in captured.get().removesuffix("\n").split("\n"))
    return "\n".join(lines)
