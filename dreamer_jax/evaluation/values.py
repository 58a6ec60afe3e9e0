"""What a critic promises beside the discounted rewards that come: in the simulator, or in the policy's episodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from dreamer_jax.evaluation.agreement import sure_agreement
from dreamer_jax.evaluation.closed_loop import play_on, restored
from dreamer_jax.evaluation.features import IMAGE_ROWS, ROWS, image_names
from dreamer_jax.evaluation.fidelity import Section
from dreamer_jax.evaluation.recordings import Recording, as_batch, cut
from dreamer_jax.evaluation.simulator import Simulator
from dreamer_jax.evaluation.subject import Critic, Subject
from dreamer_jax.types import Array, TrajectoryBatch

TAIL = 0.05
"""A sum of rewards ends where so much of the discount is left, if it may last so long."""
LEAST = 200
"""Records from a state to the end of its recording, unless it terminates there."""


def of_states(
    subject: Subject,
    critic: Critic,
    recordings: Sequence[Recording],
    simulator: Simulator,
    *,
    most: int,
    count: int,
    context: int,
    seed: int,
) -> Section:
    """From restored states, time limits put off; sums are of ``most`` records or fewer."""
    length = min(most, math.ceil(math.log(TAIL) / math.log(critic.discount)))
    windows = cut(recordings, subject.spec, context=context, horizon=1, count=count, seed=seed)
    states = restored(recordings, windows)
    played = play_on(subject, windows, states, simulator, horizon=length, seed=seed, endless=True)
    features, value = subject.model.dynamics.features, jax.jit(critic.value)
    first, last = (np.asarray(value(subject.params, features(latent))) for latent in (played.start, played.end))
    reward = np.concatenate([windows.seen.reward[:, -1:], played.reward], 1)
    realised = discounted(reward, critic)
    promised = first - critic.discount**length * np.where(played.going_on, last, 0)
    found = {"from": "states", "records": length, "tail": critic.discount**length}
    return found | _section(promised, realised, windows.episode, critic, seed)


def of_recordings(
    subject: Subject, critic: Critic, recordings: Sequence[Recording], context: int, seed: int
) -> Section:
    """From every record of the policy's own episodes that has enough behind it."""
    observed = _values(subject, critic, recordings, seed)
    sums = [to_the_end(one, value[: one.length], critic) for one, value in zip(recordings, observed, strict=True)]
    kept = [np.arange(one.length) >= context - 1 for one in recordings]
    for one, keep in zip(recordings, kept, strict=True):
        ends = bool(one.columns["is_terminal"][-1])
        keep &= np.arange(one.length) < (one.length - 1 if ends else one.length - LEAST)
    episode = np.repeat(np.arange(len(recordings)), [keep.sum() for keep in kept])
    if not len(episode):
        return {"left_out": f"no episode of the policy terminates, or has {LEAST} records behind the first {context}"}
    promised, realised = (
        np.concatenate([pair[side][keep] for pair, keep in zip(sums, kept, strict=True)]) for side in range(2)
    )
    return {"from": "recordings", "records": LEAST} | _section(promised, realised, episode, critic, seed)


def discounted(reward: Array, critic: Critic) -> np.ndarray:
    """Sums [S] of rewards [S, H+1], the states' own ones first: of them and H - 1 more, or of the H that follow."""
    rows = np.asarray(reward, np.float64)
    rows = rows[:, :-1] if critic.own else rows[:, 1:]
    return np.asarray(rows @ critic.discount ** np.arange(rows.shape[1]))


def to_the_end(recording: Recording, value: Array, critic: Critic) -> tuple[np.ndarray, np.ndarray]:
    """Of each record [T] what the critic says that the rest of the recording is worth, and what it was worth."""
    reward, value = (np.asarray(x, np.float64) for x in (recording.columns["reward"], value))
    last, ends = len(reward) - 1, bool(recording.columns["is_terminal"][-1])
    left = critic.discount ** (last - np.arange(last + 1))
    worth = np.zeros(last + 1)
    worth[last] = reward[last] if critic.own and ends else 0
    for time in range(last - 1, -1, -1):
        worth[time] = (
            reward[time] + critic.discount * worth[time + 1]
            if critic.own
            else reward[time + 1] + critic.discount * worth[time + 1]
        )
    return value - (0 if ends else left * value[last]), worth


def _values(subject: Subject, critic: Critic, recordings: Sequence[Recording], seed: int) -> np.ndarray:
    """Of all records [N, T]."""

    @jax.jit
    def see(params: Any, key: Array, rows: Array, batch: TrajectoryBatch) -> Array:
        posterior = subject.model.observe(params["model"], key, rows, batch)
        return critic.value(params, subject.model.dynamics.features(posterior))

    batch, _ = as_batch(recordings, subject.spec)
    size, found = IMAGE_ROWS if image_names(subject) else ROWS, []
    for start in range(0, len(recordings), size):
        rows = np.arange(start, min(start + size, len(recordings)))
        chunk = jax.tree.map(lambda x, rows=rows: x[rows], batch)
        found.append(np.asarray(see(subject.params, jax.random.key(seed), rows, chunk)))
    return np.concatenate(found)


def _section(promised: np.ndarray, realised: np.ndarray, episode: np.ndarray, critic: Critic, seed: int) -> Section:
    found: Section = {"states": len(promised), "discount": critic.discount}
    found |= {"mean_promised": float(promised.mean()), "mean_realised": float(realised.mean())}
    found |= sure_agreement(promised, realised, episode, seed)
    shown = np.linspace(0, len(promised) - 1, min(300, len(promised))).astype(int)
    return found | {"promised": promised[shown].tolist(), "realised": realised[shown].tolist()}
