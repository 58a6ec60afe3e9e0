"""The running range of the returns, by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.ops.moments import gathered, initial_range, range_scale, update_range

SETTINGS = dict(low=5.0, high=95.0, rate=0.01)


def test_moving_percentiles_by_hand():
    x = jnp.arange(101.0).reshape(1, 101)  # its percentiles are 5 and 95
    moments = update_range(initial_range(), x, **SETTINGS)
    np.testing.assert_allclose([moments["low"], moments["high"]], [0.05, 0.95], rtol=1e-6)
    moments = update_range(moments, x - 200, **SETTINGS)
    np.testing.assert_allclose([moments["low"], moments["high"]], [0.05 * 0.99 - 1.95, 0.95 * 0.99 - 1.05], rtol=1e-5)


def test_percentiles_interpolate_over_all_values():
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    moments = jax.jit(lambda x: update_range(initial_range(), x, **SETTINGS | {"rate": 1.0}))(x)
    np.testing.assert_allclose([moments["low"], moments["high"]], np.percentile(x, [5, 95]), rtol=1e-5)


def test_scale_has_a_floor():
    assert range_scale(initial_range(), 1.0) == 1
    assert range_scale({"low": jnp.float32(-3), "high": jnp.float32(4)}, 1.0) == 7


def test_no_gradient_passes():
    grad = jax.grad(lambda x: range_scale(update_range(initial_range(), x, **SETTINGS | {"rate": 1.0}), 0.0))
    np.testing.assert_array_equal(grad(jnp.arange(4.0)), 0)


def test_percentiles_of_all_devices_together():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32)
    together = update_range(initial_range(), x, **SETTINGS)
    # vmap names an axis as devices do
    apart = jax.vmap(lambda part: update_range(initial_range(), gathered(part, "d"), **SETTINGS), axis_name="d")(x)
    for name, value in together.items():
        np.testing.assert_allclose(apart[name], [value] * 2, rtol=1e-6)
