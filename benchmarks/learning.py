"""Do two programs learn alike? Areas under learning curves by seed, compared; a certificate, pictures, one JSON line.

    python benchmarks/learning.py --ours runs/balance-* --margin 100

Each side is run directories, or JSON files of training episodes and of metrics recorded elsewhere, as
benchmarks/reference_runs.py writes them: those of danijar/dreamerv3 are theirs, unless others are named. Episodes that
end together are one group of ``group_frames``
frames; a seed's area is the mean over the groups that every seed of both sides has, of the mean score of a group: the
mean return while learning. For each task the difference of the mean areas is given with

- a percentile bootstrap interval over seeds (95 %, and 90 % for the verdict), each side resampled by itself;
- the p-value of a permutation test of which side a seed belongs to (two-sided, exact where all permutations can be
  enumerated);
- a verdict. ``--margin`` is stated beforehand in units of return: *equivalent within it* if the 90 % interval lies
  within plus or minus the margin (two one-sided tests at 5 %), *different* if the 95 % interval excludes 0, else
  *undecided*: more seeds are needed. Something may be both different and equivalent; it is then called equivalent.

Where both sides have metrics, their means over the same updates are compared as well, each with the p-value of the same
test: so many tests find some small ones by chance, about one in twenty below 0.05. ``--metrics-only`` leaves the curves
out, for runs too short to have any.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import learning_metrics
import numpy as np
from scipy import stats

from dreamer_jax.analysis import published
from dreamer_jax.analysis.plot import Run, bin_means, finish_panel, load_run, open_panels, save_picture
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.profiling.speed import machine
from dreamer_jax.runs.integrity import read_run

RESAMPLES = 20_000
SCORES = Path(published.__file__).parents[1] / "data" / "reference_small.json"
METRICS = Path(__file__).with_name("reference_metrics.json")


class Side(NamedTuple):
    """Runs of one program on one task."""

    runs: list[Run]
    group_frames: float  # NaN where it is not recorded


class Comparison(NamedTuple):
    task: str
    edges: np.ndarray  # [groups + 1] frames
    ours: np.ndarray  # [seeds, groups] mean scores
    theirs: np.ndarray


def read_sides(path: Path) -> dict[str, Side]:
    """What one path has, by task and what is seen of it."""
    if path.suffix != ".json":
        config, spec = read_run(path)
        return {published.seen_task(config.env.task, spec): Side([load_run(path)], np.nan)}
    content = json.loads(path.read_text())
    if "updates" in content:
        return {}
    recorded = {place: published.recorded_runs(place, entry) for place, entry in content["tasks"].items()}
    return {place: Side(one.runs, float(one.group_frames)) for place, one in recorded.items()}


def read_side(paths: Sequence[Path]) -> dict[str, Side]:
    """By task and what is seen of it."""
    found: dict[str, Side] = {}
    for path in paths:
        for place, side in read_sides(path).items():
            before = found.get(place, Side([], np.nan))
            found[place] = Side(before.runs + side.runs, np.nanmax([before.group_frames, side.group_frames, -1]))
    return found


def compare(task: str, ours: Side, theirs: Side) -> Comparison:
    """Group means of all runs over the groups that each has."""
    width = max(ours.group_frames, theirs.group_frames)
    if width <= 0:
        raise ConfigError(f"{task}: no file says how many frames a group of episodes has (group_frames)")
    if min(len(ours.runs), len(theirs.runs)) < 2:
        raise ConfigError(f"{task}: {len(ours.runs)} and {len(theirs.runs)} seeds; each side needs two or more")
    # A group that all runs have is one whose last frame all have come to.
    last = int(min(run.frames.max() for run in ours.runs + theirs.runs) // width)
    edges = width * np.arange(last + 1)
    sides = [np.stack([bin_means(run, edges) for run in side.runs]) for side in (ours, theirs)]
    return Comparison(task, edges, *sides)


def difference(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    return a.mean(axis) - b.mean(axis)


def p_value(ours: np.ndarray, theirs: np.ndarray, seed: int = 0) -> float | None:
    """Of the permutation test of which side a seed belongs to; None for a single seed, or what is not finite."""
    if min(len(ours), len(theirs)) < 2 or not np.isfinite([*ours, *theirs]).all():
        return None
    rng = np.random.default_rng(seed)
    test = stats.permutation_test((ours, theirs), difference, n_resamples=RESAMPLES, rng=rng, vectorized=True)
    return round(float(test.pvalue), 4)


def interval(ours: np.ndarray, theirs: np.ndarray, confidence: float, seed: int = 0) -> tuple[float, float]:
    """Of the difference of two means: a percentile bootstrap over the seeds of each."""
    drawn = stats.bootstrap(
        (ours, theirs),
        difference,
        n_resamples=RESAMPLES,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


def verdict(one: Comparison, margin: float, seed: int = 0) -> dict[str, Any]:
    """The numbers about one task."""
    ours, theirs = (np.nanmean(side, axis=1) for side in (one.ours, one.theirs))
    intervals = {confidence: interval(ours, theirs, confidence, seed) for confidence in (0.95, 0.9)}
    (low, high), (low95, high95) = intervals[0.9], intervals[0.95]
    if -margin <= low and high <= margin:
        words = f"equivalent within {margin:g}"
    elif low95 > 0 or high95 < 0:
        words = "different"
    else:
        words = "undecided"
    return {
        "task": one.task,
        "frames": float(one.edges[-1]),
        "groups": len(one.edges) - 1,
        "ours": sorted(map(as_area, ours)),
        "theirs": sorted(map(as_area, theirs)),
        "difference": as_area(ours.mean() - theirs.mean()),
        "ci95": [as_area(end) for end in intervals[0.95]],
        "ci90": [as_area(end) for end in intervals[0.9]],
        "p": p_value(ours, theirs, seed),
        "verdict": words,
    }


def as_area(number: float) -> float:
    """One decimal, of numbers below 10 three."""
    return round(float(number), 1 if abs(number) >= 10 else 3)


def as_table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    rows = ["| task | frames | seeds | ours | theirs | difference | 95 % | p | verdict |", "|---" * 9 + "|"]
    for one in found:
        ours, theirs = (np.mean(one[side]) for side in ("ours", "theirs"))
        seeds, ends = f"{len(one['ours'])} + {len(one['theirs'])}", f"{one['ci95'][0]} to {one['ci95'][1]}"
        cells = [
            one["task"],
            f"{one['frames']:,.0f}",
            seeds,
            f"{as_area(ours)}",
            f"{as_area(theirs)}",
            f"{one['difference']}",
        ]
        rows.append(f"| {' | '.join([*cells, ends, str(one['p']), one['verdict']])} |")
    return "\n".join(rows)


def draw(comparisons: Sequence[Comparison], path: Path) -> None:
    figure, axes = open_panels(len(comparisons))
    for ax, one in zip(axes, comparisons, strict=True):
        for values, name, colour in ((one.ours, "dreamer_jax", "tab:blue"), (one.theirs, "reference", "tab:orange")):
            for seed in values:
                ax.plot(one.edges[1:], seed, color=colour, alpha=0.25, linewidth=1)
            ax.plot(
                one.edges[1:], np.nanmean(values, 0), color=colour, linewidth=2, label=f"{name}, {len(values)} seeds"
            )
        finish_panel(ax, one.task, "environment frames")
    save_picture(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", type=Path, nargs="+", required=True, metavar="RUN_DIR|FILE.json")
    parser.add_argument("--theirs", type=Path, nargs="+", default=[SCORES, METRICS], metavar="RUN_DIR|FILE.json")
    parser.add_argument("--margin", type=float, default=0.0, help="of mean return, stated before looking")
    parser.add_argument("--metrics-only", action="store_true", help="no learning curves")
    parser.add_argument(
        "--updates", type=int, nargs="+", default=[0, 500, 1000, 2000, 5000], help="ends of the ranges for metrics"
    )
    parser.add_argument(
        "--metrics", nargs="+", default=["*"], metavar="PATTERN", help="such as 'loss/*' (default: all)"
    )
    parser.add_argument("--output", type=Path, help="a picture of the learning curves")
    parser.add_argument("--metrics-output", type=Path, metavar="FOLDER", help="a picture of metrics for each task")
    parser.add_argument("--certificate", type=Path, help="tables in Markdown")
    options = parser.parse_args()
    logged = [learning_metrics.read_all(paths) for paths in (options.ours, options.theirs)]
    ours, theirs = logged if options.metrics_only else [read_side(paths) for paths in (options.ours, options.theirs)]
    if not (tasks := sorted(ours.keys() & theirs.keys())):
        parser.error(f"no task in common: {', '.join(ours)} and {', '.join(theirs)}")
    try:
        comparisons = [] if options.metrics_only else [compare(task, ours[task], theirs[task]) for task in tasks]
    except ConfigError as error:
        parser.error(str(error))
    found = [verdict(one, options.margin) for one in comparisons] or [{"task": task} for task in tasks]
    tables = [as_table(found)] if comparisons else []
    for entry in found:
        sides = [side.get(entry["task"], []) for side in logged]
        if not all(sides):
            continue
        metrics = learning_metrics.together(entry["task"], *sides, np.array(options.updates), options.metrics)
        entry["metrics"] = learning_metrics.numbers(metrics, p_value)
        tables.append(learning_metrics.as_table(entry["task"], entry["metrics"]))
        if options.metrics_output:
            name = re.sub(r"\W+", "_", entry["task"])
            fine = learning_metrics.together(entry["task"], *sides, learning_metrics.RECORDED, options.metrics)
            learning_metrics.draw(entry["task"], fine, options.metrics_output / f"{name}.png")
    if options.output and comparisons:
        draw(comparisons, options.output)
    if options.certificate:
        options.certificate.write_text("\n\n".join(tables) + "\n")
    print(json.dumps({"benchmark": "learning", "margin": options.margin, "tasks": found, **machine()}))


if __name__ == "__main__":
    main()
