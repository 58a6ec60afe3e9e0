"""Rolling the world model forward under a policy (DreamerV3, sec. 3)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dreamer_jax.behaviors.policy import Policy
from dreamer_jax.interfaces import WorldModel
from dreamer_jax.models.world_model import Features, features
from dreamer_jax.ops.sequence import scan_time
from dreamer_jax.types import Array, ArrayDict, RSSMState


def imagine(
    model: WorldModel, policy: Policy, params: Any, key: Array, rows: Array, start: RSSMState, length: int
) -> tuple[Features, ArrayDict]:
    """Features [N, H+1, ...] and actions {name: [N, H+1, ...]} of ``length`` = H steps.

    Index 0 is the start. One more action is drawn at the last state, so that shapes agree. ``rows``
    [N] are the starts' places in the global batch.
    """
    model_key, action_key = jax.random.split(key)
    latent_noise = model.latent_noise(model_key, rows, (length,))
    action_noise = policy.noise(action_key, rows, (length + 1,))

    def act(state: RSSMState, noise: ArrayDict) -> ArrayDict:
        return policy.draw(policy.apply({"params": params["actor"]}, *features(state)), noise)

    def step(state: RSSMState, noise: tuple[jax.Array, ArrayDict]) -> tuple[RSSMState, Any]:
        action = act(state, noise[1])
        state = model.imagine_step(params["model"], noise[0], state, policy.vector(action)).without_stats()
        return state, (features(state), action)

    start = start.without_stats()
    before_last = {name: x[:, :-1] for name, x in action_noise.items()}
    last, (feats, actions) = scan_time(step, start, (latent_noise, before_last))
    last_action = act(last, {name: x[:, -1] for name, x in action_noise.items()})
    join = lambda *parts: jnp.concatenate(parts, 1)  # noqa: E731
    feats = jax.tree.map(lambda first, rest: join(first[:, None], rest), features(start), feats)
    return feats, jax.tree.map(lambda some, final: join(some, final[:, None]), actions, last_action)
