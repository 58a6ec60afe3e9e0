"""How far ahead a model sees, and how sure it is: errors by horizon beside those of forecasts without a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dreamer_jax.evaluation.baselines import (
    fit_autoregression,
    forecast_autoregression,
    forecast_mean,
    forecast_persistence,
)
from dreamer_jax.evaluation.calibration import calibrate
from dreamer_jax.evaluation.episodes import Split
from dreamer_jax.evaluation.features import number_names, shown_numbers
from dreamer_jax.evaluation.fidelity import Section
from dreamer_jax.evaluation.forecast_scores import Forecast, ForecastScores, normalise, score_forecast
from dreamer_jax.evaluation.image_scores import ImageScores, score_images
from dreamer_jax.evaluation.intervals import divide, episode_means
from dreamer_jax.evaluation.open_loop import Prediction, predict
from dreamer_jax.evaluation.recordings import Recording, Windows, cut
from dreamer_jax.evaluation.reward_scores import score_rewards
from dreamer_jax.evaluation.subject import Subject
from dreamer_jax.types import ArrayDict

HORIZONS = (1, 2, 5, 10, 15, 25, 50)
"""Steps ahead that a report names."""


def forecasts(
    subject: Subject,
    recordings: Sequence[Recording],
    split: Split,
    *,
    contexts: Sequence[int],
    horizon: int,
    starts: int,
    samples: int,
    seed: int,
) -> tuple[Section, dict[int, tuple[Windows, Prediction]]]:
    """By the number of records seen first: errors of numbers, images and rewards in unseen episodes.

    Returns what was predicted, too, by context.
    """
    test = [recordings[i] for i in split.test]
    found: Section = {}
    made: dict[int, tuple[Windows, Prediction]] = {}
    named = [h for h in HORIZONS if h <= horizon]
    for context in contexts:
        windows = cut(test, subject.spec, context=context, horizon=horizon, count=starts, seed=seed)
        prediction = predict(subject, windows, samples=samples, seed=seed, frames=named)
        made[context] = windows, prediction
        section: Section = {
            "starts": len(windows.start),
            "reward": rewards(recordings, split, windows, prediction, named),
            "by_episode": by_episode(subject, recordings, split, windows, prediction, named),
        }
        if prediction.numbers is not None:
            section["numbers"] = of_numbers(subject, recordings, split, windows, prediction, named, seed)
        for name in prediction.images:
            section.setdefault("images", {})[name] = of_images(recordings, split, windows, prediction, name, named)
        found[str(context)] = section
    return found, made


def of_numbers(
    subject: Subject,
    recordings: Sequence[Recording],
    split: Split,
    windows: Windows,
    prediction: Prediction,
    horizons: Sequence[int],
    seed: int,
) -> Section:
    """Normalised errors, skill and calibration of all numbers that are shown."""
    assert prediction.numbers is not None
    scores, train = score_numbers(subject, recordings, split, windows, prediction, seed)
    truth = shown_numbers(subject, windows.ahead.observation)
    found: Section = {"horizons": list(horizons), "area": scores.area, "furthest": scores.furthest}
    at = np.array(horizons) - 1
    found |= {"mse": scores.mse[at].mean(-1).tolist(), "nmse": scores.nmse[at].tolist()}
    found["sample_nmse"] = scores.sample_nmse[at].tolist()
    found |= {f"nmse_{name}": x[at].tolist() for name, x in scores.baseline_nmse.items()}
    found |= {
        f"skill{end}": getattr(scores.skill, field)[at].tolist()
        for end, field in (("", "value"), ("_low", "low"), ("_high", "high"))
    }
    found |= {f"skill_against_{name}": x.value[at].tolist() for name, x in scores.skill_against.items()}
    found["every_horizon"] = {"nmse": scores.nmse.tolist()} | {
        f"nmse_{name}": x.tolist() for name, x in scores.baseline_nmse.items()
    }
    if len(prediction.numbers) > 1:
        sure = calibrate(prediction.numbers[:, :, at], truth[:, at], train, seed=seed)
        varies = train.var(0) >= 1e-6
        for field in ("crps", "crps_skill", "spread_skill", "coverage"):
            found[field] = np.nanmean(getattr(sure, field)[:, varies], -1).tolist()
        found["ranks"] = sure.ranks[:, :, varies].mean((1, 2)).tolist()
    return found


def by_episode(
    subject: Subject,
    recordings: Sequence[Recording],
    split: Split,
    windows: Windows,
    prediction: Prediction,
    horizons: Sequence[int],
) -> Section:
    """Mean errors of each episode at the horizons [H, E], so that those of two models can be compared in pairs.

    ``observation`` are numbers over their variance, or pixels where there are none; ``reward`` is over its variance.
    """
    at = np.array(horizons) - 1
    known = np.concatenate([recordings[i].columns["reward"] for i in split.train]).astype(np.float64)
    square = np.square(prediction.reward.mean(0, np.float64) - windows.ahead.reward)[:, at]
    found = {"reward": divide(square, np.asarray(known.var()))}
    if prediction.numbers is not None:
        train = np.concatenate([_sequence(subject, recordings[i])[0] for i in split.train])
        truth = shown_numbers(subject, windows.ahead.observation)[:, at]
        found["observation"] = normalise(np.square(prediction.numbers.mean(0)[:, at] - truth), train.var(0))
    elif prediction.images:
        pictures = [
            np.square(frames[1] - windows.ahead.observation[name][:, at] / 255).mean((2, 3, 4))
            for name, frames in prediction.images.items()
        ]
        found["observation"] = np.mean(pictures, 0)
    return {"horizons": list(horizons)} | {
        name: episode_means(error, windows.episode).T.tolist() for name, error in found.items()
    }


def score_numbers(
    subject: Subject,
    recordings: Sequence[Recording],
    split: Split,
    windows: Windows,
    prediction: Prediction,
    seed: int,
) -> tuple[ForecastScores, np.ndarray]:
    """Beside the mean, the last record and linear autoregression; and the numbers of training [K, D]."""
    assert prediction.numbers is not None
    truth = shown_numbers(subject, windows.ahead.observation)
    sequences = {
        part: [_sequence(subject, recordings[i]) for i in getattr(split, part)] for part in ("train", "validation")
    }
    train = np.concatenate([x for x, _ in sequences["train"]])
    last = shown_numbers(subject, windows.seen.observation)[:, -1]
    count, horizon = truth.shape[:2]
    linear = fit_autoregression(sequences["train"], sequences["validation"])
    baselines = {
        "mean": forecast_mean(train, count, horizon),
        "persistence": forecast_persistence(last, horizon),
        "autoregression": forecast_autoregression(linear, last, side_by_side(windows.ahead.prev_action, 2)),
    }
    forecast = Forecast(prediction.numbers, truth, baselines, windows.episode)
    return score_forecast(forecast, train.var(0), seed=seed), train


def _sequence(subject: Subject, recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """What an episode shows [T, D], and its actions [T, A]."""
    columns = recording.columns
    observation = {name: columns[f"observation/{name}"][None] for name in number_names(subject)}
    action = {name: columns[f"action/{name}"] for name in subject.spec.action}
    return shown_numbers(subject, observation)[0], side_by_side(action, 1)


def side_by_side(arrays: ArrayDict, axes: int) -> np.ndarray:
    """All numbers of arrays {name: [*axes, ...]}, float64 [*axes, D]."""
    parts = [np.asarray(x, np.float64) for x in arrays.values()]
    return np.concatenate([x.reshape(*x.shape[:axes], -1) for x in parts], -1)


def rewards(
    recordings: Sequence[Recording], split: Split, windows: Windows, prediction: Prediction, horizons: Sequence[int]
) -> Section:
    """Errors of expected rewards, and of their sums."""
    known = np.concatenate([recordings[i].columns["reward"] for i in split.train]).astype(np.float64)
    scores = score_rewards(prediction.reward.mean(0), windows.ahead.reward, float(known.var()))
    at = np.array(horizons) - 1
    return {
        "horizons": list(horizons),
        "mse": scores.mse[at].tolist(),
        "nmse": scores.nmse[at].tolist(),
        "correlation": scores.correlation[at].tolist(),
        "sums": {str(span): one._asdict() for span, one in scores.sums.items()},
    }


def of_images(
    recordings: Sequence[Recording],
    split: Split,
    windows: Windows,
    prediction: Prediction,
    name: str,
    horizons: Sequence[int],
) -> Section:
    """SSIM, PSNR and squared errors, of whole frames and of what moves, beside those of the last and the mean frame."""
    at = np.array(horizons) - 1
    truth = windows.ahead.observation[name][:, at].astype(np.float32) / 255
    last = windows.seen.observation[name][:, -1:].astype(np.float32) / 255
    mean = np.mean([recordings[i].columns[f"observation/{name}"].mean(0) for i in split.train], 0) / 255
    of = {
        "": prediction.images[name][1],
        "sample_": prediction.images[name][0],
        "persistence_": np.broadcast_to(last, truth.shape),
        "mean_": np.broadcast_to(mean.astype(np.float32), truth.shape),
    }
    found: Section = {"horizons": list(horizons)}
    errors: dict[str, np.ndarray] = {}
    for label, frames in of.items():
        scores: ImageScores = score_images(frames, truth, last)
        errors[label] = scores.mse.mean(0)
        for field in ("mse", "psnr", "ssim", "moving_mse", "moving_ssim"):
            found[f"{label}{field}"] = np.nanmean(getattr(scores, field), 0).tolist()
    found["skill"] = (1 - errors[""] / np.minimum(errors["persistence_"], errors["mean_"])).tolist()
    return found
