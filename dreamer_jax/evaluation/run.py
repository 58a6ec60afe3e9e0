"""A run judged, at one checkpoint or at all of them, on the same episodes."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from dreamer_jax.config.schema import Config, ConfigError
from dreamer_jax.evaluation.judge import EPISODE_RECORDS, data_recordings, judge, reference_recordings
from dreamer_jax.evaluation.overfitting import Replayed, replayed
from dreamer_jax.evaluation.profiles import PROFILES
from dreamer_jax.evaluation.recordings import Recording
from dreamer_jax.evaluation.subject import Subject, of_run
from dreamer_jax.runs.facts import steps

VERSIONS = ("dreamer-jax", "jax", "flax", "mujoco", "dm_control", "numpy", "scipy")
EARLIER = 2
"""Checkpoints whose policies are put in order with that of the one that is judged."""


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
    recordings = own_recordings(newest, config, profile, seed, data, note)
    known = known_episodes(run_dir, subject, profile)
    return report_of(run_dir, subject, config, recordings, known, profile, seed, checkpoint, note)


def known_episodes(run_dir: Path, subject: Subject, profile: str) -> Replayed | None:
    """Those of the run's replay, if it is there."""
    try:
        return replayed(run_dir, subject.spec, PROFILES[profile].suiting(subject).episodes, EPISODE_RECORDS)
    except ConfigError:
        return None


def own_recordings(
    subject: Subject,
    config: Config,
    profile: str,
    seed: int,
    data: str | None,
    note: Callable[[str], None],
) -> list[Recording]:
    """Those of ``data``, or new ones."""
    episodes = PROFILES[profile].suiting(subject).episodes
    if data is not None:
        return data_recordings(data, subject, episodes)
    note(f"playing {episodes} episodes")
    return reference_recordings(subject, config, episodes, seed)


def report_of(
    run_dir: Path,
    subject: Subject,
    config: Config,
    recordings: list[Recording],
    known: Replayed | None,
    profile: str,
    seed: int,
    checkpoint: int | None,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """The report of one checkpoint, or of the newest where none is named."""
    newest = max(steps(run_dir), default=0)
    judged = judge(
        subject,
        config,
        recordings,
        PROFILES[profile],
        seed=seed,
        newest=checkpoint in (None, newest),
        earlier=_earlier(run_dir, subject, newest if checkpoint is None else checkpoint),
        known=known,
        note=note,
    )
    meta = {
        "name": run_dir.name,
        "task": config.env.task,
        "preset": config.preset,
        "action_repeat": config.env.action_repeat,
        "observation": config.env.observation,
        "checkpoint": newest if checkpoint is None else checkpoint,
        "profile": profile,
        "seed": seed,
        "data": judged.report["data"]["hash"],
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in VERSIONS},
    }
    return {"meta": meta, **judged.report}


def _earlier(run_dir: Path, subject: Subject, checkpoint: int) -> dict[str, Subject]:
    """The first checkpoint before ``checkpoint`` that has learnt anything, and one halfway."""
    before = [step for step in steps(run_dir) if 0 < step < checkpoint]
    chosen = sorted({before[0], before[len(before) // 2]})[:EARLIER] if before else []
    return {f"checkpoint {step}": subject._replace(params=of_run(run_dir, step)[0].params) for step in chosen}
