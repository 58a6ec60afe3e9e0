"""Which type numbers have: bfloat16 inside, float32 outside, nothing promoted in silence, nothing in float64."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import KEY, MIXED, B, T, random_batch, random_timestep, tiny_config
from jax._src import source_info_util
from jax.extend.core import Jaxpr

from dreamer_jax.agent import compute_dtype, make_agent
from dreamer_jax.models.world_model import make_world_model
from dreamer_jax.specs import ArraySpec, EnvSpec

SPECS = {
    "mixed": MIXED,
    "images": EnvSpec({"eye": ArraySpec((16, 32, 3), "uint8"), **MIXED.observation}, MIXED.action),
}
WIDTHS = {"rssm__deter": 32, "encoder__depth": 1, "decoder__depth": 1, "decoder__blocks": 2}
CASES = [(spec, dtype) for spec in SPECS for dtype in ("float32", "bfloat16")]
NETWORKS = ("nets/", "models/encoder", "models/decoder", "models/heads", "models/rssm", "behaviors/policy")


@cache
def functions(spec, dtype):
    """The pure functions of an agent, with what they take."""
    config = tiny_config(dtype=dtype, **WIDTHS)
    agent = make_agent(config, SPECS[spec])
    with jax.enable_x64(False):
        state = jax.eval_shape(agent.init, KEY)
        carry = jax.eval_shape(lambda: agent.reset(None, 2))
    batch = random_batch(SPECS[spec], config)
    timestep = random_timestep(SPECS[spec], size=2)
    return {
        "init": (agent.init, KEY),
        "loss": (jax.value_and_grad(agent.loss, has_aux=True), state.params, state, KEY, batch),
        "update": (agent.update, state, KEY, batch),
        "policy": (agent.policy, state.params, KEY, carry, timestep),
        "report": (agent.report, state, KEY, batch),
    }


def equations(jaxpr):
    """Every equation, inner programs included, with the first line of ours that led to it."""
    for equation in jaxpr.eqns:
        frames = source_info_util.user_frames(equation.source_info.traceback) if equation.source_info.traceback else ()
        ours = [f"{f.file_name.partition('/dreamer_jax/')[2]}:{f.start_line}" for f in frames]
        yield equation, next((place for place in ours[:1] if not place.startswith(":")), "")
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if isinstance(inner, Jaxpr):
                    yield from equations(inner)


@pytest.mark.parametrize(("spec", "dtype"), CASES)
@pytest.mark.parametrize("name", ["init", "loss", "policy", "report"])
def test_nothing_is_promoted_in_silence(spec, dtype, name):
    function, *inputs = functions(spec, dtype)[name]
    with jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(function, *inputs)


@pytest.mark.parametrize(("spec", "dtype"), CASES)
@pytest.mark.parametrize("name", ["init", "update", "policy", "report"])
def test_no_line_of_ours_makes_a_float64(spec, dtype, name):
    """Where float64 is switched on, whatever has no type of its own would take it."""
    function, *inputs = functions(spec, dtype)[name]
    with jax.enable_x64(True):
        found = equations(jax.make_jaxpr(function)(*inputs).jaxpr)
    doubles = {place for equation, place in found for x in equation.outvars if x.aval.dtype == np.float64 and place}
    assert not doubles


def test_a_float64_would_be_seen():
    with jax.enable_x64(True):
        found = list(equations(jax.make_jaxpr(lambda x: x + jnp.ones(3))(jnp.float32(1)).jaxpr))
    assert any(x.aval.dtype == np.float64 for equation, _ in found for x in equation.outvars)


@pytest.mark.parametrize("spec", SPECS)
def test_products_in_bfloat16_everything_kept_in_float32(spec):
    function, *inputs = functions(spec, "bfloat16")["update"]
    products = [
        (equation, place)
        for equation, place in equations(jax.make_jaxpr(function)(*inputs).jaxpr)
        if equation.primitive.name in ("dot_general", "conv_general_dilated") and place.startswith(NETWORKS)
    ]
    assert len(products) > 50
    wide = {place for equation, place in products for x in equation.invars if x.aval.dtype != jnp.bfloat16}
    assert not wide
    state, metrics, latents = jax.eval_shape(function, *inputs)
    kept = jax.tree.leaves((state.params, state.slow, state.moments, metrics))
    assert {x.dtype for x in kept} == {jnp.dtype("float32")}
    assert {x.dtype for x in jax.tree.leaves(state.opt_state)} <= {jnp.dtype("float32"), jnp.dtype("int32")}
    assert latents["deter"].shape == (B, T, 32)


@pytest.mark.parametrize("spec", SPECS)
def test_losses_and_statistics_are_float32(spec):
    function, *inputs = functions(spec, "bfloat16")["loss"]
    (_, aux), grads = jax.eval_shape(function, *inputs)
    behavior = aux.behavior.details
    numbers = jax.tree.leaves((grads, aux.losses, aux.model.reconstruction, behavior.learnt.policy))
    numbers += jax.tree.leaves((aux.model.divergence, behavior.targets.returns, behavior.replayed))
    assert {x.dtype for x in numbers} == {jnp.dtype("float32")}


def test_bfloat16_stays_near_float32():
    spec = "images"
    totals = [
        jax.jit(make_agent(tiny_config(dtype=dtype, **WIDTHS), SPECS[spec]).loss) for dtype in ("float32", "bfloat16")
    ]
    state = make_agent(tiny_config(**WIDTHS), SPECS[spec]).init(KEY)
    batch = functions(spec, "float32")["loss"][-1]
    one, two = (float(total(state.params, state, KEY, batch)[0]) for total in totals)
    assert one != two and two == pytest.approx(one, rel=0.02)


def test_the_default_depends_on_the_device(monkeypatch):
    config = tiny_config(dtype="auto")
    assert compute_dtype(config) == jnp.float32
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compute_dtype(config) == jnp.bfloat16


@pytest.mark.slow
def test_rematerialisation_changes_memory_and_nothing_else():
    results = {}
    for again in (False, True):
        config = tiny_config(rematerialize=again, **WIDTHS)
        model = make_world_model(config, MIXED)
        batch = random_batch(MIXED, config, size=8, length=96)

        def total(params, batch, model=model):
            return sum(loss.sum() for loss in model.loss(params, KEY, np.arange(8), batch)[0].values())

        params = model.init(KEY)
        compiled = jax.jit(jax.grad(total)).lower(params, batch).compile()
        results[again] = compiled(params, batch), compiled.memory_analysis().temp_size_in_bytes
    (plain, more), (again, less) = results.values()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * np.abs(a).max()), plain, again)
    assert less < 0.75 * more
