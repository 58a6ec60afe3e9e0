"""A report on one environment for the person who wrote it: what an agent would see, and what is wrong."""

from __future__ import annotations

import time
from collections.abc import Iterable

import gymnasium
import numpy as np

from dreamer_jax.config.schema import ConfigError, EnvConfig
from dreamer_jax.envs.wrappers import EnvironmentFailed, Stream, open_env
from dreamer_jax.specs import ArraySpec


def check_env(config: EnvConfig, steps: int = 1000) -> str:
    """Take ``steps`` random actions and describe what was seen; problems come last.

    Raises:
      ConfigError: nothing could be trained on this environment, and why.
    """
    watched = Watch(open_env(config))
    stream = Stream(watched, config, seed=0, purpose=0, index=0)
    try:
        records, seconds = _play(stream, steps)
    except EnvironmentFailed as error:
        raise ConfigError(f"env.task: {config.task!r}: {error}") from error
    finally:
        stream.close()
    problems = list(watched.problems)
    if not stream.env_spec.observation:
        raise ConfigError(f"env.task: {config.task!r}: the observation space is empty")
    for name, spec in stream.env_spec.observation.items():
        values = np.stack([record[name] for record in records])
        if not np.isfinite(values).all():
            problems.append(f"observation {name!r} holds NaN or infinite values")
        if spec.discrete and (values.min() < 0 or values.max() >= spec.classes):
            problems.append(f"observation {name!r} leaves its {spec.classes} classes")
    if not np.isfinite([record["reward"] for record in records]).all():
        problems.append("a reward is NaN or infinite")
    problems += _repeatability(config, min(steps, 200))
    lines = [f"{config.task}: {steps} random actions, {steps / seconds:.0f} steps per second", ""]
    lines += _table(
        [("observation", "shape", "type", "low seen", "high seen", "encoder")]
        + [_observation_row(name, spec, records) for name, spec in stream.env_spec.observation.items()]
    )
    lines += ["", *_table([("action", "shape", "type", "the environment's own"), *_action_rows(stream)]), ""]
    lines += _episodes(records)
    lines += ["", *([f"problem: {problem}" for problem in problems] or ["no problems found"])]
    return "\n".join(lines)


class Watch(gymnasium.Wrapper):
    """Passes everything on and notes, once each, what breaks the environment's own declarations."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.problems: dict[str, None] = {}  # an ordered set

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        result = self.env.reset(seed=seed, options=options)
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
            raise TypeError("reset() must return (observation, info)")
        self._check(result[0], "reset()")
        return result

    def step(self, action: object) -> tuple:
        result = self.env.step(action)
        if not (isinstance(result, tuple) and len(result) == 5):
            raise TypeError("step() must return (observation, reward, terminated, truncated, info)")
        self._check(result[0], "step()")
        return result

    def _check(self, observation: object, where: str) -> None:
        for name, part, space in _parts("", observation, self.env.observation_space):
            value = np.asarray(part)
            if value.dtype != space.dtype and not isinstance(space, gymnasium.spaces.Discrete):
                self.problems[f"{where} gives {name} as {value.dtype}, its space says {space.dtype}"] = None
            elif not space.contains(part) and np.isfinite(value).all():
                self.problems[f"{where} gives {name} outside its space {space}"] = None


def _parts(name: str, value: object, space: gymnasium.Space) -> Iterable[tuple[str, object, gymnasium.Space]]:
    if isinstance(space, gymnasium.spaces.Dict):
        if not isinstance(value, dict):
            raise TypeError(f"the observation is a {type(value).__name__}, its space a Dict")
        for key, part in space.spaces.items():
            if key in value:
                yield from _parts(f"{name}/{key}" if name else str(key), value[key], part)
    else:
        yield name or "the observation", value, space


def _play(stream: Stream, steps: int) -> tuple[list[dict[str, np.ndarray]], float]:
    """Records of ``steps`` random actions, and the seconds they took; resets take no action."""
    stream.action_space.seed(0)
    records = [stream.reset()[0]]
    begin, taken = time.perf_counter(), 0
    while taken < steps:
        taken += not records[-1]["is_last"]
        records.append(stream.step(stream.action_space.sample())[0])
    return records, time.perf_counter() - begin


def _repeatability(config: EnvConfig, steps: int) -> list[str]:
    """Play the same seeds and actions in two environments, of which one has seen an episode before."""
    played = []
    for detour in (False, True):
        env = open_env(config)
        stream = Stream(env, config, seed=1, purpose=0, index=0)
        try:
            if detour:
                _play(Stream(env, config, seed=2, purpose=0, index=0), 1)
            played.append(_play(stream, steps)[0])
        finally:
            stream.close()
    for first, second in zip(*played, strict=True):
        if any(first[name].tobytes() != second[name].tobytes() for name in first):
            return ["one seed gives different episodes: a resumed run will begin new ones instead of going on"]
    return []


def _observation_row(name: str, spec: ArraySpec, records: list[dict[str, np.ndarray]]) -> tuple[str, ...]:
    values = np.stack([record[name] for record in records])
    encoder = "one-hot, MLP" if spec.discrete else "CNN" if spec.image else "MLP"
    kind = f"{spec.dtype}, {spec.classes} classes" if spec.discrete else spec.dtype
    return name, str(spec.shape), kind, f"{np.min(values):.4g}", f"{np.max(values):.4g}", encoder


def _action_rows(stream: Stream) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, spec, space, _ in stream.action_leaves:
        if isinstance(space, gymnasium.spaces.Discrete):
            rows.append((name, str(spec.shape), f"one of {space.n}", f"starts at {space.start}"))
        else:
            bounds = f"[{np.min(space.low):.4g}, {np.max(space.high):.4g}]"
            bounded = np.isfinite(space.low).all() and np.isfinite(space.high).all()
            rows.append((name, str(spec.shape), "in [-1, 1]", bounds if bounded else f"{bounds}, unbounded kept as is"))
    return rows


def _episodes(records: list[dict[str, np.ndarray]]) -> list[str]:
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


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
