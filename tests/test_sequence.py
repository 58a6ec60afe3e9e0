"""Scans over the second axis."""

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.ops.sequence import scan_time, swap_time


def test_scan_equals_a_loop():
    rng = np.random.default_rng(0)
    inputs = {"x": rng.normal(size=(2, 5, 3)).astype(np.float32), "gate": rng.uniform(size=(2, 5)) > 0.5}

    def step(carry, now):
        carry = jnp.where(now["gate"][:, None], 0.5 * carry + now["x"], -carry)
        return carry, (carry, carry.sum(-1))

    last, (states, sums) = scan_time(step, jnp.ones((2, 3)), inputs)
    carry = jnp.ones((2, 3))
    for t in range(5):
        carry, _ = step(carry, jax.tree.map(lambda x, t=t: x[:, t], inputs))
        np.testing.assert_allclose(states[:, t], carry, rtol=1e-6)
    assert states.shape == (2, 5, 3) and sums.shape == (2, 5)
    np.testing.assert_array_equal(last, states[:, -1])


def test_swap_is_its_own_inverse():
    x = {"a": jnp.arange(6).reshape(2, 3), "b": jnp.arange(24).reshape(2, 3, 4)}
    assert swap_time(x)["b"].shape == (3, 2, 4)
    jax.tree.map(np.testing.assert_array_equal, swap_time(swap_time(x)), x)
