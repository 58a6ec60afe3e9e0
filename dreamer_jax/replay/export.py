"""Stored experience for analysis elsewhere: a ring opened for reading, its episodes as compressed ``.npz`` files."""

from __future__ import annotations

import json
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.replay.host import Replay
from dreamer_jax.replay.storage import LAYOUT_FILE, WITHOUT, Layout, part_of
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import ArrayDict

_RECORD = ("reward", "is_first", "is_last", "is_terminal", "held_out")


def open_read_only(directory: Path | str, state: dict[str, np.ndarray], name: int, batch_length: int = 1) -> Replay:
    """The ring at checkpoint ``name`` without changing a file; no process may be writing to it.

    Raises:
      ConfigError: there is no ring, or its undo log does not lead to that checkpoint.
    """
    layout = Layout.read(Path(directory))
    if layout is None:
        raise ConfigError(f"{Path(directory) / LAYOUT_FILE}: missing; put back a copy of the replay ({WITHOUT})")
    observation, action, latents = (part_of(layout.fields, part) for part in ("observation", "action", "latents"))
    replay = Replay(
        directory,
        EnvSpec(observation, action),
        latents,
        num_envs=layout.num_envs,
        capacity=layout.rows * layout.num_envs,
        batch_length=batch_length,
        online=False,
        seed=0,
        validation_fraction=float("held_out" in layout.fields),  # how large it was matters only for appending
        writable=False,
    )
    replay.restore(state, name)
    return replay


def ring_of(records: ArrayDict, spec: EnvSpec, latent_spec: dict[str, ArraySpec], batch_length: int = 1) -> Replay:
    """A ring for reading, in files that go with it, of all records of streams {name: [rows, E, ...]}, oldest first."""
    folder = tempfile.TemporaryDirectory(prefix="dreamer-jax-ring-")
    rows, num_envs = records["reward"].shape
    replay = Replay(
        Path(folder.name, "ring"),
        spec,
        latent_spec,
        num_envs=num_envs,
        capacity=max(rows, batch_length + 1) * num_envs,
        batch_length=batch_length,
        online=False,
        seed=0,
        validation_fraction=float("held_out" in records),
    )
    weakref.finalize(replay, folder.cleanup)
    row = np.arange(rows)[:, None]
    begins = records["is_first"] | (row == 0)
    episode = np.cumsum(begins, 0, dtype=np.int32) - 1
    step = (row - np.maximum.accumulate(np.where(begins, row, 0))).astype(np.int32)
    columns = {**records, "episode": episode, "episode_step": step}
    state = {**replay.state(), "rows": np.asarray(rows)}
    replay.fill(state, 0, lambda name, env, rows: columns[name][rows.start : rows.stop, env])
    return replay


def export_episodes(replays: Sequence[Replay], directory: Path | str, facts: Mapping[str, Any] | None = None) -> int:
    """Write ``env003-episode000012.npz`` for every stored episode, and return how many.

    Environments are numbered through all ``replays``, each of which has equally many.

    Keys: ``observation/<name>``, ``action/<name>``, ``reward``, ``is_first``, ``is_last``, ``is_terminal`` and, where
    episodes are held out, ``held_out``, one row a record (the action is the one taken after the observation of its
    row; bfloat16 becomes float32); ``env`` and ``episode`` numbers; ``start_missing`` and ``end_missing``: the ring
    no longer holds the start, or the episode was abandoned or goes on; ``facts``, JSON text of shapes and types and
    of the ``facts`` that are given.

    Raises:
      FileExistsError: one of the files exists; none is written then.
    """
    directory = Path(directory)
    episodes = [
        (replay, part * replay.num_envs + env, episode, rows)
        for part, replay in enumerate(replays)
        for env, episode, rows in stored_episodes(replay)
    ]
    paths = [directory / f"env{number:03d}-episode{episode:06d}.npz" for _, number, episode, _ in episodes]
    for path in paths:
        if path.exists():
            raise FileExistsError(f"{path}: exists already")
    directory.mkdir(parents=True, exist_ok=True)
    fields = replays[0].fields
    spec = EnvSpec(*(part_of(fields, part) for part in ("observation", "action")))
    text = np.array(json.dumps({"spec": spec.as_json(), **(facts or {})}))
    kept = [name for name in fields if name in _RECORD or name.startswith(("observation/", "action/"))]
    for path, (replay, number, episode, rows) in zip(paths, episodes, strict=True):
        stream = number % replays[0].num_envs
        data = {name: _portable(replay.column(name, stream, rows)) for name in kept}
        data |= {"env": np.array(number, np.int32), "episode": np.array(episode, np.int32)}
        data |= {"facts": text, "start_missing": ~data["is_first"][0], "end_missing": ~data["is_last"][-1]}
        with open(path, "xb") as file:
            np.savez_compressed(file, allow_pickle=False, **data)
    return len(episodes)


def stored_episodes(replay: Replay) -> Iterator[tuple[int, int, range]]:
    """Stream, episode number and rows of every episode, oldest first within a stream."""
    stored = replay.rows
    for env in range(replay.num_envs):
        numbers = replay.column("episode", env, stored)
        starts = [0, *(np.flatnonzero(np.diff(numbers)) + 1), len(numbers)]
        for start, stop in pairwise(starts):
            if start < stop:
                yield env, int(numbers[start]), stored[start:stop]


def _portable(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype.kind == "V" else array
