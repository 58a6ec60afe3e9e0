"""Scans over the second axis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax.ops.sequence import in_chunks, scan_time, swap_time


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


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 7, 3)])
@pytest.mark.parametrize("rows", [0, 1, 4, 5, 100])
def test_chunks_give_what_all_at_once_gives(shape, rows):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    most, seen = shape[0] * shape[1], []

    def total(x, weight, rows):
        def function(inputs):
            seen.append(inputs["x"].shape[:-1])
            return jnp.tanh(inputs["x"] @ weight), (inputs["x"] ** 2).sum(-1)

        one, two = in_chunks(function, {"x": x}, rows)
        assert one.shape == (*shape[:2], 2) and two.shape == shape[:2]
        return (one.sum(-1) * two).sum()

    grad = jax.value_and_grad(total, (0, 1))
    weight = np.ones((shape[-1], 2), np.float32)
    whole = grad(x, weight, 0)
    seen.clear()
    parts = grad(x, weight, rows)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), whole, parts)
    assert all(np.prod(lead) <= (rows or most) and most % np.prod(lead) == 0 for lead in seen)
