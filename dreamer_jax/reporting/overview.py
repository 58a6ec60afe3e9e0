"""The runs below a folder: what each has come to, and which differ in the seed alone."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dreamer_jax.analysis.plot import Run, load_run
from dreamer_jax.analysis.statistics import Interval, bootstrap
from dreamer_jax.config.loading import RESUMABLE, width_name
from dreamer_jax.config.loading import load as load_config
from dreamer_jax.config.schema import Config, ConfigError, flatten
from dreamer_jax.runs.integrity import read_run
from dreamer_jax.runs.metrics import read_jsonl

DEEPEST = 4
"""Folders below the one that is asked for."""
LAST = 0.1
"""Share of a run's frames whose episodes count as its score."""
NAMED, LONGEST = 3, 24
"""Settings in a label, and characters of a value there."""
PICTURES, CARD = ("reports", "dreams"), "model_report"
"""Folders of a run with pictures of its model, and with its score card."""


@dataclass(frozen=True)
class One:
    """A run as its files say."""

    run_dir: Path
    config: Config
    run: Run | None  # None before its first episode ends
    last: dict[str, Any]  # the newest of each of its metrics
    facts: dict[str, Any]  # of env.json: versions and devices with which it began

    @property
    def frames(self) -> int:
        known = 0.0 if self.run is None else self.run.reached
        return int(max(known, self.last.get("env_frames", 0)))

    @property
    def late(self) -> np.ndarray:
        """Scores of the training episodes that ended in the last tenth of its frames."""
        if self.run is None:
            return np.zeros(0)
        return self.run.scores[self.run.frames > (1 - LAST) * self.frames]

    @property
    def score(self) -> float | None:
        """Their mean."""
        return float(self.late.mean()) if self.late.size else None


class Group(NamedTuple):
    """Runs that differ in the seed alone, in the order of their seeds."""

    task: str
    label: str
    members: list[One]

    @property
    def scores(self) -> list[float]:
        """Of its runs, as far as they have one."""
        return [one.score for one in self.members if one.score is not None]

    def score(self) -> Interval | None:
        """Their mean, with a bootstrap interval over seeds."""
        return bootstrap(self.scores, np.mean) if self.scores else None


def run_dirs(folder: Path) -> Iterator[Path]:
    """Every run directory that is ``folder`` or below it, in the order of their names."""
    for place, names, files in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        if "config.yaml" in files and {"env.json", "scores.jsonl"} & set(files):
            names.clear()
            yield Path(place)
        elif depth >= DEEPEST:
            names.clear()
        names.sort()


def read_one(run_dir: Path) -> One:
    """A run.

    Raises:
      ConfigError: one of its files is damaged.
    """
    config, _ = read_run(run_dir)
    scores, metrics = run_dir / "scores.jsonl", run_dir / "metrics.jsonl"
    run = load_run(run_dir) if scores.exists() and scores.stat().st_size else None
    lines = read_jsonl(metrics) if metrics.exists() else []
    last: dict[str, Any] = {}
    for line in lines:  # metrics of updates are not in every one
        last |= line
    return One(run_dir, config, run, last, json.loads((run_dir / "env.json").read_bytes()))


def read_all(folder: Path) -> tuple[list[One], list[str]]:
    """All runs there, and a line for each that can't be read.

    Raises:
      ConfigError: there is none.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder")
    found, wrong = [], []
    for run_dir in run_dirs(folder):
        try:
            found.append(read_one(run_dir))
        except ConfigError as error:
            wrong.append(str(error))
    if not found and not wrong:
        raise ConfigError(f"{folder}: no run there, nor in folders below it")
    return found, wrong


def groups_of(runs: Sequence[One]) -> list[Group]:
    """By task, and by settings other than the seed; labels name what tells groups of one task and preset apart."""
    kinds: dict[tuple[Any, ...], list[One]] = {}
    for one in runs:
        kinds.setdefault(tuple(_settings(one.config).items()), []).append(one)
    groups: list[Group] = []
    for members in kinds.values():
        config = members[0].config
        beside = [other[0].config for other in kinds.values() if _name(other[0].config) == _name(config)]
        varied = [name for name, _ in _settings(config).items() if len({flatten(each)[name] for each in beside}) > 1]
        named = [f"{name} {_short(str(flatten(config)[name]))}" for name in varied[:NAMED]]
        more = [f"and {len(varied) - NAMED} more"] * (len(varied) > NAMED)
        label = ", ".join([f"{config.preset} {width_name(config)}", *named, *more])
        alike = sum(group.label.partition(" (")[0] == label and group.task == config.env.task for group in groups)
        label += f" ({alike + 1})" * (alike > 0)
        groups.append(Group(config.env.task, label, sorted(members, key=lambda one: one.config.seed)))
    return sorted(groups, key=lambda group: (group.task, group.label))


def late_score(one: One) -> dict[str, Any]:
    """Its score with a bootstrap interval over episodes, for a card."""
    protocol = f"mean return of {one.late.size} training episodes in the last {LAST:.0%} of frames"
    if not one.late.size:
        return {"protocol": protocol, "value": None, "low": None, "high": None}
    found = {name: None if np.isnan(x) else x for name, x in bootstrap(one.late, np.mean)._asdict().items()}
    return {"protocol": protocol, **found}


def labelled(group: Group) -> list[Run]:
    """Its curves under its label."""
    return [replace(one.run, method=textwrap.fill(group.label, 50)) for one in group.members if one.run is not None]


def own_settings(config: Config) -> dict[str, Any]:
    """What differs from its preset, task and seed aside."""
    usual = flatten(load_config(config.preset, config.size, overrides=[("env.task", config.env.task)]))
    return {name: value for name, value in _settings(config).items() if value != usual[name] and name != "env.task"}


def pictures(one: One) -> list[Path]:
    """The newest of each kind that the run has drawn of its model: films before strips."""
    newest: dict[str, Path] = {}
    for folder in PICTURES:
        for path in sorted((one.run_dir / folder).glob("*.[gp][in][fg]"), key=lambda path: path.stat().st_mtime):
            newest[f"{folder}/{path.stem.partition('-')[2]}{path.suffix}"] = path
    return list(newest.values())


def card(one: One) -> dict[str, Any] | None:
    """Its model's score card, if there is one."""
    path = one.run_dir / CARD / "report.json"
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and {"meta", "controls", "forecast"} <= found.keys() else None


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _name(config: Config) -> tuple[str, str, str]:
    return config.env.task, config.preset, config.size


def _settings(config: Config) -> dict[str, Any]:
    return {name: value for name, value in flatten(config).items() if name != "seed" and name not in RESUMABLE}
