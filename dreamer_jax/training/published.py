"""Published learning curves, shipped with the package, and how a run's settings differ from those behind them."""

from __future__ import annotations

import difflib
import functools
import json
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from dreamer_jax.config.benchmarks import BENCHMARKS
from dreamer_jax.config.loading import RESUMABLE, difference
from dreamer_jax.config.loading import load as load_config
from dreamer_jax.config.presets import size_settings
from dreamer_jax.config.schema import Config, ConfigError, flatten
from dreamer_jax.envs.dmc import ALIASES
from dreamer_jax.specs import EnvSpec

# The task is the comparison's own, a seed is a sample, and the names of preset, benchmark and revision are not settings
# of the algorithm: what they stand for is compared field by field.
_NO_MATTER = RESUMABLE | {"env.task", "seed", "preset", "benchmark", "revision"}


class Published(NamedTuple):
    """The curve of one method on one task."""

    benchmark: str
    method: str
    task: str  # as we name it
    edges: np.ndarray  # [bins + 1] environment frames; bin i is (edges[i], edges[i + 1]]
    mean: np.ndarray  # [bins] over seeds of each seed's mean return; NaN where there is none
    std: np.ndarray  # [bins] of the same, as of a whole population
    seeds: int
    protocol: dict[str, Any] | None  # None: not recorded for this method


class Difference(NamedTuple):
    """A setting, in a run and in what it is compared with."""

    setting: str
    run: Any
    other: Any

    def __str__(self) -> str:
        run, other = (f"{value:g}" if isinstance(value, float) else str(value) for value in (self.run, self.other))
        return f"{self.setting} {run} instead of {other}"


@functools.cache
def published_scores() -> dict[str, Any]:
    """The file of published scores; its first entries say where they come from and how they were made."""
    return json.loads(resources.files("dreamer_jax").joinpath("data/published_scores.json").read_text("utf-8"))


def published_curve(task: str, spec: EnvSpec, method: str) -> Published:
    """The curve of ``method`` on the task of a run, from states or from images as the run sees them.

    Raises:
      ConfigError: nothing is published for this task, or nothing by this method.
    """
    suite, _, name = task.partition("/")
    images = any(leaf.image for leaf in spec.observation.values())
    key = {"dmc": "dmc_vision" if images else "dmc_proprio", "atari100k": "atari100k"}.get(suite, "")
    benchmarks = published_scores()["benchmarks"]
    benchmark = benchmarks.get(key, {"methods": {}})
    name = f"{suite.removesuffix('100k')}_{ALIASES.get(name, name)}"
    methods = {one: tasks[name] for one, tasks in benchmark["methods"].items() if name in tasks}
    if not methods:
        places = [key] if key else list(benchmarks)
        known = "; ".join(f"{place} has {', '.join(_tasks(place))}" for place in places)
        raise ConfigError(f"{task}: no published curve; {known}")
    if method not in methods:
        near = difflib.get_close_matches(method, methods, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"--to {method}: no published curve for {task}; {hint}there are {', '.join(methods)}")
    curve, protocol = methods[method], benchmark["protocol"]
    return Published(
        key,
        method,
        _ours(key, name),
        np.array(benchmark["edges"], np.float64),
        np.array(curve["mean"], np.float64),  # None becomes NaN
        np.array(curve["std"], np.float64),
        curve["seeds"],
        protocol if protocol["method"] == method else None,
    )


def protocol_settings(benchmark: str) -> Config:
    """The settings under which DreamerV3's scores in a benchmark were published."""
    (name,) = (name for name, entry in BENCHMARKS.items() if entry.published == benchmark)
    return load_config(overrides=[("benchmark", name)])


def differing_settings(run: Config, other: Config) -> list[Difference]:
    """Every setting that differs and can matter; widths that follow from the size are summed up as the size."""
    ours, theirs = flatten(run), flatten(other)
    at_size, at_other = size_settings(run.size), size_settings(other.size)
    follows = {name for name in at_size if (ours[name], theirs[name]) == (at_size[name], at_other[name])}
    hidden = _NO_MATTER | (follows or {"size"})
    return [Difference(*each) for each in difference(run, other) if each[0] not in hidden]


def _tasks(key: str) -> list[str]:
    names = {name for tasks in published_scores()["benchmarks"][key]["methods"].values() for name in tasks}
    return sorted(_ours(key, name) for name in names)


def _ours(key: str, name: str) -> str:
    suite, _, task = name.partition("_")
    return f"{key if suite == 'atari' else suite}/{task}"
