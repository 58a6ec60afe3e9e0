"""Does a model know what actions do, and what a behavior is worth? Answers need a simulator whose state can be set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dreamer_jax.datasets.collect import ornstein_uhlenbeck, uniform
from dreamer_jax.evaluation.agreement import counterfactual_r2, sure_agreement
from dreamer_jax.evaluation.closed_loop import play_on, record, restored
from dreamer_jax.evaluation.features import image_names, number_names, shown_numbers
from dreamer_jax.evaluation.fidelity import Section
from dreamer_jax.evaluation.open_loop import Prediction, predict
from dreamer_jax.evaluation.recordings import Recording, cut
from dreamer_jax.evaluation.simulator import Simulator
from dreamer_jax.evaluation.subject import Subject
from dreamer_jax.types import ArrayDict

SOME_NOISE = 0.35
"""Deviation of the second of two sequences of actions that are compared."""


class Returns(NamedTuple):
    """Sums of rewards over ``horizon`` steps from the same states [S]: imagined, and realised in the simulator."""

    horizon: int
    imagined: np.ndarray
    realised: np.ndarray
    episode: np.ndarray

    def as_section(self, seed: int) -> Section:
        """How well they agree; a bias above 0 is what a policy has found in the model that is not there."""
        found: Section = {"horizon": self.horizon, "states": len(self.imagined)}
        found |= {"mean_imagined": float(self.imagined.mean()), "mean_realised": float(self.realised.mean())}
        found |= sure_agreement(self.imagined, self.realised, self.episode, seed)
        return found | {"imagined": self.imagined.tolist(), "realised": self.realised.tolist()}


def counterfactual(
    subject: Subject,
    recordings: Sequence[Recording],
    simulator: Simulator,
    *,
    horizons: Sequence[int],
    count: int,
    context: int,
    samples: int,
    seed: int,
) -> Section:
    """R2 of what one sequence of actions does rather than another, from each of ``count`` states.

    The two sequences are uniform and correlated noise. What is compared are numbers, or pixels where there are none.
    """
    length = max(horizons)
    windows = cut(recordings, subject.spec, context=context, horizon=length, count=count, seed=seed)
    rows = len(windows.start)
    rng = np.random.default_rng([seed, 1])
    actors = [
        uniform(subject.spec, rows, rng),
        ornstein_uhlenbeck(subject.spec, rows, rng, SOME_NOISE),
    ]
    last = record(windows.seen, -1)
    sequences = [
        {name: np.stack([one[name] for one in drawn], 1) for name in subject.spec.action}
        for drawn in ([actor(last) for _ in range(length)] for actor in actors)
    ]
    states = restored(recordings, windows)
    truth = [_follow(simulator, states, actions, horizons, subject) for actions in sequences]
    frames = tuple(horizons)
    model = [
        predict(subject, windows, samples=samples, seed=seed, frames=frames, actions=actions) for actions in sequences
    ]
    guess = [_at(prediction, horizons) for prediction in model]
    known = np.concatenate([_shown(subject, one) for one in recordings])
    r2 = counterfactual_r2((guess[0], guess[1]), (truth[0], truth[1]), known.var(0), start=windows.episode, seed=seed)
    found: Section = {"horizons": list(horizons), "states": rows}
    return found | {"r2": r2.value.tolist(), "low": r2.low.tolist(), "high": r2.high.tolist()}


def _shown(subject: Subject, recording: Recording) -> np.ndarray:
    return _side_by_side({name: recording.columns[f"observation/{name}"] for name in subject.spec.observation}, subject)


def _follow(
    simulator: Simulator, states: np.ndarray, actions: ArrayDict, horizons: Sequence[int], subject: Subject
) -> np.ndarray:
    """What is shown after each of the horizons [S, K, D]."""
    kept = []
    for step in range(max(horizons)):
        wanted = step + 1 in horizons
        rows = simulator.step(states, {name: x[:, step] for name, x in actions.items()}, show=wanted)
        states = rows.state
        if wanted:
            kept.append(_side_by_side(rows.observation, subject))
    return np.stack(kept, 1)


def _side_by_side(observation: ArrayDict, subject: Subject) -> np.ndarray:
    """Numbers [S, D], or where there are none the pixels in [0, 1]."""
    if number_names(subject):
        return shown_numbers(subject, {name: x[:, None] for name, x in observation.items()})[:, 0]
    return np.concatenate(
        [observation[name].reshape(len(observation[name]), -1) / 255 for name in image_names(subject)], 1
    )


def _at(prediction: Prediction, horizons: Sequence[int]) -> np.ndarray:
    """The mean prediction at the horizons [S, K, D], as ``_side_by_side``."""
    if prediction.numbers is not None:
        return prediction.numbers.mean(0)[:, np.array(horizons) - 1]
    parts = [x[1].reshape(*x.shape[1:3], -1) for x in prediction.images.values()]
    return np.concatenate(parts, -1)


def returns(
    subject: Subject,
    recordings: Sequence[Recording],
    simulator: Simulator,
    *,
    horizon: int,
    count: int,
    context: int,
    samples: int,
    seed: int,
) -> Returns:
    """The policy's own future from the same states, imagined and real, actions sampled.

    An imagined future does not end; where the real one does, its sum does.
    """
    windows = cut(recordings, subject.spec, context=context, horizon=horizon, count=count, seed=seed)
    imagined = predict(subject, windows, samples=samples, seed=seed, policy=True)
    states = restored(recordings, windows)
    played = [
        play_on(subject, windows, states, simulator, horizon=horizon, seed=seed + sample).reward.sum(1, np.float64)
        for sample in range(2)
    ]
    return Returns(horizon, imagined.reward.sum(-1, np.float64).mean(0), np.mean(played, 0), windows.episode)
