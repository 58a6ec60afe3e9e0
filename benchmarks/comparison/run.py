"""One run: something learns, plays on its task, under shifts and on another task, and leaves one file."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np

from comparison import behavior_cloning, model_free, world_model
from comparison.prediction import predictions
from comparison.protocol import (
    CLONES,
    EVALUATION_SEED,
    LEARNERS,
    METHODS,
    MODEL_FREE,
    PREDICTION,
    RANDOM,
    RECORDING_SEED,
    WORLD_MODELS,
    Frozen,
    Learnt,
    Place,
    Protocol,
    read,
    write,
)
from dreamer_jax.config.schema import EnvConfig
from dreamer_jax.datasets.collect import uniform
from dreamer_jax.envs.shifts.opening import shifted
from dreamer_jax.evaluation.play import MakeActor, play
from dreamer_jax.profiling.speed import machine

LONGEST = 100_000
"""Records of an episode; whole ones are played."""


def needs(method: str) -> list[str]:
    """What must be finished on the same task and seed before."""
    if method == RANDOM:
        return []
    if method in CLONES:
        return [RANDOM, *LEARNERS]
    return METHODS if method == PREDICTION else [RANDOM]


def perform(protocol: Protocol, place: Place, name: str, method: str, seed: int) -> dict[str, Any]:
    """Do it and write its file, which is also returned.

    Raises:
      ConfigError: a package or something that it needs is missing.
    """
    begin = time.perf_counter()
    before = {one: read(protocol, place.result(name, one, seed)) for one in needs(method)}
    known = {"task": name, "method": method, "seed": seed}
    if method == PREDICTION:
        found = predict(protocol, place, name, seed, before)
    else:
        found = play_all(protocol, place, name, method, seed, before)
    found = known | found | {"seconds": round(time.perf_counter() - begin, 1), "machine": machine()}
    write(protocol, place.result(name, method, seed), found)
    return found


def play_all(
    protocol: Protocol, place: Place, name: str, method: str, seed: int, before: dict[str, Any]
) -> dict[str, Any]:
    """Learn, and play wherever it is asked for."""
    task = protocol.tasks[name]
    env = protocol.env(task.name)
    played = partial(episodes, protocol, seed)
    if method == RANDOM:
        learnt, std = Learnt([(0, uniform)], {}, {}), deviations(protocol, env, seed)
    else:
        std = {key: np.array(values) for key, values in before[RANDOM]["std"].items()}
        learnt = learn(protocol, place, name, method, seed, before)
    curve = {"frames": [frames for frames, _ in learnt.curve]}
    curve["returns"] = [played(env, actor) for _, actor in learnt.curve]
    _, last = learnt.curve[-1]
    found: dict[str, Any] = {"curve": curve, "costs": {key: round(x, 1) for key, x in learnt.costs.items()}}
    found["shifts"] = {
        shift: played(env, last, partial(shifted, env, shift, severity, seed=seed, std=std))
        for shift, severity in protocol.shifts.items()
    }
    if task.other:
        found["transfer"] = {"task": task.other, "returns": played(protocol.env(task.other), last)}
    if method == RANDOM:
        found["std"] = {key: values.tolist() for key, values in std.items()}
    return found | {"settings": learnt.settings}


def learn(protocol: Protocol, place: Place, name: str, method: str, seed: int, before: dict[str, Any]) -> Learnt:
    """By whatever the method is."""
    task, folder = protocol.tasks[name].name, place.agent(name, method, seed)
    if method in WORLD_MODELS:
        return world_model.learn(protocol, method, task, seed, folder)
    if method in MODEL_FREE:
        return model_free.learn(protocol, method, task, seed, folder)
    best = best_learner(before)
    actor = open_agent(protocol, place, name, best, seed).actor
    return behavior_cloning.learn(protocol, method, task, seed, folder, best, actor)


def best_learner(before: dict[str, Any]) -> str:
    """Who had the highest mean return at the end."""
    return max(LEARNERS, key=lambda one: float(np.mean(before[one]["curve"]["returns"][-1])))


def open_agent(protocol: Protocol, place: Place, name: str, method: str, seed: int) -> Frozen:
    """A finished agent of this task and seed; one whose file is there while it is not, learns again."""
    task, folder = protocol.tasks[name].name, place.agent(name, method, seed)
    if not folder.exists():
        before = {one: read(protocol, place.result(name, one, seed)) for one in needs(method)}
        learn(protocol, place, name, method, seed, before)
    if method in WORLD_MODELS:
        return world_model.open_agent(folder)
    if method in MODEL_FREE:
        return model_free.open_agent(protocol, method, task, seed, folder)
    return behavior_cloning.open_agent(protocol, task, folder)


def episodes(protocol: Protocol, seed: int, env: EnvConfig, actor: MakeActor, opened: Any = None) -> list[float]:
    """Returns of whole episodes, which begin alike for every method."""
    shown = play(
        env,
        {"policy": actor},
        episodes=protocol.episodes,
        steps=LONGEST,
        seed=EVALUATION_SEED + seed,
        opened=opened,
    )
    return [round(float(one.columns["reward"].sum()), 3) for one in shown]


def deviations(protocol: Protocol, env: EnvConfig, seed: int) -> dict[str, np.ndarray]:
    """Of each number that is shown while actions are random, by name: the units of noise on observations."""
    shown = play(env, {RANDOM: uniform}, episodes=protocol.recorded, steps=LONGEST, seed=RECORDING_SEED + seed)
    head = "observation/"
    names = [key for key in shown[0].columns if key.startswith(head)]
    return {key.removeprefix(head): np.concatenate([one.columns[key] for one in shown]).std(0) for key in names}


def predict(protocol: Protocol, place: Place, name: str, seed: int, before: dict[str, Any]) -> dict[str, Any]:
    """What can be predicted from the features of every method, on the same recordings."""
    env, best = protocol.env(protocol.tasks[name].name), best_learner(before)
    agents = {method: open_agent(protocol, place, name, method, seed) for method in METHODS}
    return {"demonstrator": best} | predictions(protocol, env, agents, agents[best].actor, seed)
