"""The same states and actions, looking otherwise: what the model makes of pictures that are drawn again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dreamer_jax.config.schema import Config
from dreamer_jax.envs.shifts.effects import effects
from dreamer_jax.envs.shifts.opening import not_applicable, under
from dreamer_jax.envs.shifts.table import SHIFTS
from dreamer_jax.evaluation.episodes import Records
from dreamer_jax.evaluation.features import observe
from dreamer_jax.evaluation.fidelity import Section, imagined, records_of
from dreamer_jax.evaluation.open_loop import predict
from dreamer_jax.evaluation.probes import Probed, score
from dreamer_jax.evaluation.recordings import Recording, cut, piece
from dreamer_jax.evaluation.robustness import some_states
from dreamer_jax.evaluation.simulator import Simulator
from dreamer_jax.evaluation.subject import Subject

SEEN, SETTLED = 10, 5
"""Records before predictions begin, and those after which a state that began with nothing is measured."""
AHEAD = (5, 15)
PAIRS = 400
"""States whose distances say how far apart two different ones are."""


class Look(NamedTuple):
    """What a model makes of pieces of episodes."""

    features: np.ndarray  # [N, F] states of the settled records
    r2: float  # of clean probes, mean of the targets
    imagined: float  # the same of the furthest imagined states
    error: float  # of predicted pictures, from those without a shift


def appearance(
    subject: Subject,
    config: Config,
    recordings: Sequence[Recording],
    probes: Mapping[str, Probed],
    simulator: Simulator,
    *,
    severities: Sequence[int],
    count: int,
    costly: bool,
    seed: int,
    note: Callable[[str], None],
) -> Section:
    """Every shift of pictures that can be undone, on ``count`` pieces of ``recordings``.

    ``latent_drift`` is how far a state goes from where the clean picture puts it, over the median distance of two
    clean states; ``latent_drop`` and ``imagined_drop`` are what probes of clean states lose of their R2, on states
    and on imagined ones; ``forecast_ratio`` is the error of predicted pictures over that without a shift, both from
    clean ones.
    """
    windows = cut(recordings, subject.spec, context=SEEN, horizon=max(AHEAD), count=count, seed=seed)
    ends = zip(windows.episode, windows.start, strict=True)
    clean = [piece(recordings[i], time - SEEN + 1, time + 1 + max(AHEAD)) for i, time in ends]
    base = look(subject, clean, clean, probes, seed)
    apart = median_distance(base.features, seed)
    unlike = max(float(np.abs(_difference(one, again)).max()) for one, again in _again(clean, simulator))
    found: Section = {
        "pieces": len(clean),
        "drawn_again": unlike,
        "clean": {"r2": base.r2, "imagined_r2": base.imagined, "error": base.error},
        "shifts": {},
    }
    states, actions = some_states(config, recordings, seed)
    refused = not_applicable(config.env)
    for name, shift in SHIFTS.items():
        if shift.fields is None or name in refused or (shift.costly and not costly):
            continue
        note(f"looks: {name}")
        known = effects(config.env, name, seed=seed, states=states, actions=actions, severities=severities)
        for severity, took in zip(severities, known, strict=True):
            with under(simulator.env, name, severity, seed=seed):
                other = [again for _, again in _again(clean, simulator)]
            theirs = look(subject, other, clean, probes, seed)
            drift = np.linalg.norm(theirs.features - base.features, axis=1).mean()
            found["shifts"].setdefault(name, {})[str(severity)] = {
                "effect": took.size,
                "took_effect": took.holds,
                "latent_drift": float(drift / apart) if apart > 0 else float("nan"),
                "latent_drop": base.r2 - theirs.r2,
                "imagined_drop": base.imagined - theirs.imagined,
                "forecast_ratio": theirs.error / base.error if base.error > 0 else float("nan"),
            }
    return found


def look(
    subject: Subject,
    shown: Sequence[Recording],
    clean: Sequence[Recording],
    probes: Mapping[str, Probed],
    seed: int,
) -> Look:
    """Of pieces as they are shown, beside the same ones as they were recorded."""
    features = observe(subject, shown, seed).features["state"]
    r2 = []
    for target, probed in probes.items():
        if target == "reward":
            continue
        rows: Records = records_of(features, clean, target)
        settled = rows.take(np.flatnonzero(rows.step >= SETTLED))
        r2.append(score(probed.probe, settled, seed=seed, resamples=1).mean.value)
    some = dict(context=SEEN, horizon=max(AHEAD), count=len(clean), seed=seed)
    windows, truth = cut(shown, subject.spec, **some), cut(clean, subject.spec, **some)
    prediction = predict(subject, windows, samples=4, seed=seed, frames=AHEAD)
    known = {target: probed for target, probed in probes.items() if target != "reward"}
    ahead = imagined(known, prediction, truth, clean, (max(AHEAD),), seed)
    errors = [
        np.square(pictures[1] - truth.ahead.observation[name][:, np.array(AHEAD) - 1] / 255).mean()
        for name, pictures in prediction.images.items()
    ]
    return Look(
        features[:, SETTLED:].reshape(-1, features.shape[-1]),
        _mean(r2),
        _mean([one["r2"] for by_horizon in ahead.values() for one in by_horizon.values()]),
        _mean(errors),
    )


def median_distance(features: np.ndarray, seed: int) -> float:
    """Of pairs of rows [N, F]."""
    some = np.random.default_rng(seed).permutation(len(features))[:PAIRS]
    rows = features[some].astype(np.float64)
    square = np.square(rows).sum(1)
    squares = square[:, None] + square - 2 * rows @ rows.T
    return float(np.median(np.sqrt(np.maximum(squares[np.triu_indices(len(rows), 1)], 0))))


def _again(pieces: Sequence[Recording], simulator: Simulator) -> list[tuple[Recording, Recording]]:
    """Each beside itself with pictures of the same states as they are drawn now."""
    found = []
    for one in pieces:
        assert one.simulator is not None
        drawn = simulator.show(one.simulator)
        columns = {f"observation/{name}": x for name, x in drawn.items()}
        found.append((one, one._replace(columns=one.columns | columns)))
    return found


def _difference(one: Recording, other: Recording) -> np.ndarray:
    return np.concatenate(
        [
            (other.columns[name].astype(np.float64) - x).ravel()
            for name, x in one.columns.items()
            if name.startswith("observation/")
        ]
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
