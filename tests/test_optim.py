"""LaProp with adaptive clipping, against numbers of the reference; Adams, groups, clipping and decay by hand."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreamer_jax.config.schema import OptimizerConfig
from dreamer_jax.optim import clip_by_tensor_norm, learning_rate, make_optimizer

PARAMS = {"w": jnp.array([1.0, 2, 2])}
GRADS = [jnp.array(g) for g in ([3.0, 0, 4], [0.1, 0.2, -0.3], [1e-4, 0, 0])]


def run(config, grads=GRADS):
    """Updates for successive gradients at the same parameters."""
    optimizer = make_optimizer(config)
    update = jax.jit(optimizer.update)
    state, updates = optimizer.init(PARAMS), []
    for grad in grads:
        change, state = update({"w": grad}, state, PARAMS)
        updates.append(np.asarray(change["w"]))
    return np.array(updates)


def test_three_updates_of_the_reference():
    updates = run(OptimizerConfig(learning_rate=1.0, warmup=0))
    expected = [[1, 0, 1], [0.609245, 0.744129, 0.187355], [0.384547, 0.469543, 0.118221]]
    np.testing.assert_allclose(-updates, expected, rtol=2e-5, atol=1e-7)


def test_warm_up_begins_at_zero_and_ends_at_the_rate():
    plain = run(OptimizerConfig(learning_rate=1.0, warmup=0), GRADS * 2)
    warm = run(OptimizerConfig(learning_rate=1.0, warmup=4), GRADS * 2)
    np.testing.assert_allclose(warm, plain * np.array([0, 0.25, 0.5, 0.75, 1, 1])[:, None], rtol=1e-5)


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("linear", [1, 0.775, 0.55, 0.325, 0.1, 0.1]), ("cosine", [1, 0.8682, 0.55, 0.2318, 0.1, 0.1])],
)
def test_the_step_size_may_fall(schedule, expected, warmup):
    settings = OptimizerConfig(learning_rate=2.0, warmup=warmup, schedule=schedule, decay_updates=4, final=0.1)
    rising = [2 * i / 3 for i in range(warmup)]
    rates = [learning_rate(settings)(step) for step in range(warmup + 6)]
    np.testing.assert_allclose(rates, rising + [2 * share for share in expected], rtol=1e-4)


def test_adamw_is_that_of_optax():
    settings = dict(learning_rate=0.1, kind="adamw", warmup=0, agc=0.0, eps=1e-8, weight_decay=0.3)
    theirs = optax.adamw(0.1, 0.9, 0.999, 1e-8, weight_decay=0.3)
    state, expected = theirs.init(PARAMS), []
    for grad in GRADS:
        change, state = theirs.update({"w": grad}, state, PARAMS)
        expected.append(change["w"])
    np.testing.assert_allclose(run(OptimizerConfig(**settings)), expected, rtol=1e-5)


def test_clipping_is_relative_to_the_norm_of_a_whole_tensor():
    clip = clip_by_tensor_norm(0.3)
    params = {"matrix": jnp.full((2, 2), 1.5), "bias": jnp.zeros(2), "small": jnp.ones(3)}  # norms 3, 0, sqrt 3
    grads = {"matrix": jnp.full((2, 2), 5.0), "bias": jnp.array([3.0, 4]), "small": jnp.full(3, 0.1)}
    clipped, _ = clip.update(grads, clip.init(params), params)
    np.testing.assert_allclose(jnp.linalg.norm(clipped["matrix"]), 0.9, rtol=1e-6)
    np.testing.assert_allclose(clipped["matrix"], 0.45, rtol=1e-6)
    np.testing.assert_allclose(clipped["bias"], [0.6 * 0.3e-3, 0.8 * 0.3e-3], rtol=1e-5)  # at least 1e-3
    np.testing.assert_allclose(clipped["small"], 0.1)  # small enough


def test_clipping_can_be_switched_off():
    """A clipped gradient weighs less against the next one."""
    clipped, whole = (run(OptimizerConfig(learning_rate=1.0, warmup=0, agc=agc)) for agc in (0.3, 0.0))
    np.testing.assert_allclose(clipped[0], whole[0], rtol=1e-5)
    assert not np.allclose(clipped[1], whole[1], rtol=0.01)


def test_a_tiny_gradient_makes_a_whole_step_and_none_makes_none():
    updates = run(OptimizerConfig(learning_rate=1.0, warmup=0), [jnp.array([1e-12, 0, -1e-12])])
    np.testing.assert_allclose(updates, [[-1, 0, 1]], rtol=1e-4)


def test_state_stays_float32():
    state = jax.eval_shape(make_optimizer(OptimizerConfig()).init, PARAMS)
    kinds = {x.dtype for x in jax.tree.leaves(state)}
    assert kinds == {jnp.dtype("float32"), jnp.dtype("int32")}
    assert isinstance(state, tuple) and optax.tree_utils.tree_get(state, "nu")["w"].shape == (3,)


def test_the_state_of_the_defaults_is_one_chain():
    """Checkpoints depend on it."""
    chain = optax.chain(
        optax.identity(), optax.scale_by_rms(0.999, bias_correction=True), optax.ema(0.9), optax.scale_by_schedule(len)
    )
    found, expected = (jax.tree.structure(x.init(PARAMS)) for x in (make_optimizer(OptimizerConfig()), chain))
    assert found == expected


PLAIN = {"agc": 0.0, "warmup": 0, "learning_rate": 0.1}


@pytest.mark.parametrize("kind", ("adam", "adam_eps_hat"))
def test_adam_by_its_formula(kind):
    """A large eps, so that its place shows: beside the corrected root, or beside the root before."""
    found = run(OptimizerConfig(kind=kind, eps=0.05, beta1=0.8, beta2=0.9, **PLAIN))
    mean, square = np.zeros(3), np.zeros(3)
    for t, grad in enumerate(np.asarray(GRADS, np.float64), 1):
        mean, square = 0.8 * mean + 0.2 * grad, 0.9 * square + 0.1 * grad**2
        if kind == "adam":
            step = mean / (1 - 0.8**t) / (np.sqrt(square / (1 - 0.9**t)) + 0.05)
        else:
            step = np.sqrt(1 - 0.9**t) / (1 - 0.8**t) * mean / (np.sqrt(square) + 0.05)
        np.testing.assert_allclose(found[t - 1], -0.1 * step, rtol=1e-5, atol=1e-8)


GROUPS = {name: {"w": jnp.array(x)} for name, x in (("model", [1.0, 2]), ("actor", [3.0]), ("critic", [4.0]))}


def grouped(config, grads, params=GROUPS):
    optimizer = make_optimizer(config)
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    return {name: np.asarray(x["w"]) for name, x in updates.items()}


def test_groups_have_their_own_step_sizes_and_eps():
    """The first step of Adam is g / (|g| + eps)."""
    config = OptimizerConfig(kind="adam", eps=1.0, actor_critic_eps=3.0, **PLAIN)
    config = replace(config, actor_learning_rate=0.2, critic_learning_rate=0.4)
    found = grouped(config, jax.tree.map(lambda x: jnp.full_like(x, -2), GROUPS))
    np.testing.assert_allclose(found["model"], 0.1 * 2 / 3, rtol=1e-5)
    np.testing.assert_allclose(found["actor"], 0.2 * 2 / 5, rtol=1e-5)
    np.testing.assert_allclose(found["critic"], 0.4 * 2 / 5, rtol=1e-5)
    same = grouped(replace(config, actor_learning_rate=0.0, actor_critic_eps=0.0), GROUPS)
    np.testing.assert_allclose(same["actor"], -0.1 * 3 / 4, rtol=1e-5)


def test_the_norm_of_each_group_is_clipped():
    """eps so large that Adam's first step is nearly proportional to the gradient."""
    config = OptimizerConfig(kind="adam", eps=1e6, clip=1.0, actor_critic_clip=2.0, **PLAIN)
    grads = {"model": jnp.array([3.0, 4.0]), "actor": jnp.array([1.5]), "critic": jnp.array([8.0])}
    found = grouped(config, {name: {"w": x} for name, x in grads.items()})
    np.testing.assert_allclose(found["model"] * -1e7, [0.6, 0.8], rtol=1e-4)
    np.testing.assert_allclose(found["actor"] * -1e7, 1.5, rtol=1e-4)
    np.testing.assert_allclose(found["critic"] * -1e7, 2.0, rtol=1e-4)
    same = grouped(replace(config, actor_critic_clip=0.0), {name: {"w": x} for name, x in grads.items()})
    np.testing.assert_allclose(same["critic"] * -1e7, 1.0, rtol=1e-4)
    own = grouped(replace(config, critic_clip=3.0), {name: {"w": x} for name, x in grads.items()})
    np.testing.assert_allclose(own["critic"] * -1e7, 3.0, rtol=1e-4)
    np.testing.assert_allclose(own["actor"] * -1e7, 1.5, rtol=1e-4)


def test_weights_decay_by_a_share_whatever_the_step_size():
    config = OptimizerConfig(kind="adam_eps_hat", eps=1e-8, weight_decay=0.01, **PLAIN)
    found = run(config, [jnp.array([2.0, -2, 0])])
    np.testing.assert_allclose(found[0], [-0.1 - 0.01, 0.1 - 0.02, -0.02], rtol=1e-4)


def test_a_group_may_be_absent():
    params = {"model": GROUPS["model"]}
    found = grouped(OptimizerConfig(kind="adam", eps=1e-8, clip=1000.0, **PLAIN), params, params)
    np.testing.assert_allclose(found["model"], -0.1, rtol=1e-5)


def test_groups_warm_up_to_their_own_step_sizes():
    config = OptimizerConfig(kind="adam", learning_rate=0.1, actor_learning_rate=0.3, warmup=2, agc=0.0, eps=1e-8)
    optimizer = make_optimizer(config)
    state, steps = optimizer.init(GROUPS), []
    for _ in range(4):
        updates, state = optimizer.update(GROUPS, state, GROUPS)
        steps.append([-float(updates[name]["w"][0]) for name in ("model", "actor")])
    np.testing.assert_allclose(steps, [[0, 0], [0.05, 0.15], [0.1, 0.3], [0.1, 0.3]], rtol=1e-4)


@pytest.mark.parametrize(
    "numbers, groups",
    [
        ({"learning_rate": 1e-3, "eps": 1e-8}, 1),
        ({"learning_rate": 1e-3, "actor_learning_rate": 2e-3}, 3),
        ({"actor_critic_eps": 1e-3}, 3),
        ({"agc": 0.2, "actor_critic_clip": 1e-3}, 3),
        ({"agc": 0.2, "weight_decay": 1e-3}, 1),
    ],
)
def test_numbers_of_a_trace_make_the_state_that_numbers_make(numbers, groups):
    params = {name: {"w": jnp.ones(3)} for name in ("model", "actor", "critic")}

    def shapes(numbers):
        optimizer = make_optimizer(replace(OptimizerConfig(), **numbers))
        return optimizer.update(params, optimizer.init(params), params)

    traced = jax.eval_shape(shapes, {name: jnp.float32(number) for name, number in numbers.items()})
    concrete = jax.eval_shape(lambda: shapes(numbers))
    assert traced == concrete
    counts = [x for x in jax.tree.leaves(concrete[1]) if x.shape == ()]
    assert len(counts) == groups * len(
        [x for x in jax.tree.leaves(make_optimizer(OptimizerConfig()).init(params)) if not x.shape]
    )
