"""Does the model know what it was trained on better than what it has not seen?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dreamer_jax.datasets.dataset import columns
from dreamer_jax.evaluation.features import shown_numbers
from dreamer_jax.evaluation.fidelity import Section
from dreamer_jax.evaluation.intervals import bootstrap_episodes, divide, episode_sums
from dreamer_jax.evaluation.open_loop import predict
from dreamer_jax.evaluation.recordings import Recording, cut, shown
from dreamer_jax.evaluation.subject import Subject
from dreamer_jax.replay.export import stored_episodes
from dreamer_jax.runs.checkpoint import read_replays
from dreamer_jax.specs import EnvSpec

AHEAD = (1, 2, 5, 10, 15)
"""Steps ahead whose errors are added up."""


class Replayed(NamedTuple):
    """Episodes of a run's replay, the oldest first."""

    trained: list[Recording]
    held_out: list[Recording]


def replayed(run_dir: Path, spec: EnvSpec, episodes: int, steps: int) -> Replayed:
    """At most so many episodes of each kind, their first ``steps`` records.

    Raises:
      ConfigError: the run has no replay any more.
    """
    found: dict[bool, list[tuple[int, Recording]]] = {False: [], True: []}
    for ring in read_replays(run_dir):
        for env, _, rows in stored_episodes(ring):
            if len(rows) < 2 or not ring.column("is_first", env, rows[:1])[0]:
                continue
            held = "held_out" in ring.fields and bool(ring.column("held_out", env, rows[:1])[0])
            read = {name: ring.column(name, env, rows[:steps]) for name in columns(spec)}
            found[held].append((rows.start, Recording("replay", read, shown(spec, read))))
    first = [sorted(found[held], key=lambda pair: pair[0])[:episodes] for held in (False, True)]
    return Replayed(*([one for _, one in part] for part in first))


def overfitting(
    subject: Subject, known: Replayed, unseen: Sequence[Recording], *, starts: int, context: int, seed: int
) -> Section:
    """Errors up to 15 ahead over those of repeating the last record: in episodes of the replay, and in unseen ones.

    Unseen are episodes that the run has held out, where there are three, else those that were played for the judgement.
    ``ratio`` is the second over the first: one that rises with training says that the model learns its replay by heart.
    Beside held-out episodes that is all it says; beside played ones those of another policy count, too.
    """
    held = len(known.held_out) >= 3
    sums = []
    for recordings in (known.trained, known.held_out if held else list(unseen)):
        long = [one for one in recordings if one.length > context + max(AHEAD)]
        if len(long) < 2:
            return {"left_out": f"fewer than two episodes with {context + max(AHEAD) + 1} records"}
        sums.append(_errors(subject, long, starts, context, seed))
    found: Section = {"held_out": held, "ahead": list(AHEAD)}
    for name, (own, last) in zip(("replay", "unseen"), sums, strict=True):
        value, low, high = bootstrap_episodes(divide, own, last, seed=seed)
        found[name] = {"episodes": len(own), "error": float(value), "ci95": [float(low), float(high)]}
    return found | {"ratio": found["unseen"]["error"] / found["replay"]["error"]}


def _errors(
    subject: Subject, recordings: Sequence[Recording], starts: int, context: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over each episode [E] of the model's squared errors, and of those of the last record."""
    windows = cut(recordings, subject.spec, context=context, horizon=max(AHEAD), count=starts, seed=seed)
    prediction = predict(subject, windows, samples=4, seed=seed, frames=AHEAD)
    at, own, last = np.array(AHEAD) - 1, np.zeros(len(windows.start)), np.zeros(len(windows.start))
    if prediction.numbers is not None:
        truth = shown_numbers(subject, windows.ahead.observation)[:, at]
        scale = truth.var((0, 1))
        scale = np.where(scale > 1e-6, scale, np.inf)
        before = shown_numbers(subject, windows.seen.observation)[:, -1:]
        own += (np.square(prediction.numbers.mean(0)[:, at] - truth) / scale).mean((1, 2))
        last += (np.square(before - truth) / scale).mean((1, 2))
    for name, pictures in prediction.images.items():
        frames = windows.ahead.observation[name][:, at] / 255
        before = windows.seen.observation[name][:, -1:] / 255
        own += np.square(pictures[1] - frames).mean((1, 2, 3, 4))
        last += np.square(before - frames).mean((1, 2, 3, 4))
    return episode_sums(own, windows.episode), episode_sums(last, windows.episode)
