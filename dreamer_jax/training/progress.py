"""The line on the terminal that says how a run is doing."""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TextIO


class Progress:
    """One line about the run on stderr: in place on a terminal, else a line every ``every`` seconds.

    Call ``update`` as often as you like. Rates are those of the last half minute; ``state`` shows a text in
    their place while nothing can move, such as ``compiling update …``.
    """

    def __init__(
        self,
        total_frames: int,
        *,
        stream: TextIO | None = None,
        every: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._total = total_frames
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._interval = 0.2 if self._live else every
        self._clock = clock
        self._marks: deque[tuple[float, int, int]] = deque()  # (time, frames, updates), oldest first
        self._step: dict[str, int] = {}
        self._recent = (math.nan, 0)
        self._text = ""
        self._drawn_at = -math.inf
        self._shown = 0  # characters of the line on the terminal now

    def update(self, step: Mapping[str, int], recent: tuple[float, int] = (math.nan, 0)) -> None:
        """Take the counters and ``EpisodeStats.recent()``."""
        now = self._clock()
        self._step, self._recent = dict(step), recent
        if not self._marks or now - self._marks[-1][0] >= 1.0:
            self._marks.append((now, step["env_frames"], step["grad_steps"]))
            while len(self._marks) > 2 and now - self._marks[1][0] >= 30.0:
                self._marks.popleft()
        if now - self._drawn_at >= self._interval:
            self._draw()

    def state(self, text: str) -> None:
        """Show ``text`` at once; an empty text goes back to the rates, measured from here on."""
        self._text = text
        self._marks.clear()
        if text:
            self._draw()

    def note(self, text: str) -> None:
        """Print a line that stays, above the progress line."""
        self._erase()
        self._stream.write(text + "\n")
        if self._live and self._step:
            self._draw()
        self._stream.flush()

    def close(self) -> None:
        """Leave the last line standing."""
        if self.line():
            self._draw()
        if self._shown:
            self._stream.write("\n")
            self._shown = 0
        self._stream.flush()

    def line(self) -> str:
        """The text of the progress line."""
        parts = []
        if self._step:
            frames = self._step["env_frames"]
            parts.append(f"{frames:,}/{self._total:,} frames ({100 * frames / self._total:.0f} %)")
            score, count = self._recent
            parts.append(f"return {score:,.1f} (mean of {count})" if count else "return –")
            parts.append(f"{self._step['grad_steps']:,} updates")
        if self._text:
            parts.append(self._text)
        elif self._step and self._marks:
            now, (then, old_frames, old_updates) = self._clock(), self._marks[0]
            if now - then >= 1.0:
                frame_rate = (frames - old_frames) / (now - then)
                update_rate = (self._step["grad_steps"] - old_updates) / (now - then)
                parts.append(f"{frame_rate:,.0f} frames/s, {update_rate:,.1f} updates/s")
                if frame_rate > 0:
                    parts.append(f"{_duration(max(0, self._total - frames) / frame_rate)} left")
        return " | ".join(parts)

    def _draw(self) -> None:
        self._drawn_at = self._clock()
        line = self.line()
        if self._live:
            line = line[: _columns(self._stream) - 1]  # a full row would wrap, and \r can't go back over two
            self._stream.write("\r" + line + " " * (self._shown - len(line)))
            self._shown = len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def _erase(self) -> None:
        if self._shown:
            self._stream.write("\r" + " " * self._shown + "\r")
            self._shown = 0


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 100
    except (OSError, ValueError):
        return 100


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days} d " if days else "") + f"{hours}:{minutes:02}:{seconds:02}"
