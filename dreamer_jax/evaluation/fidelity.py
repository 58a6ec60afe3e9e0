"""What a model's features know of the world's state: probes and information, beside what they should be measured by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dreamer_jax.evaluation.episodes import Records, Split
from dreamer_jax.evaluation.features import Observed
from dreamer_jax.evaluation.information import projection_information
from dreamer_jax.evaluation.mlp_probe import fit_mlp
from dreamer_jax.evaluation.open_loop import Prediction
from dreamer_jax.evaluation.probes import Probed, fit_ridge, probe_features, score
from dreamer_jax.evaluation.recordings import Recording, Windows
from dreamer_jax.evaluation.ridge import VARIANCE_FLOOR

Section = dict[str, Any]
"""A part of a report, ready for JSON."""
WIDEST = 2048
"""Features wider than this, such as tokens of images, are projected at random to so many."""


def records_of(features: np.ndarray, recordings: Sequence[Recording], target: str) -> Records:
    """Rows of all records that there are, of features [N, T, F]."""
    lengths = [one.length for one in recordings]
    rows = np.concatenate([features[index, :length] for index, length in enumerate(lengths)])
    return Records(
        _narrow(rows),
        np.concatenate([one.targets[target] for one in recordings]),
        np.repeat(np.arange(len(recordings)), lengths),
        np.concatenate([np.arange(length) for length in lengths]),
    )


def _narrow(rows: np.ndarray) -> np.ndarray:
    if rows.shape[1] <= WIDEST:
        return rows
    projection = np.random.default_rng(0).normal(size=(rows.shape[1], WIDEST)).astype(np.float32)
    return rows @ projection / np.sqrt(np.float32(WIDEST))


def fidelity(
    observed: Observed, untrained: Observed | None, recordings: Sequence[Recording], split: Split, seed: int
) -> tuple[Section, dict[str, Probed]]:
    """R2 of every group of targets from every feature, linear; of the whole state also by an MLP.

    Beside it what the same networks have untrained, what the environment's own observation allows (the ceiling), what
    the number of the record says alone, and the same fit to targets of another episode (selectivity). Returns the
    linear probes of the state by target, too.
    """
    found: Section = {}
    probes: dict[str, Probed] = {}
    for target in sorted(recordings[0].targets):
        if not _varies(recordings, split, target):
            continue
        shown = _ceiling(recordings, target)
        ceiling = (
            {}
            if shown is None
            else {
                "ridge": probe_features(shown, split, seed=seed),
                "mlp": probe_features(shown, split, fit_mlp, seed=seed),
            }
        )
        steps = np.broadcast_to(np.arange(observed.real.shape[1])[:, None], (*observed.real.shape, 1))
        alone = probe_features(records_of(steps.astype(np.float64), recordings, target), split, seed=seed)
        found[target] = {"time": {"ridge": _row(alone, None, ceiling.get("ridge"))}}
        for name, features in observed.features.items():
            if not features.shape[-1]:
                continue
            fits = {"ridge": fit_ridge} | ({"mlp": fit_mlp} if name == "state" else {})
            for kind, fit in fits.items():
                own = probe_features(records_of(features, recordings, target), split, fit, seed=seed)
                floor = None
                if untrained is not None:
                    floor = probe_features(
                        records_of(untrained.features[name], recordings, target), split, fit, seed=seed
                    )
                found[target].setdefault(name, {})[kind] = _row(own, floor, ceiling.get(kind))
                if (name, kind) == ("state", "ridge"):
                    probes[target] = own
    return found, probes


def _varies(recordings: Sequence[Recording], split: Split, target: str) -> bool:
    return bool(np.concatenate([recordings[i].targets[target] for i in split.test]).var(0).max() >= VARIANCE_FLOOR)


def _ceiling(recordings: Sequence[Recording], target: str) -> Records | None:
    """The same numbers from all numbers that the environment shows; None where it shows none."""
    if "observation" not in recordings[0].targets:
        return None
    longest = max(one.length for one in recordings)
    shown = np.stack([np.pad(one.targets["observation"], ((0, longest - one.length), (0, 0))) for one in recordings])
    return records_of(shown, recordings, target)


def _row(own: Probed, floor: Probed | None, ceiling: Probed | None) -> Section:
    value, low, high = own.score.mean
    row: Section = {"r2": value, "ci95": [low, high], "median": own.score.median, "least": own.score.least}
    row |= {"each": own.score.each.value.tolist(), "excluded": list(own.score.excluded)}
    row["selectivity"] = own.selectivity
    if floor is not None:
        row |= {"untrained": floor.score.mean.value, "gain": value - floor.score.mean.value}
    if ceiling is not None:
        row |= {"ceiling": ceiling.score.mean.value, "ceiling_ratio": value / ceiling.score.mean.value}
    return row


def imagined(
    probes: dict[str, Probed],
    prediction: Prediction,
    windows: Windows,
    recordings: Sequence[Recording],
    horizons: Sequence[int],
    seed: int,
) -> Section:
    """R2 of the linear probes on imagined states, by target and horizon: they were fitted to observed ones."""
    found: Section = {}
    for target, probed in probes.items():
        for h in (h for h in horizons if h <= prediction.features.shape[1]):
            truth = np.stack(
                [recordings[i].targets[target][t + h] for i, t in zip(windows.episode, windows.start, strict=True)]
            )
            if truth.var(0).max() < VARIANCE_FLOOR:
                continue
            rows = Records(prediction.features[:, h - 1], truth, windows.episode, windows.start + h)
            value, low, high = score(probed.probe, rows, seed=seed).mean
            found.setdefault(target, {})[str(h)] = {"r2": value, "ci95": [low, high]}
    return found


def information(
    probes: dict[str, Probed], observed: Observed, recordings: Sequence[Recording], split: Split, seed: int
) -> Section:
    """Nats that the state has of each number, by what its linear probe says of it in unseen episodes."""
    found: Section = {}
    for target, probed in probes.items():
        rows = records_of(observed.features["state"], recordings, target).of(split.test)
        kept = np.delete(np.arange(rows.targets.shape[1]), probed.score.excluded)
        said = probed.probe.predict(rows.features).mean(0)[:, kept]
        one = projection_information(said, rows.targets[:, kept], rows.episode, rows.step, seed=seed)
        found[target] = {
            "nats": one.value.tolist(),
            "lower_bound": one.bound.tolist(),
            "null": {"mean": one.null_mean.tolist(), "std": one.null_std.tolist()},
            "control": one.control.tolist(),
            "accepted": (one.recovered & one.stable).tolist(),
            "saturated": one.saturated.tolist(),
            "ceiling": one.ceiling,
            "sum_of_marginals": one.sum_of_marginals,
        }
    return found
