"""Return against environment frames, from the score files of runs."""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.files import replace_file
from dreamer_jax.runs.integrity import check_lines
from dreamer_jax.runs.metrics import read_jsonl

# Okabe and Ito's colours, told apart by colour-blind readers too; the line styles help in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")
MARK_EPISODES = 10
PICTURES = (".png", ".pdf", ".svg")
LINE_INCHES = 0.22
"""Of a legend."""


@dataclass(frozen=True)
class Run:
    """The finished episodes of one run, in order, and how far it was at which time."""

    task: str
    method: str
    seed: int
    frames: np.ndarray  # [episodes] environment frames when each ended
    scores: np.ndarray  # [episodes]
    clock: np.ndarray  # [metric lines, 2] seconds and environment frames

    @property
    def reached(self) -> float:
        """Frames that it has come to."""
        return float(max(self.frames.max(initial=0), self.clock[:, 1].max(initial=0)))


class Group(NamedTuple):
    """Runs that differ in the seed only; NaN where a curve has no value."""

    method: str
    runs: list[Run]
    frames: np.ndarray  # [bins] their centres
    curves: np.ndarray  # [runs, bins]
    mean: np.ndarray  # [bins]
    low: np.ndarray  # [bins]
    high: np.ndarray  # [bins]
    band: str  # what low and high are; empty for a single run


class Mark(NamedTuple):
    """How far a group was after so many minutes: mean over its runs, lowest and highest."""

    minutes: float
    frames: float
    mean: float
    low: float
    high: float


def load_run(run_dir: str | Path, *, clock: bool = True) -> Run:
    """Read a run directory; without ``clock`` only its scores.

    Raises:
      ConfigError: naming the directory, if there are no scores in it, or the file that is damaged.
    """
    run_dir = Path(run_dir)
    path = run_dir / "scores.jsonl"
    check_lines(path)
    if not os.path.lexists(path):
        raise ConfigError(f"{run_dir}: not a run directory, it has no scores.jsonl")
    rows = read_jsonl(path)
    if not rows:
        raise ConfigError(f"{run_dir}: no finished episode in scores.jsonl yet")
    missing = {"task", "method", "seed", "env_frames", "score"} - set.intersection(*(set(row) for row in rows))
    if missing:
        names = ", ".join(sorted(missing))
        raise ConfigError(f"{path}: damaged, lines without {names}; put back a copy of the file, or remove the lines")
    episodes = _numbers(path, rows, "env_frames", "score", "seed")
    frames, scores, _ = episodes[~np.isnan(episodes[:, 1])].T
    metrics = run_dir / "metrics.jsonl"
    if clock:
        check_lines(metrics)
    lines = read_jsonl(metrics) if clock and os.path.lexists(metrics) else []
    times = _numbers(metrics, lines, "seconds", "env_frames")
    return Run(str(rows[0]["task"]), str(rows[0]["method"]), rows[0]["seed"], frames, scores, times)


def _numbers(path: Path, rows: Sequence[dict[str, Any]], *names: str) -> np.ndarray:
    """These of every row, [rows, names]; NaN for a score that was not finite, which is written as null.

    Raises:
      ConfigError: naming a line in which one is no number.
    """
    for number, row in enumerate(rows, start=1):
        for name in names:
            if not isinstance(row.get(name), int | float) and (name, row.get(name)) != ("score", None):
                found = f"damaged, {name} is {row.get(name)!r} and no number"
                raise ConfigError(f"{path}:{number}: {found}; put back a copy of the file, or remove the line")
    return np.array([[row[name] for name in names] for row in rows], np.float64).reshape(-1, len(names))


def bin_means(run: Run, edges: np.ndarray) -> np.ndarray:
    """Mean score of the episodes that ended in each bin ``(edges[i], edges[i + 1]]``; NaN where none did."""
    bins = len(edges) - 1
    index = np.searchsorted(edges, run.frames, side="left") - 1
    inside = (index >= 0) & (index < bins)
    counts = np.bincount(index[inside], minlength=bins)
    totals = np.bincount(index[inside], run.scores[inside], bins)
    return np.divide(totals, counts, out=np.full(bins, np.nan), where=counts > 0)


def finished_bins(run: Run, edges: np.ndarray) -> np.ndarray:
    """The same in each bin that the run has come to the end of, else NaN."""
    return np.where(edges[1:] <= run.reached, bin_means(run, edges), np.nan)


def curve(run: Run, edges: np.ndarray) -> np.ndarray:
    """Mean score of the episodes that ended in each bin ``(edges[i], edges[i + 1]]``.

    An empty bin between two others gets the straight line between them, else NaN: long episodes of many
    environments end together, so that bins in between say nothing about the return.
    """
    means = bin_means(run, edges)
    known = np.flatnonzero(~np.isnan(means))
    return np.interp(np.arange(len(means)), known, means[known], left=np.nan, right=np.nan) if known.size else means


def compute_panels(runs: Sequence[Run], bins: int = 50) -> dict[str, list[Group]]:
    """Groups by task, then method, with everything that is drawn.

    Mean and band exist only where every run of the group has a value: a mean that a run joins or leaves on the
    way would jump for no reason of the agent's.
    """
    panels: dict[str, list[Group]] = {}
    for task in sorted({run.task for run in runs}):
        members = [run for run in runs if run.task == task]
        edges = np.linspace(0.0, max(run.frames.max(initial=1.0) for run in members), bins + 1)
        panels[task] = [
            _group([run for run in members if run.method == method], edges)
            for method in sorted({run.method for run in members})
        ]
    return panels


def _group(runs: list[Run], edges: np.ndarray) -> Group:
    curves = np.stack([curve(run, edges) for run in runs])
    mean = curves.mean(0)
    if len(runs) < 5:
        low, high, band = curves.min(0), curves.max(0), "min to max"
    else:
        spread = curves.std(0, ddof=1)
        low, high, band = mean - spread, mean + spread, "± 1 std"
    centres = (edges[:-1] + edges[1:]) / 2
    return Group(runs[0].method, runs, centres, curves, mean, low, high, band if len(runs) > 1 else "")


def mark(group: Group, minutes: float) -> Mark | None:
    """Where a group was after ``minutes`` of work; None unless all its runs lasted that long and had scored.

    The return at that time is the mean of the last 10 episodes that had ended, which uses no later episode.
    """
    frames, returns = [], []
    for run in group.runs:
        if not len(run.clock) or run.clock[-1, 0] < 60 * minutes:
            return None
        seconds, reached = np.vstack([(0.0, 0.0), run.clock]).T
        frames.append(np.interp(60 * minutes, seconds, reached))
        ended = run.scores[run.frames <= frames[-1]][-MARK_EPISODES:]
        if not ended.size:
            return None
        returns.append(ended.mean())
    return Mark(minutes, float(np.mean(frames)), float(np.mean(returns)), float(min(returns)), float(max(returns)))


def plot_runs(
    run_dirs: Sequence[str | Path],
    output_png: str | Path,
    *,
    bins: int = 50,
    marks_minutes: Sequence[float] | None = None,
) -> Path:
    """Draw runs into one PNG: a panel per task, a colour per method, a thin line per seed.

    ``marks_minutes`` also marks how far the runs were after so many minutes, with the return at that time.

    Raises:
      ConfigError: without run directories, or naming the one that has no scores.
    """
    if not run_dirs:
        raise ConfigError("plot: no run directories given")
    if bins < 1:
        raise ConfigError(f"plot: bins must be at least 1, got {bins}")
    runs = [load_run(run_dir, clock=bool(marks_minutes)) for run_dir in run_dirs]
    return draw_runs(runs, output_png, bins, marks_minutes or ())


def draw_runs(runs: Sequence[Run], output: str | Path, bins: int = 50, marks_minutes: Sequence[float] = ()) -> Path:
    """Draw what was read before, each method by itself, as ``plot_runs`` does."""
    panels = compute_panels(runs, bins)
    check_picture(output)
    lines = max(sum(1 + group.method.count("\n") for group in groups) for groups in panels.values())
    figure, axes = open_panels(len(panels), 4.3 + LINE_INCHES * max(0, lines - 3))  # room for the legend
    methods = sorted({group.method for groups in panels.values() for group in groups})
    for ax, (task, groups) in zip(axes, panels.items(), strict=True):
        _draw_panel(ax, task, groups, methods, marks_minutes)
    return save_picture(figure, output)


def check_picture(path: str | Path) -> None:
    """Say that no picture can be written there before any work is done for it.

    Raises:
      ConfigError: naming the file, if its ending is none of a picture's or it is a folder.
    """
    if Path(path).suffix not in PICTURES:
        raise ConfigError(f"--output {path}: expected a file that ends in {', '.join(PICTURES)}")
    if Path(path).is_dir():
        raise ConfigError(f"--output {path}: is a folder")


def open_panels(count: int, height: float = 4.3) -> tuple[Any, list[Any]]:
    """A figure with so many panels of ``height`` inches, at most three in a row, and their axes."""
    # Late, because training imports nothing to draw with.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(3, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(1.0 + 5.2 * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display, and leaves a notebook's own backend alone
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[count:]:
        ax.remove()
    return figure, list(axes[:count])


def save_picture(figure: Any, path: str | Path) -> Path:
    """Write a figure in the format of the file's ending, whole or not at all."""
    path = Path(path)
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:], dpi=150)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, drawn.getvalue())
    return path


def finish_panel(ax: Any, title: str, x_label: str, legend_size: float = 10) -> Any:
    """Title, axes and a legend below, which is returned."""
    from matplotlib.ticker import EngFormatter

    ax.set_title(title, fontsize=12, fontweight="bold")
    ax.set_xlabel(x_label, fontsize=11)
    ax.set_ylabel("episode return (sampled actions)", fontsize=11)
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.margins(y=0.08)
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    return ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=legend_size, frameon=False)


def _draw_panel(ax: Any, task: str, groups: list[Group], methods: list[str], marks_minutes: Sequence[float]) -> None:
    ax.set_xlim(0, 1.02 * (groups[0].frames[-1] + groups[0].frames[0]))  # the first centre is half a bin
    marked = False
    for row, group in enumerate(groups):
        number = methods.index(group.method)
        colour, style = COLOURS[number % len(COLOURS)], STYLES[number % len(STYLES)]
        seeds = len(group.runs)
        label = f"{group.method}: mean of {seeds} seeds, {group.band}" if seeds > 1 else f"{group.method}: 1 seed"
        marks = [found for found in (mark(group, minutes) for minutes in marks_minutes) if found]
        if marks and len(groups) > 1:  # beside the marks they would lie on top of each other
            texts = [mark_text(one, group).replace(" ", "\u00a0") for one in marks]  # lines break between them only
            label += "\n" + textwrap.fill(", ".join(texts), 62)
        if seeds > 1:
            ax.plot(group.frames, group.curves.T, color=colour, linewidth=0.7, alpha=0.45)
            ax.fill_between(group.frames, group.low, group.high, color=colour, alpha=0.16, linewidth=0)
        ax.plot(group.frames, group.mean, style, color=colour, linewidth=2.2, label=label)
        _draw_marks(ax, marks, group, colour, row if len(groups) > 1 else None)
        marked |= bool(marks)
    legend = finish_panel(ax, task, "environment frames", 9 if marked else 10)
    if marked:
        legend.set_title(f"dots: last {MARK_EPISODES} episodes of each run, mean (lowest to highest)", {"size": 9})


def mark_text(one: Mark, group: Group) -> str:
    """Such as ``5 min: 472 (317 to 645)``: the mean, and the lowest and highest run."""
    digits = 0 if np.nanmax(np.abs(group.curves)) >= 100 else 1
    between = f" ({one.low:.{digits}f} to {one.high:.{digits}f})" if len(group.runs) > 1 else ""
    return f"{one.minutes:g} min: {one.mean:.{digits}f}{between}"


def _draw_marks(ax: Any, marks: list[Mark], group: Group, colour: str, row: int | None) -> None:
    """Lines and dots; their text is beside them, or for one group of several just minutes in that ``row``."""
    for one in marks:
        ax.axvline(one.frames, color=colour, linewidth=1.0, linestyle=(0, (2, 3)), alpha=0.8)
        error = [[one.mean - one.low], [one.high - one.mean]]
        ax.errorbar(one.frames, one.mean, error, fmt="o", color=colour, markersize=5, capsize=3, zorder=5)
        late = one.frames > (0.6 if row is None else 0.9) * ax.get_xlim()[1]  # no room to the right
        if row is None:
            text, place, at = mark_text(one, group), "data", one.mean
            offset = (-7, 9) if late else (7, -14)
        else:
            text, place, at = f"{one.minutes:g} min", ax.get_xaxis_transform(), 1 - 0.055 * row
            offset = (-4, -10) if late else (4, -10)
        ax.annotate(
            text,
            (one.frames, at),
            xycoords=place,
            xytext=offset,
            textcoords="offset points",
            horizontalalignment="right" if late else "left",
            fontsize=9.5,
            color=colour,
            bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1},
            zorder=6,
        )
