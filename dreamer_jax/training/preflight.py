"""What is worked out before the first step: shapes, the size of replay, and what the settings come to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dreamer_jax.config.loading import CUSTOM, algorithm, width_name
from dreamer_jax.config.named import BENCHMARKS
from dreamer_jax.config.schema import Config, ConfigError
from dreamer_jax.devices.accelerators import left_out
from dreamer_jax.envs.preview import Preview, preview
from dreamer_jax.interfaces import Agent
from dreamer_jax.numerics import left_aside
from dreamer_jax.replay.plan import Plan, plan
from dreamer_jax.replay.reshard import ring_folder
from dreamer_jax.replay.windows import align
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.training.schedule import forecast
from dreamer_jax.types import TrajectoryBatch


def env_spec(config: Config) -> EnvSpec:
    """What the environment shows and takes; opens one and closes it again."""
    return preview(config.env, seed=config.seed).spec


def env_preview(config: Config) -> Preview:
    """All that has to be known of the environment before those of a run are opened, from a single one."""
    together = max(config.env.num_envs, config.train.eval_episodes if config.train.eval_frames else 1)
    return preview(config.env, seed=config.seed, most=together)


def ring_plan(config: Config, run_dir: Path, found: Preview, agent: Agent, parts: int, records: int = 0) -> Plan:
    """The size of the run's replay, of all ``parts`` processes together; each has an equal part, on the same disk.

    Args:
      records: those that are there already, of a run that collects none.

    Raises:
      ConfigError: it does not fit, or no update could ever draw from it.
    """
    num_envs = config.env.num_envs
    collected = -(-config.train.frames // (config.env.action_repeat * num_envs)) * num_envs
    size = plan(
        [ring_folder(run_dir, part, parts) for part in range(parts)],
        config.replay,
        found.spec,
        agent.latent_spec,
        num_envs=num_envs,
        batch_length=config.train.batch_length,
        total_records=records or collected,
    )
    if not records:
        forecast(config, size.records, found.time_limit)
    elif size.records < records:
        raise ConfigError(f"replay.capacity: room for {size.records:,} records, offline.data has {records:,}")
    return size


def introduction(
    config: Config, parameters: int, vectorization: str, where: str, done: Mapping[str, int]
) -> Iterator[str]:
    """What a run is, in a few lines."""
    yield f"{config.preset}: {algorithm(config)}"
    if config.benchmark != Config.benchmark:
        yield f"{config.benchmark}: {BENCHMARKS[config.benchmark].meaning} ({BENCHMARKS[config.benchmark].source})"
    width = width_name(config)
    width = width if width == CUSTOM else f"size {width}"
    yield f"{config.env.task} x {config.env.num_envs} ({vectorization}), {width}: {parameters:,} parameters on {where}"
    if done["agent_steps"]:
        yield f"resumed at {done['env_frames']:,} frames, {done['grad_steps']:,} updates"
    if aside := left_aside():
        yield aside
    if cure := left_out():
        yield f"an accelerator is not used: {cure}"


def example_batch(config: Config, spec: EnvSpec, latent_spec: Mapping[str, ArraySpec], size: int) -> TrajectoryBatch:
    """A batch [size, T] of zeros, of the shapes and types that replay gives."""
    rows = size, config.train.batch_length + 1

    def zeros(specs: Mapping[str, ArraySpec]) -> dict[str, np.ndarray]:
        return {name: np.zeros((*rows, *leaf.shape), jax.numpy.dtype(leaf.dtype)) for name, leaf in specs.items()}

    window: dict[str, Any] = {"observation": zeros(spec.observation), "action": zeros(spec.action)}
    window |= {"latents": zeros(latent_spec), "reward": np.zeros(rows, np.float32)}
    return align(window | {name: np.zeros(rows, bool) for name in ("is_first", "is_last", "is_terminal")})
