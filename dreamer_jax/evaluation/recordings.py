"""What a model is judged on: recorded episodes with where they come from, and the windows they are cut into."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from dreamer_jax.datasets.dataset import Episode, Source
from dreamer_jax.specs import EnvSpec
from dreamer_jax.types import TrajectoryBatch

SIMULATOR = "simulator"
"""The observation that holds the simulator's own state, for who reads it."""


class Recording(NamedTuple):
    """The first records of an episode, as datasets have them, and what is known of the world beside them.

    ``targets`` are numbers that a good state should know, {name: [T, k]}; ``simulator`` [T, Q] float64 is what the
    simulator can go on from, where there is one.
    """

    source: str
    columns: Episode
    targets: dict[str, np.ndarray]
    simulator: np.ndarray | None = None

    @property
    def length(self) -> int:
        return len(self.columns["reward"])


class Windows(NamedTuple):
    """``S`` windows of ``C`` records seen and ``H`` ahead of them."""

    seen: TrajectoryBatch  # [S, C, ...]
    ahead: TrajectoryBatch  # [S, H, ...]
    episode: np.ndarray  # [S] index of the recording
    start: np.ndarray  # [S] index of the last record seen


def piece(recording: Recording, start: int, stop: int) -> Recording:
    """Its records from ``start`` to before ``stop``."""
    rows = slice(start, stop)
    return Recording(
        recording.source,
        {name: x[rows] for name, x in recording.columns.items()},
        {name: x[rows] for name, x in recording.targets.items()},
        None if recording.simulator is None else recording.simulator[rows],
    )


def of_source(source: Source, episodes: int, steps: int) -> list[Recording]:
    """Recordings of the first episodes of a dataset, whose targets are what the environment shows."""
    found = []
    for columns in source.episodes():
        first = {name: np.asarray(array[:steps]) for name, array in columns.items()}
        found.append(Recording(source.name, first, shown(source.spec, first)))
        if len(found) == episodes:
            break
    return found


def shown(spec: EnvSpec, columns: Episode) -> dict[str, np.ndarray]:
    """All numbers that an observation has, [T, k], and the reward."""
    numbers = [name for name, leaf in spec.observation.items() if not leaf.image and not leaf.discrete]
    parts = [columns[f"observation/{name}"].reshape(len(columns["reward"]), -1) for name in numbers]
    targets = {"observation": np.concatenate(parts, 1).astype(np.float64)} if parts else {}
    return targets | {"reward": np.asarray(columns["reward"], np.float64)[:, None]}


def fingerprint(recordings: Iterable[Recording]) -> str:
    """A hash of everything in them."""
    found = hashlib.sha256()
    for one in recordings:
        for name, array in sorted({**one.columns, **{f"target/{k}": x for k, x in one.targets.items()}}.items()):
            found.update(f"{one.source} {name} {array.dtype.str} {array.shape}".encode())
            found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def as_batch(recordings: Sequence[Recording], spec: EnvSpec) -> tuple[TrajectoryBatch, np.ndarray]:
    """All of them side by side [N, T], the last record repeated behind those that are shorter; and which are real."""
    longest = max(one.length for one in recordings)
    rows = [np.minimum(np.arange(longest), one.length - 1) for one in recordings]
    real = np.array([np.arange(longest) < one.length for one in recordings])
    return _batch(recordings, spec, list(range(len(recordings))), rows), real


def cut(
    recordings: Sequence[Recording], spec: EnvSpec, *, context: int, horizon: int, count: int, seed: int
) -> Windows:
    """At most ``count`` windows, the same number of each recording, at random within it.

    Raises:
      ValueError: no recording is long enough.
    """
    rng = np.random.default_rng(seed)
    last = [one.length - horizon - 1 for one in recordings]  # the latest record that can be the last one seen
    able = [index for index, latest in enumerate(last) if latest >= context - 1]
    if not able:
        raise ValueError(f"no episode has {context} records and {horizon} more")
    pairs = []
    for place, index in enumerate(able):
        share = count // len(able) + (place < count % len(able))
        starts = np.arange(context - 1, last[index] + 1)
        pairs += [(index, start) for start in np.sort(rng.choice(starts, min(share, len(starts)), replace=False))]
    episode, start = np.array(pairs).T
    seen = [np.arange(time - context + 1, time + 1) for time in start]
    ahead = [np.arange(time + 1, time + 1 + horizon) for time in start]
    return Windows(_batch(recordings, spec, episode, seen), _batch(recordings, spec, episode, ahead), episode, start)


def _batch(
    recordings: Sequence[Recording], spec: EnvSpec, episode: Sequence[int] | np.ndarray, rows: Sequence[np.ndarray]
) -> TrajectoryBatch:
    """Records ``rows`` of the recordings ``episode`` [N], the action before each beside it."""

    def gather(name: str) -> np.ndarray:
        return np.stack([recordings[index].columns[name][at] for index, at in zip(episode, rows, strict=True)])

    def before(name: str) -> np.ndarray:
        found = []
        for index, at in zip(episode, rows, strict=True):
            column = recordings[index].columns[name]
            found.append(np.where(np.reshape(at > 0, (-1, *(1,) * (column.ndim - 1))), column[at - 1], 0))
        return np.stack(found).astype(column.dtype)

    observation = {name: gather(f"observation/{name}") for name in spec.observation}
    return TrajectoryBatch(
        observation=observation,
        prev_action={name: before(f"action/{name}") for name in spec.action},
        reward=gather("reward"),
        is_first=gather("is_first"),
        is_last=gather("is_last"),
        is_terminal=gather("is_terminal"),
    )
