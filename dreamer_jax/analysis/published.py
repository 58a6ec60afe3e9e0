"""Published learning curves, shipped with the package, and how a run's settings differ from those behind them."""

from __future__ import annotations

import difflib
import functools
import json
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from dreamer_jax.analysis.plot import Run, finished_bins
from dreamer_jax.config.loading import RESUMABLE, difference, replace
from dreamer_jax.config.loading import load as load_config
from dreamer_jax.config.named import BENCHMARKS, size_settings
from dreamer_jax.config.schema import Config, ConfigError, flatten
from dreamer_jax.envs import atari, dmc
from dreamer_jax.specs import EnvSpec

# The task is the comparison's own, a seed is a sample, and the names of preset, benchmark and revision are not settings
# of the algorithm: what they stand for is compared field by field.
_NO_MATTER = RESUMABLE | {"env.task", "seed", "preset", "benchmark", "revision"}
ALIASES = dmc.ALIASES | atari.ALIASES
_PLACES = {
    "dmc states": ("dmc_proprio",),
    "dmc images": ("dmc_vision", "dmc_vision_2020", "dmc_vision_2019"),
    "atari100k images": ("atari100k",),
    "atari images": ("atari200m_2020",),
}
"""Benchmarks with scores on tasks of a suite, by what a run sees of them."""
REFERENCE_SMALL = "reference_small"
"""The method, and the benchmark, of data/reference_small.json."""
OTHER_AGENTS = "other_agents"
"""Where curves of data/other_agents.json are."""


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
    settings: Config | None  # those of the protocol; None: of another kind of agent, or not recorded
    early: int  # environment frames by which ``edges`` lie before the ends of the bins

    @property
    def origin(self) -> str:
        """Whether others have published it, or it was recorded here."""
        return "recorded" if self.method == REFERENCE_SMALL else "published"


class Recorded(NamedTuple):
    """Runs of one program on one task under the same settings, episode by episode."""

    group_frames: int  # in which each environment ends an episode, or a width that was chosen
    settings: Config
    runs: list[Run]


class Difference(NamedTuple):
    """A setting, in a run and in what it is compared with."""

    setting: str
    run: Any
    other: Any

    def __str__(self) -> str:
        run, other = (f"{value:g}" if isinstance(value, float) else str(value) for value in (self.run, self.other))
        return f"{self.setting} {run} instead of {other}"


def published_scores() -> dict[str, Any]:
    """The file of published scores; its first entries say where they come from and how they were made."""
    return _data("published_scores")


def other_agents() -> dict[str, Any]:
    """The file of scores of agents of another kind; benchmarks/other_agents.py writes it."""
    return _data("other_agents")


def reference_small() -> dict[str, Any]:
    """The file of the reference's training scores under small settings, which benchmarks/reference_runs.py writes."""
    return _data(REFERENCE_SMALL)


@functools.cache
def _data(name: str) -> dict[str, Any]:
    return json.loads(resources.files("dreamer_jax").joinpath(f"data/{name}.json").read_text("utf-8"))


def seen_task(task: str, spec: EnvSpec) -> str:
    """A task by one of its names and what a run sees of it, such as ``dmc/ball_in_cup_catch from states``."""
    suite, _, name = task.partition("/")
    seen = "images" if any(leaf.image for leaf in spec.observation.values()) else "states"
    return f"{suite}/{ALIASES.get(name, name)} from {seen}"


def recorded_runs(place: str, entry: dict[str, Any]) -> Recorded:
    """What such a file has of one task; ``settings`` are those that differ from the preset's."""
    task, _, _ = place.partition(" from ")
    preset = load_config(reference_small()["protocol"]["preset"], overrides=[("env.task", task)])
    runs = [_run(task, int(seed), episodes) for seed, episodes in entry["seeds"].items()]
    return Recorded(entry["group_frames"], replace(preset, entry["settings"]), runs)


def _run(task: str, seed: int, episodes: list[list[float]]) -> Run:
    frames, scores = np.array(episodes, np.float64).reshape(-1, 2).T
    return Run(task, REFERENCE_SMALL, seed, frames, scores, np.zeros((0, 2)))


def published_curve(task: str, spec: EnvSpec, method: str) -> Published:
    """The curve of ``method`` on the task of a run, from states or from images as the run sees them.

    Raises:
      ConfigError: nothing is published for this task, or nothing by this method.
    """
    place = seen_task(task, spec)
    named, _, seen = place.partition(" from ")
    suite, _, name = named.partition("/")
    places, benchmarks = _PLACES.get(f"{suite} {seen}", ()), published_scores()["benchmarks"]
    name = f"{suite.removesuffix('100k')}_{name}"
    recorded = reference_small()["tasks"]
    found = {
        one: place
        for place in places
        for one, tasks in benchmarks.get(place, {"methods": {}})["methods"].items()
        if name in tasks
    }
    found |= {REFERENCE_SMALL: REFERENCE_SMALL} if place in recorded else {}
    of_task = named.partition("/")[2]
    others = other_agents().get(f"{suite} {seen}", {"methods": {}})
    found |= {one: OTHER_AGENTS for one, entry in others["methods"].items() if of_task in entry["tasks"]}
    if not found:
        known = "; ".join(f"{key} has {', '.join(_tasks(key))}" for key in places or benchmarks)
        raise ConfigError(f"{task}: no published curve; {known}; {REFERENCE_SMALL} has {', '.join(recorded)}")
    if method not in found:
        raise ConfigError(f"--to {method}: no published curve for {task}; {_instead(method, found)}")
    if method == REFERENCE_SMALL:
        return _small_curve(named, recorded_runs(place, recorded[place]))
    if found[method] == OTHER_AGENTS:
        return _other_curve(f"{suite} {seen}", method, named)
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
        protocol_settings(key) if own else None,
        own.get("early", 0) if own else 0,
    )


def _small_curve(task: str, recorded: Recorded) -> Published:
    runs, settings = recorded.runs, recorded.settings
    edges = recorded.group_frames * np.arange(1.0 + max(run.reached for run in runs) // recorded.group_frames)
    curves = np.ma.masked_invalid([finished_bins(run, edges) for run in runs])
    protocol = reference_small()["protocol"] | {
        "action_repeat": settings.env.action_repeat,
        "num_envs": settings.env.num_envs,
        "train_ratio": settings.train.train_ratio,
    }
    return Published(
        REFERENCE_SMALL,
        REFERENCE_SMALL,
        task,
        edges,
        curves.mean(0).filled(np.nan),
        curves.std(0).filled(np.nan),
        len(runs),
        protocol,
        settings,
        0,
    )


def _other_curve(place: str, method: str, task: str) -> Published:
    """Each point is at the end of a bin of the method's width; between those bins there is nothing."""
    entry, frames = other_agents()[place]["methods"][method], np.array(other_agents()[place]["frames"], np.float64)
    curve = entry["tasks"][task.partition("/")[2]]
    edges = np.union1d(frames, frames - entry["width"])
    mean, std = np.full((2, len(edges) - 1), np.nan)
    at = np.searchsorted(edges, frames) - 1
    mean[at], std[at] = np.array(curve["mean"], np.float64), np.array(curve["std"], np.float64)
    facts = f"{entry['name']}; {entry['source']} ({entry['licence']})"
    protocol = {"name": facts, "scores": entry["scores"], "point": entry["point"]}
    return Published(place, method, task, edges, mean, std, curve["seeds"], protocol, None, 0)


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
    elsewhere += [place for place, content in other_agents().items() if method in content["methods"]]
    elsewhere += reference_small()["tasks"] if method == REFERENCE_SMALL else []
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
