"""Playing whole episodes for a dataset: at random, by correlated noise, or with a run's agent."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from dreamer_jax.config.schema import Config, ConfigError
from dreamer_jax.datasets.dataset import Writer, env_facts, write_dataset
from dreamer_jax.envs.vector import VectorEnvs, make_envs
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import ArrayDict, TimeStep

PURPOSE = 3
"""Separates these episodes from those of training, evaluation and films under the same seed."""
OU_RETURN = 0.15
"""The share of its way back to 0 that a number goes in a step, and the chance of a new choice."""


class Actor(Protocol):
    def __call__(self, timestep: TimeStep, /) -> ArrayDict:
        """Actions {name: [E, ...]} after ``timestep``."""
        ...


def uniform(spec: EnvSpec, num_envs: int, rng: np.random.Generator) -> Actor:
    """Numbers uniform in [-1, 1), all choices alike."""

    def draw(leaf: ArraySpec) -> np.ndarray:
        shape = (num_envs, *leaf.shape)
        return rng.integers(leaf.classes, size=shape) if leaf.classes else rng.uniform(-1, 1, shape)

    return lambda timestep: {name: draw(leaf).astype(leaf.dtype) for name, leaf in spec.action.items()}


def ornstein_uhlenbeck(spec: EnvSpec, num_envs: int, rng: np.random.Generator, noise: float) -> Actor:
    """``x <- (1 - 0.15) x + noise N(0, 1)`` for numbers, clipped to [-1, 1]; choices stay, with a chance of 0.85."""
    fresh = uniform(spec, num_envs, rng)
    last: ArrayDict = {}

    def act(timestep: TimeStep) -> ArrayDict:
        first, new = np.asarray(timestep.is_first), fresh(timestep)
        for name, leaf in spec.action.items():
            shape = (num_envs, *(1,) * len(leaf.shape))
            begins = first.reshape(shape) if last.keys() >= {name} else np.ones(shape, bool)
            if leaf.classes:
                change = begins | (rng.random(shape) < OU_RETURN)
                last[name] = np.where(change, new[name], last.get(name, new[name]))
            else:
                before = np.where(begins, 0, last.get(name, np.zeros_like(new[name])))
                step = noise * rng.normal(size=(num_envs, *leaf.shape))
                last[name] = ((1 - OU_RETURN) * before + step).astype(leaf.dtype)
        return {name: x if spec.action[name].classes else np.clip(x, -1, 1) for name, x in last.items()}

    return act


def of_run(run_dir: Path, spec: EnvSpec, num_envs: int, rng: np.random.Generator, seed: int, noise: float) -> Actor:
    """Sampled actions of a run's agent, and noise on them: its deviation for numbers, a chance of any other choice.

    Raises:
      ConfigError: there is no such run, or it is of another environment.
    """
    from dreamer_jax.devices.acting import make_act
    from dreamer_jax.runs.integrity import read_spec
    from dreamer_jax.runs.load import load

    if read_spec(run_dir) != spec:
        raise ConfigError(f"--policy: {run_dir} was trained with other observations or actions than this environment's")
    agent, state = load(run_dir)
    acts = make_act(agent, "sample"), jax.jit(agent.reset, static_argnums=1)
    return of_agent(*acts, state.params, spec, num_envs, rng, seed, noise)


def of_agent(
    act: Callable[..., Any],
    reset: Callable[..., Any],
    params: Any,
    spec: EnvSpec,
    num_envs: int,
    rng: np.random.Generator,
    seed: int,
    noise: float,
) -> Actor:
    """What ``make_act`` made of an agent and its compiled ``reset``, as ``of_run``."""
    root, carry, step = jax.random.key(seed), reset(params, num_envs), 0
    fresh = uniform(spec, num_envs, rng)

    def disturbed(leaf: ArraySpec, chosen: np.ndarray, new: np.ndarray) -> np.ndarray:
        if leaf.classes:
            other = rng.random((num_envs, *(1,) * len(leaf.shape))) < noise
            return np.where(other, new, chosen)
        return np.clip(chosen + noise * rng.normal(size=chosen.shape), -1, 1).astype(leaf.dtype)

    def chosen(timestep: TimeStep) -> ArrayDict:
        nonlocal carry, step
        carry, action, _ = act(params, root, step, carry, timestep)
        step += 1
        if not noise:
            return action
        new = fresh(timestep)
        taken = {name: disturbed(leaf, action[name], new[name]) for name, leaf in spec.action.items()}
        carry = carry.replace(prev_action=taken)  # the agent's next state follows from what was done
        return taken

    return chosen


def collect(
    config: Config,
    folder: str | Path,
    *,
    policy: str,
    noise: float,
    episodes: int,
    after_episode: Callable[[int, float], None] = lambda count, score: None,
) -> None:
    """Write ``episodes`` episodes of ``config.env`` to a dataset.

    Each of ``env.num_envs`` environments plays a share that is fixed beforehand, so that short episodes are not more
    frequent than they are.

    Args:
      policy: ``random``, ``ou``, or the directory of a run.
      noise: of ``ou``, or beside a run's actions.

    Raises:
      ConfigError: the environment, the policy or the folder can't be used.
      EnvironmentFailed: an environment did; nothing is written then.
    """
    envs = make_envs(config.env, seed=config.seed, purpose=PURPOSE, num_envs=min(config.env.num_envs, episodes))
    with closing(envs):
        rng = np.random.default_rng([config.seed, PURPOSE])
        actor: Actor
        match policy:
            case "random":
                actor = uniform(envs.spec, envs.num_envs, rng)
            case "ou":
                actor = ornstein_uhlenbeck(envs.spec, envs.num_envs, rng, noise)
            case _:
                actor = of_run(Path(policy), envs.spec, envs.num_envs, rng, config.seed, noise)
        facts: dict[str, Any] = {
            "task": config.env.task,
            "env": env_facts(config.env),
            "policy": policy,
            "noise": noise,
            "seed": config.seed,
        }
        with write_dataset(folder, envs.spec, facts) as writer:
            _play(envs, actor, writer, episodes, after_episode)


def _play(
    envs: VectorEnvs, actor: Actor, writer: Writer, episodes: int, after_episode: Callable[[int, float], None]
) -> None:
    count = envs.num_envs
    left = np.array([episodes // count + (index < episodes % count) for index in range(count)])
    running: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    timestep = envs.reset(episode=0)
    while left.any():
        action = actor(timestep)
        for env in np.flatnonzero(left):
            record = {f"observation/{name}": x[env] for name, x in timestep.observation.items()}
            record |= {f"action/{name}": np.array(x[env]) for name, x in action.items()}
            record |= {name: getattr(timestep, name)[env] for name in ("reward", "is_first", "is_last", "is_terminal")}
            running[env].append(record)
            if timestep.is_last[env]:
                episode = {name: np.stack([record[name] for record in running[env]]) for name in record}
                writer.append(episode)
                after_episode(writer.episodes, float(episode["reward"].sum()))
                running[env], left[env] = [], left[env] - 1
        if left.any():
            timestep = envs.step(action)
