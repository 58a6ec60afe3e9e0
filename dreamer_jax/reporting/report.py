"""Runs as one page of HTML: scores, curves, published ones beside them, models, settings, and each run."""

from __future__ import annotations

import math
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_jax.analysis import compare, web_page
from dreamer_jax.analysis.plot import Run, draw_runs
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.evaluation.score_card import headline
from dreamer_jax.files import replace_file
from dreamer_jax.reporting.overview import (
    CARD,
    LAST,
    Group,
    One,
    card,
    groups_of,
    labelled,
    own_settings,
    pictures,
    read_all,
)

PICTURE_BYTES = 4_000_000
"""Of one picture; larger ones are named, not shown."""
SHOWN_GROUPS = 16
"""Agents of one task whose curves are drawn."""
SHOWN_RUNS = 12
"""Runs whose pictures are shown."""


def write_report(folder: Path, out: Path, to: str) -> list[str]:
    """Write the page of all runs below ``folder``, compared with the published curves of ``to``; lines to say.

    Raises:
      ConfigError: there is no run, or ``out`` is a folder.
    """
    if out.is_dir():
        raise ConfigError(f"--out: {out} is a folder")
    text, wrong = as_page(folder, to)
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, text)
    return [*wrong, f"{out}: {len(text) / 1e6:.1f} MB"]


def as_page(folder: Path, to: str, *, refresh: int = 0) -> tuple[str, list[str]]:
    """The page, and a line for each run that can't be read."""
    runs, wrong = read_all(folder)
    groups = groups_of(runs)
    drawn = best(groups)
    with tempfile.TemporaryDirectory(prefix="dreamer-jax-report-") as scratch:
        sections = {
            "Scores": _scores(groups),
            "Learning curves": _curves(drawn, len(groups), Path(scratch)),
            f"Beside {to}": _published(drawn, to, Path(scratch)),
            "Models": _models(runs),
            "Predictions": _predictions(runs),
            "Settings": _settings(groups),
            "Runs": _runs(runs),
            "Not read": [web_page.warning(line) for line in wrong],
            "How it was made": _made(folder, runs),
        }
    there = {title: parts for title, parts in sections.items() if parts}
    title = f"{len(runs)} run{'s' * (len(runs) != 1)} in {folder.name or folder.resolve().name}"
    head = f"<h1>{web_page.escaped(title)}</h1>"
    body = [web_page.section(name, *parts) for name, parts in there.items()]
    return web_page.page(title, [head, web_page.contents(list(there)), *body], refresh=refresh), wrong


def _scores(groups: Sequence[Group]) -> list[str]:
    rows = []
    for group in groups:
        found, members = group.score(), group.members
        between = "" if found is None or found.low != found.low else f"{found.low:.4g} to {found.high:.4g}"
        frames, hours = (sorted(each) for each in ([m.frames for m in members], [_hours(m) for m in members]))
        rows.append(
            (
                group.task,
                group.label,
                str(len(members)),
                f"{frames[0]:,}" if frames[0] == frames[-1] else f"{frames[0]:,} to {frames[-1]:,}",
                "–" if found is None else f"{found.value:.4g}",
                between,
                f"{sum(hours):.2f}",
            )
        )
    text = (
        f"Mean return of the training episodes (sampled actions) in the last {LAST:.0%} of each run's frames; over "
        "seeds, with a 95 % bootstrap interval where there are several. Named protocols are measured by "
        "dreamer-jax score."
    )
    heads = ("task", "agent", "seeds", "frames", "return", "95 %", "hours in all")
    return [web_page.what(text), web_page.table(heads, rows, words=True)]


def _curves(groups: Sequence[Group], of: int, scratch: Path) -> list[str]:
    """Of these of so many groups."""
    curves: dict[str, list[Run]] = {}
    for group in groups:
        curves.setdefault(group.task, []).extend(labelled(group))
    drawn = [draw_runs(runs, scratch / f"curves{index}.png") for index, runs in enumerate(curves.values()) if runs]
    if not drawn:
        return [web_page.what("No episode has ended yet.")]
    text = "Returns of training episodes against frames; a thin line for each seed."
    if len(groups) < of:
        text += f" Of each task the {SHOWN_GROUPS} agents with the highest returns."
    return [web_page.what(text), web_page.row([web_page.picture(path) for path in drawn])]


def best(groups: Sequence[Group]) -> list[Group]:
    """At most ``SHOWN_GROUPS`` of each task, those with the highest scores, in their order."""

    def rank(group: Group) -> float:
        return float(np.mean(group.scores)) if group.scores else -math.inf

    kept = []
    for task in {group.task for group in groups}:
        kept += sorted((group for group in groups if group.task == task), key=rank, reverse=True)[:SHOWN_GROUPS]
    return [group for group in groups if group in kept]


def _published(groups: Sequence[Group], to: str, scratch: Path) -> list[str]:
    """Of the groups of which that is published; nothing where there are none."""
    found: dict[str, list[compare.Comparison]] = {}
    for group in groups:
        dirs = [one.run_dir for one in group.members if one.run is not None]
        try:
            for one in compare.compare(dirs, to):
                named = one._replace(method=group.label.replace(f" {one.size}", "", 1))
                found.setdefault(group.task, []).append(named)
        except ConfigError:
            continue  # not published, or not that far
    if not found:
        return []
    drawn = [compare.draw(ours, scratch / f"published{index}.png") for index, ours in enumerate(found.values())]
    parts = [web_page.row([web_page.picture(path) for path in drawn])]
    for one in (one for ours in found.values() for one in ours):
        title, *lines = compare.head(one)
        parts.append(f"<h3>{web_page.escaped(title)}</h3>")
        parts.append(web_page.table(*compare.budget_rows(one)))
        parts.append(web_page.more(f"{lines[0]}; how it was made, and what differs", lines[1:]))
    return parts


def _models(runs: Sequence[One]) -> list[str]:
    cards = {one.run_dir.name: found for one in runs if (found := card(one)) is not None}
    if not cards:
        return []
    rows = {name: {row[0]: row[1] for row in headline(report)} for name, report in cards.items()}
    heads = list(dict.fromkeys(head for one in rows.values() for head in one))
    parts = [web_page.what("Score cards of world models, as dreamer-jax evaluate-model has written them.")]
    parts.append(web_page.table(("", *rows), [(head, *(one.get(head, "") for one in rows.values())) for head in heads]))
    for one in runs:
        if one.run_dir.name in cards:
            drawn = sorted((one.run_dir / CARD).glob("*.png"))
            parts += [web_page.picture(path, f"{one.run_dir.name}: {path.stem}") for path in drawn]
    failed = {
        name: [control for control, one in report["controls"].items() if not one["passed"]]
        for name, report in cards.items()
    }
    return parts + [web_page.warning(f"{name}: failed: {', '.join(names)}") for name, names in failed.items() if names]


def _predictions(runs: Sequence[One]) -> list[str]:
    parts, left = [], [one for one in runs if pictures(one)]
    for one in left[:SHOWN_RUNS]:
        for path in pictures(one):
            where = path.relative_to(one.run_dir)
            if path.stat().st_size > PICTURE_BYTES:
                parts.append(web_page.what(f"{one.run_dir.name}: {where} is too large for this page"))
            else:
                parts.append(web_page.picture(path, f"{one.run_dir.name}: {where}"))
    if len(left) > SHOWN_RUNS:
        parts.append(web_page.what(f"and those of {len(left) - SHOWN_RUNS} more runs"))
    return parts


def _settings(groups: Sequence[Group]) -> list[str]:
    columns = {f"{group.task}: {group.label}": own_settings(group.members[0].config) for group in groups}
    names = sorted({name for one in columns.values() for name in one})
    if not names:
        return [web_page.what("All settings are those of the presets.")]
    rows = [(name, *(_text(one.get(name)) for one in columns.values())) for name in names]
    text = "What differs from the preset; an empty cell is the preset's own."
    return [web_page.what(text), web_page.table(("", *columns), rows)]


def _runs(runs: Sequence[One]) -> list[str]:
    rows = []
    for one in runs:
        asked = one.config.train.frames
        state = "complete" if one.frames >= asked else f"{one.frames / asked:.0%}"
        rows.append(
            (
                one.run_dir.name,
                one.config.env.task,
                str(one.config.seed),
                f"{one.frames:,} of {asked:,}",
                state,
                f"{one.last.get('grad_steps', 0):,}",
                _left(one),
                "–" if one.score is None else f"{one.score:.4g}",
            )
        )
    heads = ("run", "task", "seed", "frames", "", "updates", "time, left", "return")
    return [web_page.table(heads, rows, words=True)]


def _left(one: One) -> str:
    seconds, asked = float(one.last.get("seconds", 0)), one.config.train.frames
    words = _duration(seconds)
    if 0 < one.frames < asked and seconds:
        words += f", {_duration(seconds * (asked / one.frames - 1))}"
    return words


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h"


def _hours(one: One) -> float:
    return float(one.last.get("seconds", 0)) / 3600


def _text(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _made(folder: Path, runs: Sequence[One]) -> list[str]:
    rows = [("command", shlex.join(["dreamer-jax", *sys.argv[1:]])), ("folder", str(folder))]
    rows += [
        ("date", time.strftime("%Y-%m-%d %H:%M %Z")),
        ("page by", f"dreamer-jax {metadata.version('dreamer-jax')}"),
    ]
    return [web_page.table(("", ""), rows), web_page.table(("runs with", "on", "runs"), _machines(runs))]


def _machines(runs: Sequence[One]) -> list[tuple[str, ...]]:
    """Versions and devices, and how many runs began with them."""
    known = Counter((_named(one.facts.get("versions")), str(one.facts.get("device", ""))) for one in runs)
    return [(*each, str(count)) for each, count in known.items()]


def _named(versions: Any) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items()) if isinstance(versions, dict) else ""
