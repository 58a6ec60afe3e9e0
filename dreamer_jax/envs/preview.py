"""What an environment shows and takes and how long its steps are, seen in one that is opened and closed again."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from dreamer_jax.config.schema import EnvConfig
from dreamer_jax.envs.wrappers import Stream, open_stream
from dreamer_jax.numerics import process_numerics
from dreamer_jax.specs import EnvSpec

MESSAGE_SECONDS = 150e-6
"""What one process costs the main one per step: an action sent, an answer awaited. About 0.2 ms on two busy cores."""


class Preview(NamedTuple):
    """Of all environments of a task, because all are alike. ``step_seconds`` is 0 where nobody needs it."""

    spec: EnvSpec
    log_names: tuple[str, ...]
    step_seconds: float
    time_limit: int  # actions of an episode at most; 0 where nobody says


@process_numerics()
def preview(config: EnvConfig, *, seed: int, purpose: int = 0, most: int = 1) -> Preview:
    """Open an environment, and close it before any other is opened; ``most`` are to be stepped together.

    Raises:
      ConfigError: it can't be opened or used.
      EnvironmentFailed: it failed in its first steps.
    """
    stream = open_stream(config, seed=seed, purpose=purpose, index=0)
    try:
        measured = config.vectorization == "auto" and most > 1
        seconds = _seconds_per_step(stream) if measured else 0.0
        return Preview(stream.env_spec, stream.log_names, seconds, stream.time_limit)
    finally:
        stream.close()


def vectorization(config: EnvConfig, found: Preview, num_envs: int) -> str:
    """``sync`` or ``async``."""
    if config.vectorization != "auto":
        return config.vectorization
    return "async" if processes_are_faster(found.step_seconds, num_envs, _cores()) else "sync"


def processes_are_faster(step_seconds: float, num_envs: int, cores: int) -> bool:
    """Whether a process per environment beats stepping them in turn.

    In turn costs ``num_envs`` steps. Processes share the steps among the cores, less the one on
    which the agent runs, and cost a message each. They also take seconds to start and memory, so
    they have to halve the time.
    """
    in_turn = num_envs * step_seconds
    shared = in_turn / min(num_envs, max(1, cores - 1)) + num_envs * MESSAGE_SECONDS
    return shared < in_turn / 2


def _seconds_per_step(stream: Stream, budget: float = 0.2) -> float:
    """Mean time of a random step, resets included, over at most 64 steps or ``budget`` seconds."""
    stream.action_space.seed(0)
    stream.reset()
    stream.step(stream.action_space.sample())  # the first one warms caches up
    steps, begin = 0, time.perf_counter()
    while steps < 64 and time.perf_counter() - begin < budget:
        stream.step(stream.action_space.sample())
        steps += 1
    return (time.perf_counter() - begin) / steps


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
