"""Several runs from one command line: seeds, grids and random points, and which of them one program can update."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dreamer_jax.config.checks import check_limits
from dreamer_jax.config.loading import load
from dreamer_jax.config.reading import parse
from dreamer_jax.config.schema import FIELDS, Config, ConfigError, flatten, is_enabled

MAX_RUNS = 10_000
SHARED = frozenset(
    name
    for name, field in FIELDS.items()
    if name == "seed" or (field.kind is float and name.startswith(("optimizer.", "loss.", "kl.", "behavior.")))
)
"""Fields that are numbers in a compiled update, which may differ from run to run of one program."""

_IN_NAMES = ("env.task", "preset", "size")  # of directories anyway
_TRIES = 100  # draws for each random point, before there are taken to be too few different ones


class Point(NamedTuple):
    """One run of several."""

    name: str  # of its directory
    config: Config
    given: tuple[tuple[str, str], ...]  # name and text of the settings that it adds to those of all


class _Axis(NamedTuple):
    """What a field is swept over: values as text, or numbers between two ends."""

    name: str
    values: tuple[str, ...]
    ends: tuple[float, float] | None


def make_points(
    files: Iterable[str | Path],
    flags: Sequence[tuple[str, str]],
    *,
    seeds: str | None = None,
    sweeps: Sequence[str] = (),
    sample: int | None = None,
    sample_seed: int | None = None,
) -> list[Point]:
    """Every point of the grid, or ``sample`` random ones, with every seed; seeds vary fastest.

    Args:
      files, flags: settings of all runs, as ``load`` takes them.
      seeds: such as ``0..7`` (both ends are meant) or ``0,3,5``.
      sweeps: such as ``kl.rep=0.1,0.3``; together with ``sample`` also ``optimizer.learning_rate=1e-5..1e-3``, which
        is log-uniform for positive numbers and uniform for others.
      sample_seed: of the random points; fewer points of the same seed are the first of more.

    Raises:
      ConfigError: one line that begins with the flag.
    """
    if sample is not None and not sweeps:
        raise ConfigError(f"--sample: got {sample}, needs --sweep field=low..high or field=value,value")
    if sample_seed is not None and sample is None:
        raise ConfigError(f"--sample-seed: got {sample_seed}, needs --sample N")
    axes = [_read_axis(text, random=sample is not None) for text in sweeps]
    labels = {axis.name: f"--sweep {axis.name}" for axis in axes} | ({} if seeds is None else {"seed": "--seeds"})
    swept = [axis.name for axis in axes]
    for name in {name for name, _ in flags} & labels.keys() | {name for name in swept if swept.count(name) > 1}:
        raise ConfigError(f"{labels[name]}: {name} is given elsewhere on the command line, too; keep one of them")
    seeded = [()] if seeds is None else [(("seed", str(seed)),) for seed in parse_seeds(seeds)]
    count = len(seeded) * (sample or math.prod(len(axis.values) for axis in axes))
    if count > MAX_RUNS:
        raise ConfigError(f"--sweep: {count:,} runs, must be at most {MAX_RUNS:,}")
    grid: Iterable[tuple[str, ...]] = itertools.product(*(axis.values for axis in axes))
    settings = _draw_points(axes, sample, sample_seed or 0) if sample else grid
    points = []
    for texts, seed in itertools.product(settings, seeded):
        chosen = tuple(zip(swept, texts, strict=True))
        config = load(files=files, overrides=[*flags, *chosen, *seed], labels=labels)
        points.append(Point(run_name(config, chosen), config, chosen + seed))
    _refuse_twins(points)
    return points


def parse_seeds(text: str) -> list[int]:
    """``0..7`` and ``0,3,5`` as numbers."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,18})(?:\.\.([0-9]{1,18}))?", part)
        if not match:
            raise ConfigError(f"--seeds: got {text!r}, expected whole numbers such as 0..7 or 0,3,5")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ConfigError(f"--seeds: got {text!r}, the first of a range must be at most the last: {last}..{first}")
        if len(found) + last - first >= MAX_RUNS:
            raise ConfigError(f"--seeds: got {text!r}, must be at most {MAX_RUNS:,} seeds")
        found += range(first, last + 1)
    twice = next((seed for seed in found if found.count(seed) > 1), None) if len(set(found)) < len(found) else None
    if twice is not None:
        raise ConfigError(f"--seeds: got {text!r}, {twice} is there twice")
    return found


def run_name(config: Config, swept: Iterable[tuple[str, str]] = ()) -> str:
    """``TASK-PRESET-SIZE-SEED`` and ``-field=value`` for what is swept, as the name of a directory."""
    data, only = config.offline.data, config.offline.only
    what = "-".join([*(Path(place).name for place in data.split(",")), only]) if data else config.env.task
    parts = [what, config.preset, config.size, str(config.seed)]
    parts += [f"{name}={text}" for name, text in swept if name not in _IN_NAMES]
    return "-".join("".join(c if c.isalnum() or c in "-_.=" else "-" for c in part) for part in parts)


def group_by_program(points: Sequence[Point]) -> list[list[Point]]:
    """Groups whose updates can be one program, in the order of their first points."""
    groups: dict[Any, list[Point]] = {}
    for point in points:
        groups.setdefault(_program(point.config), []).append(point)
    return list(groups.values())


def numbers_of(configs: Sequence[Config]) -> list[dict[str, float]]:
    """Of each of a group, by name, the numbers that are not the same in all; seeds aside."""
    values = [flatten(config) for config in configs]
    names = [name for name in FIELDS if name in SHARED - {"seed"} and len({each[name] for each in values}) > 1]
    return [{name: each[name] for name in names} for each in values]


def _program(config: Config) -> tuple[Any, ...]:
    """Equal for settings that differ only in numbers which the same compiled update can take.

    A number that is 0 often means that something is off, and is not compiled at all. Step sizes and the like of actor
    and critic that are the model's make one optimiser of three, and are taken for others in a program that takes both.
    """
    values, optimizer = flatten(config), config.optimizer
    fixed = [value for name, value in values.items() if name not in SHARED]
    fixed += [config.seed] if config.offline.data else []  # learns alone
    on = [is_enabled(values[name]) for name in FIELDS if name in SHARED and name != "seed"]
    own = optimizer.actor_learning_rate, optimizer.critic_learning_rate, optimizer.actor_critic_eps
    models = optimizer.learning_rate, optimizer.learning_rate, optimizer.eps
    return *fixed, *on, *(value if value == model else None for value, model in zip(own, models, strict=True))


def _read_axis(text: str, *, random: bool) -> _Axis:
    name, equals, given = text.partition("=")
    label = f"--sweep {name}"
    if name == "seed":
        raise ConfigError(f"{label}: got {given!r}, use --seeds, such as --seeds 0..7")
    values = tuple(given.split(","))
    if not equals or not name or not all(values):
        raise ConfigError(f"--sweep: got {text!r}, expected field=value,value such as kl.rep=0.1,0.3")
    if name not in FIELDS:
        load(overrides=[(name, given)], labels={name: label})  # says what name was meant
    kind = FIELDS[name].kind
    if kind not in (int, float) or len(values) > 1 or ".." not in given:
        return _Axis(name, values, None)
    if not random:
        raise ConfigError(f"{label}: got {given}, a range needs --sample N; or list values with commas")
    low, high = (parse(end, kind) for end in given.split("..", 1))
    if not (isinstance(low, int | float) and isinstance(high, int | float)):
        noun = "whole numbers" if kind is int else "numbers"
        raise ConfigError(f"{label}: got {given!r}, expected a range between two {noun}, such as 1..4")
    if low >= high:
        raise ConfigError(f"{label}: got {given}, the first end of a range must be less than the other")
    for end in (low, high):
        try:
            check_limits(name, end)
        except ConfigError as error:
            raise ConfigError(f"--sweep {error}") from None
    return _Axis(name, (), (low, high))


def _draw_points(axes: Sequence[_Axis], count: int, seed: int) -> list[tuple[str, ...]]:
    """Different ones."""
    rng, found = random.Random(seed), dict[tuple[str, ...], None]()
    for _ in range(_TRIES * count):
        found.setdefault(tuple(_draw(axis, rng) for axis in axes))
        if len(found) == count:
            return list(found)
    raise ConfigError(f"--sample: got {count}, there are only {len(found)} different points")


def _draw(axis: _Axis, rng: random.Random) -> str:
    if axis.ends is None:
        return rng.choice(axis.values)
    low, high = axis.ends
    if isinstance(low, int) and isinstance(high, int):
        return str(rng.randint(low, high))
    exact = math.exp(rng.uniform(math.log(low), math.log(high))) if low > 0 else rng.uniform(low, high)
    short = f"{exact:.6g}"  # also names a directory
    return short if low <= float(short) <= high else repr(min(max(exact, low), high))


def _refuse_twins(points: Sequence[Point]) -> None:
    seen: dict[Any, Point] = {}
    for point in points:
        for key, what in ((point.config, "settings"), (point.name, "directory")):
            other = seen.setdefault(key, point)
            if other is not point:
                both = " and ".join(" ".join(f"{name}={text}" for name, text in one.given) for one in (other, point))
                raise ConfigError(f"--sweep: {both} have the same {what}; leave one of them out")
