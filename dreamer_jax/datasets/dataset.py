"""A directory of whole episodes in the record format of a run's replay.

``replay/`` is a ring of one stream, in which episodes lie one after the other; ``dataset.json`` says where they come
from, and ``state.npz`` is the ring's state, with checksums of all that it holds.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dreamer_jax.checksums import seal, unseal
from dreamer_jax.config.paths import path_of
from dreamer_jax.config.schema import ConfigError, EnvConfig
from dreamer_jax.files import read_npz, replace_file
from dreamer_jax.replay.export import open_read_only, stored_episodes
from dreamer_jax.replay.host import Replay
from dreamer_jax.replay.storage import shrink
from dreamer_jax.specs import EnvSpec
from dreamer_jax.types import ArrayDict, TimeStep

FACTS, STATE, RING = "dataset.json", "state.npz", "replay"
MOST_RECORDS = 2**24
"""Files are so long while they are written, without taking disk space, and then as long as what they hold."""
NUMBERED = {"episode", "episode_step"}
"""What says where a record lies, not what it is."""

Episode = ArrayDict
"""Columns of consecutive records, {"observation/<name>", "action/<name>", "reward", "is_first", ...: [length, ...]}."""


class Source(NamedTuple):
    """Recorded episodes of one environment, wherever they are.

    ``lengths`` are their records, and ``episodes`` reads them again at every call.
    """

    name: str
    spec: EnvSpec
    env: EnvConfig
    lengths: tuple[int, ...]
    episodes: Callable[[], Iterator[Episode]]


def env_facts(config: EnvConfig) -> dict[str, Any]:
    """What ``dataset.json`` says of an environment: its settings, but for how many there were and where."""
    return {name: value for name, value in asdict(config).items() if name not in ("num_envs", "vectorization")}


def env_of_facts(facts: Mapping[str, Any]) -> EnvConfig:
    """Settings of what ``env_facts`` described, of one environment."""
    known = {each.name for each in fields(EnvConfig)}
    given = {"task": facts.get("task", EnvConfig.task), **facts.get("env", {})}
    return EnvConfig(**{name: value for name, value in given.items() if name in known}, num_envs=1)


def columns(spec: EnvSpec) -> list[str]:
    """Names of the arrays of an episode."""
    named = [f"{part}/{name}" for part in ("observation", "action") for name in getattr(spec, part)]
    return [*named, "reward", "is_first", "is_last", "is_terminal"]


class Dataset:
    """Episodes that can be read, and windows of them that can be sampled from ``replay``."""

    def __init__(self, folder: Path, facts: dict[str, Any], replay: Replay) -> None:
        self.folder, self.facts, self.replay = folder, facts, replay
        self.spec = EnvSpec.from_json(facts["spec"])

    def __iter__(self) -> Iterator[Episode]:
        for _, _, rows in stored_episodes(self.replay):
            yield {name: self.replay.column(name, 0, rows) for name in self.replay.fields if name not in NUMBERED}

    @property
    def env(self) -> EnvConfig:
        """The settings of the environment, as far as ``dataset.json`` says."""
        return env_of_facts(self.facts)

    def close(self) -> None:
        self.replay.close()


def open_dataset(folder: str | Path, batch_length: int = 1) -> Dataset:
    """Open a dataset for reading.

    Args:
      batch_length: records of the windows that are to be sampled (T).

    Raises:
      ConfigError: it is none, or damaged.
    """
    folder = path_of(folder)
    try:
        facts = unseal((folder / FACTS).read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"{folder}: no {FACTS} there; is it a dataset?") from None
    except OSError as error:
        raise ConfigError(f"{folder / FACTS}: can't be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"{folder / FACTS}: damaged ({error})") from error
    try:
        state = read_npz(folder / STATE)
    except ValueError as error:
        raise ConfigError(f"{folder / STATE}: can't be read ({error})") from error
    return Dataset(folder, facts, open_read_only(folder / RING, state, 0, batch_length))


class Writer:
    """Appends whole episodes; see ``write_dataset``."""

    def __init__(self, folder: Path, spec: EnvSpec) -> None:
        self._ring = Replay(
            folder / RING, spec, {}, num_envs=1, capacity=MOST_RECORDS, batch_length=1, online=False, seed=0
        )
        self._ring_folder = folder / RING
        self._spec, self._hash = spec, hashlib.sha256(json.dumps(spec.as_json(), sort_keys=True).encode())
        self.episodes = self.records = 0

    def append(self, episode: Episode) -> None:
        """Add one episode, from a record that is first to one that is last.

        Raises:
          ValueError: it is not whole, or not of this environment.
        """
        length = len(episode["reward"])
        flags = {name: np.asarray(episode[name], bool) for name in ("is_first", "is_last", "is_terminal")}
        begins, ends = np.flatnonzero(flags["is_first"]).tolist(), np.flatnonzero(flags["is_last"]).tolist()
        if begins != [0] or ends != [length - 1]:
            raise ValueError("an episode begins with its only record that is first and ends with the one that is last")
        if self.records + length > MOST_RECORDS:
            raise ConfigError(f"{self._ring_folder}: a dataset has at most {MOST_RECORDS:,} records; write several")
        for name in sorted(episode):
            column = np.ascontiguousarray(episode[name])
            self._hash.update(f"{name} {column.dtype.str} {column.shape}".encode() + column.tobytes())
        append_episode(self._ring, self._spec, episode)
        self.episodes, self.records = self.episodes + 1, self.records + length

    def finish(self, folder: Path, facts: Mapping[str, Any]) -> None:
        state = self._ring.snapshot(0)
        self._ring.committed(0)
        self._ring.close()
        shrink(folder / RING, self.records)
        with open(folder / STATE, "wb") as file:
            np.savez(file, allow_pickle=False, **state)
        counted = {"episodes": self.episodes, "records": self.records, "hash": self._hash.hexdigest()}
        replace_file(folder / FACTS, seal({"spec": self._spec.as_json(), **counted, **facts}))


def append_episode(ring: Replay, spec: EnvSpec, episode: Episode, latents: ArrayDict | None = None) -> None:
    """Add its records to a ring of one stream, each with these ``latents`` {name: [1, ...]}."""
    parts = {
        part: {name: episode[f"{part}/{name}"] for name in getattr(spec, part)} for part in ("observation", "action")
    }
    flags = {name: np.asarray(episode[name], bool) for name in ("is_first", "is_last", "is_terminal")}
    for row in range(len(episode["reward"])):
        here = slice(row, row + 1)
        observation, action = ({name: x[here] for name, x in parts[part].items()} for part in parts)
        timestep = TimeStep(observation, episode["reward"][here], **{name: x[here] for name, x in flags.items()})
        ring.append(timestep, action, latents or {})


@contextmanager
def write_dataset(folder: str | Path, spec: EnvSpec, facts: Mapping[str, Any]) -> Iterator[Writer]:
    """A writer; the dataset is at ``folder`` once all is written, or nothing is.

    Args:
      facts: what ``dataset.json`` is to say of where it comes from.

    Raises:
      ConfigError: something is there already.
    """
    folder = path_of(folder).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: something is there already; choose another directory")
    scratch = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        writer = Writer(scratch, spec)
        yield writer
        writer.finish(scratch, facts)
        scratch.replace(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
