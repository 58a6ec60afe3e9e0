"""What imagined decisions and states are worth: returns and weights (DreamerV1, eqs. 4-8; DreamerV2, eq. 4; DreamerV3).

Two conventions. ``arrival`` (DreamerV3): the return of state t begins with the reward on arriving at t+1, which the
action at t brought. ``departure`` (DreamerV1, DreamerV2): it begins with the state's own reward, so that the action at
t is judged by the return of t+1, and the last action by none.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dreamer_jax.config.schema import BehaviorConfig
from dreamer_jax.ops.returns import departure_return, lambda_return

stop = jax.lax.stop_gradient


class Credit(NamedTuple):
    """Of states 0..H-1, [N, H]. Weights have no gradient; a mean over H is one over those that count."""

    returns: jax.Array  # what the decision at the state brought; differentiable
    weight: jax.Array  # of the decision
    target: jax.Array  # of the critic at the state
    target_weight: jax.Array
    cumulative_discount: jax.Array  # [N, H+1] of everything before, by which states are weighted


def assign_credit(
    config: BehaviorConfig, reward: jax.Array, discount: jax.Array, value: jax.Array, *, first_weight: float = 1.0
) -> Credit:
    """From rewards, discounts and values [N, H+1] of imagined states, of which 0 is the start.

    Args:
      first_weight: arrival: divides all weights, to take a discount out of the start's own.
    """
    if config.returns == "arrival":
        returns = lambda_return(reward, discount, config.lambda_, value)
        cumulative = stop(jnp.cumprod(discount, 1)) / first_weight
        weight = cumulative[:, :-1]
        return Credit(
            returns=returns, weight=weight, target=returns, target_weight=weight, cumulative_discount=cumulative
        )
    target = departure_return(reward, discount, config.lambda_, value)
    ones, nothing = jnp.ones_like(discount[:, :1]), jnp.zeros_like(discount[:, :1])
    steps = target.shape[1]
    included = config.start == "included"
    passed = jnp.concatenate([ones, discount[:, :1] if included else ones, discount[:, 1:-1]], 1)
    cumulative = stop(jnp.cumprod(passed, 1))  # cumulative[t] is the product of what lies before t
    # The decision that leads to state t+1 counts as the state does that is the first to count.
    if included:
        decided, counted = cumulative[:, : steps - 1], cumulative[:, :steps]
    else:
        decided = cumulative[:, 1:steps]
        counted = jnp.concatenate([nothing, decided * steps / (steps - 1)], 1)
    return Credit(
        returns=jnp.concatenate([target[:, 1:], nothing], 1),
        weight=jnp.concatenate([decided, nothing], 1) * steps / (steps - 1),
        target=target,
        target_weight=counted,
        cumulative_discount=cumulative,
    )
