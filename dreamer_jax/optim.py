"""LaProp with adaptive gradient clipping (DreamerV3, sec. 3; Ziyin et al. 2020), and the Adams before it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import jax
import jax.numpy as jnp
import optax

from dreamer_jax.config.schema import OptimizerConfig, is_enabled


def norm(tree: optax.Params) -> jax.Array:
    """Euclidean norm of all elements of all arrays; optax's takes three times as many operations to trace."""
    return jnp.sqrt(sum(jnp.square(x).sum() for x in jax.tree.leaves(tree)))


def clip_by_tensor_norm(limit: float, floor: float = 1e-3) -> optax.GradientTransformation:
    """``g / max(1, |g| / (limit max(floor, |p|)))`` with norms over whole tensors.

    optax's adaptive clipping takes norms by unit instead.
    """

    def update(
        grads: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.EmptyState]:
        def clip(grad: jax.Array, param: jax.Array) -> jax.Array:
            allowed = limit * jnp.maximum(floor, norm(param))
            return grad / jnp.maximum(1.0, norm(grad) / allowed)

        return jax.tree.map(clip, grads, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def scale_by_adam_eps_hat(beta1: float, beta2: float, eps: float) -> optax.GradientTransformation:
    """``sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps)`` (Kingma and Ba 2015, end of section 2).

    At first eps is larger beside the corrected root than optax's, by ``1 / sqrt(1 - b2^t)``.
    """

    def init(params: optax.Params) -> optax.ScaleByAdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(
        grads: optax.Updates, state: optax.ScaleByAdamState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        count = state.count + 1
        mean = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.mu, grads)
        square = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * jnp.square(g), state.nu, grads)
        correction = jnp.sqrt(1 - beta2**count) / (1 - beta1**count)
        updates = jax.tree.map(lambda m, v: correction * m / (jnp.sqrt(v) + eps), mean, square)
        return updates, optax.ScaleByAdamState(count, mean, square)

    return optax.GradientTransformation(init, update)


def freeze(optimizer: optax.GradientTransformation, parts: Collection[str]) -> optax.GradientTransformation:
    """The same, which leaves ``parts`` as they are: "actor", "critic" and parts of the model, such as "rssm".

    Their gradients count in no norm. The state is of the same structure.
    """

    def still(tree: optax.Params) -> optax.Params:
        def mask(path: tuple[jax.tree_util.DictKey, ...], leaf: jax.Array) -> jax.Array:
            group, *rest = (key.key for key in path)
            part = rest[0] if group == "model" else group
            return jnp.zeros_like(leaf) if part in parts else leaf

        return jax.tree_util.tree_map_with_path(mask, tree)

    def update(
        grads: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        updates, state = optimizer.update(still(grads), state, params)
        return still(updates), state

    return optax.GradientTransformation(optimizer.init, update) if parts else optimizer


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """One chain for all parameters, or one for each group {"model", "actor", "critic"} where they differ.

    A norm that is clipped is a group's, too. Groups may be absent.
    """
    groups = {"model": config, "actor": _actor_critic(config, config.actor_learning_rate, config.actor_critic_clip)}
    critic_clip = config.critic_clip if is_enabled(config.critic_clip) else config.actor_critic_clip
    groups["critic"] = _actor_critic(config, config.critic_learning_rate, critic_clip)
    clipped = any(is_enabled(clip) for clip in (config.clip, config.actor_critic_clip, config.critic_clip))
    if not clipped and all(_same(group, config) for group in groups.values()):
        return _chain(config)
    return optax.partition(
        {name: _chain(group) for name, group in groups.items()}, lambda params: {n: n for n in params}
    )


def _actor_critic(config: OptimizerConfig, learning_rate: float, clip: float) -> OptimizerConfig:
    """What is not set for actor and critic is the model's."""
    return replace(
        config,
        learning_rate=learning_rate if is_enabled(learning_rate) else config.learning_rate,
        eps=config.actor_critic_eps if is_enabled(config.actor_critic_eps) else config.eps,
        clip=clip if is_enabled(clip) else config.clip,
    )


def _same(group: OptimizerConfig, config: OptimizerConfig) -> bool:
    """Whether a group's steps are the model's; numbers that a compiled program takes are others (see ``sweep``)."""
    pairs = (group.learning_rate, config.learning_rate), (group.eps, config.eps)
    return all(a is b or (isinstance(a, int | float) and isinstance(b, int | float) and a == b) for a, b in pairs)


def _chain(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clip, divide by the root mean square, *then* average, which allows so small an eps; or Adam.

    Weights decay by their share whatever the step size, from what they were when the gradient was taken.
    """
    match config.kind:
        case "laprop":
            steps = [
                optax.scale_by_rms(config.beta2, config.eps, eps_in_sqrt=False, bias_correction=True),
                optax.ema(config.beta1, debias=True),
            ]
        case "adam" | "adamw":
            steps = [optax.scale_by_adam(config.beta1, config.beta2, config.eps)]
        case "adam_eps_hat":
            steps = [scale_by_adam_eps_hat(config.beta1, config.beta2, config.eps)]
    decay = []
    if is_enabled(config.weight_decay):
        apart = config.kind != "adamw"
        decay = [optax.add_decayed_weights(-config.weight_decay if apart else config.weight_decay)]
        steps, decay = (steps, decay) if apart else ([*steps, *decay], [])
    return optax.chain(
        *([optax.clip_by_global_norm(config.clip)] if is_enabled(config.clip) else []),
        clip_by_tensor_norm(config.agc) if is_enabled(config.agc) else optax.identity(),
        *steps,
        optax.scale_by_learning_rate(learning_rate(config)),
        *decay,
    )


def learning_rate(config: OptimizerConfig) -> optax.ScalarOrSchedule:
    """The step size: constant, or by the number of the update, from 0."""
    rate, last = config.learning_rate, config.learning_rate * config.final
    if config.schedule == "constant":
        return optax.linear_schedule(0.0, rate, config.warmup) if config.warmup else rate
    falling = {
        "linear": optax.linear_schedule(rate, last, config.decay_updates),
        "cosine": optax.cosine_decay_schedule(rate, config.decay_updates, config.final),
    }[config.schedule]
    rising = optax.linear_schedule(0.0, rate, config.warmup)
    return optax.join_schedules([rising, falling], [config.warmup]) if config.warmup else falling
