"""Datasets of Minari, both ways. Needs the extra ``offline``.

A dataset of theirs has one observation more than actions; here the record of the last observation has the action 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from dreamer_jax.config.schema import ConfigError, EnvConfig
from dreamer_jax.datasets.dataset import Dataset, Episode, Source
from dreamer_jax.envs.actions import plan_actions
from dreamer_jax.envs.observations import plan_observations
from dreamer_jax.specs import ArraySpec, EnvSpec

PREFIX = "minari:"


def read_minari(name: str) -> Source:
    """The episodes of ``minari:NAME``, which has been downloaded or made here before.

    Spaces become what they become of an environment: see ``plan_observations`` and ``plan_actions``.

    Raises:
      ConfigError: there is none, or its spaces can't be used.
    """
    identity = name.removeprefix(PREFIX)
    try:
        theirs = _minari().load_dataset(identity)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"offline.data: {name}: no such dataset of Minari here ({error})") from error
    seen, taken = plan_observations(theirs.observation_space), plan_actions(theirs.action_space)
    spec = EnvSpec({leaf.name: leaf.spec for leaf in seen.leaves}, {leaf.name: leaf.spec for leaf in taken.leaves})

    def read(episode: Any) -> Episode:
        length = len(episode.rewards)
        records = [seen.flatten(_row(episode.observations, row)) for row in range(length + 1)]
        actions = [taken.flatten(_row(episode.actions, row)) for row in range(length)]
        actions.append({leaf.name: np.zeros(leaf.spec.shape, leaf.spec.dtype) for leaf in taken.leaves})
        columns: Episode = {f"observation/{key}": np.stack([x[key] for x in records]) for key in spec.observation}
        columns |= {f"action/{key}": np.stack([x[key] for x in actions]) for key in spec.action}
        ends = np.arange(length + 1) == length
        columns |= {"reward": np.concatenate([[0], episode.rewards]).astype(np.float32)}
        columns |= {"is_first": np.arange(length + 1) == 0, "is_last": ends}
        return columns | {"is_terminal": ends & bool(episode.terminations[-1])}

    def episodes() -> Iterator[Episode]:
        return (read(episode) for episode in theirs.iterate_episodes())

    lengths = tuple(len(episode.rewards) + 1 for episode in theirs.iterate_episodes())
    made = theirs.env_spec
    task = f"gym/{made.id}" if made is not None else EnvConfig.task
    return Source(name, spec, EnvConfig(task=task, num_envs=1), lengths, episodes)


def write_minari(dataset: Dataset, name: str) -> None:
    """Make a dataset of Minari of ours, with the arrays as an agent sees them: actions in [-1, 1], choices from 0.

    Raises:
      ConfigError: there is one of that name already, or the name can't be used.
    """
    minari, buffers = _minari(), []
    from minari.data_collector import EpisodeBuffer

    for number, episode in enumerate(dataset):
        last, terminal = len(episode["reward"]) - 1, bool(episode["is_terminal"][-1])
        ends = np.arange(1, last + 1) == last
        buffers.append(
            EpisodeBuffer(
                id=number,
                observations=_several(episode, "observation", dataset.spec.observation, last + 1),
                actions=_several(episode, "action", dataset.spec.action, last),
                rewards=list(episode["reward"][1:].astype(np.float64)),
                terminations=list(ends & terminal),
                truncations=list(ends & (not terminal)),
            )
        )
    described = ", ".join(f"{key} {dataset.facts[key]}" for key in ("task", "policy", "seed") if key in dataset.facts)
    try:
        minari.create_dataset_from_buffers(
            name.removeprefix(PREFIX),
            buffers,
            observation_space=_space(dataset.spec.observation),
            action_space=_space(dataset.spec.action),
            description=f"{described}; collected by dreamer-jax, hash {dataset.facts['hash']}",
        )
    except ValueError as error:
        raise ConfigError(f"--minari: got {name!r}: {error}") from error


def _minari() -> Any:
    try:
        import minari
    except ImportError as error:
        raise ConfigError('minari: not installed; run: pip install "dreamer-jax[offline]"') from error
    return minari


def _row(values: Any, row: int) -> Any:
    """One step of arrays in dicts and tuples."""
    if isinstance(values, Mapping):
        return {key: _row(value, row) for key, value in values.items()}
    return tuple(_row(value, row) for value in values) if isinstance(values, tuple) else values[row]


def _several(episode: Episode, part: str, leaves: Mapping[str, ArraySpec], rows: int) -> Any:
    columns = {name: episode[f"{part}/{name}"][:rows] for name in leaves}
    return next(iter(columns.values())) if len(columns) == 1 else columns


def _space(leaves: Mapping[str, ArraySpec]) -> Space:
    """Their names, or the array alone if it is only one."""
    made = {name: _single(leaf) for name, leaf in leaves.items()}
    return next(iter(made.values())) if len(made) == 1 else spaces.Dict(made)


def _single(leaf: ArraySpec) -> Space:
    if leaf.classes is not None:
        return spaces.MultiDiscrete(np.full(leaf.shape, leaf.classes)) if leaf.shape else spaces.Discrete(leaf.classes)
    if leaf.image:
        return spaces.Box(0, 255, leaf.shape, np.uint8)
    return spaces.Box(-np.inf, np.inf, leaf.shape, np.float32)
