"""Actor and critic learnt in imagination (DreamerV3, eqs. 6-13; V3-HEAD).

The policy gradient is REINFORCE for discrete and continuous actions alike; returns use the online
critic, and the slow critic only regularises.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from dreamer_jax.behaviors.imagination import Rollout, imagine
from dreamer_jax.behaviors.policy import Policy
from dreamer_jax.config.schema import Config
from dreamer_jax.interfaces import Behavior, WorldModel
from dreamer_jax.models.heads import Head
from dreamer_jax.models.world_model import Features, features
from dreamer_jax.ops.moments import range_scale, update_range
from dreamer_jax.ops.returns import lambda_return, replay_return
from dreamer_jax.ops.sequence import in_chunks, rematerialized, swap_time
from dreamer_jax.ops.transforms import symexp_bins, twohot_loss, twohot_mean
from dreamer_jax.specs import EnvSpec
from dreamer_jax.types import (
    Array,
    ArrayDict,
    ImaginedTrajectory,
    Mode,
    RSSMState,
    TrainState,
    TrajectoryBatch,
)

stop = jax.lax.stop_gradient

CPU_CHUNK_ROWS, CPU_CHUNK_UNITS = 1024, 128
"""Rows whose inner values stay in a core's cache, and how wide heads may be for that; wider ones lose by it."""


def make_actor_critic(
    config: Config, spec: EnvSpec, model: WorldModel, *, dtype: Any = jnp.float32, axis_name: str | None = None
) -> Behavior:
    """Actor-critic on the latent states of ``model``."""
    c = config.behavior
    inputs = (config.rssm.deter, config.rssm.stoch * config.rssm.classes)
    policy = Policy(config.policy, spec.action, inputs, dtype)
    critic = Head(inputs, config.value.layers, config.value.units, config.value.bins, 0.0, dtype)
    bins = symexp_bins(config.value.bins)
    chunk = chunk_rows(config, spec)

    def init(key: Array) -> dict[str, Any]:
        actor_key, critic_key = jax.random.split(key)
        feat = features(model.initial(1))
        return {
            "actor": policy.init(actor_key, *feat)["params"],
            "critic": critic.init(critic_key, *feat)["params"],
        }

    def act(params: Any, key: Array, rows: Array, state: RSSMState, mode: Mode) -> ArrayDict:
        stats = policy.apply({"params": params["actor"]}, *features(state))
        noise = None if mode == "mode" else policy.noise(key, rows, ())
        return policy.for_environment(policy.draw(stats, noise))

    def value_logits(params: Any, feat: Features) -> jax.Array:
        return rematerialized(critic.apply, config.rematerialize)({"params": params}, *feat)

    def value_loss(logits: jax.Array, target: jax.Array, slow: jax.Array) -> jax.Array:
        """Towards the return, and towards the slow critic's prediction."""
        regularizer = config.value.slow_regularizer * twohot_loss(logits, stop(slow), bins)
        return twohot_loss(logits, stop(target), bins) + regularizer

    def dream(params: Any, key: Array, rows: Array, posterior: RSSMState) -> Rollout:
        """Imagination from every replayed state; nothing in it has a gradient."""
        frozen = stop(params)
        size, length = posterior.deter.shape[:2]
        start = jax.tree.map(lambda x: stop(x).reshape(size * length, *x.shape[2:]), posterior)
        starts = (jnp.asarray(rows)[:, None] * length + jnp.arange(length)).reshape(-1)
        return imagine(model, policy, frozen, key, starts, start, c.imagination_length)

    def loss(
        params: Any,
        state: TrainState,
        key: Array,
        rows: Array,
        posterior: RSSMState,
        batch: TrajectoryBatch,
    ) -> tuple[dict[str, jax.Array], dict[str, Any]]:
        """Losses policy, value [B, T] and repval [B, T-1]."""
        size, length = batch.reward.shape
        path = dream(params, key, rows, posterior)
        feat, last = path.features, path.last_features
        frozen = stop(params)

        def judge(feat: Features) -> tuple[jax.Array, ...]:
            logits = value_logits(frozen["critic"], feat), value_logits(state.slow, feat)
            return *model.predict(frozen["model"], feat), *(twohot_mean(x, bins) for x in logits)

        judged = in_chunks(judge, feat, chunk), judge(last)
        reward, discount, value, slow = jax.tree.map(by_start, *judged)
        weight = stop(jnp.cumprod(discount, 1))
        returns = stop(lambda_return(reward, discount, c.lambda_, value))
        moments = update_range(
            state.moments, returns, low=c.return_low, high=c.return_high, rate=c.return_rate, axis_name=axis_name
        )
        scale = range_scale(moments, c.return_limit)
        advantage = stop((returns - value[:, :-1]) / scale)

        def learn(states: tuple[Features, ArrayDict, tuple[jax.Array, ...]]) -> tuple[Any, ...]:
            feat, action, (weight, advantage, target, slow) = states
            stats = rematerialized(policy.apply, config.rematerialize)({"params": params["actor"]}, *feat)
            parts = policy.distributions(stats)
            log_prob = {name: part.log_prob(stop(action[name])) for name, part in parts.items()}
            entropy = {name: part.entropy() for name, part in parts.items()}
            gain = sum(log_prob.values()) * advantage + c.entropy * sum(entropy.values())
            critic_loss = value_loss(value_logits(params["critic"], feat), target, slow)
            return -weight * gain, weight * critic_loss, stats, log_prob, entropy

        targets = swap_time((weight[:, :-1], advantage, returns, slow[:, :-1]))
        policy_loss, critic_loss, stats, log_prob, entropy = swap_time(
            in_chunks(learn, (feat, path.action, targets), chunk)
        )

        replayed = replay_value(params, state, posterior, batch, returns[:, 0].reshape(size, length))
        losses = {
            "policy": policy_loss.mean(1).reshape(size, length),
            "value": critic_loss.mean(1).reshape(size, length),
            "repval": replayed["loss"],
        }
        normed = (returns - moments["low"]) / scale
        metrics = {
            "adv": advantage.mean(),
            "adv_std": advantage.std(),
            "adv_mag": jnp.abs(advantage).mean(),
            "rew": reward.mean(),
            "con": discount.mean(),
            "ret": normed.mean(),
            "ret_min": normed.min(),
            "ret_max": normed.max(),
            "ret_rate": (jnp.abs(normed) >= 1).mean(),
            "val": value.mean(),
            "tar": returns.mean(),
            "weight": weight.mean(),
            "slowval": slow.mean(),
            **{f"ent/{name}": x.mean() for name, x in entropy.items()},
            # As a share of the uniform policy's.
            **{
                f"rand/{name}": entropy[name].mean() / (leaf.size * math.log(leaf.classes))
                for name, leaf in spec.action.items()
                if leaf.classes
            },
        }
        states, actions = jax.tree.map(by_start, (feat, path.action), (last, path.last_action))
        imagined = ImaginedTrajectory(states, actions, reward, discount)
        aux = {
            "moments": moments,
            "metrics": metrics,
            "imagined": imagined,
            "policy": stats,
            "value": value,
            "slow_value": slow,
            "weight": weight,
            "return": returns,
            "advantage": advantage,
            "scale": scale,
            "log_prob": log_prob,
            "entropy": entropy,
            "policy_loss": policy_loss,
            "value_loss": critic_loss,
            "replayed": replayed,
        }
        return losses, aux

    def replay_value(
        params: Any, state: TrainState, posterior: RSSMState, batch: TrajectoryBatch, bootstrap: jax.Array
    ) -> ArrayDict:
        """Critic on the replayed states, bootstrapped by the imagined returns that start there."""
        feat = features(posterior if c.replay_value_grad else stop(posterior))
        logits = value_logits(params["critic"], feat)
        slow = twohot_mean(value_logits(state.slow, feat), bins)
        discount = 1 - 1 / c.discount_horizon
        flags = jnp.asarray(batch.is_last), jnp.asarray(batch.is_terminal)
        target = replay_return(jnp.asarray(batch.reward), *flags, bootstrap, discount=discount, lambda_=c.lambda_)
        weight = 1 - flags[0].astype(jnp.float32)
        loss = weight[:, :-1] * value_loss(logits[:, :-1], target, slow[:, :-1])
        return {
            "loss": loss,
            "logits": logits,
            "value": twohot_mean(logits, bins),
            "slow_value": slow,
            "return": target,
            "weight": weight,
        }

    return Behavior(init, act, loss)


def chunk_rows(config: Config, spec: EnvSpec) -> int:
    """Rows of imagination that are looked at together, 0 for all: as configured, or as the device likes it.

    With images the heads are a small part of an update: few rows then cost nearly nothing and save a tenth of memory.
    """
    if config.behavior.chunk_rows >= 0:
        return config.behavior.chunk_rows
    narrow = max(config.value.units, config.policy.units) <= CPU_CHUNK_UNITS
    narrow |= any(leaf.image for leaf in spec.observation.values())
    return CPU_CHUNK_ROWS if narrow and jax.default_backend() == "cpu" else 0


def by_start(before: jax.Array, last: jax.Array) -> jax.Array:
    """[N, H+1, ...] from [H, N, ...] and [N, ...]."""
    return jnp.swapaxes(jnp.concatenate([before, last[None]]), 0, 1)
