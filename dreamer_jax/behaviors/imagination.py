"""Rolling the world model forward under a policy (DreamerV3, sec. 3)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from dreamer_jax.behaviors.policy import Policy
from dreamer_jax.interfaces import WorldModel
from dreamer_jax.ops.sequence import swap_time
from dreamer_jax.types import Array, ArrayDict, Features, LatentState, Params


class Rollout(NamedTuple):
    """States and actions as the scan over time leaves them: copies to any other order would be the size of all.

    The last state is apart, because nothing but its value, reward and continuation is ever asked for.
    """

    features: Features  # [H, N, ...], index 0 is the start
    action: ArrayDict  # {name: [H, N, ...]}
    last_features: Features  # [N, ...]
    last_action: ArrayDict  # {name: [N, ...]}


def imagine(
    model: WorldModel,
    policy: Policy,
    params: dict[str, Params],
    key: Array,
    *,
    rows: Array,
    start: LatentState,
    length: int,
) -> Rollout:
    """``length`` = H steps from every start; ``rows`` [N] are the starts' places in the global batch.

    States have a gradient by the actions that led to them (DreamerV1, eq. 7); the policy sees them without.
    """
    dynamics = model.dynamics
    model_key, action_key = jax.random.split(key)
    latent_noise = dynamics.noise(model_key, rows, (length,))
    action_noise = policy.noise(action_key, rows, (length + 1,))

    def act(state: LatentState, noise: ArrayDict) -> ArrayDict:
        feat = jax.lax.stop_gradient(dynamics.features(state))
        return policy.draw(policy.apply({"params": params["actor"]}, *feat), noise)

    def step(state: LatentState, noise: tuple[jax.Array, ArrayDict]) -> tuple[LatentState, Any]:
        action = act(state, noise[1])
        after = model.imagine_step(params["model"], noise[0], state, policy.vector(action))
        return after, (dynamics.features(state), action)

    before_last = {name: x[:, :-1] for name, x in action_noise.items()}
    last, (feats, actions) = jax.lax.scan(step, dynamics.to_scan_carry(start), swap_time((latent_noise, before_last)))
    last_action = act(last, {name: x[:, -1] for name, x in action_noise.items()})
    return Rollout(features=feats, action=actions, last_features=dynamics.features(last), last_action=last_action)
