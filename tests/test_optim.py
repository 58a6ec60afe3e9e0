"""LaProp with adaptive clipping, against numbers of the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dreamer_jax.config.schema import OptimizerConfig
from dreamer_jax.optim import clip_by_tensor_norm, make_optimizer

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
