"""Actor and critic learnt in imagination (DreamerV1, eqs. 7-8; DreamerV2, eqs. 4-6; DreamerV3, eqs. 4-7).

The policy's gradient is REINFORCE, or the return's own through the imagined dynamics, or both.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dreamer_jax.behaviors.credit import assign_credit
from dreamer_jax.behaviors.details import Details, Learnt, Predictions, ReplayedValues, Targets, learning_metrics
from dreamer_jax.behaviors.imagination import Rollout, imagine
from dreamer_jax.behaviors.networks import make_networks
from dreamer_jax.config.schema import Config, is_enabled
from dreamer_jax.interfaces import Behavior, WorldModel
from dreamer_jax.ops.moments import gathered, range_scale, update_range
from dreamer_jax.ops.returns import replay_return
from dreamer_jax.ops.sequence import in_chunks, rematerialized, swap_time
from dreamer_jax.specs import EnvSpec
from dreamer_jax.types import (
    Array,
    ArrayDict,
    BehaviorAux,
    Features,
    ImaginedTrajectory,
    LatentState,
    Mode,
    Params,
    TrainState,
    TrajectoryBatch,
)

stop = jax.lax.stop_gradient

CPU_CHUNK_ROWS, CPU_CHUNK_UNITS = 1024, 128
"""Rows whose inner values stay in a core's cache, and how wide heads may be for that; wider ones lose by it."""


def make_actor_critic(
    config: Config, spec: EnvSpec, model: WorldModel, /, *, dtype: Any = jnp.float32, axis_name: str | None = None
) -> Behavior:
    """Actor-critic on the latent states of ``model``."""
    c, v = config.behavior, config.value
    dynamics, disagree = model.dynamics, model.disagree
    networks = make_networks(config, spec, dynamics.feature_widths, dtype=dtype)
    policy, critic, scalar = networks.policy, networks.critic, networks.scalar
    gradient = policy_gradient(config, spec)
    chunk = chunk_rows(config, spec)
    constant = 1 - 1 / c.discount_horizon

    def act(
        params: dict[str, Params], key: Array, rows: Array, state: LatentState, carry: tuple[()], mode: Mode
    ) -> tuple[tuple[()], ArrayDict]:
        return carry, networks.choose(params["actor"], key, rows, dynamics.features(state), mode)

    def roll_out(
        params: dict[str, Params], key: Array, rows: Array, starts: LatentState, shape: tuple[int, int]
    ) -> Rollout:
        """``a_t ~ pi(a_t | s_t), s_{t+1} ~ p(s_{t+1} | s_t, a_t)`` from each of the states [B, T].

        Only the actor has a gradient in it, and that only if it is used.
        """
        actor = params["actor"] if gradient != "reinforce" else stop(params["actor"])
        size, length = shape
        start = jax.tree.map(lambda x: stop(x).reshape(size * length, *x.shape[2:]), starts)
        places = (jnp.asarray(rows)[:, None] * length + jnp.arange(length)).reshape(-1)
        known = {"model": stop(params["model"]), "actor": actor}
        return imagine(model, policy, known, key, rows=places, start=start, length=c.imagination_length)

    def predict(params: dict[str, Params], slow: Params, path: Rollout, is_terminal: jax.Array) -> Predictions:
        """``E[r_t]``, ``gamma p(continue_t)``, ``E[v(s_t)]`` of both critics; no gradient but by the states."""
        frozen = stop(params)

        def heads(feat: Features) -> tuple[jax.Array, ...]:
            logits = critic(frozen["critic"], feat), critic(slow, feat)
            return *model.predict(frozen["model"], feat), *(scalar.mean(x) for x in logits)

        before_last, last = in_chunks(heads, path.features, chunk), heads(path.last_features)
        found = Predictions(*jax.tree.map(by_start, before_last, last))
        if config.cont.start == "recorded":
            first = constant * (1 - is_terminal.reshape(-1).astype(jnp.float32))
            found = found._replace(discount=found.discount.at[:, 0].set(first))
        if disagree is None:
            return found
        unsure = in_chunks(lambda x: disagree(frozen["model"], *x), (path.features, policy.vector(path.action)), chunk)
        return found._replace(reward=config.explore.task_reward * found.reward + arriving(swap_time(unsure)))

    def arriving(unsure: jax.Array) -> jax.Array:
        """Rewards [N, H+1] of states, of which the first is a start, by what was not known at the H before."""
        return config.explore.disagreement * jnp.pad(unsure, ((0, 0), (1, 0)))

    def assign(predictions: Predictions, moments: ArrayDict) -> Targets:
        """``A_t = (R_t - v_t) / S`` with ``S = max(limit, range of all returns)`` (DreamerV3, eqs. 7, 11, 12)."""
        base = predictions.slow_value if v.target == "slow" else predictions.value
        # A record and a hard label know nothing of the discount, which is then not to shorten the start itself.
        undiscounted = config.cont.start == "recorded" or config.cont.label == "hard"
        first_weight = constant if undiscounted else 1.0
        credit = assign_credit(c, predictions.reward, predictions.discount, base, first_weight=first_weight)
        returns, scale = stop(credit.target), jnp.ones(())
        every_return = gathered(returns, axis_name)
        if c.normalize == "range":
            limits = dict(low=c.return_low, high=c.return_high, rate=c.return_rate)
            moments = update_range(moments, every_return, **limits)
            scale = range_scale(moments, c.return_limit)
        advantage = (credit.returns - base[:, :-1]) / scale
        return Targets(
            credit=credit,
            returns=returns,
            every_return=every_return,
            advantage=advantage,
            moments=moments,
            scale=scale,
        )

    def learn(params: dict[str, Params], path: Rollout, targets: Targets, slow_value: jax.Array) -> Learnt:
        """Losses of all imagined states but the last.

        ``-w_t [G_t + eta H(pi(s_t))]``, where G is ``ln pi(a_t | s_t) sg(A_t)`` (REINFORCE), or what is differentiated
        through the dynamics itself, or ``rho`` of the latter and ``1 - rho`` of the former (DreamerV2, eq. 6);
        ``-w_t [ln p(R_t | s_t) + beta ln p(v_slow(s_t) | s_t)]`` (DreamerV3, eq. 10).
        """
        scaled = c.normalize == "range"
        # What is differentiated itself are advantages where they are what is normalised, else returns.
        objectives = {
            **({} if gradient == "dynamics" else {"advantage": stop(targets.advantage)}),
            **({} if gradient == "reinforce" else {"own": targets.advantage if scaled else targets.credit.returns}),
        }

        def policy_gain(feat: Features, action: ArrayDict, objective: ArrayDict) -> tuple[Any, ...]:
            stats = rematerialized(policy.apply, config.rematerialize)({"params": params["actor"]}, *feat)
            parts = policy.distributions(stats)
            taken = {name: scored_action(x, spec.action[name].discrete, gradient) for name, x in action.items()}
            log_prob = {name: part.log_prob(taken[name]) for name, part in parts.items()}
            entropy = {name: part.entropy() for name, part in parts.items()} if is_enabled(c.entropy) else {}
            gain = objective["own"] if gradient == "dynamics" else sum(log_prob.values()) * objective["advantage"]
            if gradient == "mix":
                gain = c.gradient_mix * objective["own"] + (1 - c.gradient_mix) * gain
            gain = gain + c.entropy * sum(entropy.values()) if is_enabled(c.entropy) else gain
            return gain, stats, log_prob, entropy

        def both(states: tuple[Features, ArrayDict, tuple[Any, ...]]) -> Learnt:
            feat, action, (weight, objective, target_weight, target, slow) = states
            feat = stop(feat)
            gain, stats, log_prob, entropy = policy_gain(feat, action, objective)
            loss = value_loss(critic(params["critic"], feat), target, slow)
            return Learnt(
                policy_loss=-weight * gain,
                value_loss=target_weight * loss,
                policy=stats,
                log_prob=log_prob,
                entropy=entropy,
            )

        credit = targets.credit
        rest = credit.weight, objectives, credit.target_weight, targets.returns, slow_value[:, :-1]
        learnt: Learnt = swap_time(in_chunks(both, (path.features, path.action, swap_time(rest)), chunk))
        return learnt

    def value_loss(logits: jax.Array, target: jax.Array, slow: jax.Array) -> jax.Array:
        """Towards the return, and towards the slow critic's prediction."""
        loss = scalar.loss(logits, stop(target))
        return loss + v.slow_regularizer * scalar.loss(logits, stop(slow)) if v.slow_regularizer else loss

    def replay_value(
        params: dict[str, Params],
        slow: Params,
        posterior: LatentState,
        batch: TrajectoryBatch,
        bootstrap: jax.Array,
    ) -> tuple[jax.Array, ReplayedValues]:
        """``-ln p(R_t | s_t)`` of replayed states, whose returns end in the imagined ones that start there."""
        feat = dynamics.features(posterior if c.replay_value_grad else stop(posterior))
        logits = critic(params["critic"], feat)
        slow_value = scalar.mean(critic(slow, feat))
        flags = jnp.asarray(batch.is_last), jnp.asarray(batch.is_terminal)
        reward = jnp.asarray(batch.reward)
        if disagree is not None:
            before, action = (stop(x[:, :-1]) for x in feat), model.action_vector(batch.prev_action)[:, 1:]
            unsure = disagree(stop(params["model"]), tuple(before), action)
            reward = config.explore.task_reward * reward + arriving(unsure)
        target = replay_return(reward, *flags, bootstrap, discount=constant, lambda_=c.lambda_)
        weight = 1 - flags[0].astype(jnp.float32)
        loss = weight[:, :-1] * value_loss(logits[:, :-1], target, slow_value[:, :-1])
        return loss, ReplayedValues(
            logits=logits, value=scalar.mean(logits), slow_value=slow_value, returns=target, weight=weight
        )

    def loss(
        params: dict[str, Params],
        state: TrainState,
        key: Array,
        rows: Array,
        *,
        posterior: LatentState,
        batch: TrajectoryBatch,
    ) -> tuple[dict[str, jax.Array], BehaviorAux]:
        """Losses policy, value [B, T] and repval [B, T-1], the latter if it has a weight."""
        starts, is_terminal = dynamics.starts(posterior), jnp.asarray(batch.is_terminal)
        if c.starts == "but_last":
            starts, is_terminal = jax.tree.map(lambda x: x[:, :-1], (starts, is_terminal))
        size, length = is_terminal.shape
        path = roll_out(params, key, rows, starts, (size, length))
        predictions = predict(params, state.slow, path, is_terminal)
        targets = assign(predictions, state.moments)
        learnt = learn(params, path, targets, predictions.slow_value)
        losses = {
            "policy": learnt.policy_loss.mean(1).reshape(size, length),
            "value": learnt.value_loss.mean(1).reshape(size, length),
        }
        replayed = None
        if is_enabled(config.loss.replay_value):
            bootstrap = targets.returns[:, 0].reshape(size, length)
            losses["repval"], replayed = replay_value(params, state.slow, posterior, batch, bootstrap)
        states, actions = jax.tree.map(by_start, (path.features, path.action), (path.last_features, path.last_action))
        imagined = ImaginedTrajectory(
            features=states, action=actions, reward=predictions.reward, discount=predictions.discount
        )
        metrics = learning_metrics(predictions, targets, learnt.entropy, spec.action)
        details = Details(imagined=imagined, predictions=predictions, targets=targets, learnt=learnt, replayed=replayed)
        return losses, BehaviorAux(moments=targets.moments, metrics=metrics, details=details)

    return Behavior(init=networks.init, initial=lambda size: (), act=act, loss=loss)


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
