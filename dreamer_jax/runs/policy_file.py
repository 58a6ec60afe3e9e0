"""A run's policy as one file that JAX alone runs: its step as StableHLO, and its parameters.

The file is a zip of the functions ``parameters``, ``reset`` and ``step``, each as ``jax.export`` serialises it, and
``facts.json``. Parameters are an input of the step, as in training: as constants they would be folded into others, and
actions would differ in their last digits.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import serialization
from jax import export

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.files import replace_file
from dreamer_jax.interfaces import Agent
from dreamer_jax.numerics import fixed_numerics
from dreamer_jax.runs.integrity import read_run
from dreamer_jax.runs.load import load
from dreamer_jax.types import Array, ArrayDict, Mode, TimeStep

MOST_BYTES = 1 << 30
"""Of parameters: a program of more can't be serialised."""


@fixed_numerics()
def export_policy(
    run_dir: Path,
    out: Path,
    *,
    step: int | None = None,
    mode: Mode | None = None,
    num_envs: int = 1,
    platforms: Sequence[str] = ("cpu",),
) -> dict[str, Any]:
    """Write ``out``, and return its facts.

    Args:
      step: agent steps of the checkpoint; the newest without.
      mode: of the actions; as the run evaluates without.

    Raises:
      ConfigError: there is no such run or checkpoint, ``out`` exists, or the parameters are too many.
    """
    if out.exists():
        raise ConfigError(f"--out: {out} exists already; choose another name")
    if not out.parent.is_dir():
        raise ConfigError(f"--out: {out.parent} is no folder")
    config, spec = read_run(run_dir)
    agent, state = load(run_dir, step)
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.params))
    if size > MOST_BYTES:
        raise ConfigError(f"{run_dir}: parameters of {size / 1e9:.3g} GB; at most {MOST_BYTES / 1e9:.3g} fit in a file")
    mode = mode or config.policy.evaluate
    reset, act = policy_functions(agent, num_envs, mode)
    params = serialization.to_state_dict(state.params)
    number, first = jax.ShapeDtypeStruct((), jnp.uint32), jax.ShapeDtypeStruct((num_envs,), jnp.bool_)
    shown = {
        name: jax.ShapeDtypeStruct((num_envs, *leaf.shape), jnp.dtype(leaf.dtype))
        for name, leaf in spec.observation.items()
    }
    inputs = params, number, number, jax.eval_shape(reset, params), shown, first
    parts = {
        name: export.export(jax.jit(function), platforms=platforms)(*given).serialize()
        for name, function, given in (
            ("parameters", lambda: params, ()),
            ("reset", reset, (params,)),
            ("step", act, inputs),
        )
    }
    facts = {
        "task": config.env.task,
        "preset": config.preset,
        "mode": mode,
        "num_envs": num_envs,
        "action_repeat": config.env.action_repeat,
        "platforms": list(platforms),
        "jax": jax.__version__,
        **spec.as_json(),
    }
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in parts.items():
            file.writestr(name, bytes(content))
        file.writestr("facts.json", json.dumps(facts, indent=1) + "\n")
    replace_file(out, written.getvalue())
    return facts


def policy_functions(agent: Agent, num_envs: int, mode: Mode) -> tuple[Any, Any]:
    """``reset(params) -> carry`` and ``step(params, seed, number, carry, observation, is_first) -> (carry, action)``.

    Parameters and carries are dicts of arrays. The action number ``n`` (uint32) of a seed is that of
    ``devices.acting.Act`` with the key of this seed.
    """
    like = jax.eval_shape(agent.init, jax.random.key(0)).params

    def reset(params: ArrayDict) -> ArrayDict:
        return serialization.to_state_dict(agent.reset(serialization.from_state_dict(like, params), num_envs))

    def step(
        params: ArrayDict, seed: Array, number: Array, carry: ArrayDict, observation: ArrayDict, is_first: Array
    ) -> tuple[ArrayDict, ArrayDict]:
        whole, flags = serialization.from_state_dict(like, params), jnp.zeros(num_envs, bool)
        before = serialization.from_state_dict(jax.eval_shape(lambda given: agent.reset(given, num_envs), whole), carry)
        timestep = TimeStep(observation, jnp.zeros(num_envs, jnp.float32), is_first, flags, flags)
        key = jax.random.fold_in(jax.random.key(seed), number)
        after, action, _ = agent.policy(whole, key, before, timestep, mode, 0)
        return serialization.to_state_dict(after), action

    return reset, step
