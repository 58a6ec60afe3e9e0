"""Counts of operations in loops, against a program small enough to count by hand."""

import jax
import jax.numpy as jnp
import loop_bodies
import pytest
from loop_bodies import loops


def program(carry, xs):
    def step(carry, x):
        carry = jnp.sin(carry @ x)
        carry, _ = jax.lax.scan(lambda carry, _: (jnp.tanh(carry * 2.0), None), carry, None, length=3)
        return carry, carry.sum()

    return jax.lax.scan(step, carry, xs)[1].sum()


LOWERED = jax.jit(program).lower(jnp.ones((4, 4)), jnp.ones((7, 4, 4)))


def test_operations_of_a_module_that_no_device_has_shaped():
    (outer,) = loops(LOWERED.as_text(debug_info=True))
    (inner,) = outer.inner
    # broadcast, multiply, tanh, and the counter
    assert (inner.trips, inner.operations, inner.products, inner.backward) == (3, 4, 0, False)
    assert (outer.trips, outer.products) == (7, 1)
    own = outer.operations - 3 * inner.operations
    body = LOWERED.as_text().split("stablehlo.while")[1]
    assert own < body.count("stablehlo.") + body.count("func.call") and own >= 6  # slice, dot, sin, sum, store, counter


def test_a_fusion_of_a_compiled_module_is_one_operation():
    (outer,) = loops(LOWERED.compile().as_text())
    assert outer.trips == 7 and outer.products == 1
    assert outer.operations < loops(LOWERED.as_text(debug_info=True))[0].operations


def test_gradients_are_backward_loops():
    text = jax.jit(jax.grad(program)).lower(jnp.ones((4, 4)), jnp.ones((7, 4, 4))).as_text(debug_info=True)
    assert [loop.backward for loop in loops(text)] == [False, True]
    assert loops(text)[1].products == 1  # xs have no gradient


@pytest.mark.parametrize("observation", ["proprio"])
def test_the_update_has_its_three_loops(observation):
    found = [loop for loop in loops(loop_bodies.update_text("1m", observation, "float32")) if loop.products]
    assert [(loop.trips, loop.backward) for loop in found] == [(64, False), (15, False), (64, True)]
    observe, imagine, backward = found
    assert observe.products == 8 and imagine.products == 17
    assert backward.products == 7  # none for a weight: those come after it
