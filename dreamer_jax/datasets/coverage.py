"""What part of an environment a dataset has seen: ranges, histograms, and how much of the space between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dreamer_jax.datasets.dataset import Dataset
from dreamer_jax.specs import ArraySpec
from dreamer_jax.terminal import Answer, table

BINS, BARS = 10, "▁▂▃▄▅▆▇█"
GRID_DIMENSIONS, PROJECTIONS = 3, 64
"""States of at most so many numbers are counted on a grid of 10 bins each, others on so many planes of 20 x 20."""
PLANE_BINS, PIXELS = 20, 8
"""Images count as their means over 8 x 8 fields."""


def describe(dataset: Dataset, other: Dataset | None = None) -> Answer:
    """What ``collect`` prints of a dataset, and of how it lies beside another one of the same environment."""
    facts, rows = dataset.facts, []
    names = [*(f"observation/{name}" for name in dataset.spec.observation), "reward"]
    for name in names:
        values = column(dataset, name)
        leaf = dataset.spec.observation.get(name.removeprefix("observation/"))
        rows += _rows(name.removeprefix("observation/"), values.reshape(len(values), -1), leaf)
    scores = [float(episode["reward"].sum()) for episode in dataset]
    answer: Answer = [
        f"{dataset.folder}: {facts['episodes']:,} episodes, {facts['records']:,} records of {facts['task']}, "
        f"by {facts['policy']}",
        f"hash {facts['hash'][:16]}",
        f"returns: mean {np.mean(scores):.1f}, from {min(scores):.1f} to {max(scores):.1f}",
        table(("what", "low", "mean", "high", "histogram"), rows, right=("low", "mean", "high")),
        in_words(volume(dataset, dataset), "of the box that its states span has been visited"),
    ]
    if other is not None:
        answer += [
            in_words(volume(dataset, other), f"of what {other.folder} has visited is in this one"),
            in_words(volume(other, dataset), f"of what this one has visited is in {other.folder}"),
        ]
    return answer


def in_words(found: tuple[float, str], what: str) -> str:
    share, how = found
    return f"{100 * share:.1f} % {what} ({how})"


def column(dataset: Dataset, name: str) -> np.ndarray:
    """A field of all records."""
    return dataset.replay.column(name, 0, dataset.replay.rows)


def _rows(name: str, values: np.ndarray, leaf: ArraySpec | None) -> list[tuple[str, ...]]:
    if leaf is not None and leaf.image:
        return [_row(f"{name} (pixels)", values.reshape(-1))]
    labels = [name] if values.shape[1] == 1 else [f"{name}[{i}]" for i in range(values.shape[1])]
    return [_row(label, values[:, i]) for i, label in enumerate(labels)]


def _row(label: str, values: np.ndarray) -> tuple[str, ...]:
    values = values.astype(np.float64)
    counts, _ = np.histogram(values, BINS, (values.min(), values.max() + 1e-12))
    bars = "".join(BARS[int(np.ceil((len(BARS) - 1) * count / counts.max()))] for count in counts)
    return label, f"{values.min():.4g}", f"{values.mean():.4g}", f"{values.max():.4g}", bars


def volume(dataset: Dataset, among: Dataset) -> tuple[float, str]:
    """The share of cells that records of ``dataset`` lie in, and how it was counted.

    Among are the cells that the other dataset has visited; for a dataset itself, all between its lowest and highest
    numbers. Cells lie in the box of both. Of many numbers it is the mean over random planes.
    """
    mine, theirs = states(dataset), states(among)
    low = np.minimum(mine.min(0), theirs.min(0))
    span = np.maximum(mine.max(0), theirs.max(0)) - low
    moving = span > 1e-9
    if not moving.any():
        return 1.0, "nothing ever changes"
    mine, theirs = (((x - low)[:, moving] / span[moving]) for x in (mine, theirs))
    width = mine.shape[1]
    if width <= GRID_DIMENSIONS:
        return _share(mine, theirs if among is not dataset else None, BINS), f"grid of {BINS}^{width} cells"
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(PROJECTIONS):
        plane = rng.normal(size=(width, 2)) / np.sqrt(width)
        sides = [x @ plane for x in (mine, theirs)]
        floor = np.minimum(*(x.min(0) for x in sides))
        reach = np.maximum(*(x.max(0) for x in sides)) - floor
        sides = [(x - floor) / reach for x in sides]
        shares.append(_share(sides[0], sides[1] if among is not dataset else None, PLANE_BINS))
    return float(np.mean(shares)), f"mean of {PROJECTIONS} random planes of {PLANE_BINS} x {PLANE_BINS} cells"


def states(dataset: Dataset) -> np.ndarray:
    """All that is seen in a record, as numbers [records, W]; images coarsely, choices as they are."""
    parts: list[np.ndarray] = []
    for name, leaf in dataset.spec.observation.items():
        values = column(dataset, f"observation/{name}")
        if leaf.image:
            height, across = (side // PIXELS for side in leaf.shape[:2])
            fields = values[:, : height * PIXELS, : across * PIXELS]
            values = fields.reshape(len(values), PIXELS, height, PIXELS, across, -1).mean((2, 4))
        parts.append(values.reshape(len(values), -1).astype(np.float64))
    return np.concatenate(parts, 1)


def _share(mine: np.ndarray, theirs: np.ndarray | None, bins: int) -> float:
    """Of coordinates [records, D] from 0 to 1."""
    visited = _cells(mine, bins)
    if theirs is None:
        return len(visited) / bins ** mine.shape[1]
    among = _cells(theirs, bins)
    return len(np.intersect1d(visited, among)) / len(among)


def _cells(x: np.ndarray, bins: int) -> np.ndarray:
    places = np.minimum((x * bins).astype(np.int64), bins - 1)
    return np.unique(places @ (bins ** np.arange(x.shape[1])))


def as_json(dataset: Dataset, other: Dataset | None = None) -> dict[str, Any]:
    """Facts and shares, for programs."""
    pairs: Sequence[tuple[str, tuple[float, str]]] = [("visited", volume(dataset, dataset))]
    if other is not None:
        pairs = [*pairs, ("of_other", volume(dataset, other)), ("in_other", volume(other, dataset))]
    return {**dataset.facts, **{name: share for name, (share, _) in pairs}}
