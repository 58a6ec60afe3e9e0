"""Predictions from a context on, by recorded actions or by the model's own policy, many samples of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.evaluation.features import image_names, numbers
from dreamer_jax.evaluation.recordings import Windows
from dreamer_jax.evaluation.subject import Subject
from dreamer_jax.report import foresee
from dreamer_jax.types import Array, ArrayDict, TrajectoryBatch

ROWS, IMAGE_ROWS = 512, 16
"""Windows that are predicted at a time, of numbers and of images."""


class Prediction(NamedTuple):
    """``M`` samples of what follows ``S`` windows for ``H`` steps."""

    numbers: np.ndarray | None  # [M, S, H, D] in the environment's units
    reward: np.ndarray  # [M, S, H] expected
    going_on: np.ndarray  # [M, S, H] probability of going on, the discount included
    features: np.ndarray  # [S, H, F] of the first sample: all of them side by side
    images: dict[str, np.ndarray]  # {name: [2, S, K, h, w, c]} at the horizons asked for: first sample, mean of all


def predict(
    subject: Subject,
    windows: Windows,
    *,
    samples: int,
    seed: int,
    frames: Sequence[int] = (),
    actions: ArrayDict | None = None,
    policy: bool = False,
) -> Prediction:
    """Watch what is seen of the windows, and go on.

    Args:
      frames: horizons, from 1, at which images are kept.
      actions: {name: [S, H, ...]} instead of the recorded ones.
      policy: whether the model's own policy acts instead, its actions sampled.
    """
    images = bool(frames) and bool(image_names(subject))
    given = None if policy else windows.ahead.prev_action if actions is None else actions
    count, length = windows.ahead.reward.shape
    size = min(IMAGE_ROWS if images else ROWS, count)
    at = np.array(frames, np.int64) - 1
    model = subject.model

    @jax.jit
    def roll(params: Any, key: Array, seen: TrajectoryBatch, actions: ArrayDict | None) -> dict[str, Any]:
        _, ahead = foresee(model, subject.behavior, params, key, seen, actions, length)
        decoded = model.decode(params["model"], ahead)
        reward, going_on = model.predict(params["model"], ahead)
        pictures = {name: decoded[name][:, at] for name in image_names(subject) if name in decoded} if images else {}
        return {
            "numbers": numbers(subject, decoded),
            "reward": reward,
            "going_on": going_on,
            "features": jnp.concatenate(ahead, -1),
            "images": pictures,
        }

    chunks = []
    for start in range(0, count, size):
        rows = np.arange(start, start + size) % count  # of one shape, so that it is compiled once
        seen, chosen = (jax.tree.map(lambda x, rows=rows: x[rows], tree) for tree in (windows.seen, given))
        wanted, drawn, total = min(size, count - start), [], {}
        for sample in range(samples):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), sample), start)
            found = jax.device_get(roll(subject.params, key, seen, chosen))
            found = jax.tree.map(lambda x, wanted=wanted: np.asarray(x[:wanted]), found)
            features, pictures = found.pop("features"), found.pop("images")
            if sample == 0:
                first, one, total = features, pictures, {name: x.astype(np.float64) for name, x in pictures.items()}
            else:
                total = {name: total[name] + x for name, x in pictures.items()}
            drawn.append(found)
        stacked = jax.tree.map(lambda *parts: np.stack(parts), *drawn)
        both = {name: np.stack([one[name], (total[name] / samples).astype(np.float32)]) for name in total}
        chunks.append((stacked, first, both))

    def join(parts: Sequence[Any], axis: int) -> Any:
        return jax.tree.map(lambda *arrays: np.concatenate(arrays, axis), *parts)

    drawn, features, pictures = ([chunk[i] for chunk in chunks] for i in range(3))
    return Prediction(**join(drawn, 1), features=join(features, 0), images=join(pictures, 1))
