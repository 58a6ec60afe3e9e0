"""A run judged, at one checkpoint or at all of them, on the same episodes."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_jax.analysis.plot import open_panels, save_picture
from dreamer_jax.config.schema import Config, ConfigError
from dreamer_jax.evaluation.judge import PROFILES, data_recordings, finite, judge, reference_recordings
from dreamer_jax.evaluation.recordings import Recording
from dreamer_jax.evaluation.score_card import write
from dreamer_jax.evaluation.subject import Subject, of_run, untrained
from dreamer_jax.runs.facts import steps
from dreamer_jax.terminal import table

VERSIONS = ("dreamer-jax", "jax", "flax", "mujoco", "dm_control", "numpy", "scipy")
CURVES = {
    "error 5 ahead": lambda report: _ahead(report, 5),
    "error 15 ahead": lambda report: _ahead(report, 15),
    "reward error 5 ahead": lambda report: _reward(report, 5),
    "reconstruction": lambda report: float(np.mean(list(report["reconstruction"]["posterior"].values()))),
    "R2 of the state": lambda report: _state(report),
    "active latents": lambda report: report["latents"]["active"],
    "KL": lambda report: report["latents"]["kl"],
}
FALLING = ("error 5 ahead", "error 15 ahead", "reward error 5 ahead", "reconstruction")
"""What longer training must improve."""


def evaluate_run(
    run_dir: Path,
    *,
    checkpoint: int | None = None,
    profile: str = "quick",
    seed: int = 0,
    data: str | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """The report of a run at a checkpoint, or its newest.

    Args:
      data: datasets, with commas, instead of episodes that are played for it.

    Raises:
      ConfigError: there is no such run, checkpoint or dataset, or nothing can be played.
    """
    newest, config = of_run(run_dir)
    subject = newest if checkpoint is None else of_run(run_dir, checkpoint)[0]
    recordings = _recordings(newest, config, profile, seed, data, note)
    return report_of(run_dir, subject, config, recordings, profile, seed, checkpoint, note)


def _recordings(
    subject: Subject,
    config: Config,
    profile: str,
    seed: int,
    data: str | None,
    note: Callable[[str], None],
) -> list[Recording]:
    one = PROFILES[profile]
    images = any(leaf.image for leaf in subject.spec.observation.values())
    episodes = one.image_episodes if images else one.episodes
    if data is not None:
        return data_recordings(data, subject, episodes)
    note(f"playing {episodes} episodes")
    return reference_recordings(subject, config, episodes, seed)


def report_of(
    run_dir: Path,
    subject: Subject,
    config: Config,
    recordings: list[Recording],
    profile: str,
    seed: int,
    checkpoint: int | None,
    note: Callable[[str], None],
) -> dict[str, Any]:
    judged = judge(subject, config, recordings, PROFILES[profile], seed=seed, note=note)
    meta = {
        "name": run_dir.name,
        "task": config.env.task,
        "preset": config.preset,
        "action_repeat": config.env.action_repeat,
        "observation": config.env.observation,
        "checkpoint": max(steps(run_dir), default=0) if checkpoint is None else checkpoint,
        "profile": profile,
        "seed": seed,
        "data": judged.report["data"]["hash"],
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in VERSIONS},
    }
    return {"meta": meta, **judged.report}


def ladder(
    run_dir: Path,
    out: Path,
    *,
    profile: str,
    seed: int,
    data: str | None,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Reports of every checkpoint and of untrained networks, on the same episodes, and each criterion against training.

    Raises:
      ConfigError: the run has one checkpoint (``train.keep_checkpoints`` says how many stay).
    """
    known = steps(run_dir)
    if len(known) < 2:
        raise ConfigError(f"--ladder: {run_dir} has {len(known)} checkpoint; train with --train.keep_checkpoints 10")
    subject, config = of_run(run_dir)
    recordings = _recordings(subject, config, profile, seed, data, note)
    rungs: list[dict[str, Any]] = []
    for step in [0, *known]:
        one = untrained(subject, seed) if step == 0 else of_run(run_dir, step)[0]
        note(f"checkpoint {step:,}")
        report = report_of(run_dir, one, config, recordings, profile, seed, step, note)
        write(report, out / f"{step:09d}")
        rungs.append({"step": step, "report": report})
    curves = {name: [finite(_value(curve, rung["report"])) for rung in rungs] for name, curve in CURVES.items()}
    drawn = {name: values for name, values in curves.items() if all(value is not None for value in values)}
    figure, axes = open_panels(len(drawn), 3.2)
    for ax, (name, values) in zip(axes, drawn.items(), strict=True):
        ax.plot([rung["step"] for rung in rungs], values, marker="o")
        ax.set_title(name, fontsize=12, fontweight="bold")
        ax.set_xlabel("agent steps of training")
        ax.grid(alpha=0.25)
    picture = save_picture(figure, out / "ladder.png")
    rows = [
        (f"{rung['step']:,}", *("–" if curves[name][i] is None else f"{curves[name][i]:.3g}" for name in curves))
        for i, rung in enumerate(rungs)
    ]
    worse = [name for name in FALLING if name in drawn and drawn[name][-1] > drawn[name][0]]
    return {
        "rungs": rungs,
        "curves": curves,
        "worse_than_untrained": worse,
        "table": table(("agent steps", *curves), rows, right=tuple(curves)),
        "picture": str(picture),
    }


def _value(curve: Callable[[dict[str, Any]], Any], report: dict[str, Any]) -> Any:
    try:
        return curve(report)
    except (KeyError, IndexError, ValueError):  # not measured, or void
        return None


def _ahead(report: dict[str, Any], h: int) -> Any:
    numbers = next(iter(report["forecast"].values()))["numbers"]
    return numbers["nmse"][numbers["horizons"].index(h)]


def _reward(report: dict[str, Any], h: int) -> Any:
    reward = next(iter(report["forecast"].values()))["reward"]
    return reward["nmse"][reward["horizons"].index(h)]


def _state(report: dict[str, Any]) -> float:
    return float(np.mean([features["state"]["ridge"]["r2"] for features in report["fidelity"].values()]))
