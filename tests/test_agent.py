"""The whole agent: sizes, one update, acting, several seeds and several devices."""

import pickle
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from agents import (
    KEY,
    MIXED,
    D,
    S,
    T,
    assert_trees_equal,
    equations,
    many_devices,
    quick_jit,
    random_batch,
    random_timestep,
    tiny,
    tiny_config,
)

from dreamer_jax.agent import LOSSES, follow, loss_scales, make_agent
from dreamer_jax.config.loading import load
from dreamer_jax.config.schema import ConfigError, ValueConfig
from dreamer_jax.specs import ArraySpec, EnvSpec

WALKER = EnvSpec({"state": ArraySpec((24,), "float32")}, {"action": ArraySpec((6,), "float32")})
COUNTS = {
    "1m": 640_867,
    "12m": 9_738_019,
    "25m": 21_782_947,
    "50m": 38_612_003,
    "100m": 86_622_499,
    "200m": 153_769_507,
    "400m": 345_473_059,
}
# Counted in the code of June 2023 itself, with its settings dmc_proprio and of each size: model, actor, critic.
COUNTS_2023 = {
    "small": (16_469_784, 1_056_780, 1_181_439),
    "medium": (24_047_896, 2_141_452, 2_297_215),
    "large": (43_689_240, 4_144_140, 4_331_007),
    "xlarge": (108_398_872, 9_459_724, 9_708_799),
}
TINY = tiny()
AGENT, STATE = TINY.agent, TINY.state
SIZE = 4  # windows in a batch, so that two devices can share it
BATCH = random_batch(MIXED, TINY.config, size=SIZE)
update = quick_jit(chex.assert_max_traces(AGENT.update, n=1))


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def updated():
    """State, metrics and latents after one, two and three updates."""
    results, state = [], STATE
    for number in range(3):
        state, *rest = update(state, jax.random.PRNGKey(number), BATCH)
        results.append((state, *rest))
    return results


# --- sizes


@pytest.mark.parametrize(("size", "expected"), COUNTS.items())
def test_parameter_counts_of_the_reference(size, expected):
    state = jax.eval_shape(make_agent(load(size=size), WALKER).init, KEY)
    assert count(state.params) == expected
    assert count(state.slow) == count(state.params["critic"])


@pytest.mark.parametrize(("size", "expected"), COUNTS_2023.items())
def test_parameter_counts_of_2023(size, expected):
    """Of which 4.2 and 5.8 M and more are the vectors' encoder and decoder, 5 layers of 1024 at every size."""
    vectors = {"orientations": ArraySpec((14,), "float32"), "height": ArraySpec((1,), "float32")}
    walker = EnvSpec({**vectors, "velocity": ArraySpec((9,), "float32")}, WALKER.action)
    params = jax.eval_shape(make_agent(load("dreamer_v3_2023", size), walker).init, KEY).params
    assert tuple(count(params[name]) for name in ("model", "actor", "critic")) == expected
    assert count(params["model"]["encoder"]) == 4_229_120


def test_parameter_counts_of_the_parts():
    params = jax.eval_shape(make_agent(load(size="1m"), WALKER).init, KEY).params
    parts = {**params["model"], "actor": params["actor"], "critic": params["critic"]}
    assert {name: count(part) for name, part in parts.items()} == dict(
        encoder=10_112, rssm=364_416, decoder=51_096, reward=57_663, cont=41_153, actor=50_316, critic=66_111
    )


def image_spec(shape, action):
    return EnvSpec({"image": ArraySpec(shape, "uint8")}, {"action": action})


IMAGES = {
    "vision": (image_spec((64, 64, 3), ArraySpec((6,), "float32")), 686_846, 10_494_158, 165_948_686),
    "atari100k": (image_spec((64, 64, 3), ArraySpec((), "int32", 18)), 688_004, 10_498_772, 165_967_124),
    "atari": (image_spec((96, 96, 1), ArraySpec((), "int32", 18)), 769_762, 11_808_850, 186_936_082),
    "crafter": (image_spec((64, 64, 3), ArraySpec((), "int32", 17)), 687_875, 10_498_259, 165_965_075),
}


@pytest.mark.parametrize("suite", IMAGES)
def test_parameter_counts_of_the_reference_with_images(suite):
    spec, *expected = IMAGES[suite]
    for size, number in zip(("1m", "12m", "200m"), expected, strict=True):
        assert count(jax.eval_shape(make_agent(load(size=size), spec).init, KEY).params) == number


def test_parameter_counts_of_the_parts_with_images():
    params = jax.eval_shape(make_agent(load(size="12m"), IMAGES["vision"][0]).init, KEY).params
    parts = {**params["model"], "actor": params["actor"], "critic": params["critic"]}
    assert {name: count(part) for name, part in parts.items()} == dict(
        encoder=220_416, rssm=5_979_648, decoder=1_272_003, reward=721_407, cont=656_129, actor=791_052, critic=853_503
    )


def test_output_layers_of_reward_and_value_start_at_zero():
    @jax.jit
    def new(key):
        state = AGENT.init(key)
        outputs = state.params["model"]["reward"]["out"], state.params["critic"]["out"]
        return outputs, state.params["critic"]["mlp"], state.slow["mlp"]

    outputs, critic, slow = new(KEY)
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(outputs))
    assert_trees_equal(critic, slow)


def test_one_draw_initialises_everything():
    """A compiler takes seconds for a draw of each kernel."""
    jaxpr = jax.make_jaxpr(AGENT.init)(KEY)
    draws = [eqn.outvars[0].aval.shape for eqn in equations(jaxpr.jaxpr) if eqn.primitive.name == "erf_inv"]
    params = jax.tree_util.tree_leaves_with_path(jax.eval_shape(AGENT.init, KEY).params)
    kernels = [leaf.size for path, leaf in params if "kernel" in path[-1].key]
    assert draws == [(sum(kernels),)] and len(kernels) > 20


# --- one update


def test_first_update_changes_no_parameter(updated):
    """The step size of the warm-up begins at zero."""
    state, metrics, _ = updated[0]
    assert_trees_equal(state.params, STATE.params)
    assert metrics["opt/update_rms"] == 0 < metrics["opt/grad_norm"]
    assert (state.step, updated[2][0].step) == (1, 3)


def test_second_update_changes_every_tensor(updated):
    changed = jax.tree.map(
        lambda old, new: (np.asarray(old) != np.asarray(new)).any(), updated[0][0].params, updated[1][0].params
    )
    assert all(jax.tree.leaves(changed))


def test_slow_critic_follows(updated):
    def follow(new, old, result):
        np.testing.assert_allclose(result, 0.02 * new + 0.98 * old, rtol=1e-5, atol=1e-7)

    jax.tree.map(follow, updated[1][0].params["critic"], updated[0][0].slow, updated[1][0].slow)
    assert not np.allclose(STATE.slow["out"]["kernel"], updated[2][0].slow["out"]["kernel"], rtol=1e-3)


@pytest.mark.parametrize(("first", "shares"), [("mix", (0.25, 0, 0.25)), ("copy", (1, 0, 0.25))])
def test_the_first_slow_critic_may_be_a_copy(first, shares):
    config = ValueConfig(slow_rate=0.25, slow_every=2, slow_first=first)
    found = [follow(config, jnp.int32(step), {"w": jnp.array(8.0)}, {"w": jnp.array(4.0)})["w"] for step in (1, 2, 3)]
    np.testing.assert_allclose(found, [4 + 4 * share for share in shares])


def test_metrics(updated):
    metrics = updated[1][1]
    scales = loss_scales(TINY.config, MIXED)
    total = sum(scale * metrics[f"loss/{name}"] for name, scale in scales.items())
    np.testing.assert_allclose(metrics["loss/total"], total, rtol=1e-5)
    assert set(scales) == {*LOSSES, "speed", "cells", "place"} - {"overshooting", "representation", "ensemble"}
    assert {(x.shape, x.dtype) for x in metrics.values()} == {((), jnp.dtype("float32"))}
    assert all(np.isfinite(x) for x in metrics.values())


def test_latents_for_replay(updated):
    latents = updated[0][2]
    for name, leaf in AGENT.latent_spec.items():
        x = latents[name]
        assert (x.shape, str(x.dtype)) == ((SIZE, T, *leaf.shape), leaf.dtype)


@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_state_keeps_its_types(dtype):
    agent = make_agent(tiny_config(dtype=dtype), MIXED)
    state = jax.eval_shape(agent.init, KEY)
    after, metrics, _ = jax.eval_shape(agent.update, state, KEY, BATCH)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    assert {str(x.dtype) for x in jax.tree.leaves((state.params, state.slow, state.moments, metrics))} == {"float32"}
    assert {str(x.dtype) for x in jax.tree.leaves(state.opt_state)} == {"float32", "int32"}
    _, aux = jax.eval_shape(agent.loss, state.params, state, KEY, BATCH)
    assert {str(x.dtype) for x in jax.tree.leaves(aux.losses)} == {"float32"}


def test_products_are_of_the_low_precision():
    agent = make_agent(tiny_config(dtype="bfloat16"), MIXED)
    jaxpr = jax.make_jaxpr(agent.update)(jax.eval_shape(agent.init, KEY), KEY, BATCH)
    dots = [eqn for eqn in equations(jaxpr.jaxpr) if eqn.primitive.name == "dot_general"]
    wide = [eqn for eqn in dots if any(x.aval.dtype != jnp.bfloat16 for x in eqn.invars)]
    assert len(dots) > 50
    # running sums of class probabilities, from which latents and choices are drawn
    assert {eqn.invars[1].aval.shape for eqn in wide} == {(6, 6)}


# --- several seeds, several devices


TWO_BY_TWO = """
import pickle, sys
import jax
import jax.numpy as jnp
from agents import MIXED, random_batch, tiny
from dreamer_jax.agent import make_agent

assert jax.device_count() == 2
states, keys, batches = pickle.load(sys.stdin.buffer)
halves = jax.tree.map(lambda x: x.reshape(2, 2, 2, *x.shape[2:]).swapaxes(0, 1), batches)  # [device, seed, ...]
agent = make_agent(tiny().config, MIXED, axis_name="devices")
update = jax.pmap(jax.vmap(agent.update), axis_name="devices", in_axes=(None, None, 0))
sys.stdout.buffer.write(pickle.dumps(jax.device_get(update(states, keys, halves))))
"""


@pytest.fixture(scope="module")
def two_by_two(updated):
    """Inputs of two seeds, and what two devices make of both at once: [device, seed, ...]."""
    seeds = [
        (jax.device_get(STATE), np.asarray(jax.random.PRNGKey(0)), BATCH),
        (jax.device_get(updated[1][0]), np.asarray(jax.random.PRNGKey(7)), random_batch(MIXED, TINY.config, 1, SIZE)),
    ]
    together = jax.tree.map(lambda *xs: np.stack(xs), *seeds)
    command = [sys.executable, "-c", TWO_BY_TWO]
    done = subprocess.run(
        command, input=pickle.dumps(together), env=many_devices(2), stdout=subprocess.PIPE, check=True
    )
    return seeds, pickle.loads(done.stdout)


@pytest.mark.parametrize("seed", (0, 1))
def test_seeds_and_devices_equal_one_seed_on_one_device(two_by_two, seed):
    seeds, results = two_by_two
    state, metrics, latents = jax.tree.map(lambda x: x[:, seed], results)
    jax.tree.map(lambda x: np.testing.assert_array_equal(x[0], x[1]), (state, metrics))  # devices agree
    one_state, one_metrics, one_latents = update(*seeds[seed])
    for name, value in one_metrics.items():
        if name not in ("adv_std", "ret_min", "ret_max"):  # of these, a mean over devices is another number
            np.testing.assert_allclose(metrics[name][0], value, rtol=1e-3, atol=1e-5, err_msg=name)
    assert_trees_equal(latents["stoch"].reshape(SIZE, T, S), one_latents["stoch"])
    widen = lambda x: np.asarray(x, np.float32).reshape(SIZE, T, D)  # noqa: E731
    np.testing.assert_allclose(widen(latents["deter"]), widen(one_latents["deter"]), rtol=0.01, atol=1e-3)
    squares, one_squares = (optax.tree_utils.tree_get(x.opt_state, "nu") for x in (state, one_state))
    for square, one in zip(jax.tree.leaves(squares), jax.tree.leaves(one_squares), strict=True):  # of the gradients
        np.testing.assert_allclose(square[0], one, rtol=1e-3, atol=1e-5 * np.abs(one).max())
    for name, value in one_state.moments.items():
        np.testing.assert_allclose(state.moments[name][0], value, rtol=1e-4)


# --- acting

MODES = ("sample", "mode", "random")
act = {mode: quick_jit(lambda *x, mode=mode: AGENT.policy(STATE.params, *x, mode=mode)) for mode in MODES}
NEW = AGENT.reset(STATE.params, SIZE)


def test_reset():
    assert NEW.prev_action["motors"].shape == (SIZE, 2) and NEW.prev_action["choice"].dtype == jnp.int32
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(NEW))


def test_mode_repeats_and_samples_differ_by_key():
    timestep = random_timestep(MIXED, size=SIZE)
    first = timestep.replace(is_first=np.ones(SIZE, bool))
    carry, action, latents = act["sample"](KEY, NEW, first)
    assert_trees_equal(act["sample"](KEY, NEW, first), (carry, action, latents))
    other = act["sample"](jax.random.PRNGKey(1), NEW, first)
    assert (other[1]["motors"] != action["motors"]).all()
    greedy = act["mode"](KEY, NEW, first)[1]
    assert_trees_equal(act["mode"](KEY, NEW, first)[1], greedy)
    assert (np.abs(greedy["motors"]) < 1).all() and (greedy["motors"] != action["motors"]).all()
    assert_trees_equal(carry.prev_action, action)
    assert {name: (x.shape, str(x.dtype)) for name, x in action.items()} == dict(
        motors=((SIZE, 2), "float32"), choice=((SIZE,), "int32")
    )


def test_carry_keeps_what_replay_gets():
    carry, _, latents = act["sample"](KEY, NEW, random_timestep(MIXED, size=SIZE))
    np.testing.assert_array_equal(latents["deter"], carry.latent.deter.astype(jnp.bfloat16))
    np.testing.assert_array_equal(latents["stoch"], np.argmax(carry.latent.stoch, -1))


def test_random_actions_leave_the_latents_as_they_are():
    timestep = random_timestep(MIXED, size=SIZE)
    carry, action, latents = act["random"](KEY, NEW, timestep)
    chosen, _, kept = act["sample"](KEY, NEW, timestep)
    assert_trees_equal((carry.latent, latents), (chosen.latent, kept))
    assert_trees_equal(carry.prev_action, action)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), carry) == jax.tree.map(lambda x: (x.shape, x.dtype), NEW)
    blind = act["random"](KEY, NEW, random_timestep(MIXED, seed=9, size=SIZE))[1]
    assert_trees_equal(action, blind)  # whatever is seen


def test_first_records_forget():
    timestep = random_timestep(MIXED, seed=1, size=SIZE)
    old = act["sample"](KEY, NEW, random_timestep(MIXED, size=SIZE))[0]
    first = np.array([True, False, True, False])
    fresh = act["sample"](KEY, NEW, timestep.replace(is_first=np.ones(SIZE, bool)))
    mixed = act["sample"](KEY, old, timestep.replace(is_first=first))
    kept = act["sample"](KEY, old, timestep)
    for row, expected in enumerate((fresh, kept, fresh, kept)):
        jax.tree.map(lambda a, b, row=row: np.testing.assert_array_equal(a[row], b[row]), mixed, expected)
    assert (np.asarray(kept[0].latent.deter) != fresh[0].latent.deter).any(-1).all()


# --- refusals


@pytest.mark.parametrize("name", LOSSES)
def test_a_key_named_like_a_loss_is_refused(name):
    with pytest.raises(ConfigError, match=f"{name!r}: the name is taken by a loss"):
        make_agent(tiny_config(), EnvSpec({name: ArraySpec((2,), "float32")}, MIXED.action))


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ([(60, 64, 3)], "'a'.*got 60 x 64 pixels.*multiples of 16, such as 64 x 64"),
        ([(64, 84, 1)], "'a'.*got 64 x 84 pixels.*such as 64 x 80"),
        ([(64, 64, 3), (32, 64, 3)], "'b'.*got 32 x 64 pixels, but 'a' has 64 x 64"),
    ],
)
def test_images_of_other_sizes_are_refused(shapes, words):
    images = {name: ArraySpec(shape, "uint8") for name, shape in zip("ab", shapes, strict=False)}
    with pytest.raises(ConfigError, match=words):
        make_agent(load(), EnvSpec(images, MIXED.action))


def test_blocks_of_the_image_decoder_must_divide():
    spec = EnvSpec({"camera": ArraySpec((16, 16, 3), "uint8")}, MIXED.action)
    with pytest.raises(
        ConfigError,
        match="decoder.blocks: got 8, for images it must divide the width .* .rssm.deter., 36",
    ):
        make_agent(tiny_config(), spec)
    with pytest.raises(ConfigError, match="decoder.blocks: got 6, for images it must divide 4 x decoder.depth, 16"):
        make_agent(tiny_config(decoder__blocks=6), spec)


def test_without_context_nothing_is_handed_out_for_replay():
    agent = tiny(replay__context=False).agent
    batch = TINY.batch.replace(context=None)
    carry = jax.eval_shape(lambda: agent.reset(STATE.params, SIZE))
    _, _, latents = jax.eval_shape(agent.policy, STATE.params, KEY, carry, random_timestep(MIXED, size=SIZE))
    assert latents == agent.latent_spec == jax.eval_shape(agent.update, STATE, KEY, batch)[2] == {}
