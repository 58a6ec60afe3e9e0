"""Runs against each other: a row for each setting, seeds grouped, the best first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dreamer_jax.analysis.compare import check_seeds
from dreamer_jax.analysis.plot import MARK_EPISODES, Run, draw_runs, load_run
from dreamer_jax.analysis.statistics import Interval, bootstrap
from dreamer_jax.config.loading import RESUMABLE, difference
from dreamer_jax.config.loading import load as load_config
from dreamer_jax.config.schema import FIELDS, Config, ConfigError, flatten
from dreamer_jax.runs.integrity import read_run
from dreamer_jax.terminal import Answer, table

DRAWN = 8
"""Settings of a task in a picture; there are seven colours."""
_NAMES = ("preset", "benchmark", "size")
_NUMBERS = ("return", "95 % interval", "seeds", "frames")


class Row(NamedTuple):
    """Runs that differ in the seed only."""

    settings: dict[str, Any]  # those in which rows differ
    run_dirs: list[Path]
    runs: list[Run]  # by seed
    returns: list[float]  # of each run: mean of its last episodes
    interval: Interval  # mean over seeds, and the 95 % interval for other seeds; NaN ends for a single one

    @property
    def label(self) -> str:
        texts = [f"{value:g}" if isinstance(value, float) else str(value) for value in self.settings.values()]
        return (
            ", ".join(f"{name} {text}" for name, text in zip(self.settings, texts, strict=True)) or self.runs[0].method
        )


class _Member(NamedTuple):
    run_dir: Path
    run: Run
    config: Config


def rank(run_dirs: Sequence[str | Path]) -> dict[str, list[Row]]:
    """Rows by task, the highest return first.

    Raises:
      ConfigError: a run has no scores or no settings, or two of the same settings have the same seed.
    """
    tasks: dict[str, dict[tuple[Any, ...], list[_Member]]] = {}
    for run_dir in map(Path, run_dirs):
        run, config = load_run(run_dir), read_run(run_dir)[0]
        if not run.scores.size:
            raise ConfigError(f"{run_dir}: no episode with a finite score")
        tasks.setdefault(run.task, {}).setdefault(_algorithm(config), []).append(_Member(run_dir, run, config))
    return {task: _rank(list(groups.values())) for task, groups in sorted(tasks.items())}


def _rank(groups: Sequence[list[_Member]]) -> list[Row]:
    columns = _columns([members[0].config for members in groups])
    rows = []
    for members in groups:
        check_seeds((one.run_dir, one.run.seed) for one in members)
        members = sorted(members, key=lambda one: one.run.seed)
        values = flatten(members[0].config)
        returns = [float(one.run.scores[-MARK_EPISODES:].mean()) for one in members]
        settings = {name: values[name] for name in columns}
        run_dirs, runs = [one.run_dir for one in members], [one.run for one in members]
        rows.append(Row(settings, run_dirs, runs, returns, bootstrap(returns, np.mean)))
    return sorted(rows, key=lambda row: -row.interval.value)


def _algorithm(config: Config) -> tuple[Any, ...]:
    """Equal for runs that differ in the seed only."""
    return tuple(value for name, value in flatten(config).items() if name != "seed" and name not in RESUMABLE)


def _columns(configs: Sequence[Config]) -> list[str]:
    """Settings that tell these apart, as a person chose them: preset, benchmark, size, and what they do not say."""
    chosen = {name for config in configs for name in (*_NAMES, *_own(config))}
    ignored = RESUMABLE | {"seed", "env.task"}
    values = [flatten(config) for config in configs]
    return [name for name in FIELDS if name in chosen - ignored and len({one[name] for one in values}) > 1]


def _own(config: Config) -> Iterable[str]:
    named = load_config(config.preset, config.size, overrides=[("benchmark", config.benchmark)])
    return (name for name, _, _ in difference(named, config) if name != "revision")


def describe(tables: dict[str, list[Row]]) -> Answer:
    """A table for each task."""
    answer: Answer = []
    for task, rows in tables.items():
        answer += [""] * bool(answer)
        answer += [f"{task}: return of the last {MARK_EPISODES} episodes, mean over seeds"]
        answer += [table((*_NUMBERS, "settings"), map(_cells, rows), right=_NUMBERS)]
    return answer


def _cells(row: Row) -> tuple[str, ...]:
    value, low, high = row.interval
    between = "" if math.isnan(low) else f"{low:.1f} to {high:.1f}"
    least = min(run.reached for run in row.runs)
    return f"{value:.1f}", between, str(len(row.runs)), f"{least:,.0f}", row.label


def as_json(tables: dict[str, list[Row]]) -> dict[str, Any]:
    """The same, ready for JSON, with every run."""
    return {"tasks": {task: [_row(row) for row in rows] for task, rows in tables.items()}}


def _row(row: Row) -> dict[str, Any]:
    value, low, high = row.interval
    return {
        "settings": row.settings,
        "return": value,
        "ci95": None if math.isnan(low) else [low, high],
        "runs": [str(run_dir) for run_dir in row.run_dirs],
        "seeds": [run.seed for run in row.runs],
        "returns": row.returns,
        "frames": [int(run.reached) for run in row.runs],
    }


def draw(tables: dict[str, list[Row]], output: str | Path) -> Path:
    """Learning curves of the best rows of each task, a colour for each."""
    best = [row for rows in tables.values() for row in rows[:DRAWN]]
    return draw_runs([replace(run, method=row.label) for row in best for run in row.runs], output)
