"""What the frozen features of every method know and predict: the same recordings, decoder and dynamics for all.

A world model's own predictions are *native*. *Post hoc* is a linear decoder of the observation from features, and
linear dynamics of features and actions, rolled forward and decoded, by the same ridge regression for every method, of
world models too. The observation itself is beside them as if it were a method's features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from comparison.adapter import spec_of, vector
from comparison.protocol import RECORDING_SEED, Frozen, Protocol
from dreamer_jax.config.schema import EnvConfig
from dreamer_jax.datasets.collect import Actor, ornstein_uhlenbeck, uniform
from dreamer_jax.evaluation.baselines import (
    fit_autoregression,
    forecast_autoregression,
    forecast_mean,
    forecast_persistence,
)
from dreamer_jax.evaluation.episodes import Split, split_episodes
from dreamer_jax.evaluation.fidelity import records_of
from dreamer_jax.evaluation.forecast_scores import Forecast, score_forecast
from dreamer_jax.evaluation.forecasts import score_numbers, side_by_side
from dreamer_jax.evaluation.judge import OU_NOISE
from dreamer_jax.evaluation.open_loop import predict
from dreamer_jax.evaluation.play import MakeActor, play
from dreamer_jax.evaluation.probes import probe_features
from dreamer_jax.evaluation.recordings import Recording, Windows, cut, fingerprint
from dreamer_jax.specs import EnvSpec

CONTEXT, SAMPLES, LONGEST = 5, 8, 100_000
OBSERVATION = "observation"


def predictions(
    protocol: Protocol, env: EnvConfig, agents: Mapping[str, Frozen], demonstrator: MakeActor, seed: int
) -> dict[str, Any]:
    """By method: R2 of the observation from features, and normalised errors ahead, post hoc and native."""

    def correlated(spec: EnvSpec, count: int, rng: np.random.Generator) -> Actor:
        return ornstein_uhlenbeck(spec, count, rng, OU_NOISE)

    actors: dict[str, MakeActor] = {"random": uniform, "correlated noise": correlated, "demonstrator": demonstrator}
    recordings = play(env, actors, episodes=protocol.recorded, steps=LONGEST, seed=RECORDING_SEED + seed)
    spec, split = spec_of(env), split_episodes([one.source for one in recordings], seed)
    test = [recordings[i] for i in split.test]
    horizon = max(protocol.horizons)
    windows = cut(test, spec, context=CONTEXT, horizon=horizon, count=protocol.starts, seed=seed)
    found: dict[str, Any] = {"hash": fingerprint(recordings), "episodes": len(recordings), "methods": {}}
    longest = max(one.length for one in recordings)
    shown = [np.pad(one.targets[OBSERVATION], ((0, longest - one.length), (0, 0))) for one in recordings]
    features = {OBSERVATION: np.stack(shown)} | {name: one.features(recordings) for name, one in agents.items()}
    for name, known in features.items():
        row, baselines = post_hoc(protocol, spec, known, recordings, split, windows, seed)
        subject = agents[name].subject if name in agents else None
        if subject is not None:
            ahead = predict(subject, windows, samples=SAMPLES, seed=seed)
            scores, _ = score_numbers(subject, recordings, split, windows, ahead, seed)
            row["native_nmse"] = [float(scores.nmse[h - 1]) for h in protocol.horizons]
        found["methods"][name] = row
        found["baselines"] = baselines
    return found


def post_hoc(
    protocol: Protocol,
    spec: EnvSpec,
    features: np.ndarray,
    recordings: Sequence[Recording],
    split: Split,
    windows: Windows,
    seed: int,
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Of features [N, T, F]; and the errors of forecasts that need none."""
    decoder = probe_features(records_of(features, recordings, OBSERVATION), split, seed=seed)
    sequences = {
        part: [(features[i, : recordings[i].length], actions_of(spec, recordings[i])) for i in getattr(split, part)]
        for part in ("train", "validation")
    }
    dynamics = fit_autoregression(sequences["train"], sequences["validation"])
    start = np.stack([features[split.test[i], t] for i, t in zip(windows.episode, windows.start, strict=True)])
    rolled = forecast_autoregression(dynamics, start, side_by_side(windows.ahead.prev_action, 2))
    decoded = decoder.probe.predict(rolled.reshape(-1, rolled.shape[-1]))[0].reshape(*rolled.shape[:2], -1)
    truth = vector(spec, windows.ahead.observation, 2)
    train = np.concatenate([recordings[i].targets[OBSERVATION] for i in split.train])
    last = vector(spec, windows.seen.observation, 2)[:, -1]
    baselines = {
        "mean": forecast_mean(train, *truth.shape[:2]),
        "persistence": forecast_persistence(last, truth.shape[1]),
    }
    scores = score_forecast(Forecast(decoded[None], truth, baselines, windows.episode), train.var(0), seed=seed)
    row = {"r2": decoder.score.mean.value, "features": features.shape[-1]}
    at = np.array(protocol.horizons) - 1
    row["post_hoc_nmse"] = scores.nmse[at].tolist()
    return row, {name: x[at].tolist() for name, x in scores.baseline_nmse.items()}


def actions_of(spec: EnvSpec, recording: Recording) -> np.ndarray:
    """Side by side [T, A]."""
    return side_by_side({name: recording.columns[f"action/{name}"] for name in spec.action}, 1)
