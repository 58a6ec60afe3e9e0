"""Rows of recorded episodes: which serve for what, and rows of other episodes that they are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.types import Array

_ROUND = ("train", "validation", "test", "train", "train")
"""Of five episodes of a source, in random order: 60, 20 and 20 %, and each part has one of any three."""


class Split(NamedTuple):
    """Indices of episodes, in order."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


class Records(NamedTuple):
    """N rows of whole episodes, in any order."""

    features: Array  # [N, F]
    targets: Array  # [N, D]
    episode: np.ndarray  # [N] int
    step: np.ndarray  # [N] int, from the start of its episode

    def of(self, episodes: np.ndarray) -> Records:
        """The rows of these episodes."""
        return self.take(np.flatnonzero(np.isin(self.episode, episodes)))

    def take(self, rows: np.ndarray) -> Records:
        return Records(*(np.asarray(column)[rows] for column in self))

    def exchanged(self, rng: np.random.Generator) -> Records:
        """With targets of another episode at the same step; rows that no other episode reaches are left out."""
        rows, partners = other_episodes(self.episode, self.step, rng)
        return self.take(rows)._replace(targets=np.asarray(self.targets)[partners])


def split_episodes(sources: Sequence[str], seed: int = 0) -> Split:
    """60, 20 and 20 % of the episodes of each source, which is named for each episode.

    Whole episodes, because neighbouring frames are nearly the same: a frame of training next to each of the test
    gives an episode away.

    Raises:
      ConfigError: a part would be empty, because no source has three episodes.
    """
    rng, names = np.random.default_rng(seed), np.asarray(sources, str)
    parts: dict[str, list[int]] = {name: [] for name in Split._fields}
    for source in np.unique(names):
        for place, episode in enumerate(rng.permutation(np.flatnonzero(names == source))):
            parts[_ROUND[place % len(_ROUND)]].append(int(episode))
    if not all(parts.values()):
        raise ConfigError(f"episodes: got {len(names)} of {len(set(names))} sources; a split takes 3 of one source")
    return Split(**{name: np.array(sorted(part)) for name, part in parts.items()})


def other_episodes(episode: np.ndarray, step: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows, and for each a row at the same step of another episode.

    Episodes stand in a random circle, and a row is paired with the next one that lasts so long: of equal lengths
    each serves once and as a whole, so that pairs go together in time as the true ones do. Rows that no other
    episode reaches are left out.
    """
    names, number = np.unique(episode, return_inverse=True)
    table = np.full((len(names), int(np.max(step, initial=0)) + 1), -1)
    table[number, step] = np.arange(len(number))
    if (table >= 0).sum() != len(number):
        raise ValueError("step: an episode has two rows of the same step")
    circle = table[rng.permutation(len(names))]
    partner = np.full_like(circle, -1)
    for shift in range(1, len(names)):
        partner = np.where(partner < 0, np.roll(circle, -shift, 0), partner)
    paired = (circle >= 0) & (partner >= 0)
    order = np.argsort(circle[paired])
    return circle[paired][order], partner[paired][order]
