"""Where recorded episodes come from: datasets, the replay of runs, exported files, other projects' datasets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from dreamer_jax.config.paths import path_of
from dreamer_jax.config.schema import ConfigError, EnvConfig
from dreamer_jax.datasets import minari, stable_worldmodel
from dreamer_jax.datasets.dataset import FACTS, Episode, Source, columns, env_of_facts, open_dataset
from dreamer_jax.files import read_npz
from dreamer_jax.replay.export import stored_episodes
from dreamer_jax.replay.host import Replay
from dreamer_jax.runs.checkpoint import read_replays
from dreamer_jax.runs.integrity import read_run
from dreamer_jax.specs import EnvSpec


def open_sources(text: str) -> list[Source]:
    """Those of ``offline.data``, with commas: datasets, runs, folders of exported episodes, other projects' datasets.

    The last are ``minari:NAME`` and ``stable-worldmodel:FILE.h5``.

    Raises:
      ConfigError: one of them is neither, is damaged, holds no episode, or is of another environment than the first.
    """
    sources = [_named(part) for part in text.split(",")]
    for source in sources[1:]:
        if source.spec != sources[0].spec:
            raise ConfigError(f"offline.data: {source.name} has other observations or actions than {sources[0].name}")
    return sources


def _named(text: str) -> Source:
    if text.startswith(minari.PREFIX):
        return minari.read_minari(text)
    if text.startswith(stable_worldmodel.PREFIX):
        return stable_worldmodel.read_stable_worldmodel(text)
    return _open(path_of(text))


def _open(folder: Path) -> Source:
    if (folder / FACTS).exists():
        dataset = open_dataset(folder)
        return _of_rings(str(folder), [dataset.replay], dataset.spec, dataset.env)
    if not (folder / "config.yaml").exists():
        if files := sorted(folder.glob("*.npz")):
            return _of_files(str(folder), files)
        raise ConfigError(f"offline.data: {folder}: no dataset, run or exported episodes there")
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
    names = columns(spec)
    for ring, env, rows in places:
        yield {name: ring.column(name, env, rows) for name in names}


def _of_files(name: str, files: Sequence[Path]) -> Source:
    """What ``export`` wrote; episodes without their beginnings are left out."""
    described: set[str] = set()
    lengths: dict[Path, int] = {}
    for file in files:
        arrays = _arrays(file)
        described.add(str(arrays.get("facts")))
        if not arrays.get("start_missing", True):
            lengths[file] = len(arrays["reward"])
    if len(described) > 1:
        raise ConfigError(f"offline.data: {name}: files of several environments, or of several versions of export")
    try:
        facts = json.loads(described.pop())
        spec, env = EnvSpec.from_json(facts["spec"]), env_of_facts(facts)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"offline.data: {files[0]}: no episode that export has written ({error!r})") from error
    if not lengths:
        raise ConfigError(f"offline.data: {name} holds no episode with its beginning")
    names = columns(spec)

    def episodes() -> Iterator[Episode]:
        for file in lengths:
            arrays = _arrays(file)
            if missing := [column for column in names if column not in arrays]:
                raise ConfigError(f"offline.data: {file}: holds no {missing[0]}")
            yield {column: arrays[column] for column in names}

    return Source(name, spec, env, tuple(lengths.values()), episodes)


def _arrays(file: Path) -> dict[str, np.ndarray]:
    try:
        return read_npz(file)
    except ValueError as error:
        raise ConfigError(f"offline.data: {file}: can't be read ({error})") from error
