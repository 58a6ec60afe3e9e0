"""An agent is a world model, a behavior and an optimiser; ``update`` takes one gradient of all losses, or two."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dreamer_jax import report as reports
from dreamer_jax.behaviors.actor_critic import make_actor_critic
from dreamer_jax.behaviors.exploration import counts_records, explore
from dreamer_jax.behaviors.planner import make_planner
from dreamer_jax.config.checks import frozen_parts
from dreamer_jax.config.schema import Config, ConfigError, ValueConfig, is_enabled
from dreamer_jax.distributions import uniform_actions
from dreamer_jax.interfaces import Agent, Behavior, MakeBehavior, MakeDynamics, WorldModel
from dreamer_jax.models.balance import make_balance
from dreamer_jax.models.dynamics import make_dynamics
from dreamer_jax.models.encoder import image_grid, image_specs
from dreamer_jax.models.world_model import make_world_model
from dreamer_jax.nets.layers import batched_init_noise
from dreamer_jax.ops import augment
from dreamer_jax.ops.moments import initial_range
from dreamer_jax.ops.sequence import mask_first
from dreamer_jax.optim import freeze, make_optimizer, norm
from dreamer_jax.specs import EnvSpec
from dreamer_jax.types import (
    MODEL_LOSS,
    AgentAux,
    Array,
    ArrayDict,
    BehaviorAux,
    LatentState,
    Mode,
    ModelAux,
    PolicyCarry,
    TimeStep,
    TrainState,
    TrajectoryBatch,
)

BEHAVIOR_LOSSES = ("policy", "value", "repval")
LOSSES = ("dyn", "rep", "rew", "con", *BEHAVIOR_LOSSES, "overshooting", "representation", "ensemble")
"""Names of the losses besides one for each observation key."""
Losses = dict[str, jax.Array]
EXPLORE, AUGMENT = 2, 3
"""Folded into a policy's or an update's key, beside its halves."""


def make_behavior(
    config: Config, spec: EnvSpec, model: WorldModel, /, *, dtype: Any, axis_name: str | None
) -> Behavior:
    """How actions come about, as configured."""
    match config.behavior.method:
        case "actor_critic":
            learner = make_actor_critic(config, spec, model, dtype=dtype, axis_name=axis_name)
            if config.behavior.act == "policy":
                return learner
            planner = make_planner(config, spec, model, dtype=dtype)
            return learner._replace(initial=planner.initial, act=planner.act)
        case "planner":
            return make_planner(config, spec, model, dtype=dtype)


def make_agent(
    config: Config,
    spec: EnvSpec,
    *,
    dynamics: MakeDynamics = make_dynamics,
    behavior: MakeBehavior = make_behavior,
    axis_name: str | None = None,
) -> Agent:
    """The agent that ``config`` describes, for the observations and actions of ``spec``.

    Args:
      dynamics: makes the recurrent part of the world model.
      behavior: makes what acts in it and learns from it; what ``config`` says is ``make_behavior``.
      axis_name: ``update`` runs inside a ``pmap`` of that name: gradients, metrics and return percentiles are those of
        the whole batch.

    Raises:
      ConfigError: if a key of an observation can't be used.
    """
    check_names(spec)
    dtype = compute_dtype(config)
    model = make_world_model(config, spec, dynamics=dynamics, dtype=dtype, axis_name=axis_name)
    check_images(config, spec, model.dynamics.feature_widths[0])
    learner = behavior(config, spec, model, dtype=dtype, axis_name=axis_name)
    optimizer = freeze(make_optimizer(config.optimizer), frozen_parts(config))
    model_alone = config.offline.only == "world_model"
    scales = loss_scales(config, spec)
    balance = make_balance(config, spec, scales)

    @batched_init_noise
    def initial_params(key: Array) -> dict[str, Any]:
        model_key, behavior_key = jax.random.split(key)
        return {"model": model.init(model_key) | balance.init(), **learner.init(behavior_key)}

    def init(key: Array) -> TrainState:
        params = initial_params(key)
        slow = jax.tree.map(jnp.copy, params.get("critic", {}))
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            slow=slow,
            opt_state=optimizer.init(params),
            moments=initial_range(),
        )

    def reset(params: Any, num_envs: int) -> PolicyCarry:
        """Carry before the first record of ``num_envs`` environments."""
        actions = {name: jnp.zeros((num_envs, *leaf.shape), leaf.dtype) for name, leaf in spec.action.items()}
        records = jnp.zeros((), jnp.int32) if counts_records(config.explore) else None
        latent, memory = model.dynamics.initial(num_envs), learner.initial(num_envs)
        return PolicyCarry(latent=latent, prev_action=actions, records=records, behavior=memory)

    def policy(
        params: Any, key: Array, carry: PolicyCarry, timestep: TimeStep, mode: Mode = "sample", env_offset: Array = 0
    ) -> tuple[PolicyCarry, ArrayDict, ArrayDict]:
        """Action for each environment after seeing ``timestep``, and the latents to keep beside it."""
        num_envs = timestep.reward.shape[0]
        rows = env_offset + jnp.arange(num_envs)
        latent_key, action_key = jax.random.split(key)
        latent = model.filter(
            params["model"],
            latent_key,
            rows,
            carry.latent,
            prev_action=carry.prev_action,
            observation=timestep.observation,
            is_first=timestep.is_first,
        )
        reset_rows = partial(mask_first, is_first=jnp.asarray(timestep.is_first))
        memory = jax.tree.map(lambda x, new: reset_rows(x, first=new), carry.behavior, learner.initial(num_envs))
        records = carry.records
        if mode == "random":
            action = uniform_actions(action_key, rows, spec.action)
        else:
            memory, action = learner.act(params, action_key, rows, latent, memory, mode)
        if mode == "train":
            action = explore(config.explore, spec, jax.random.fold_in(key, EXPLORE), rows, action, records)
        if mode in ("train", "random") and records is not None:
            records = records + len(rows) * jax.process_count()  # each steps equally many
        carry = PolicyCarry(latent=latent, prev_action=action, records=records, behavior=memory)
        return carry, action, stored(latent)

    def stored(states: LatentState) -> ArrayDict:
        """What replay keeps of states, by the names of ``latent_spec``."""
        return model.dynamics.compress(states) if model.latent_spec else {}

    def rows_and_keys(key: Array, batch: TrajectoryBatch) -> tuple[jax.Array, jax.Array]:
        """Places of the batch's rows in the global batch; keys for the world model and for the behavior."""
        size = batch.reward.shape[0]
        first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * size
        return first + jnp.arange(size), jax.random.split(key)

    def augmented(key: Array, rows: jax.Array, batch: TrajectoryBatch) -> TrajectoryBatch:
        c, observation = config.encoder, dict(batch.observation)
        for number, name in enumerate(sorted(image_specs(spec.observation))):
            shift_key, jitter_key = jax.random.split(jax.random.fold_in(key, number))
            if c.shift:
                observation[name] = augment.shift(shift_key, rows, observation[name], c.shift)
            if is_enabled(c.jitter):
                observation[name] = augment.jitter(jitter_key, rows, observation[name], c.jitter)
        return replace(batch, observation=observation)

    def model_loss(
        params: Any, step: Array, key: Array, batch: TrajectoryBatch
    ) -> tuple[jax.Array, tuple[Losses, ModelAux]]:
        rows, (model_key, _) = rows_and_keys(key, batch)
        if config.encoder.shift or is_enabled(config.encoder.jitter):
            batch = augmented(jax.random.fold_in(key, AUGMENT), rows, batch)
        losses, aux = model.loss(params["model"], model_key, rows, batch, step)
        return balance.total(params["model"], step, losses), (losses, aux)

    def behavior_loss(
        params: Any, state: TrainState, key: Array, batch: TrajectoryBatch, posterior: LatentState
    ) -> tuple[jax.Array, tuple[Losses, BehaviorAux]]:
        if model_alone:
            return jnp.zeros(()), ({}, BehaviorAux(moments=state.moments, metrics={}))
        rows, (_, behavior_key) = rows_and_keys(key, batch)
        losses, aux = learner.loss(params, state, behavior_key, rows, posterior=posterior, batch=batch)
        return balance.total(params["model"], state.step, losses), (losses, aux)

    def joined(losses: Losses, found: ModelAux, more: Losses, learnt: BehaviorAux) -> AgentAux:
        losses = {**losses, **more}
        if losses.keys() != scales.keys():
            raise KeyError(f"losses {sorted(losses)} and scales {sorted(scales)} differ")
        return AgentAux(losses=losses, model=found, behavior=learnt)

    def loss(params: Any, state: TrainState, key: Array, batch: TrajectoryBatch) -> tuple[jax.Array, AgentAux]:
        """Everything at the same parameters, whatever ``optimizer.order`` is."""
        _, (losses, found) = model_loss(params, state.step, key, batch)
        _, (more, learnt) = behavior_loss(params, state, key, batch, found.posterior)
        aux = joined(losses, found, more, learnt)
        return balance.total(params["model"], state.step, aux.losses), aux

    def joint_gradient(state: TrainState, key: Array, batch: TrajectoryBatch) -> tuple[Any, Any, AgentAux]:
        """Gradients of the whole batch, those of this device's rows, and what ``loss`` hands out."""
        (_, aux), grads = jax.value_and_grad(loss, has_aux=True)(state.params, state, key, batch)
        return {}, grads, aux

    def gradient_in_turn(state: TrainState, key: Array, batch: TrajectoryBatch) -> tuple[Any, Any, AgentAux]:
        """The same, the world model's first; actor and critic see what it imagines after its step."""
        others = dict(state.params)
        known = {"model": others.pop("model")}
        (_, (losses, found)), grads = jax.value_and_grad(model_loss, has_aux=True)(known, state.step, key, batch)
        if axis_name is not None:
            grads = jax.lax.pmean(grads, axis_name)
        still = jax.tree.map(jnp.zeros_like, others)
        step, _ = optimizer.update(grads | still, state.opt_state, state.params)  # groups do not know of each other
        ahead = {"model": optax.apply_updates(known["model"], step["model"])}

        def after(others: Any) -> tuple[jax.Array, tuple[Losses, BehaviorAux]]:
            return behavior_loss(others | ahead, state, key, batch, found.posterior)

        (_, (more, learnt)), rest = jax.value_and_grad(after, has_aux=True)(others)
        return grads, rest, joined(losses, found, more, learnt)

    def update(
        state: TrainState, key: Array, batch: TrajectoryBatch
    ) -> tuple[TrainState, dict[str, jax.Array], ArrayDict]:
        """One gradient step; metrics are scalars, latents [B, T] go back to replay."""
        known, grads, aux = gradient(state, key, batch)
        metrics = {
            **{f"loss/{name}": value.mean() for name, value in aux.losses.items()},
            "loss/total": balance.total(state.params["model"], state.step, aux.losses),
            **balance.metrics(state.params["model"], state.step),
            model.dynamics.latent.divergence_name: aux.model.divergence.mean(),
            "dyn_ent": aux.model.prior_entropy.mean(),
            "rep_ent": aux.model.posterior_entropy.mean(),
            **aux.behavior.metrics,
        }
        if axis_name is not None:
            grads, metrics = mean_over_devices(grads, metrics, axis_name)
        grads = known | grads
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        norms = dict(grad=norm(grads), update=norm(updates), param=norm(params))
        root_size = math.sqrt(sum(x.size for x in jax.tree.leaves(params)))
        metrics |= {"opt/grad_norm": norms["grad"], **{f"opt/{name}_rms": x / root_size for name, x in norms.items()}}
        step = state.step + 1
        slow = follow(config.value, step, params.get("critic", {}), state.slow)
        moments = aux.behavior.moments
        state = TrainState(step=step, params=params, slow=slow, opt_state=opt_state, moments=moments)
        latents = stored(model.dynamics.starts(aux.model.posterior))
        if config.replay.sampling == "curious":
            learnt = [scales[name] * value for name, value in aux.losses.items() if name not in BEHAVIOR_LOSSES]
            latents |= {MODEL_LOSS: sum(learnt, jnp.zeros(()))}
        return state, metrics, latents

    learns = config.behavior.method == "actor_critic" and not model_alone
    in_turn = learns and config.optimizer.order == "model_first"
    gradient = gradient_in_turn if in_turn else joint_gradient
    return Agent(
        init=init,
        reset=reset,
        policy=policy,
        loss=loss,
        update=update,
        report=partial(reports.report, config, spec, model, learner),
        dream=partial(reports.dream, model, learner),
        latent_spec=model.latent_spec,
    )


def mean_over_devices(grads: Any, metrics: dict[str, jax.Array], axis_name: str) -> tuple[Any, dict[str, jax.Array]]:
    """Gradients and metrics of the whole batch, all in one collective.

    Beside its mean ``x`` a deviation ``x_std`` travels as a mean of squares: ``E[x^2] = std^2 + E[x]^2``.
    """
    pairs = {name: name.removesuffix("_std") for name in metrics if name.endswith("_std")}
    squares = {name: metrics[name] ** 2 + metrics[mean] ** 2 for name, mean in pairs.items()}
    grads, metrics = jax.lax.pmean((grads, metrics | squares), axis_name)
    stds = {name: jnp.sqrt(jnp.maximum(metrics[name] - metrics[mean] ** 2, 0)) for name, mean in pairs.items()}
    return grads, metrics | stds


def follow(config: ValueConfig, step: jax.Array, critic: Any, slow: Any) -> Any:
    """The slow critic after update number ``step`` (from 1), a moving average of the critic or a copy now and then."""
    rate = jnp.where((step - 1) % config.slow_every == 0, jnp.float32(config.slow_rate), 0.0)
    rate = jnp.where(step == 1, 1.0, rate) if config.slow_first == "copy" else rate
    return optax.incremental_update(critic, slow, rate)


def loss_scales(config: Config, spec: EnvSpec) -> dict[str, float]:
    """The weight of every loss in the total."""
    c = config.loss
    scales = dict(dyn=config.kl.dyn, rep=config.kl.rep, rew=c.reward)
    scales |= {} if config.cont.label == "none" else dict(con=c.cont)
    scales |= dict(overshooting=config.kl.overshooting_scale) if config.kl.overshooting else {}
    scales |= dict(ensemble=1.0) if config.explore.ensemble else {}
    if config.behavior.method == "actor_critic" and config.offline.only != "world_model":
        scales |= dict(policy=c.policy, value=c.value)
        scales |= dict(repval=c.replay_value) if is_enabled(c.replay_value) else {}
    if config.representation.kind != "decoder":
        return scales | dict(representation=config.representation.scale)
    return scales | dict.fromkeys(spec.observation, c.reconstruction)


def compute_dtype(config: Config) -> Any:
    """The type of activations: as configured, or bfloat16 where it is the faster one."""
    if config.dtype == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(config.dtype)


def check_names(spec: EnvSpec) -> None:
    """Refuse observations whose loss would have the name of another."""
    for name in spec.observation:
        if name in LOSSES:
            raise ConfigError(f"observation {name!r}: the name is taken by a loss ({', '.join(LOSSES)})")


def check_images(config: Config, spec: EnvSpec, width: int) -> None:
    """Refuse images that encoder or decoder can't take; ``width`` is that of the first of the features."""
    if config.representation.kind != "decoder":
        image_grid(spec.observation, config.encoder.cnn)
        return
    grid = [image_grid(spec.observation, part.cnn) for part in (config.encoder, config.decoder)]
    if any(grid[1]) and config.decoder.cnn in ("repeat", "transpose"):
        c = config.decoder
        for what, size in (("the width of the first features (rssm.deter)", width), ("4 x decoder.depth", 4 * c.depth)):
            if size % c.blocks:
                raise ConfigError(f"decoder.blocks: got {c.blocks}, for images it must divide {what}, {size}")
