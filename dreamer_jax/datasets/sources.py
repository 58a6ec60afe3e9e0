"""Where recorded episodes come from: datasets, and the replay of runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dreamer_jax.config.paths import path_of
from dreamer_jax.config.schema import ConfigError, EnvConfig
from dreamer_jax.datasets.dataset import FACTS, Episode, open_dataset
from dreamer_jax.replay.export import stored_episodes
from dreamer_jax.replay.host import Replay
from dreamer_jax.runs.checkpoint import read_replays
from dreamer_jax.runs.integrity import read_run
from dreamer_jax.specs import EnvSpec

FLAGS = ("is_first", "is_last", "is_terminal")


class Source(NamedTuple):
    """Episodes of one environment; ``lengths`` are their records, and ``episodes`` reads them again at every call."""

    name: str
    spec: EnvSpec
    env: EnvConfig
    lengths: tuple[int, ...]
    episodes: Callable[[], Iterator[Episode]]


def open_sources(text: str) -> list[Source]:
    """Those of ``offline.data``: directories of datasets and runs, with commas.

    Raises:
      ConfigError: one of them is neither, is damaged, holds no episode, or is of another environment than the first.
    """
    sources = [_open(path_of(part)) for part in text.split(",")]
    for source in sources[1:]:
        if source.spec != sources[0].spec:
            raise ConfigError(f"offline.data: {source.name} has other observations or actions than {sources[0].name}")
    return sources


def _open(folder: Path) -> Source:
    if (folder / FACTS).exists():
        dataset = open_dataset(folder)
        return _of_rings(str(folder), [dataset.replay], dataset.spec, dataset.env)
    if not (folder / "config.yaml").exists():
        raise ConfigError(f"offline.data: {folder} is neither a dataset nor a run (no {FACTS}, no config.yaml)")
    config, spec = read_run(folder)
    return _of_rings(str(folder), read_replays(folder), spec, replace(config.env, num_envs=1))


def _of_rings(name: str, rings: Sequence[Replay], spec: EnvSpec, env: EnvConfig) -> Source:
    """Of a ring that has wrapped, episodes without their beginnings are left out."""
    places = [
        (ring, env, rows)
        for ring in rings
        for env, _, rows in stored_episodes(ring)
        if ring.column("is_first", env, rows[:1])[0]
    ]
    if not places:
        raise ConfigError(f"offline.data: {name} holds no episode")
    return Source(name, spec, env, tuple(len(rows) for *_, rows in places), partial(_read, places, spec))


def _read(places: Sequence[tuple[Replay, int, range]], spec: EnvSpec) -> Iterator[Episode]:
    names = [f"{part}/{name}" for part in ("observation", "action") for name in getattr(spec, part)]
    for ring, env, rows in places:
        yield {name: ring.column(name, env, rows) for name in (*names, "reward", *FLAGS)}
