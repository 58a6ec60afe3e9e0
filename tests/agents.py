"""Tiny agents and batches for tests: all sizes differ, so that no swapped axis hides."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from dreamer_jax.agent import make_agent
from dreamer_jax.behaviors.actor_critic import make_actor_critic
from dreamer_jax.config.checks import check
from dreamer_jax.config.loading import replace
from dreamer_jax.config.schema import Config
from dreamer_jax.interfaces import Agent, Behavior, WorldModel
from dreamer_jax.models.world_model import make_world_model
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import TimeStep, TrainState, TrajectoryBatch

B, T, H = 3, 7, 4
D, S, K, BLOCKS = 36, 5, 6, 2
ROWS = np.arange(B)
KEY = jax.random.PRNGKey(0)

SIZES = {
    "dtype": "float32",
    "rssm.deter": D,
    "rssm.hidden": 10,
    "rssm.stoch": S,
    "rssm.classes": K,
    "rssm.blocks": BLOCKS,
    "rssm.prior_layers": 1,
    "behavior.imagination_length": H,
}
WIDTHS = {"encoder": 11, "decoder": 12, "reward": 13, "cont": 14, "policy": 15, "value": 16}

# Two vectors, a row of classes; a choice, two motors: every kind of leaf, names out of order.
MIXED = EnvSpec(
    {
        "speed": ArraySpec((2,), "float32"),
        "cells": ArraySpec((4,), "int32", 3),
        "place": ArraySpec((4, 2), "float32"),
    },
    {"motors": ArraySpec((2,), "float32"), "choice": ArraySpec((), "int32", 6)},
)


def tiny_config(**changes: Any) -> Config:
    """One hidden layer everywhere; ``changes`` are dotted names with ``__`` for the dot."""
    layers = {f"{part}.layers": 1 for part in WIDTHS}
    units = {f"{part}.units": width for part, width in WIDTHS.items()}
    named = {name.replace("__", "."): value for name, value in changes.items()}
    return check(replace(Config(), SIZES | layers | units | named))


def random_leaf(rng: np.random.Generator, spec: ArraySpec, *axes: int) -> np.ndarray:
    shape = (*axes, *spec.shape)
    if spec.image:
        return rng.integers(256, size=shape).astype(np.uint8)
    if spec.discrete:
        return rng.integers(spec.classes, size=shape).astype(spec.dtype)
    return rng.normal(size=shape).astype(spec.dtype)


def random_batch(spec: EnvSpec, config: Config, seed: int = 0, size: int = B, length: int = T) -> TrajectoryBatch:
    """Windows as replay gives them: row 0 holds a termination at 2, row 1 a time limit at 4."""
    rng = np.random.default_rng(seed)
    is_first, is_last, is_terminal = np.zeros((3, size, length), bool)
    is_last[0, 2] = is_terminal[0, 2] = is_first[0, 3] = True
    is_last[1, 4] = is_first[1, 5] = True
    reward = np.where(is_first, 0, 3 * rng.normal(size=(size, length))).astype(np.float32)
    deter = rng.uniform(-1, 1, (size, config.rssm.deter)).astype(ml_dtypes.bfloat16)
    stoch = rng.integers(config.rssm.classes, size=(size, config.rssm.stoch)).astype(np.uint8)
    return TrajectoryBatch(
        {name: random_leaf(rng, leaf, size, length) for name, leaf in spec.observation.items()},
        {name: random_leaf(rng, leaf, size, length) for name, leaf in spec.action.items()},
        reward,
        is_first,
        is_last,
        is_terminal,
        {"deter": deter, "stoch": stoch},
    )


def random_timestep(spec: EnvSpec, seed: int = 0, size: int = 4) -> TimeStep:
    rng = np.random.default_rng(seed)
    flags = np.zeros(size, bool)
    observation = {name: random_leaf(rng, leaf, size) for name, leaf in spec.observation.items()}
    return TimeStep(observation, rng.normal(size=size).astype(np.float32), flags, flags, flags)


class Tiny(NamedTuple):
    """An agent, its parts, one initial state and one batch."""

    config: Config
    spec: EnvSpec
    model: WorldModel
    behavior: Behavior
    agent: Agent
    state: TrainState
    batch: TrajectoryBatch


@cache
def tiny(spec: str = "mixed", **changes: Any) -> Tiny:
    """The same one for the same arguments, so that no test initialises it again."""
    config, spec = tiny_config(**changes), {"mixed": MIXED}[spec]
    model = make_world_model(config, spec)
    agent = make_agent(config, spec)
    behavior = make_actor_critic(config, spec, model)
    return Tiny(config, spec, model, behavior, agent, _initial(), random_batch(spec, config))


@cache
def _initial() -> TrainState:
    """Parameters of the tiny agent; no output layer is zero, so that every path has a gradient."""
    agent = make_agent(tiny_config(), MIXED)
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = path[-1].key
        noise = rng.normal(size=leaf.shape) * (1 / np.sqrt(leaf.shape[-2]) if leaf.ndim > 1 else 0.1)
        return (noise + (name == "scale")).astype(np.float32)

    state = jax.eval_shape(agent.init, KEY)
    params = jax.tree_util.tree_map_with_path(draw, state.params)
    zeros = lambda tree: jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), tree)  # noqa: E731
    slow = jax.tree_util.tree_map_with_path(draw, state.slow)
    return TrainState(np.int32(0), params, slow, zeros(state.opt_state), zeros(state.moments))


QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


def many_devices(count: int) -> dict[str, str]:
    """The environment of a process whose CPU is so many devices, each with a thread to wait for the others."""
    flags = {**QUICK, "xla_force_host_platform_device_count": count}
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    text = " ".join(f"--{name}={value}" for name, value in flags.items())
    return {**os.environ, "XLA_FLAGS": text, "NPROC": "16", "PYTHONPATH": paths}


def bundle(kind: Any, **functions: Any) -> Any:
    """A bundle that has some of its functions only."""
    return kind(**(dict.fromkeys(kind._fields) | functions))


def quick_jit(function: Any) -> Any:
    """``jax.jit`` that compiles in a fifth of the time, for large programs whose speed does not matter."""
    return jax.jit(function, compiler_options=QUICK)


def quickly() -> AbstractContextManager[Any]:
    """Within it everything that is compiled is compiled so."""
    return mock.patch.object(jax, "jit", partial(jax.jit, compiler_options=QUICK))


def assert_trees_equal(left: Any, right: Any) -> None:
    """Bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, left, right)


def equations(jaxpr: Any) -> Iterator[Any]:
    """Every equation of a program, those of inner programs included."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.core.jaxprs_in_params(eqn.params):
            yield from equations(inner)


def largest(tree: Any) -> float:
    """Largest absolute number in a tree."""
    return max(float(jnp.abs(x).max()) for x in jax.tree.leaves(tree))
