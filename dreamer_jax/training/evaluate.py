"""Scores of an agent in fresh environments with seeds that training never uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dreamer_jax.config.schema import EnvConfig
from dreamer_jax.envs.vector import make_envs
from dreamer_jax.interfaces import Agent
from dreamer_jax.training.acting import Act
from dreamer_jax.training.metrics import EpisodeStats

PURPOSE = 1
"""Separates the episodes of evaluation from those of training (0) under the same seed."""


def evaluate(
    agent: Agent,
    act: Act,
    params: Any,
    config: EnvConfig,
    *,
    episodes: int,
    seed: int,
    num_envs: int = 10,
    after_episode: Callable[[int, float], None] = lambda count, score: None,
) -> list[float]:
    """Returns of ``episodes`` episodes, with actions by ``act`` (``make_act`` of ``agent`` in some mode).

    Each environment plays a share fixed beforehand, so that short episodes don't count more often.
    """
    count = min(num_envs, episodes)
    shares = np.array([episodes // count + (index < episodes % count) for index in range(count)])
    envs = make_envs(config, seed=seed, purpose=PURPOSE, num_envs=count)
    try:
        root = jax.random.key(seed)
        stats, carry, timestep = EpisodeStats(count), agent.reset(params, count), envs.reset()
        scores: list[list[float]] = [[] for _ in range(count)]
        step = 0
        while True:
            for env, score, _ in stats.update(timestep):
                if len(scores[env]) < shares[env]:
                    scores[env].append(score)
                    after_episode(sum(map(len, scores)), score)
            if all(len(mine) == share for mine, share in zip(scores, shares, strict=True)):
                return [score for mine in scores for score in mine]
            carry, action, _ = act(params, root, step, carry, timestep)
            timestep = envs.step(action)
            step += 1
    finally:
        envs.close()
