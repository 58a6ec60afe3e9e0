"""Recordings of episodes that are played for a judgement, with the simulator's states where there are any."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import gymnasium
import jax
import numpy as np

from dreamer_jax.config.schema import EnvConfig
from dreamer_jax.datasets.collect import Actor, of_agent
from dreamer_jax.devices.acting import make_act
from dreamer_jax.envs.dmc import ControlSuite
from dreamer_jax.envs.wrappers import SIGNALS, Stream, open_env
from dreamer_jax.evaluation.recordings import Recording, shown
from dreamer_jax.evaluation.simulator import control_suite, targets
from dreamer_jax.evaluation.subject import Subject
from dreamer_jax.specs import EnvSpec
from dreamer_jax.types import Mode, TimeStep

PURPOSE = 4
"""Separates these episodes from all others under the same seed."""


class MakeActor(Protocol):
    def __call__(self, spec: EnvSpec, num_envs: int, rng: np.random.Generator, /) -> Actor: ...


def policy_of(subject: Subject, seed: int, noise: float = 0.0, mode: Mode = "sample") -> MakeActor:
    """Its actions, with noise beside them; compiled once for all that it makes."""
    assert subject.agent is not None
    acts = make_act(subject.agent, mode), jax.jit(subject.agent.reset, static_argnums=1)
    return lambda spec, num_envs, rng: of_agent(*acts, subject.params, spec, num_envs, rng, seed, noise)


def play(
    config: EnvConfig,
    actors: Mapping[str, MakeActor],
    *,
    episodes: int,
    steps: int,
    seed: int,
    opened: Callable[[], gymnasium.Env] | None = None,
) -> list[Recording]:
    """``episodes`` of each actor, their first ``steps`` records, always the same ones under a seed.

    Args:
      opened: opens an environment instead of the one of ``config``.

    Raises:
      ConfigError: the environment can't be opened.
      EnvironmentFailed: it failed.
    """
    found = []
    for number, (name, make) in enumerate(actors.items()):
        envs = [opened() if opened else open_env(config) for _ in range(episodes)]
        streams = [
            Stream(env, config, seed=seed, purpose=PURPOSE, index=number * episodes + index)
            for index, env in enumerate(envs)
        ]
        try:
            suites = [control_suite(env) for env in envs] if config.task.startswith("dmc/") else []
            actor = make(streams[0].env_spec, episodes, np.random.default_rng([seed, PURPOSE, number]))
            found += _play(name, streams, suites, actor, steps)
        finally:
            for stream in streams:
                stream.close()
    return found


def _play(source: str, streams: list[Stream], suites: list[ControlSuite], actor: Actor, steps: int) -> list[Recording]:
    spec, running = streams[0].env_spec, np.ones(len(streams), bool)
    rows: list[list[dict[str, np.ndarray]]] = [[] for _ in streams]
    known: list[list[dict[str, np.ndarray]]] = [[] for _ in streams]
    records = [stream.reset()[0] for stream in streams]
    for _ in range(steps):
        stacked = {name: np.stack([record[name] for record in records]) for name in records[0]}
        timestep = TimeStep({name: stacked[name] for name in spec.observation}, *(stacked[name] for name in SIGNALS))
        action = actor(timestep)
        for index in np.flatnonzero(running):
            row = {f"observation/{name}": records[index][name] for name in spec.observation}
            row |= {f"action/{name}": np.array(x[index]) for name, x in action.items()}
            rows[index].append(row | {name: records[index][name] for name in SIGNALS})
            if suites:
                known[index].append(targets(suites[index]) | {"simulator": suites[index].simulator_state()})
        running &= ~stacked["is_last"]
        if not running.any():
            break
        records = [
            stream.step({name: x[index] for name, x in action.items()})[0] for index, stream in enumerate(streams)
        ]
    found = []
    for own, beside in zip(rows, known, strict=True):
        columns = {name: np.stack([row[name] for row in own]) for name in own[0]}
        other = {name: np.stack([one[name] for one in beside]) for name in beside[0]} if beside else {}
        simulator = other.pop("simulator", None)
        found.append(Recording(source, columns, shown(spec, columns) | other, simulator))
    return found
