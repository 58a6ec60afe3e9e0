"""Returns and weights of imagined states, against numbers by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax.behaviors.credit import assign_credit
from dreamer_jax.config.schema import BehaviorConfig

REWARD = jnp.array([[1.0, 2.0, 3.0, 4.0]])
DISCOUNT = jnp.array([[0.5, 0.8, 0.25, 0.9]])
VALUE = jnp.array([[10.0, 20.0, 30.0, 40.0]])


def test_arrival():
    """lambda 1: R_2 = 4 + 0.9 x 40, R_1 = 3 + 0.25 R_2, R_0 = 2 + 0.8 R_1."""
    credit = assign_credit(BehaviorConfig(lambda_=1.0), REWARD, DISCOUNT, VALUE)
    np.testing.assert_allclose(credit.returns, [[2 + 0.8 * 13, 13, 40]])
    np.testing.assert_array_equal(credit.returns, credit.target)
    np.testing.assert_allclose(credit.cumulative_discount, [[0.5, 0.4, 0.1, 0.09]], rtol=1e-6)
    np.testing.assert_array_equal(credit.weight, credit.cumulative_discount[:, :3])
    np.testing.assert_array_equal(credit.target_weight, credit.weight)


def test_departure_from_the_start_itself():
    """lambda 0: R_t = r_t + d_t v_{t+1}. The decision at t is judged by R_{t+1}, a mean over two of them."""
    config = BehaviorConfig(lambda_=0.0, returns="departure")
    credit = assign_credit(config, REWARD, DISCOUNT, VALUE)
    np.testing.assert_allclose(credit.target, [[11, 26, 13]])
    np.testing.assert_allclose(credit.returns, [[26, 13, 0]])
    np.testing.assert_allclose(credit.target_weight, [[1, 0.5, 0.4]])
    np.testing.assert_allclose(credit.weight, [[1.5, 0.75, 0]])
    gain = (credit.weight * credit.returns).mean()
    np.testing.assert_allclose(gain, (1 * 26 + 0.5 * 13) / 2)


def test_departure_without_the_start():
    """Weights begin with 1 at the first imagined state, which is the first that the critic learns."""
    config = BehaviorConfig(lambda_=0.0, returns="departure", start="excluded")
    credit = assign_credit(config, REWARD, DISCOUNT, VALUE)
    gain = (credit.weight * credit.returns).mean()
    np.testing.assert_allclose(gain, (1 * 26 + 0.8 * 13) / 2)
    learnt = (credit.target_weight * credit.target).mean()
    np.testing.assert_allclose(learnt, (1 * 26 + 0.8 * 13) / 2)
    assert credit.target_weight[0, 0] == 0


def test_a_first_weight_is_taken_out():
    credit = assign_credit(BehaviorConfig(), REWARD, DISCOUNT, VALUE, first_weight=0.5)
    np.testing.assert_allclose(credit.cumulative_discount, [[1, 0.8, 0.2, 0.18]], rtol=1e-6)


@pytest.mark.parametrize("returns", ["arrival", "departure"])
def test_weights_have_no_gradient_and_returns_have(returns):
    def of(field):
        config = BehaviorConfig(returns=returns)
        return jax.grad(lambda d: getattr(assign_credit(config, REWARD, d, VALUE), field).sum())(DISCOUNT)

    assert not any(of(name).any() for name in ("weight", "target_weight", "cumulative_discount"))
    assert of("returns").any()
