"""Actor and critic as networks alone, for whatever learns or plans with them."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from dreamer_jax.behaviors.policy import Policy
from dreamer_jax.config.schema import Config
from dreamer_jax.models.heads import Head
from dreamer_jax.models.scalars import Scalar, make_scalar
from dreamer_jax.ops.sequence import rematerialized
from dreamer_jax.specs import EnvSpec
from dreamer_jax.types import Array, ArrayDict, Features, Mode, Params


class InitNetworks(Protocol):
    def __call__(self, key: Array, /) -> dict[str, Params]:
        """New parameters {"actor", "critic"}."""
        ...


class PolicyStats(Protocol):
    def __call__(self, actor: Params, feat: Features, /) -> dict[str, ArrayDict]:
        """Statistics of the action's distributions, {name: {"logits"} or {"mean", "std"}} [..., ...] float32."""
        ...


class Choose(Protocol):
    def __call__(self, actor: Params, key: Array, rows: Array, feat: Features, mode: Mode, /) -> ArrayDict:
        """Actions {name: [N, ...]} as environments take them, drawn or, in mode ``mode``, the most likely ones."""
        ...


class CriticOutput(Protocol):
    def __call__(self, critic: Params, feat: Features, /) -> Array:
        """What ``Networks.scalar`` takes, [..., outputs] float32."""
        ...


class Networks(NamedTuple):
    """``actor`` and ``critic`` are parameters of those names; ``scalar`` says what the critic's output means."""

    init: InitNetworks
    policy: Policy
    policy_stats: PolicyStats
    choose: Choose
    critic: CriticOutput
    scalar: Scalar


def make_networks(
    config: Config, spec: EnvSpec, feature_widths: tuple[int, ...], *, dtype: Any = jnp.float32
) -> Networks:
    """Networks on features of such widths (``Dynamics.feature_widths``), for the actions of ``spec``."""
    v = config.value
    policy = Policy(config.policy, spec.action, feature_widths, dtype, config.nets)
    scalar = make_scalar(v.dist, v.bins)
    head = Head(
        feature_widths,
        layers=v.layers,
        units=v.units,
        outputs=scalar.outputs,
        scale=v.init_scale,
        dtype=dtype,
        nets=config.nets,
    )

    def init(key: Array) -> dict[str, Params]:
        actor_key, critic_key = jax.random.split(key)
        feat = [jnp.zeros((1, width), jnp.float32) for width in feature_widths]
        return {"actor": policy.init(actor_key, *feat)["params"], "critic": head.init(critic_key, *feat)["params"]}

    def policy_stats(actor: Params, feat: Features) -> dict[str, ArrayDict]:
        stats: dict[str, ArrayDict] = policy.apply({"params": actor}, *feat)
        return stats

    def choose(actor: Params, key: Array, rows: Array, feat: Features, mode: Mode) -> ArrayDict:
        stats, best = policy_stats(actor, feat), mode == "mode"
        noise = policy.noise(key, rows, (), best=best)
        return policy.for_environment(policy.draw(stats, noise, best=best))

    def critic(params: Params, feat: Features) -> jax.Array:
        output: jax.Array = rematerialized(head.apply, config.rematerialize)({"params": params}, *feat)
        return output

    return Networks(init=init, policy=policy, policy_stats=policy_stats, choose=choose, critic=critic, scalar=scalar)
