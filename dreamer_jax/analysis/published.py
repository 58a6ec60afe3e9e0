"""Published learning curves, shipped with the package, and how a run's settings differ from those behind them."""

from __future__ import annotations

import difflib
import functools
import json
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from dreamer_jax.config.loading import RESUMABLE, difference
from dreamer_jax.config.loading import load as load_config
from dreamer_jax.config.named import BENCHMARKS, size_settings
from dreamer_jax.config.schema import Config, ConfigError, flatten
from dreamer_jax.envs import atari, dmc
from dreamer_jax.specs import EnvSpec

# The task is the comparison's own, a seed is a sample, and the names of preset, benchmark and revision are not settings
# of the algorithm: what they stand for is compared field by field.
_NO_MATTER = RESUMABLE | {"env.task", "seed", "preset", "benchmark", "revision"}
_ALIASES = dmc.ALIASES | atari.ALIASES
_PLACES = {
    "dmc states": ("dmc_proprio",),
    "dmc images": ("dmc_vision", "dmc_vision_2020", "dmc_vision_2019"),
    "atari100k images": ("atari100k",),
    "atari images": ("atari200m_2020",),
}
"""Benchmarks with scores on tasks of a suite, by what a run sees of them."""


class Published(NamedTuple):
    """The curve of one method on one task."""

    benchmark: str
    method: str
    task: str  # as we name it
    edges: np.ndarray  # [bins + 1] environment frames as published; bin i is (edges[i], edges[i + 1]]
    mean: np.ndarray  # [bins] over seeds of each seed's mean return; NaN where there is none
    std: np.ndarray  # [bins] of the same, as of a whole population
    seeds: int
    protocol: dict[str, Any] | None  # None: not recorded for this method
    early: int  # environment frames by which ``edges`` lie before the ends of the bins


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
    seen = "images" if any(leaf.image for leaf in spec.observation.values()) else "states"
    places, benchmarks = _PLACES.get(f"{suite} {seen}", ()), published_scores()["benchmarks"]
    name = f"{suite.removesuffix('100k')}_{_ALIASES.get(name, name)}"
    found = {
        one: place
        for place in places
        for one, tasks in benchmarks.get(place, {"methods": {}})["methods"].items()
        if name in tasks
    }
    if not found:
        known = "; ".join(f"{place} has {', '.join(_tasks(place))}" for place in places or benchmarks)
        raise ConfigError(f"{task}: no published curve; {known}")
    if method not in found:
        raise ConfigError(f"--to {method}: no published curve for {task}; {_instead(method, found)}")
    key = found[method]
    curve, protocol = benchmarks[key]["methods"][method][name], benchmarks[key]["protocol"]
    own = protocol if protocol["method"] == method else None
    return Published(
        key,
        method,
        _ours(key, name),
        np.array(benchmarks[key]["edges"], np.float64),
        np.array(curve["mean"], np.float64),  # None becomes NaN
        np.array(curve["std"], np.float64),
        curve["seeds"],
        own,
        own.get("early", 0) if own else 0,
    )


def protocol_settings(benchmark: str) -> Config:
    """The settings under which the scores that a benchmark's protocol is about were published."""
    (name,) = (name for name, entry in BENCHMARKS.items() if entry.published == benchmark)
    preset = published_scores()["benchmarks"][benchmark]["protocol"].get("preset")
    return load_config(preset, overrides=[("benchmark", name)])


def differing_settings(run: Config, other: Config) -> list[Difference]:
    """Every setting that differs and can matter; widths that follow from the size are summed up as the size."""
    ours, theirs = flatten(run), flatten(other)
    at_size, at_other = size_settings(run.size), size_settings(other.size)
    both = at_size.keys() & at_other.keys()
    follows = {name for name in both if (ours[name], theirs[name]) == (at_size[name], at_other[name])}
    hidden = _NO_MATTER | (follows or {"size"})
    return [Difference(*each) for each in difference(run, other) if each[0] not in hidden]


def _instead(method: str, found: dict[str, str]) -> str:
    elsewhere = [key for key, content in published_scores()["benchmarks"].items() if method in content["methods"]]
    if elsewhere:
        return f"there are {', '.join(found)} here, and {method} in {', '.join(elsewhere)}"
    near = difflib.get_close_matches(method, found, 1)
    return f"{f'did you mean {near[0]}? ' if near else ''}there are {', '.join(found)}"


def _tasks(key: str) -> list[str]:
    names = {name for tasks in published_scores()["benchmarks"][key]["methods"].values() for name in tasks}
    return sorted(_ours(key, name) for name in names)


def _ours(key: str, name: str) -> str:
    (suite,) = (seen.partition(" ")[0] for seen, places in _PLACES.items() if key in places)
    return f"{suite}/{name.partition('_')[2]}"
