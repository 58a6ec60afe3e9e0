"""Returns of runs against published ones: the same bins of frames, the same rule, the settings that differ."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from dreamer_jax.analysis.plot import (
    COLOURS,
    STYLES,
    Run,
    check_picture,
    finish_panel,
    finished_bins,
    load_run,
    open_panels,
    save_picture,
)
from dreamer_jax.analysis.published import (
    Difference,
    Published,
    differing_settings,
    published_curve,
)
from dreamer_jax.config.loading import CUSTOM, width_name
from dreamer_jax.config.schema import Config, ConfigError
from dreamer_jax.runs.integrity import read_run
from dreamer_jax.terminal import Answer, table

VERDICTS = ("inside", "above", "below", "no episode")
BAND = 2  # standard deviations of the published seeds


class Budget(NamedTuple):
    """A published bin that the runs have come to the end of."""

    frames: int  # its right edge, as published
    ours: float | None  # mean over the runs; None where no episode ended
    runs: int  # that have a value
    mean: float  # published
    std: float
    verdict: str  # one of VERDICTS


class Comparison(NamedTuple):
    """Runs that differ in the seed only, and the published curve on their task."""

    method: str
    size: str
    run_dirs: list[Path]
    runs: list[Run]
    published: Published
    differences: list[Difference] | None  # None: settings of the published method are not recorded, or not ours
    budgets: list[Budget]
    curves: np.ndarray  # [runs, budgets] mean return; NaN where no episode ended or a run has not come that far

    @property
    def label(self) -> str:
        return f"{self.method}, {self.size}" if self.size == CUSTOM else f"{self.method}, size {self.size}"


class _Member(NamedTuple):
    run_dir: Path
    run: Run
    config: Config
    published: Published

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.published.benchmark, self.published.task, self.run.method, self.config.size


def compare(run_dirs: Sequence[str | Path], method: str) -> list[Comparison]:
    """Compare runs with the published curves of ``method``, grouped by task, method and size.

    Raises:
      ConfigError: a run has no scores or no settings, or has not come to the end of a bin; nothing is published
        for its task, or not by this method; runs of one group differ in more than the seed, or not in it.
    """
    members = [_member(Path(run_dir), method) for run_dir in run_dirs]
    keys = sorted({member.key for member in members})
    return [_compare([member for member in members if member.key == key]) for key in keys]


def _member(run_dir: Path, method: str) -> _Member:
    run = load_run(run_dir)
    config, spec = read_run(run_dir)
    try:
        return _Member(run_dir, run, config, published_curve(run.task, spec, method))
    except ConfigError as error:
        raise ConfigError(f"{run_dir}: {error}") from None


def _compare(members: list[_Member]) -> Comparison:
    first = members[0]
    check_seeds((one.run_dir, one.run.seed) for one in members)
    for one in members:
        if other := differing_settings(one.config, first.config):
            found = ", ".join(map(str, other))
            raise ConfigError(f"{one.run_dir}: other settings than {first.run_dir}: {found}; compare them one by one")
    members = sorted(members, key=lambda one: one.run.seed)
    published = first.published
    edges = published.edges + published.early
    curves = np.stack([finished_bins(one.run, edges) for one in members])
    reached = max(one.run.reached for one in members)
    shown = np.flatnonzero((edges[1:] <= reached) & ~np.isnan(published.mean))
    if not shown.size:
        begin = edges[1:][~np.isnan(published.mean)][0]
        raise ConfigError(f"{first.run_dir}: at {reached:,.0f} frames, the first published value is at {begin:,.0f}")
    return Comparison(
        first.run.method,
        width_name(first.config),
        [one.run_dir for one in members],
        [one.run for one in members],
        published,
        differing_settings(first.config, published.settings) if published.settings else None,
        [_budget(published, bin_, curves[:, bin_]) for bin_ in shown.tolist()],
        curves[:, shown],
    )


def check_seeds(runs: Iterable[tuple[Path, int]]) -> None:
    """Refuse the same seed twice, which would count as two."""
    seen: dict[int, Path] = {}
    for run_dir, seed in runs:
        if seed in seen:
            raise ConfigError(f"{run_dir}: has seed {seed}, as has {seen[seed]}; name one of them")
        seen[seed] = run_dir


def _budget(published: Published, bin_: int, values: np.ndarray) -> Budget:
    known = values[~np.isnan(values)]
    mean, std = float(published.mean[bin_]), float(published.std[bin_])
    ours, verdict = None, "no episode"
    if known.size:
        ours = float(known.mean())
        verdict = "inside" if abs(ours - mean) <= BAND * std else "above" if ours > mean else "below"
    return Budget(int(published.edges[bin_ + 1]), ours, int(known.size), mean, std, verdict)


def describe(comparisons: Sequence[Comparison]) -> Answer:
    """For each its protocol, differing settings and a table of the budgets; at the end a line that counts."""
    counts = _counts([budget for one in comparisons for budget in one.budgets])
    total = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)
    answer: Answer = []
    for one in comparisons:
        answer += [*head(one), _table(one), ""]
    return [*answer, f"of {sum(counts.values())} budgets (band: mean ± {BAND} std): {total}"]


def head(one: Comparison) -> list[str]:
    """What is compared, the protocol of the published one, and the settings that differ, in lines."""
    published, protocol = one.published, one.published.protocol
    seeds = ", ".join(str(run.seed) for run in one.runs)
    lines = [f"{published.task}: {one.label} ({_plural(len(one.runs), 'seed')}: {seeds}) against {published.method}"]
    if protocol is None:
        return [*lines, f"protocol: none is recorded for {published.method}; settings are not compared"]
    if one.differences is None:
        return [
            *lines,
            f"protocol: {protocol['name']}",
            f"theirs: {protocol['scores']}; a point: {protocol['point']}",
            "ours: the mean of all training episodes, sampled actions, "
            f"in the {_width(published):,} frames before a point",
            "settings are not compared: another kind of agent",
        ]
    lines += [f"protocol: {protocol['name']}", f"  {_facts(protocol)}", f"  {protocol['note']}"]
    lines += [f"a {published.origin} point: {protocol['point']}"] if "point" in protocol else []
    lines += ["ours: the mean of all training episodes that ended in the bin"] if "point" in protocol else []
    if published.early:
        label, (begin, end) = published.edges[1], published.edges[:2] + published.early
        lines.append(
            f"labels lie {published.early:,} frames early: the bin {label:,.0f} has the episodes that ended after "
            f"{begin:,.0f} and up to {end:,.0f} frames, theirs and ours"
        )
    if not one.differences:
        return [*lines, "settings that differ: none"]
    return [*lines, "settings that differ:", *(f"  {each}" for each in one.differences)]


def _width(published: Published) -> int:
    known = np.flatnonzero(~np.isnan(published.mean))[0]
    return int(published.edges[known + 1] - published.edges[known])


def _facts(protocol: dict[str, Any]) -> str:
    preset = f"preset {protocol['preset']}, " if "preset" in protocol else ""
    return (
        f"{preset}action repeat {protocol['action_repeat']}, {_plural(protocol['num_envs'], 'environment')}, "
        f"train ratio {protocol['train_ratio']:g}, size {protocol['size']}; {protocol['scores']}"
    )


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def budget_rows(one: Comparison) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Heads and rows of the table of its budgets."""
    many, rows = len(one.runs), list[tuple[str, ...]]()
    digits = 1 if max(abs(budget.mean) for budget in one.budgets) >= 10 else 3
    for frames, ours, runs, mean, std, verdict in one.budgets:
        value = "" if ours is None else f"{ours:.{digits}f}"
        missing = f" ({runs} of {_plural(many, 'run')})" if 0 < runs < many else ""
        rows.append((f"{frames:,}", value, f"{mean:.{digits}f} ± {std:.{digits}f}", verdict + missing))
    published = f"{one.published.origin} mean ± std ({_plural(one.published.seeds, 'seed')})"
    return ("frames", "ours", published, "verdict"), rows


def _table(one: Comparison) -> Table:
    heads, rows = budget_rows(one)
    return table(heads, rows, right=heads[:3])


def _counts(budgets: Sequence[Budget]) -> dict[str, int]:
    found = Counter(budget.verdict for budget in budgets)
    return {verdict: found[verdict] for verdict in VERDICTS}


def as_json(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """The same, ready for JSON."""
    return {
        "comparisons": [
            {
                "task": one.published.task,
                "method": one.method,
                "size": one.size,
                "runs": [str(run_dir) for run_dir in one.run_dirs],
                "seeds": [run.seed for run in one.runs],
                "to": one.published.method,
                "benchmark": one.published.benchmark,
                "protocol": one.published.protocol,
                "differences": None if one.differences is None else [d._asdict() for d in one.differences],
                "published_seeds": one.published.seeds,
                "budgets": [budget._asdict() for budget in one.budgets],
                "counts": _counts(one.budgets),
            }
            for one in comparisons
        ],
        "counts": _counts([budget for one in comparisons for budget in one.budgets]),
    }


def draw(comparisons: Sequence[Comparison], output: str | Path) -> Path:
    """A panel per task: the published mean with ± 1 and ± 2 std, our groups in colour, each seed a thin line.

    Dots are at the right edges of bins in which an episode ended; the lines between them only lead the eye.
    """
    check_picture(output)
    panels: dict[tuple[str, str], list[Comparison]] = {}
    for one in comparisons:
        panels.setdefault((one.published.benchmark, one.published.task), []).append(one)
    labels = sorted({one.label for one in comparisons})
    figure, axes = open_panels(len(panels), 4.9)
    for ax, ((benchmark, task), members) in zip(axes, panels.items(), strict=True):
        _draw_published(ax, max(members, key=lambda one: len(one.budgets)))
        for one in members:
            _draw_ours(ax, one, labels.index(one.label))
        ax.set_xlim(0, 1.03 * max(one.budgets[-1].frames for one in members))
        labels_are = ", as published" if members[0].published.early else ""
        finish_panel(ax, f"{task} ({benchmark})", f"environment frames (right edge of each bin{labels_are})", 9)
    return save_picture(figure, output)


def _draw_published(ax: Any, one: Comparison) -> None:
    frames, mean, std = np.array([(b.frames, b.mean, b.std) for b in one.budgets], np.float64).T
    for width, alpha in ((2, 0.13), (1, 0.25)):
        label = f"{one.published.origin} mean ± {width} std over {_plural(one.published.seeds, 'seed')}"
        ax.fill_between(
            frames, mean - width * std, mean + width * std, color="0.2", alpha=alpha, linewidth=0, label=label
        )
    ax.plot(
        frames, mean, color="0.2", linewidth=2, marker=".", label=f"{one.published.method}, {one.published.origin} mean"
    )


def _draw_ours(ax: Any, one: Comparison, number: int) -> None:
    colour, style = COLOURS[number % len(COLOURS)], STYLES[number % len(STYLES)]
    frames = np.array([budget.frames for budget in one.budgets], np.float64)
    mean = np.array([budget.ours for budget in one.budgets], np.float64)
    if len(one.runs) > 1:
        for values in one.curves:
            known = ~np.isnan(values)
            ax.plot(frames[known], values[known], color=colour, linewidth=0.8, alpha=0.5, marker=".", markersize=4)
    seeds = f"mean of {len(one.runs)} seeds" if len(one.runs) > 1 else "1 seed"
    known = ~np.isnan(mean)
    label = textwrap.fill(f"ours: {one.label}, {seeds}", 62)
    ax.plot(frames[known], mean[known], style, color=colour, linewidth=2.2, marker="o", markersize=4, label=label)
