"""The update and the policy can be lowered for accelerators, and nothing in them is tied to a host.

This lowers to StableHLO and compiles nothing: it needs no accelerator, and says nothing about speed, memory or
whether XLA's compilers for them accept a program.
"""

import re

import jax
import jax.numpy as jnp
import pytest
from agents import equations
from jax import export

from dreamer_jax.agent import make_agent
from dreamer_jax.config.loading import load
from dreamer_jax.profiling.speed import SPECS, random_windows
from dreamer_jax.types import TimeStep

PLATFORMS = ("cuda", "tpu")
ALLOWED: frozenset[str] = frozenset()
"""Custom calls that all platforms have; so far no program needs one."""
REFUSED_BY_EXPORT = [export.DisabledSafetyCheck.custom_call(name) for name in ("Eigh", "cusolver_syevd_ffi")]
"""Calls of the programs below that break the rules, so that it is we who find them."""
ENVS, B, T = 16, 16, 64


@pytest.fixture(autouse=True)
def accelerator(monkeypatch):
    """Whatever chooses a form by the backend chooses as it would there."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def problems(function, *arguments):
    """What in a program is not for every platform, as sentences."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    program = jax.jit(function)
    jaxpr = program.trace(*shapes).jaxpr.jaxpr
    names = {eqn.primitive.name for eqn in equations(jaxpr)}
    if host := sorted(name for name in names if "callback" in name or "debug" in name):
        return [f"calls the host: {name}" for name in host]
    assert not jaxpr.effects
    exported = export.export(program, platforms=PLATFORMS, disabled_checks=REFUSED_BY_EXPORT)(*shapes)
    assert exported.platforms == PLATFORMS
    module = exported.mlir_module()
    assert "stablehlo." in module
    calls = set(re.findall(r"custom_call\s*@([\w.]+)", module)) - ALLOWED
    found = [f"calls {name}" for name in sorted(calls)]
    return found + (["computes in float64"] if re.search(r"(?:\b|x)f64\b", module) else [])


def agent_for(size, observation, dtype):
    agent = make_agent(load(size=size, overrides=[("dtype", dtype)]), SPECS[observation])
    key = jax.eval_shape(jax.random.key, 0)
    return agent, jax.eval_shape(agent.init, key), key


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("observation", ["proprio", "vision"])
@pytest.mark.parametrize("size", ["1m", "12m"])
def test_update_and_policy_lower_for_accelerators(size, observation, dtype):
    agent, state, key = agent_for(size, observation, dtype)
    batch = random_windows(SPECS[observation], agent.latent_spec, B, T)
    assert problems(agent.update, state, key, batch) == []

    carry = jax.eval_shape(lambda: agent.reset(None, ENVS))
    first = jax.tree.map(lambda x: x[:ENVS, 0], batch.replace(context=None))
    timestep = TimeStep(first.observation, first.reward, first.is_first, first.is_last, first.is_terminal)
    assert problems(agent.policy, state.params, key, carry, timestep) == []


def test_activations_are_bfloat16_there_by_themselves():
    agent, state, key = agent_for("1m", "proprio", "auto")
    batch = random_windows(SPECS["proprio"], agent.latent_spec, 2, 3)
    jaxpr = jax.jit(agent.update).trace(state, key, batch).jaxpr.jaxpr
    products = [str(eqn.outvars[0].aval.dtype) for eqn in equations(jaxpr) if eqn.primitive.name == "dot_general"]
    assert products.count("bfloat16") > 50


def show(x):
    jax.debug.print("{}", x)
    return x


def ask(x):
    return jax.pure_callback(lambda x: x, x, x)


def widen(x):
    with jax.enable_x64(True):
        return x.astype(jnp.float64).sum().astype(jnp.float32)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (show, ["calls the host: debug_print"]),
        (ask, ["calls the host: pure_callback"]),
        (jnp.linalg.eigh, ["calls Eigh", "calls cusolver_syevd_ffi"]),
        (widen, ["computes in float64"]),
        (jnp.linalg.norm, []),
    ],
)
def test_the_check_sees_each_kind_of_violation(function, words):
    assert problems(function, jnp.eye(3)) == words
