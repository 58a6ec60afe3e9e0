"""What running episodes can be simulated from again: their numbers, their actions so far, and what those led to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.envs.wrappers import SIGNALS, EpisodeStart
from dreamer_jax.specs import EnvSpec
from dreamer_jax.types import TimeStep

Action = dict[str, np.ndarray]


class History:
    """Of ``num_envs`` streams, all before their first episode."""

    def __init__(self, spec: EnvSpec, num_envs: int) -> None:
        self._spec, self._num_envs = spec, num_envs
        self._episode = np.full(num_envs, -1, np.int64)
        self._actions: list[list[Action]] = [[] for _ in range(num_envs)]
        self._pending: Action | None = None

    def reset(self, episode: int | None) -> None:
        """The next episodes have begun, or those of number ``episode``."""
        self._episode = self._episode + 1 if episode is None else np.full_like(self._episode, episode)
        self._actions = [[] for _ in range(self._num_envs)]

    def went_on(self, index: int, start: EpisodeStart, changed: bool) -> None:
        """Stream ``index`` is where ``start`` ends, or, where that could not be repeated, in the episode after it."""
        self._episode[index] = start.episode + changed
        self._actions[index] = [] if changed else _rows(start.actions)
        if start.pending is not None and not changed:
            self._add(index, start.pending, bool(start.record["is_last"]))

    def take(self, action: Action) -> None:
        """All streams are about to take it; that they have is for ``took`` to say."""
        self._pending = action

    def took(self, is_first: np.ndarray) -> None:
        """They have; ``is_first`` [E] are flags of the records that it led to."""
        assert self._pending is not None
        for index, first in enumerate(is_first):
            self._add(index, {name: array[index] for name, array in self._pending.items()}, bool(first))
        self._pending = None

    def _add(self, index: int, action: Action, begins: bool) -> None:
        if begins:
            self._episode[index] += 1
            self._actions[index] = []
        else:
            self._actions[index].append(action)

    def arrays(self, last: TimeStep) -> dict[str, np.ndarray]:
        """Everything, with the records ``last``, for ``unpack``.

        Actions of all environments lie one after the other; ``length`` [E] says how many are whose. Where ``waiting``
        [E], ``pending`` [E, ...] is an action that was taken and failed.
        """
        rows = [row for actions in self._actions for row in actions]
        found = {
            "episode": self._episode.copy(),
            "length": np.array([len(actions) for actions in self._actions], np.int64),
            "waiting": np.full(self._num_envs, self._pending is not None),
        }
        for name, spec in self._spec.action.items():
            none = np.zeros((0, *spec.shape), spec.dtype)
            found[f"action/{name}"] = np.stack([row[name] for row in rows]) if rows else none
            nothing = np.zeros((self._num_envs, *spec.shape), spec.dtype)
            found[f"pending/{name}"] = nothing if self._pending is None else self._pending[name].copy()
        found |= {f"record/{name}": getattr(last, name).copy() for name in SIGNALS}
        return found | {f"record/observation/{name}": array.copy() for name, array in last.observation.items()}


def unpack(state: dict[str, np.ndarray], spec: EnvSpec, num_envs: int) -> Sequence[EpisodeStart]:
    """Cut what ``History.arrays`` gave apart.

    Raises:
      ConfigError: it is of another number of environments, observations or actions.
    """
    saved = len(state["episode"])
    if saved != num_envs:
        raise ConfigError(f"env.num_envs: got {num_envs}, but the saved environments are {saved}")
    actions, record, pending = (_part(state, part) for part in ("action", "record", "pending"))
    shapes = {f"action {name}": array.shape[1:] for name, array in actions.items()}
    shapes |= {f"observation {name}": array.shape[1:] for name, array in _part(record, "observation").items()}
    wanted = {f"action {name}": part.shape for name, part in spec.action.items()}
    wanted |= {f"observation {name}": part.shape for name, part in spec.observation.items()}
    if shapes != wanted:
        name = sorted(name for name in shapes.keys() | wanted.keys() if shapes.get(name) != wanted.get(name))[0]
        raise ConfigError(f"env.task: its {name} is {wanted.get(name)}, the saved one was {shapes.get(name)}")
    waiting = state.get("waiting", np.zeros(num_envs, bool))  # older checkpoints have none
    ends = np.cumsum(state["length"])
    return [
        EpisodeStart(
            int(state["episode"][index]),
            {name: np.array(array[end - length : end]) for name, array in actions.items()},
            {name.removeprefix("observation/"): array[index] for name, array in record.items()},
            {name: array[index] for name, array in pending.items()} if waiting[index] else None,
        )
        for index, (length, end) in enumerate(zip(state["length"], ends, strict=True))
    ]


def _part(state: dict[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(f"{part}/"): array for name, array in state.items() if name.startswith(f"{part}/")}


def _rows(actions: Action) -> list[Action]:
    """One dict per action from arrays of all actions."""
    count = len(next(iter(actions.values())))
    return [{name: array[index] for name, array in actions.items()} for index in range(count)]
