"""Do two programs compute alike while they learn? Means of what they log over the same updates, seed by seed.

Losses, entropies, gradient norms and values; benchmarks/learning.py is the program. A line of ``metrics.jsonl`` has
means over the updates since the line before. Both programs write one every few seconds, so that lines end at other
updates in every run: within a line a metric is taken for constant. Ours are runs whose dispatches are single
updates, as they are on a CPU: a line lacks the newest one, which is still in flight, but for the last line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dreamer_jax.analysis.plot import open_panels, save_picture
from dreamer_jax.analysis.published import seen_task
from dreamer_jax.runs.integrity import read_run
from dreamer_jax.runs.metrics import read_jsonl

NAMES = {"opt/loss": "loss/total"}
"""Metrics of danijar/dreamerv3 at e3f0224 by other names than ours; all others that both have are called alike."""
COUNTS = {"opt/updates", "opt/param_count"}
"""What the reference counts among its metrics."""
RECORDED = np.arange(0, 5001, 250)
"""Ends of the ranges of updates that are recorded."""
FIRST = np.array([0, 12, 24, 48, 72, 96, 144, 192, 300, 396, 480])
"""The same of runs that log as often as they can, to look at the first ones: with 4 environments the reference does so
every 12 updates, ours every 4."""
SIGNIFICANT = 0.05


class Logged(NamedTuple):
    """What a run logged: means over the updates after ``ends[i - 1]``, or 0, and up to ``ends[i]``."""

    ends: np.ndarray  # [lines]
    means: dict[str, np.ndarray]  # each [lines]


class Metrics(NamedTuple):
    """What the runs of both programs logged on one task, by metric [seeds, ranges]."""

    edges: np.ndarray  # [ranges + 1]; range i has the updates after edges[i] and up to edges[i + 1]
    ours: dict[str, np.ndarray]
    theirs: dict[str, np.ndarray]


def read_ours(path: Path) -> Logged:
    """A ``metrics.jsonl`` of this package."""
    lines = [(row["grad_steps"] - 1, row) for row in read_jsonl(path) if "train/loss/total" in row]
    return _logged([*lines[:-1], *((end + 1, row) for end, row in lines[-1:])])


def read_reference(path: Path) -> Logged:
    """A ``metrics.jsonl`` of the reference, which logs the mean number of the updates from ``start + 1`` to ``end``."""
    lines: list[tuple[int, Mapping[str, Any]]] = []
    for row in read_jsonl(path):
        if "train/opt/updates" in row:
            start = lines[-1][0] if lines else 0
            lines.append((round(2 * row["train/opt/updates"]) - start - 1, row))
    return _logged(lines)


def _logged(lines: Sequence[tuple[int, Mapping[str, Any]]]) -> Logged:
    names = [{name for name in row if name.startswith("train/")} for _, row in lines]
    common = set.intersection(*names) if names else set()
    means = {name.removeprefix("train/"): np.array([row[name] for _, row in lines], np.float64) for name in common}
    kept = {NAMES.get(name, name): means[name] for name in sorted(means.keys() - COUNTS)}
    return Logged(np.array([end for end, _ in lines], np.int64), kept)


def read_all(paths: Sequence[Path]) -> dict[str, list[Logged]]:
    """Of run directories of ours and of JSON files of recorded metrics, by task and what is seen of it."""
    found: dict[str, list[Logged]] = {}
    for path in paths:
        if path.suffix != ".json":
            config, spec = read_run(path)
            found.setdefault(seen_task(config.env.task, spec), []).append(read_ours(path / "metrics.jsonl"))
            continue
        content = json.loads(path.read_text())
        if "updates" in content:
            for place, seeds in content["tasks"].items():
                found.setdefault(place, []).extend(_recorded(content["updates"], means) for means in seeds.values())
    return found


def _recorded(edges: Sequence[int], means: Mapping[str, Sequence[float | None]]) -> Logged:
    known = {name: np.array(values, np.float64) for name, values in means.items()}
    return Logged(np.array(edges[1 : 1 + len(next(iter(known.values())))]), known)


def means_over(logged: Logged, edges: np.ndarray) -> dict[str, np.ndarray]:
    """Means over ranges of updates; NaN beyond the last line."""
    widths, ends = np.diff(logged.ends, prepend=0), np.concatenate([[0], logged.ends])

    def mean(values: np.ndarray) -> np.ndarray:
        totals = np.concatenate([[0], np.cumsum(widths * values)])
        return np.diff(np.interp(edges, ends, totals, right=math.nan)) / np.diff(edges)

    return {name: mean(values) for name, values in logged.means.items()}


def together(
    place: str, ours: Sequence[Logged], theirs: Sequence[Logged], edges: np.ndarray, patterns: Sequence[str] = ("*",)
) -> Metrics:
    """What both programs log and a pattern names, over the ranges that all runs have come to the end of."""
    last = min(one.ends.max(initial=0) for one in [*ours, *theirs])
    if last < edges[1]:
        raise SystemExit(f"{place}: a run has made {last:,} updates, and the first range ends at {edges[1]:,}")
    edges = edges[edges <= last]
    both = set.intersection(*(set(one.means) for one in [*ours, *theirs]))
    names = sorted(name for name in both if any(fnmatchcase(name, pattern) for pattern in patterns))
    if not names:
        raise SystemExit(f"{place}: no metric in common is called {' or '.join(patterns)}; there are {sorted(both)}")
    sides = [[means_over(one, edges) for one in side] for side in (ours, theirs)]
    return Metrics(edges, *({name: np.stack([one[name] for one in side]) for name in names} for side in sides))


def numbers(one: Metrics, p_value: Callable[[np.ndarray, np.ndarray], float | None]) -> list[dict[str, Any]]:
    """An entry for each metric and range; ``p_value`` of a difference between seeds of both."""
    found = []
    for name, ours in one.ours.items():
        for column in range(len(one.edges) - 1):
            sides = ours[:, column], one.theirs[name][:, column]
            found.append(
                {
                    "metric": name,
                    "updates": [int(edge) for edge in one.edges[column : column + 2]],
                    "ours": [rounded(x, 5) for x in sides[0]],
                    "theirs": [rounded(x, 5) for x in sides[1]],
                    "difference": rounded(sides[0].mean() - sides[1].mean(), 5),
                    "p": p_value(*sides),
                }
            )
    return found


def rounded(value: float, digits: int) -> float | None:
    """To so many significant digits; None for what is not finite."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def as_table(place: str, found: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    ranges = sorted({tuple(entry["updates"]) for entry in found})
    cells: dict[str, list[str]] = {}
    for entry in found:
        text = f"{_spread(entry['ours'])} / {_spread(entry['theirs'])}"
        cells.setdefault(entry["metric"], []).append(f"**{text}**" if significant(entry) else text)
    marked, tested = sum(map(significant, found)), sum(entry["p"] is not None for entry in found)
    seeds = " + ".join(str(len(found[0][side])) for side in ("ours", "theirs"))
    return "\n".join(
        [
            f"{place}: means over updates, ours / theirs, ± standard deviation over seeds ({seeds}); "
            f"bold: p < {SIGNIFICANT} ({marked} of {tested})",
            "",
            f"| metric | {' | '.join(f'{start + 1:,} to {end:,}' for start, end in ranges)} |",
            "|---" * (1 + len(ranges)) + "|",
            *(f"| {name} | {' | '.join(row)} |" for name, row in cells.items()),
        ]
    )


def significant(entry: Mapping[str, Any]) -> bool:
    return entry["p"] is not None and entry["p"] < SIGNIFICANT


def _spread(values: Sequence[float | None]) -> str:
    known = np.array(values, np.float64)
    return f"{known.mean():.4g}" + (f" ± {known.std(ddof=1):.2g}" if len(known) > 1 else "")


def draw(place: str, one: Metrics, path: Path) -> None:
    """A panel for each metric: each seed a thin line, their mean a thick one, at the middle of each range."""
    middle = (one.edges[:-1] + one.edges[1:]) / 2
    figure, axes = open_panels(len(one.ours), height=1.9)
    for ax, name in zip(axes, one.ours, strict=True):
        for values, label, colour in ((one.ours, "ours", "tab:blue"), (one.theirs, "reference", "tab:orange")):
            ax.plot(middle, values[name].T, color=colour, alpha=0.3, linewidth=1)
            seeds = len(values[name])
            ax.plot(middle, values[name].mean(0), color=colour, linewidth=2, label=f"{label}, seeds: {seeds}")
        ax.set_title(name, fontsize=10)
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=8, frameon=False)
    figure.suptitle(f"{place}: means against updates", fontsize=12, fontweight="bold")
    save_picture(figure, path)
