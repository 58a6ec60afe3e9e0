"""How a run is doing, for a person: a line that changes in place, or where it can't a new line now and then."""

from __future__ import annotations

import io
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

EACH_RETURN = 4
"""So many runs' returns are shown one by one."""
WINDOW = 30.0
"""Seconds over which rates are measured."""


class Progress:
    """One line about the run on stderr: in place on a terminal or in a notebook, else a line every ``every`` seconds.

    Call ``update`` as often as you like. Rates are those of the last half minute; ``state`` shows a text in
    their place while nothing can move, such as ``compiling update …``. Whether there are colours is up to the terminal
    and the variable ``NO_COLOR``.
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
        ours = stream is None  # one that was asked for is written to, in a notebook as well
        self._console = Console(file=stream, stderr=ours, force_jupyter=None if ours else False, highlight=False)
        in_place = self._console.is_interactive or self._console.is_jupyter
        self._live: Live | None = None
        self._interval = 0.2 if in_place else every
        self._clock = clock
        self._marks: deque[tuple[float, int, int]] = deque()  # (time, frames, updates), oldest first
        self._step: dict[str, int] = {}
        self._recent = (math.nan, 0)
        self._waiting = ""  # what updates wait for
        self._text = ""
        self._drawn_at = -math.inf
        if in_place:
            # What others print meanwhile appears above the line.
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                redirect_stdout=ours,
                redirect_stderr=ours,
                get_renderable=self._row,
            )

    def update(self, step: Mapping[str, int], recent: tuple[float, int] = (math.nan, 0), waiting: str = "") -> None:
        """Take the counters, ``EpisodeStats.recent()`` and ``Learner.waiting()``."""
        now = self._clock()
        self._step, self._recent, self._waiting = dict(step), recent, waiting
        if not self._marks or now - self._marks[-1][0] >= 1.0:
            self._marks.append((now, step["env_frames"], step["grad_steps"]))
            while len(self._marks) > 2 and now - self._marks[1][0] >= WINDOW:
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
        self._console.print(text, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the last line standing."""
        if self.line():
            self._draw()
        if self._live is not None:
            self._live.stop()

    def line(self) -> str:
        """The text of the progress line."""
        parts = []
        if self._step:
            frames = self._step["env_frames"]
            parts.append(f"{frames:,}/{self._total:,} frames ({100 * self._share():.0f} %)")
            parts.append(self._returns())
            parts.append(self._updates(self._step["grad_steps"]))
        if self._text:
            parts.append(self._text)
        elif self._step and self._marks:
            now, (then, old_frames, old_updates) = self._clock(), self._marks[0]
            if now - then >= 1.0:
                frame_rate = (frames - old_frames) / (now - then)
                update_rate = (self._step["grad_steps"] - old_updates) / (now - then)
                parts.append(f"{frame_rate:,.0f} frames/s, {update_rate:,.1f} updates/s")
                if frame_rate > 0:
                    parts.append(f"{timedelta(seconds=int(max(0, self._total - frames) / frame_rate))} left")
        return " | ".join(parts)

    def _share(self) -> float:
        return self._step["env_frames"] / self._total

    def _returns(self) -> str:
        score, count = self._recent
        return f"return {score:,.1f} (mean of {count})" if count else "return –"

    def _updates(self, done: int) -> str:
        if not self._waiting:
            return f"{done:,} updates"
        return f"{done:,} updates, none now: {self._waiting}" if done else f"no updates yet: {self._waiting}"

    def _draw(self) -> None:
        self._drawn_at = self._clock()
        if self._live is None:
            self._console.print(self.line(), markup=False, soft_wrap=True)
        else:
            if not self._live.is_started:
                self._live.start()
                self._console.show_cursor(True)  # a process that is killed would leave it hidden
            self._live.refresh()

    def _row(self) -> Table:
        row = Table.grid(padding=(0, 1))
        bar = [ProgressBar(total=1, completed=min(1.0, self._share()), width=20)] if self._step else []
        row.add_row(*bar, Text(self.line()))
        return row


class UpdateProgress(Progress):
    """Of a run that collects nothing: the total is of updates; ``update`` takes the least held-out loss for returns."""

    def line(self) -> str:
        if not self._step:
            return self._text
        done, (loss, known) = self._step["grad_steps"], self._recent
        parts = [f"{done:,}/{self._total:,} updates ({100 * self._share():.0f} %)"]
        parts += [f"least held-out loss {loss:.4g}"] if known else []
        if self._text:
            return " | ".join([*parts, self._text])
        if self._marks:
            now, (then, _, before) = self._clock(), self._marks[0]
            if now - then >= 1.0 and done > before:
                rate = (done - before) / (now - then)
                left = timedelta(seconds=int(max(0, self._total - done) / rate))
                parts += [f"{rate:,.1f} updates/s", f"{left} left"]
        return " | ".join(parts)

    def _share(self) -> float:
        return self._step["grad_steps"] / self._total


class SharedProgress(Progress):
    """One line for several runs that go in step; ``of`` gives each what looks like a progress of its own.

    ``flush`` prints what they noted, once for all if all said the same, else with the run's name before it; nobody may
    say something meanwhile.
    """

    def __init__(self, total_frames: int, names: Sequence[str], *, stream: TextIO | None = None) -> None:
        super().__init__(total_frames, stream=stream)
        self._names = tuple(names)
        self._notes: list[list[str]] = [[] for _ in names]
        self._scores: list[tuple[float, int]] = [(math.nan, 0)] * len(names)
        self._all_waiting = [""] * len(names)

    def of(self, index: int) -> Progress:
        """What run number ``index`` says; the first one's counters stand for all."""
        joint = self

        class Part(Progress):
            def update(
                self, step: Mapping[str, int], recent: tuple[float, int] = (math.nan, 0), waiting: str = ""
            ) -> None:
                joint._scores[index], joint._all_waiting[index] = recent, waiting
                if index == 0:
                    joint.update(step, waiting=next(filter(None, joint._all_waiting), ""))

            def state(self, text: str) -> None:
                if index == 0:
                    joint.state(text)

            def note(self, text: str) -> None:
                joint._notes[index].append(text)

            def close(self) -> None:
                """The line is not this run's."""

        return Part(self._total, stream=io.StringIO())

    def flush(self) -> None:
        for text in dict.fromkeys(text for notes in self._notes for text in notes):
            names = [name for name, notes in zip(self._names, self._notes, strict=True) if text in notes]
            for prefix in [""] if len(names) == len(self._names) else [f"{name}: " for name in names]:
                self.note(prefix + text)
        self._notes = [[] for _ in self._names]

    def _returns(self) -> str:
        known = [score for score, count in self._scores if count]
        if not known:
            return "returns –"
        if len(self._scores) <= EACH_RETURN:
            return "returns " + " ".join(f"{score:,.1f}" if count else "–" for score, count in self._scores)
        return f"return {sum(known) / len(known):,.1f} ({min(known):,.1f} to {max(known):,.1f} in {len(known)} runs)"
