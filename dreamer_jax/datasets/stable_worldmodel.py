"""HDF5 datasets of stable-worldmodel (arXiv 2605.21800), both ways. Needs h5py, of the extra ``offline``.

A file of theirs has a column for each quantity, ``[records of all episodes, ...]``, and ``ep_len`` and ``ep_offset``.
Row t has what was seen, the reward that came with it, and the action taken after it, as a row here has. There is no
reward of an episode's first record and no action of its last: NaN is written for them, and 0 is read, whatever stands
there (their own collection leaves an action of no use).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_jax.config.paths import path_of
from dreamer_jax.config.schema import ConfigError, EnvConfig
from dreamer_jax.datasets.dataset import Dataset, Episode, Source, env_facts, env_of_facts
from dreamer_jax.specs import ArraySpec, EnvSpec

PREFIX = "stable-worldmodel:"
FACTS = "dreamer_jax"
"""An attribute of files that are written here, which their reader passes over: JSON text of ``spec`` and ``env``."""
LENGTHS, OFFSETS = "ep_len", "ep_offset"
PICTURE, VECTOR = "pixels", ("observation", "proprio")
"""Their names of what an agent sees. Of the two of vectors, the first that there is."""


def write_stable_worldmodel(dataset: Dataset, path: str | Path) -> None:
    """Write ``path``, which ends in .h5, with arrays as an agent sees them: actions in [-1, 1], choices from 0.

    Columns are ``pixels`` (``pixels.NAME``, if there are several images), each other observation under its name,
    ``observation`` (all of these side by side, unless one has this name), ``action`` (all actions side by side),
    ``reward``, ``terminated``, ``truncated``, ``episode_idx`` and ``step_idx``.

    Raises:
      ConfigError: something is there already, the name can't be used, or two columns would have the same name.
    """
    path = path_of(path)
    if path.suffix not in (".h5", ".hdf5"):
        raise ConfigError(f"--stable-worldmodel: got {path}; the file's name ends in .h5 or .hdf5")
    if path.exists():
        raise ConfigError(f"--stable-worldmodel: {path}: something is there already; choose another file")
    spec, total = dataset.spec, dataset.facts["records"]
    scratch = path.with_name(f".{path.name}.writing")
    lengths: list[int] = []
    try:
        # Of their reader's kind (SWMR), which only files of the latest layout allow.
        with _h5py().File(scratch, "w", libver="latest") as file:
            for number, episode in enumerate(dataset):
                start, length = sum(lengths), len(episode["reward"])
                for name, values in _to_theirs(episode, spec, number).items():
                    if not number:
                        file.create_dataset(name, (total, *values.shape[1:]), values.dtype)
                    file[name][start : start + length] = values
                lengths.append(length)
            file[LENGTHS] = np.array(lengths, np.int32)
            file[OFFSETS] = np.cumsum([0, *lengths[:-1]], dtype=np.int64)
            file.attrs[FACTS] = json.dumps({"spec": spec.as_json(), "env": env_facts(dataset.env)})
        os.replace(scratch, path)
    except OSError as error:
        raise ConfigError(f"--stable-worldmodel: {path}: can't be written ({error})") from error
    finally:
        scratch.unlink(missing_ok=True)


def read_stable_worldmodel(name: str) -> Source:
    """The episodes of ``stable-worldmodel:FILE.h5``.

    A file that was not written here has ``pixels`` or ``pixels.NAME`` and ``observation`` (or ``proprio``) as
    observations; ``action`` holds numbers in [-1, 1], or integers from 0.

    Raises:
      ConfigError: there is no such file, it holds no episode, or its columns can't be used.
    """
    path = path_of(name.removeprefix(PREFIX))
    with _opened(name, path) as file:
        lengths = tuple(file[LENGTHS][:].tolist())
        if not sum(lengths):
            raise ConfigError(f"offline.data: {name} holds no episode")
        ours = file.attrs.get(FACTS)
        if ours is not None:
            facts = json.loads(ours)
            spec, env = EnvSpec.from_json(facts["spec"]), env_of_facts(facts)
            names = _column_names(spec)
        else:
            spec, env = _spec(name, file), EnvConfig(num_envs=1)
            names = {column: column for column in spec.observation}
        wanted = [*names.values(), "action", "reward", *(["terminated"] if "terminated" in file else [])]

    def episodes() -> Iterator[Episode]:
        with _opened(name, path) as file:
            for start, length in zip(file[OFFSETS][:].tolist(), file[LENGTHS][:].tolist(), strict=True):
                yield _to_ours({column: file[column][start : start + length] for column in wanted}, spec, names)

    return Source(name, spec, env, lengths, episodes)


def _to_theirs(episode: Episode, spec: EnvSpec, number: int) -> dict[str, np.ndarray]:
    length, last, terminal = len(episode["reward"]), episode["is_last"], episode["is_terminal"]
    names = _column_names(spec)
    columns = {names[name]: episode[f"observation/{name}"] for name in spec.observation}
    numbers = [episode[f"observation/{name}"] for name, leaf in spec.observation.items() if not leaf.image]
    if numbers and VECTOR[0] not in columns:
        columns[VECTOR[0]] = _side_by_side(numbers).astype(np.float32)
    action = _side_by_side([episode[f"action/{name}"] for name in spec.action])
    action[-1] = np.nan if action.dtype.kind == "f" else 0
    reward = episode["reward"].astype(np.float32)
    reward[0] = np.nan
    return columns | {
        "action": action,
        "reward": reward,
        "terminated": terminal,
        "truncated": last & ~terminal,
        "episode_idx": np.full(length, number, np.int64),
        "step_idx": np.arange(length, dtype=np.int64),
    }


def _to_ours(columns: Mapping[str, np.ndarray], spec: EnvSpec, names: Mapping[str, str]) -> Episode:
    length = len(columns["action"])
    place = np.arange(length)
    episode: Episode = {
        f"observation/{name}": columns[names[name]].reshape(length, *leaf.shape).astype(leaf.dtype)
        for name, leaf in spec.observation.items()
    }
    parts = np.split(
        np.where(place[:, None] < length - 1, np.nan_to_num(columns["action"].reshape(length, -1)), 0),
        np.cumsum([leaf.size for leaf in spec.action.values()])[:-1],
        axis=1,
    )
    for (name, leaf), values in zip(spec.action.items(), parts, strict=True):
        episode[f"action/{name}"] = values.reshape(length, *leaf.shape).astype(leaf.dtype)
    reward = np.nan_to_num(columns["reward"].reshape(length)).astype(np.float32)
    terminated = np.ravel(columns.get("terminated", np.zeros(length))).astype(bool)
    return episode | {
        "reward": np.where(place == 0, np.float32(0), reward),
        "is_first": place == 0,
        "is_last": place == length - 1,
        "is_terminal": (place == length - 1) & terminated,
    }


def _column_names(spec: EnvSpec) -> dict[str, str]:
    """Their names of our observations; a slash would be a group of the file.

    Raises:
      ConfigError: two columns would have the same one.
    """
    images = [name for name, leaf in spec.observation.items() if leaf.image]

    def column(name: str) -> str:
        if name not in images:
            return name.replace("/", ".")
        return PICTURE if len(images) == 1 else f"{PICTURE}.{name.replace('/', '.')}"

    names = {name: column(name) for name in spec.observation}
    own = ["action", "reward", "terminated", "truncated", "episode_idx", "step_idx", LENGTHS, OFFSETS]
    taken = [*own, *names.values()]
    for name, each in names.items():
        if taken.count(each) > 1:
            raise ConfigError(f"--stable-worldmodel: observation {name!r} would be the second column {each!r}")
    return names


def _spec(name: str, file: Any) -> EnvSpec:
    """Of a file from elsewhere."""
    seen = sorted(column for column in file if column == PICTURE or column.startswith(f"{PICTURE}."))
    seen += [column for column in VECTOR if column in file][:1]
    if not seen:
        there = ", ".join(sorted(file))
        raise ConfigError(f"offline.data: {name}: none of pixels, {', '.join(VECTOR)} among its columns: {there}")
    return EnvSpec({column: _observation(name, column, file[column]) for column in seen}, _action(name, file))


def _observation(name: str, column: str, values: Any) -> ArraySpec:
    shape = values.shape[1:]
    if values.dtype == np.uint8 and len(shape) == 3:
        return ArraySpec(shape, "uint8")
    if column.startswith(PICTURE) or values.dtype.kind not in "fiub":
        kind = f"{values.dtype} {shape}"
        raise ConfigError(f"offline.data: {name}: {column} is {kind}; images are bytes [height, width, channels]")
    return ArraySpec(shape or (1,), "float32")


def _action(name: str, file: Any) -> dict[str, ArraySpec]:
    for column in ("action", "reward"):
        if column not in file:
            raise ConfigError(f"offline.data: {name}: holds no {column}")
    values = file["action"][:]
    shape = values.shape[1:]
    if values.dtype.kind in "iu":
        if values.min() < 0:
            raise ConfigError(f"offline.data: {name}: action has {values.min()}; choices are counted from 0")
        return {"action": ArraySpec(() if shape == (1,) else shape, "int32", int(values.max()) + 1)}
    if values.dtype.kind != "f" or not np.nanmax(np.abs(values), initial=0) <= 1:
        raise ConfigError(f"offline.data: {name}: action is {values.dtype} beyond [-1, 1]; scale it to that before")
    return {"action": ArraySpec(shape or (1,), "float32")}


def _side_by_side(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([x.reshape(len(x), -1) for x in arrays], 1)


@contextmanager
def _opened(name: str, path: Path) -> Iterator[Any]:
    """The file for reading.

    Raises:
      ConfigError: it can't be read, also where what it is read for finds that.
    """
    try:
        with _h5py().File(path, "r") as file:
            if LENGTHS not in file or OFFSETS not in file:
                raise ConfigError(f"offline.data: {name}: no dataset of stable-worldmodel (no {LENGTHS}, {OFFSETS})")
            yield file
    except (OSError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise ConfigError(f"offline.data: {name}: can't be read ({reason})") from error


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ConfigError('h5py: not installed; run: pip install "dreamer-jax[offline]"') from error
    return h5py
