"""Scores of an agent in fresh environments with seeds that training never uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dreamer_jax.analysis.pictures import film_frame
from dreamer_jax.config.schema import Config, ConfigError, EnvConfig
from dreamer_jax.devices.acting import make_act
from dreamer_jax.envs.preview import Preview, preview
from dreamer_jax.envs.vector import VectorEnvs, make_envs
from dreamer_jax.envs.wrappers import EnvironmentFailed
from dreamer_jax.interfaces import Agent
from dreamer_jax.runs.integrity import read_run
from dreamer_jax.runs.load import load
from dreamer_jax.runs.metrics import EpisodeStats
from dreamer_jax.specs import EnvSpec
from dreamer_jax.training.preflight import env_spec
from dreamer_jax.types import Mode

PURPOSE, FILM = 1, 2
"""Separate the episodes of evaluation and of films from those of training (0) under the same seed."""
FILM_FRAMES = 500
"""Longer episodes are filmed less often."""
MOST_ENVS = 10


def evaluation_envs(
    config: EnvConfig, episodes: int, seed: int, note: Callable[[str], None], found: Preview | None = None
) -> VectorEnvs:
    """Environments for ``evaluate``, at most one for each episode; a single one where no more can be opened together.

    Raises:
      ConfigError, EnvironmentFailed: not even that can be opened.
    """
    count = min(MOST_ENVS, episodes)
    found = found or preview(config, seed=seed, purpose=PURPOSE, most=count)
    try:
        return make_envs(config, seed=seed, purpose=PURPOSE, num_envs=count, found=found)
    except (ConfigError, EnvironmentFailed) as error:
        if count == 1:
            raise
        envs = make_envs(config, seed=seed, purpose=PURPOSE, num_envs=1, found=found)
        note(f"evaluation: one environment plays all episodes, {count} together do not open: {error}")
        return envs


def check_environment(config: Config, spec: EnvSpec, overrides: Sequence[tuple[str, str]]) -> None:
    """Refuse ``overrides`` with which the environment is not one that an agent for ``spec`` can act in.

    Raises:
      ConfigError: its observations or actions are others.
    """
    changed = [f"--{name} {text}" for name, text in overrides if name.startswith("env.")]
    if changed and (found := env_spec(config)) != spec:
        part = "actions" if found.observation == spec.observation else "observations"
        raise ConfigError(f"{', '.join(changed)}: the environment then has other {part} than the run's")


def evaluate(
    agent: Agent,
    act: Callable[..., Any],
    params: Any,
    envs: VectorEnvs,
    *,
    episodes: int,
    seed: int,
    after_episode: Callable[[int, float], None] = lambda count, score: None,
) -> list[float]:
    """Returns of ``episodes`` episodes from the first ones of ``envs`` on, the same ones at every call.

    Actions are by ``act`` (``make_act`` of ``agent`` in some mode). Each environment plays a share fixed beforehand,
    so that short episodes don't count more often.
    """
    count = envs.num_envs
    shares = np.array([episodes // count + (index < episodes % count) for index in range(count)])
    root = jax.random.key(seed)
    carry = jax.jit(agent.reset, static_argnums=1)(params, count)
    stats, timestep = EpisodeStats(count), envs.reset(episode=0)
    scores: list[list[float]] = [[] for _ in range(count)]
    step = 0
    while True:
        for episode in stats.update(timestep):
            if len(scores[episode.env]) < shares[episode.env]:
                scores[episode.env].append(episode.score)
                after_episode(sum(map(len, scores)), episode.score)
        if all(len(done) == share for done, share in zip(scores, shares, strict=True)):
            return [score for done in scores for score in done]
        carry, action, _ = act(params, root, step, carry, timestep)
        timestep = envs.step(action)
        step += 1


def play_run(
    run_dir: Path,
    episodes: int,
    mode: Mode,
    note: Callable[[str], None],
    after_episode: Callable[[int, float], None] = lambda count, score: None,
) -> list[float]:
    """Returns of a run's newest agent, as ``dreamer-jax evaluate`` has them with the run's seed."""
    config, _ = read_run(run_dir)
    agent, state = load(run_dir)
    with closing(evaluation_envs(config.env, episodes, config.seed, note)) as envs:
        act = make_act(agent, mode)
        return evaluate(
            agent, act, state.params, envs, episodes=episodes, seed=config.seed, after_episode=after_episode
        )


def film_episode(
    agent: Agent, act: Callable[..., Any], params: Any, config: EnvConfig, *, seed: int
) -> tuple[np.ndarray, float]:
    """Pictures [frames, height, width, 3] of one episode and how many of them are a second.

    They are the agent's own image if it sees one, else what the environment draws.

    Raises:
      ConfigError: it draws nothing.
    """
    envs = make_envs(replace(config, vectorization="sync"), seed=seed, purpose=FILM, num_envs=1, render=True)
    try:
        images = [name for name, leaf in envs.spec.observation.items() if leaf.image]
        root = jax.random.key(seed)
        carry, timestep = jax.jit(agent.reset, static_argnums=1)(params, 1), envs.reset()
        frames, score, step = [], 0.0, 0
        while True:
            score += float(timestep.reward[0])
            picture = timestep.observation[images[0]][0] if images else envs.render()
            frames.append(film_frame(picture, score))
            if timestep.is_last[0]:
                every = -(-len(frames) // FILM_FRAMES)
                return np.stack(frames[::every]), min(30.0, 60 / config.action_repeat)
            carry, action, _ = act(params, root, step, carry, timestep)
            timestep = envs.step(action)
            step += 1
    finally:
        envs.close()
