"""A report on one environment for the person who wrote it: what an agent would see, and what it comes to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np

from dreamer_jax.agent import make_agent
from dreamer_jax.config.schema import Config, ConfigError
from dreamer_jax.envs.actions import ActionLeaf, reach
from dreamer_jax.envs.observations import ObservationLeaf, part_of
from dreamer_jax.envs.spaces import bounds, empty_parts
from dreamer_jax.envs.wrappers import EnvironmentFailed, Stream, open_env
from dreamer_jax.specs import ArraySpec
from dreamer_jax.terminal import Answer, table

Record = dict[str, np.ndarray]
MOST_GROUPS = 8
OBSERVATION = ("observation", "shape", "type", "low seen", "high seen", "encoder")
ACTION = ("action", "shape", "the policy's", "the environment's own", "reached")


def check_env(config: Config, steps: int = 1000) -> Answer:
    """Take ``steps`` random actions as training would and describe what was seen.

    Training goes the same way through ``Stream`` and ``make_agent``, and what they refuse is refused here in the same
    words. What they let through is fine; if it may surprise, there is a note on it.

    Raises:
      ConfigError: no agent can be trained on this environment, or it failed, and why.
    """
    try:
        stream, records, seconds, notes = _look(config, steps)
        notes += _repeatability(config, min(steps, 200))
    except EnvironmentFailed as error:
        raise ConfigError(str(error)) from error
    seen = [_observation_row(name, spec, records) for name, spec in stream.env_spec.observation.items()]
    taken = [row for leaf in stream.actions.leaves for row in _action_rows(leaf)]
    return [
        f"{config.env.task}: {steps} random actions, {steps / seconds:.0f} steps per second",
        "",
        table(OBSERVATION, seen),
        "",
        table(ACTION, taken),
        "",
        *_episodes(records),
        "",
        *(f"note: {note}" for note in notes),
        "no problems found",
    ]


class Watch(gymnasium.Wrapper):
    """Passes everything on and keeps what came last."""

    last: Any = None

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        self.last = self.env.reset(seed=seed, options=options)
        return self.last

    def step(self, action: object) -> Any:
        self.last = self.env.step(action)
        return self.last


def _look(config: Config, steps: int) -> tuple[Stream, list[Record], float, list[str]]:
    """The stream, now closed, its records, the seconds they took, and notes on them."""
    watch = Watch(open_env(config.env))
    stream = Stream(watch, config.env, seed=config.seed, purpose=0, index=0)
    try:
        make_agent(config, stream.env_spec)  # nothing is compiled, but whatever networks can't take is refused
        records, notes = [], dict[str, None]()  # an ordered set
        begin = time.perf_counter()
        for record in _play(stream, steps):
            records.append(record)
            notes |= dict.fromkeys(_other_types(stream.observations.leaves, watch.last[0]))
        seconds = time.perf_counter() - begin
    finally:
        stream.close()
    for kind, space in (("observation", watch.observation_space), ("action", watch.action_space)):
        notes |= {f"{kind} {name!r} has no elements and is left out": None for name in empty_parts(space, kind)}
    return stream, records, seconds, [*notes, *_outside(stream.observations.leaves, records)]


def _play(stream: Stream, steps: int) -> Iterator[Record]:
    """Records of ``steps`` random actions; resets take no action."""
    stream.action_space.seed(0)
    record, taken = stream.reset()[0], 0
    yield record
    while taken < steps:
        taken += not record["is_last"]
        record = stream.step(stream.action_space.sample())[0]
        yield record


def _other_types(leaves: tuple[ObservationLeaf, ...], observation: Any) -> Iterator[str]:
    for name, path, space, _ in leaves:
        part = part_of(observation, name, path)
        given = getattr(part, "dtype", type(part).__name__)
        if given != space.dtype and not isinstance(space, gymnasium.spaces.Discrete):
            yield f"observation {name!r} comes as {given}, its space says {space.dtype}; it is converted"


def _outside(leaves: tuple[ObservationLeaf, ...], records: list[Record]) -> Iterator[str]:
    for leaf in leaves:
        if isinstance(leaf.space, gymnasium.spaces.Box):
            values = np.stack([record[leaf.name] for record in records])
            low, high = (np.reshape(bound, leaf.spec.shape) for bound in bounds(leaf.space))
            with np.errstate(over="ignore"):
                below, above = values < low.astype(np.float32), values > high.astype(np.float32)
            for wrong, side in ((below, "below its low"), (above, "above its high")):
                if wrong.any():
                    yield f"observation {leaf.name!r} is at times {side}, such as {values[wrong][0]:.4g}; it is kept"


def _repeatability(config: Config, steps: int) -> list[str]:
    """Play the same seeds and actions in two environments, of which one has seen an episode before."""
    played: list[list[Record]] = []
    for detour in (False, True):
        env = open_env(config.env)
        stream = Stream(env, config.env, seed=config.seed, purpose=1, index=0)
        try:
            if detour:
                list(_play(Stream(env, config.env, seed=config.seed, purpose=2, index=0), 1))
            played.append(list(_play(stream, steps)))
        finally:
            stream.close()
    for first, second in zip(*played, strict=False):
        if any(first[name].tobytes() != second[name].tobytes() for name in first):
            return ["one seed gives different episodes: a resumed run will begin new ones instead of going on"]
    return []


def _observation_row(name: str, spec: ArraySpec, records: list[Record]) -> tuple[str, ...]:
    values = np.stack([record[name] for record in records])
    encoder = "one-hot, MLP" if spec.discrete else "CNN" if spec.image else "MLP"
    kind = f"{spec.dtype}, {spec.classes} classes" if spec.discrete else spec.dtype
    return name, str(spec.shape), kind, f"{np.min(values):.4g}", f"{np.max(values):.4g}", encoder


def _action_rows(leaf: ActionLeaf) -> Iterator[tuple[str, ...]]:
    """One for a choice; for a Box one for each group of elements with the same bounds."""
    shape = str(leaf.spec.shape)
    if isinstance(leaf.space, gymnasium.spaces.Discrete):
        count, start = int(leaf.space.n), int(leaf.space.start)
        yield leaf.name, shape, f"one of {count}", f"starts at {start}", f"{start} to {start + count - 1}"
        return
    low, high, to = *(bound.ravel() for bound in bounds(leaf.space)), reach(leaf.space)
    groups: dict[tuple[float, float], list[int]] = {}
    for index, pair in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        groups.setdefault(pair, []).append(index)
    for pair, members in list(groups.items())[:MOST_GROUPS]:
        which = "" if len(groups) == 1 else f"[{_ranges(members)}]"
        reached = to.low.flat[members[0]], to.high.flat[members[0]]
        yield leaf.name + which, shape, "in [-1, 1]", _interval(*pair), _interval(*reached)
    if len(groups) > MOST_GROUPS:
        yield leaf.name, shape, "in [-1, 1]", f"and {len(groups) - MOST_GROUPS} more", ""


def _interval(low: float, high: float) -> str:
    return f"[{low:.4g}, {high:.4g}]"


def _ranges(members: list[int]) -> str:
    """Numbers in increasing order, such as ``0, 2-5``."""
    breaks = [0, *(np.flatnonzero(np.diff(members) > 1) + 1).tolist(), len(members)]
    pieces = [(members[start], members[stop - 1]) for start, stop in pairwise(breaks)]
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in pieces)


def _episodes(records: list[Record]) -> list[str]:
    """Counts and ranges over the episodes that ended."""
    returns, lengths, total, length = [], [], 0.0, 0
    for record in records:
        total, length = (0.0, 0) if record["is_first"] else (total + float(record["reward"]), length + 1)
        if record["is_last"]:
            returns.append(total)
            lengths.append(length)
    terminal = sum(bool(record["is_terminal"]) for record in records)
    if not returns:
        return [f"no episode ended within {length} actions; return so far {total:.4g}"]
    return [
        f"episodes ended: {len(returns)} ({terminal} by termination, {len(returns) - terminal} by a time limit)",
        f"actions per episode: {min(lengths)} to {max(lengths)}",
        f"return: {min(returns):.4g} to {max(returns):.4g}, mean {np.mean(returns):.4g}",
    ]
