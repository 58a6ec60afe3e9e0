"""Every checkpoint of a run judged on the same episodes: does longer training improve the model?"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_jax.analysis.plot import open_panels, save_picture
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.evaluation.agreement import spearman
from dreamer_jax.evaluation.controls import Control
from dreamer_jax.evaluation.intervals import bootstrap_rows
from dreamer_jax.evaluation.judge import finite
from dreamer_jax.evaluation.run import known_episodes, own_recordings, report_of
from dreamer_jax.evaluation.score_card import as_ladder, write
from dreamer_jax.evaluation.subject import of_run, untrained
from dreamer_jax.files import replace_file
from dreamer_jax.runs.facts import steps
from dreamer_jax.terminal import table

Report = dict[str, Any]
Curve = Callable[[Report], Any]
SHARES = (0.1, 0.3, 1.0)
"""Of training, at which a model must be better each time, beginning with untrained networks."""
APART = 1.5
"""One of them has trained so many times as long as the one before: what lies closer need not be better."""
IMPROVES = "longer training improves"
OVERFITTED = 1.5
"""A ratio of errors that grows by more is called over-fitting."""
FALLS = -0.8
"""At most the rank correlation of an error with training."""


def _forecast(report: Report) -> Report:
    found: Report = next(iter(report["forecast"].values()))
    return found


def _errors(part: str, h: int) -> Curve:
    """Of each episode [E], so many records ahead."""

    def of(report: Report) -> Any:
        section = _forecast(report)["by_episode"]
        return section[part][section["horizons"].index(h)]

    return of


MUST_FALL: dict[str, Curve] = {
    "error 5 ahead": _errors("observation", 5),
    "error 15 ahead": _errors("observation", 15),
    "reward error 5 ahead": _errors("reward", 5),
    "reconstruction": lambda report: report["reconstruction"]["by_episode"] or None,
}
"""What longer training must improve, by episode."""
OTHERS: dict[str, Curve] = {
    "error 50 ahead": lambda report: float(np.mean(_errors("observation", 50)(report))),
    "return": lambda report: list(report["returns"].values())[-1]["mean_realised"],
    "R2 of the state": lambda report: float(
        np.mean([features["state"]["ridge"]["r2"] for features in report["fidelity"].values()])
    ),
    "active latents": lambda report: report["latents"]["active"],
    "KL": lambda report: report["latents"]["kl"],
    "unseen / replayed": lambda report: report["overfitting"]["ratio"],
}


def ladder(
    run_dir: Path,
    out: Path,
    *,
    profile: str,
    seed: int,
    data: str | None,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Reports of untrained networks and of every checkpoint, on the same episodes; curves; what must come out of them.

    ``ladder.json``, ``index.html`` and ``ladder.png`` have it beside the reports.

    Raises:
      ConfigError: the run has one checkpoint (``train.keep_checkpoints`` says how many stay).
    """
    known = [step for step in steps(run_dir) if step]
    if len(known) < 2:
        raise ConfigError(f"--ladder: {run_dir} has {len(known)} checkpoint; train with --train.keep_checkpoints 10")
    subject, config = of_run(run_dir)
    recordings = own_recordings(subject, config, profile, seed, data, note)
    replay = known_episodes(run_dir, subject, profile)
    rungs: list[dict[str, Any]] = []
    for step in [0, *known]:
        one = untrained(subject, seed) if step == 0 else of_run(run_dir, step)[0]
        note(f"checkpoint {step:,}")
        report = report_of(run_dir, one, config, recordings, replay, profile, seed, step, note)
        write(report, out / f"{step:09d}")
        rungs.append({"step": step, "report": report})
    found = climb(rungs)
    picture, rows, page = draw(found, out / "ladder.png"), as_rows(found), out / "index.html"
    replace_file(page, as_ladder(found, rows, run_dir.name, picture).encode())
    facts = {name: found[name] for name in ("steps", "curves", "verdicts", "controls", "warnings")}
    replace_file(out / "ladder.json", (json.dumps(facts, indent=1, allow_nan=False) + "\n").encode())
    own = table(rows[0], rows[1:], right=rows[0][1:-1])
    return found | {"rungs": rungs, "table": own, "picture": str(picture), "page": str(page)}


def climb(rungs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Curves of ``rungs`` {"step", "report"}, the controls, what a failed one voids, and warnings."""
    at = [rung["step"] for rung in rungs]
    reports = [rung["report"] for rung in rungs]
    curves: dict[str, Any] = {}
    checks: list[Control] = []
    for name, curve in MUST_FALL.items():
        values = [_value(curve, report) for report in reports]
        curves[name] = finite([None if value is None else float(np.mean(value)) for value in values])
        chosen = apart(at)
        if all(values[i] is not None for i in chosen):
            checks.append(improvement(name, [at[i] for i in chosen], np.array([values[i] for i in chosen])))
    for name, curve in OTHERS.items():
        curves[name] = finite([_value(curve, report) for report in reports])
    warnings = []
    for name, sign in (("error 50 ahead", 1), ("return", -1)):
        first, last = curves[name][0], curves[name][-1]
        if None not in (first, last) and sign * (last - first) > 0:
            warnings.append(f"{name}: {last:.3g} after all of training, {first:.3g} before")
    ratios = [value for value in curves["unseen / replayed"] if value is not None]
    if len(ratios) > 1 and ratios[-1] > OVERFITTED * min(ratios):
        warnings.append(f"unseen / replayed: {ratios[-1]:.3g} at the end, {min(ratios):.3g} before: over-fitting")
    verdicts = [report["latents"].get("verdict") for report in reports]
    if "collapsed" in verdicts[1:]:
        warnings.append(f"latents: collapsed at {at[1 + verdicts[1:].index('collapsed')]:,} agent steps")
    failed = {name for one in checks if not one.passed for name in one.void}
    curves |= {name: {"void": [f"{IMPROVES}: {name}"]} for name in failed}
    return {
        "steps": at,
        "curves": curves,
        "verdicts": verdicts,
        "controls": {one.name: finite(one.as_section()) for one in checks},
        "warnings": warnings,
    }


def apart(at: Sequence[int]) -> list[int]:
    """Indices of those steps that are nearest to ``SHARES`` of the last one and far enough apart; and of the first."""
    chosen = [0]
    for share in SHARES:
        nearest = int(np.argmin(np.abs(np.array(at) - share * at[-1])))
        fits = at[nearest] * APART <= at[-1] if share < 1 else True
        if fits and (chosen[-1] == 0 or at[nearest] >= APART * at[chosen[-1]]) and nearest != chosen[-1]:
            chosen.append(nearest)
    return chosen


def improvement(name: str, at: Sequence[int], errors: np.ndarray) -> Control:
    """Errors [R, E] of the same episodes fall with training, and the last are below the first beyond their interval."""
    order = spearman(np.array(at), errors.mean(1))
    episode = np.arange(errors.shape[1])
    less = bootstrap_rows(lambda column: column.mean(), errors[-1] - errors[0], episode=episode)
    passed = bool(order <= FALLS and less.high < 0)
    says = f"last less first: {float(less.value):.3g} ({float(less.low):.3g} to {float(less.high):.3g})"
    limit = f"<= {FALLS:g}, last < first"
    return Control(f"{IMPROVES}: {name}", order, limit, passed, (name,), says)


def draw(found: dict[str, Any], path: Path) -> Path:
    """Every curve that there is; what is void is grey."""
    drawn: dict[str, Any] = {}
    for name, values in found["curves"].items():
        if "void" in values:
            drawn[name] = None
        elif all(value is not None for value in values):
            drawn[name] = values
    figure, axes = open_panels(len(drawn), 3.2)
    for ax, (name, values) in zip(axes, drawn.items(), strict=True):
        if values is None:
            ax.text(0.5, 0.5, "void", ha="center", va="center", color="grey", fontsize=20, transform=ax.transAxes)
        else:
            ax.plot(found["steps"], values, marker="o")
        if name == "active latents" and values is not None:
            dead = [i for i, verdict in enumerate(found["verdicts"]) if verdict == "collapsed"]
            ax.plot([found["steps"][i] for i in dead], [values[i] for i in dead], "rx", markersize=12)
        if name == "unseen / replayed" and values is not None:
            ax.axhline(1, color="grey", linestyle="--", linewidth=1)
        ax.set_title(name, fontsize=12, fontweight="bold")
        ax.set_xlabel("agent steps of training")
        ax.grid(alpha=0.25)
    return save_picture(figure, path)


def as_rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """Heads, and one row for each rung."""
    curves, verdicts = found["curves"], found["verdicts"]
    rows: list[tuple[str, ...]] = [("agent steps", *curves, "latents")]
    for i, step in enumerate(found["steps"]):
        cells = ("void" if "void" in values else _n(values[i]) for values in curves.values())
        rows.append((f"{step:,}", *cells, verdicts[i] or "–"))
    return rows


def _n(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _value(curve: Curve, report: Report) -> Any:
    try:
        return curve(report)
    except (KeyError, IndexError, ValueError, TypeError):  # not measured, or void
        return None
