"""Actor and critic learnt in imagination (DreamerV1, eqs. 7-8; DreamerV2, eqs. 4-6; DreamerV3, eqs. 6-13).

The policy's gradient is REINFORCE, or the return's own through the imagined dynamics, or both.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from dreamer_jax.behaviors.credit import assign_credit
from dreamer_jax.behaviors.imagination import Rollout, imagine
from dreamer_jax.behaviors.policy import Policy
from dreamer_jax.config.schema import Config
from dreamer_jax.config.sweep import is_on
from dreamer_jax.interfaces import Behavior, WorldModel
from dreamer_jax.models.heads import Head
from dreamer_jax.models.rssm import latent_width
from dreamer_jax.models.scalars import make_scalar
from dreamer_jax.models.world_model import Features, features
from dreamer_jax.ops.moments import gathered, range_scale, update_range
from dreamer_jax.ops.returns import replay_return
from dreamer_jax.ops.sequence import in_chunks, rematerialized, swap_time
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
    c, v = config.behavior, config.value
    inputs = (config.rssm.deter, latent_width(config.rssm))
    policy = Policy(config.policy, spec.action, inputs, dtype, config.nets)
    scalar = make_scalar(v.dist, v.bins)
    critic = Head(inputs, v.layers, v.units, scalar.outputs, v.init_scale, dtype, config.nets)
    gradient = policy_gradient(config, spec)
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
        best = mode == "mode"
        noise = policy.noise(key, rows, (), best=best)
        return policy.for_environment(policy.draw(stats, noise, best=best))

    def value_logits(params: Any, feat: Features) -> jax.Array:
        return rematerialized(critic.apply, config.rematerialize)({"params": params}, *feat)

    def value_loss(logits: jax.Array, target: jax.Array, slow: jax.Array) -> jax.Array:
        """Towards the return, and towards the slow critic's prediction."""
        loss = scalar.loss(logits, stop(target))
        return loss + v.slow_regularizer * scalar.loss(logits, stop(slow)) if v.slow_regularizer else loss

    def dream(params: Any, key: Array, rows: Array, posterior: RSSMState) -> Rollout:
        """Imagination from every replayed state; only the actor has a gradient in it, and that only if it is used."""
        actor = params["actor"] if gradient != "reinforce" else stop(params["actor"])
        size, length = posterior.deter.shape[:2]
        start = jax.tree.map(lambda x: stop(x).reshape(size * length, *x.shape[2:]), posterior)
        starts = (jnp.asarray(rows)[:, None] * length + jnp.arange(length)).reshape(-1)
        known = {"model": stop(params["model"]), "actor": actor}
        return imagine(model, policy, known, key, starts, start, c.imagination_length)

    def loss(
        params: Any,
        state: TrainState,
        key: Array,
        rows: Array,
        posterior: RSSMState,
        batch: TrajectoryBatch,
    ) -> tuple[dict[str, jax.Array], dict[str, Any]]:
        """Losses policy, value [B, T] and repval [B, T-1], the latter if it has a weight."""
        whole, is_terminal = posterior, jnp.asarray(batch.is_terminal)
        if c.starts == "but_last":
            posterior, is_terminal = jax.tree.map(lambda x: x[:, :-1], (posterior, is_terminal))
        size, length = is_terminal.shape
        path = dream(params, key, rows, posterior)
        feat, last = path.features, path.last_features
        frozen = stop(params)

        def judge(feat: Features) -> tuple[jax.Array, ...]:
            logits = value_logits(frozen["critic"], feat), value_logits(state.slow, feat)
            return *model.predict(frozen["model"], feat), *(scalar.mean(x) for x in logits)

        reward, discount, value, slow = jax.tree.map(by_start, in_chunks(judge, feat, chunk), judge(last))
        constant = 1 - 1 / c.discount_horizon
        if config.cont.start == "recorded":
            discount = discount.at[:, 0].set(constant * (1 - is_terminal.reshape(-1).astype(jnp.float32)))
        base = slow if v.target == "slow" else value
        # A record and a hard label know nothing of the discount, which is then not to shorten the start itself.
        undiscounted = config.cont.start == "recorded" or config.cont.label == "hard"
        first_weight = constant if undiscounted else 1.0
        credit = assign_credit(c, reward, discount, base, first_weight=first_weight)
        returns, moments, scale = stop(credit.target), state.moments, jnp.ones(())
        every_return = gathered(returns, axis_name)
        scaled = c.normalize == "range"
        if scaled:
            limits = dict(low=c.return_low, high=c.return_high, rate=c.return_rate)
            moments = update_range(moments, every_return, **limits)
            scale = range_scale(moments, c.return_limit)
        advantage = (credit.returned - base[:, :-1]) / scale
        # What is differentiated itself are advantages where they are what is normalised, else returns.
        judged = {
            **({} if gradient == "dynamics" else {"advantage": stop(advantage)}),
            **({} if gradient == "reinforce" else {"objective": advantage if scaled else credit.returned}),
        }

        def learn(states: tuple[Features, ArrayDict, tuple[jax.Array, ...]]) -> tuple[Any, ...]:
            feat, action, (weight, judged, target_weight, target, slow) = states
            feat = stop(feat)
            stats = rematerialized(policy.apply, config.rematerialize)({"params": params["actor"]}, *feat)
            parts = policy.distributions(stats)
            taken = {name: scored_action(x, spec.action[name].discrete, gradient) for name, x in action.items()}
            log_prob = {name: part.log_prob(taken[name]) for name, part in parts.items()}
            entropy = {name: part.entropy() for name, part in parts.items()} if is_on(c.entropy) else {}
            gain = judged["objective"] if gradient == "dynamics" else sum(log_prob.values()) * judged["advantage"]
            if gradient == "mix":
                gain = c.gradient_mix * judged["objective"] + (1 - c.gradient_mix) * gain
            gain = gain + c.entropy * sum(entropy.values()) if is_on(c.entropy) else gain
            critic_loss = value_loss(value_logits(params["critic"], feat), target, slow)
            return -weight * gain, target_weight * critic_loss, stats, log_prob, entropy

        targets = credit.weight, judged, credit.target_weight, returns, slow[:, :-1]
        policy_loss, critic_loss, stats, log_prob, entropy = swap_time(
            in_chunks(learn, (feat, path.action, swap_time(targets)), chunk)
        )

        losses = {
            "policy": policy_loss.mean(1).reshape(size, length),
            "value": critic_loss.mean(1).reshape(size, length),
        }
        replayed: ArrayDict = {}
        if is_on(config.loss.replay_value):
            replayed = replay_value(params, state, whole, batch, returns[:, 0].reshape(size, length))
            losses["repval"] = replayed["loss"]
        advantage, weight = stop(advantage), credit.reach
        normed = (every_return - moments["low"]) / scale  # moments stay 0 where nothing is normalised
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
                if leaf.classes is not None and leaf.classes > 1 and entropy
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
        slow = scalar.mean(value_logits(state.slow, feat))
        discount = 1 - 1 / c.discount_horizon
        flags = jnp.asarray(batch.is_last), jnp.asarray(batch.is_terminal)
        target = replay_return(jnp.asarray(batch.reward), *flags, bootstrap, discount=discount, lambda_=c.lambda_)
        weight = 1 - flags[0].astype(jnp.float32)
        loss = weight[:, :-1] * value_loss(logits[:, :-1], target, slow[:, :-1])
        return {
            "loss": loss,
            "logits": logits,
            "value": scalar.mean(logits),
            "slow_value": slow,
            "return": target,
            "weight": weight,
        }

    return Behavior(init, act, loss)


def policy_gradient(config: Config, spec: EnvSpec) -> str:
    """``reinforce``, ``dynamics`` or ``mix``, as configured or as actions ask for it."""
    if config.behavior.gradient != "auto":
        return config.behavior.gradient
    return "reinforce" if any(leaf.discrete for leaf in spec.action.values()) else "dynamics"


def scored_action(action: jax.Array, discrete: bool, gradient: str) -> jax.Array:
    """An action as its log-probability takes it: with a gradient of its own only if both ways are mixed.

    A one-hot one has none even then (DreamerV2's code: the distribution's log-probability stops it).
    """
    return action if gradient == "mix" and not discrete else stop(action)


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
