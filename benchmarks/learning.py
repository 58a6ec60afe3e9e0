"""Do two programs learn alike? Areas under learning curves by seed, compared; a certificate, a picture, one JSON line.

    python benchmarks/learning.py --ours runs/balance-* --theirs reference-cartpole_balance.json --margin 100

Each side is run directories, or JSON files ``{"task", "source", "settings", "group_frames", "seeds": {seed: [[frames,
score], ...]}}`` of training episodes recorded elsewhere. Episodes that end together are one group of ``group_frames``
frames; a seed's area is the mean over the groups that every seed of both sides has, of the mean score of a group: the
mean return while learning. For each task the difference of the mean areas is given with

- a percentile bootstrap interval over seeds (95 %, and 90 % for the verdict), each side resampled by itself;
- the p-value of a permutation test of which side a seed belongs to (two-sided, exact where all permutations can be
  enumerated);
- a verdict. ``--margin`` is stated beforehand in units of return: *equivalent within it* if the 90 % interval lies
  within plus or minus the margin (two one-sided tests at 5 %), *different* if the 95 % interval excludes 0, else
  *undecided*: more seeds are needed. Something may be both different and equivalent; it is then called equivalent.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from dreamer_jax.analysis.plot import Run, bin_means, finish_panel, load_run, open_panels, save_picture
from dreamer_jax.profiling.speed import machine

RESAMPLES = 20_000


class Side(NamedTuple):
    """Runs of one program on one task."""

    runs: list[Run]
    group_frames: float  # NaN where it is not recorded


class Comparison(NamedTuple):
    task: str
    edges: np.ndarray  # [groups + 1] frames
    ours: np.ndarray  # [seeds, groups] mean scores
    theirs: np.ndarray


def read_recorded(path: Path) -> Side:
    content = json.loads(path.read_text())
    runs = []
    for seed, episodes in content["seeds"].items():
        frames, scores = np.array(episodes, np.float64).T
        runs.append(Run(content["task"], content["source"], int(seed), frames, scores, np.zeros((0, 2))))
    return Side(runs, float(content.get("group_frames", np.nan)))


def read_side(paths: Sequence[Path]) -> dict[str, Side]:
    """By task."""
    found: dict[str, Side] = {}
    for path in paths:
        side = read_recorded(path) if path.suffix == ".json" else Side([load_run(path)], np.nan)
        for run in side.runs:
            before = found.get(run.task, Side([], np.nan))
            found[run.task] = Side(before.runs + [run], np.nanmax([before.group_frames, side.group_frames, -1]))
    return found


def compare(task: str, ours: Side, theirs: Side) -> Comparison:
    """Group means of all runs over the groups that each has."""
    width = max(ours.group_frames, theirs.group_frames)
    if width <= 0:
        raise SystemExit(f"{task}: no file says how many frames a group of episodes has (group_frames)")
    # A group that all runs have is one whose last frame all have come to.
    last = int(min(run.frames.max() for run in ours.runs + theirs.runs) // width)
    edges = width * np.arange(last + 1)
    sides = [np.stack([bin_means(run, edges) for run in side.runs]) for side in (ours, theirs)]
    return Comparison(task, edges, *sides)


def verdict(one: Comparison, margin: float, seed: int = 0) -> dict[str, Any]:
    """The numbers about one task."""
    ours, theirs = (np.nanmean(side, axis=1) for side in (one.ours, one.theirs))

    def difference(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return a.mean(axis) - b.mean(axis)

    intervals = {}
    for confidence in (0.95, 0.9):
        drawn = stats.bootstrap(
            (ours, theirs),
            difference,
            n_resamples=RESAMPLES,
            confidence_level=confidence,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
        intervals[confidence] = [float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)]
    test = stats.permutation_test(
        (ours, theirs), difference, n_resamples=RESAMPLES, rng=np.random.default_rng(seed), vectorized=True
    )
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
        "ours": sorted(round(float(area), 1) for area in ours),
        "theirs": sorted(round(float(area), 1) for area in theirs),
        "difference": round(float(ours.mean() - theirs.mean()), 1),
        "ci95": [round(end, 1) for end in intervals[0.95]],
        "ci90": [round(end, 1) for end in intervals[0.9]],
        "p": round(float(test.pvalue), 4),
        "verdict": words,
    }


def as_table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    rows = ["| task | frames | seeds | ours | theirs | difference | 95 % | p | verdict |", "|---" * 9 + "|"]
    for one in found:
        ours, theirs = (np.mean(one[side]) for side in ("ours", "theirs"))
        seeds, ends = f"{len(one['ours'])} + {len(one['theirs'])}", f"{one['ci95'][0]} to {one['ci95'][1]}"
        cells = [one["task"], f"{one['frames']:,.0f}", seeds, f"{ours:.1f}", f"{theirs:.1f}", f"{one['difference']}"]
        rows.append(f"| {' | '.join([*cells, ends, str(one['p']), one['verdict']])} |")
    return "\n".join(rows)


def draw(comparisons: Sequence[Comparison], path: Path) -> None:
    figure, axes = open_panels(len(comparisons))
    for ax, one in zip(axes, comparisons, strict=True):
        for values, name, colour in ((one.ours, "dreamer_jax", "tab:blue"), (one.theirs, "reference", "tab:orange")):
            for seed in values:
                ax.plot(one.edges[1:], seed, color=colour, alpha=0.25, linewidth=1)
            ax.plot(one.edges[1:], values.mean(0), color=colour, linewidth=2, label=f"{name}, {len(values)} seeds")
        finish_panel(ax, one.task, "environment frames")
    save_picture(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", type=Path, nargs="+", required=True, metavar="RUN_DIR|FILE.json")
    parser.add_argument("--theirs", type=Path, nargs="+", required=True, metavar="RUN_DIR|FILE.json")
    parser.add_argument("--margin", type=float, required=True, help="of mean return, stated before looking")
    parser.add_argument("--output", type=Path, help="a picture of the curves")
    parser.add_argument("--certificate", type=Path, help="a table in Markdown")
    options = parser.parse_args()
    ours, theirs = read_side(options.ours), read_side(options.theirs)
    if not (tasks := sorted(ours.keys() & theirs.keys())):
        parser.error(f"no task in common: {', '.join(ours)} and {', '.join(theirs)}")
    comparisons = [compare(task, ours[task], theirs[task]) for task in tasks]
    found = [verdict(one, options.margin) for one in comparisons]
    if options.output:
        draw(comparisons, options.output)
    if options.certificate:
        options.certificate.write_text(as_table(found) + "\n")
    print(json.dumps({"benchmark": "learning", "margin": options.margin, "tasks": found, **machine()}))


if __name__ == "__main__":
    main()
