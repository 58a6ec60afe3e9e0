"""Encoder, RSSM, decoder, reward and continue heads put together (DreamerV3, sec. 3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dreamer_jax.config.schema import Config
from dreamer_jax.distributions import bernoulli, draw_noise, noise_kind
from dreamer_jax.interfaces import WorldModel
from dreamer_jax.models.decoder import Decoder, reconstruction_loss
from dreamer_jax.models.encoder import Encoder, flatten_leaves, image_specs, quantize
from dreamer_jax.models.heads import Head
from dreamer_jax.models.losses import kl_losses, overshooting_loss
from dreamer_jax.models.rssm import latent_width, make_rssm
from dreamer_jax.models.scalars import make_scalar
from dreamer_jax.ops.sequence import rematerialized
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import Array, ArrayDict, RSSMState, TrajectoryBatch

Features = tuple[jax.Array, jax.Array]
PIXELS, AHEAD = 1, 2
"""Folded into a key for the noise of pixels and of latents further ahead, beside that of latents."""


def features(state: RSSMState) -> Features:
    """What heads read: deter [..., D] and flat stoch [..., S*K], or [..., S] of a Gaussian state."""
    return state.deter, state.stoch.reshape(*state.deter.shape[:-1], -1)


def make_world_model(
    config: Config, spec: EnvSpec, *, dtype: Any = jnp.float32, axis_name: str | None = None
) -> WorldModel:
    """World model for the observations and actions of ``spec``. Parameters are a dict by part.

    With ``axis_name`` a batch's means are those over all devices.
    """
    c, nets = config, config.nets
    inputs = (c.rssm.deter, latent_width(c.rssm))
    encoder = Encoder(spec.observation, c.encoder, dtype, nets)
    action_width = sum(leaf.width for leaf in spec.action.values())
    sizes = {"tokens": encoder.width, "action": action_width}
    rssm = make_rssm(c.rssm, **sizes, dtype=dtype, rematerialize=c.rematerialize, nets=nets)
    decoder = Decoder(spec.observation, inputs[::-1], c.decoder, dtype, nets)
    scalar = make_scalar(c.reward.dist, c.reward.bins)
    reward = Head(inputs, c.reward.layers, c.reward.units, scalar.outputs, c.reward.init_scale, dtype, nets)
    cont = Head(inputs, c.cont.layers, c.cont.units, 1, 1.0, dtype, nets)
    discount = 1 - 1 / c.behavior.discount_horizon

    def init(key: Array) -> dict[str, Any]:
        keys = dict(zip(("encoder", "rssm", "decoder", "reward", "cont"), jax.random.split(key, 5), strict=True))
        observation = {name: jnp.zeros((1, *leaf.shape), leaf.dtype) for name, leaf in spec.observation.items()}
        feat = features(rssm.initial(1))
        return {
            "encoder": encoder.init(keys["encoder"], observation)["params"],
            "rssm": rssm.init(keys["rssm"]),
            "decoder": decoder.init(keys["decoder"], *feat[::-1])["params"],
            "reward": reward.init(keys["reward"], *feat)["params"],
            **({} if c.cont.label == "none" else {"cont": cont.init(keys["cont"], *feat)["params"]}),
        }

    def apply(module: nn.Module) -> Callable[..., Any]:
        return rematerialized(module.apply, config.rematerialize)

    def encode(params: Any, observation: ArrayDict) -> jax.Array:
        return apply(encoder)({"params": params["encoder"]}, observation)

    def decode(params: Any, feat: Features) -> ArrayDict:
        return apply(decoder)({"params": params["decoder"]}, *feat[::-1])

    def reward_logits(params: Any, feat: Features) -> jax.Array:
        return apply(reward)({"params": params["reward"]}, *feat)

    def cont_logit(params: Any, feat: Features) -> jax.Array:
        return apply(cont)({"params": params["cont"]}, *feat)[..., 0]

    def action_vector(action: ArrayDict) -> jax.Array:
        return flatten_leaves(action, spec.action)

    def latent_noise(key: Array, rows: Array, length: tuple[int, ...]) -> jax.Array:
        """What the latent samples of ``rows`` take, [rows, *length, S]."""
        kind = noise_kind(discrete=c.rssm.latent == "categorical")
        return draw_noise(key, rows, (*length, c.rssm.stoch), kind)

    def look(key: Array, rows: Array, observation: ArrayDict, length: tuple[int, ...]) -> ArrayDict:
        """Observations [rows, *length, ...] with images as coarse as they are to be."""
        if c.encoder.image_bits == 8:
            return observation
        seen, key = dict(observation), jax.random.fold_in(key, PIXELS)
        for number, (name, leaf) in enumerate(sorted(image_specs(spec.observation).items())):
            noise = draw_noise(jax.random.fold_in(key, number), rows, (*length, *leaf.shape), "uniform")
            seen[name] = quantize(jnp.asarray(seen[name]), c.encoder.image_bits, noise)
        return seen

    def filter_(
        params: Any,
        key: Array,
        rows: Array,
        state: RSSMState,
        prev_action: ArrayDict,
        observation: ArrayDict,
        is_first: Array,
    ) -> RSSMState:
        """Posterior after one more record for each row, which is all that acting needs."""
        action = action_vector(prev_action)
        noise = latent_noise(key, rows, ())
        observation = look(key, rows, observation, ())
        return rssm.posterior(params["rssm"], noise, state, action, encode(params, observation), jnp.asarray(is_first))

    def observe(params: Any, key: Array, rows: Array, batch: TrajectoryBatch) -> RSSMState:
        """Posterior of every record, [B, T]; starts from the stored context where there is one."""
        observation = look(key, rows, batch.observation, batch.reward.shape[1:])
        return observe_tokens(params, key, rows, batch, encode(params, observation))

    def observe_tokens(params: Any, key: Array, rows: Array, batch: TrajectoryBatch, tokens: jax.Array) -> RSSMState:
        size, length = batch.reward.shape
        state = expand(batch.context) if batch.context is not None else rssm.start(params["rssm"], size)
        action = action_vector(batch.prev_action)
        noise = latent_noise(key, rows, (length,))
        return rssm.observe(params["rssm"], noise, state, action, tokens, jnp.asarray(batch.is_first))

    def loss(
        params: Any, key: Array, rows: Array, batch: TrajectoryBatch
    ) -> tuple[dict[str, jax.Array], RSSMState, dict[str, Any]]:
        observation = look(key, rows, batch.observation, batch.reward.shape[1:])
        tokens = encode(params, observation)
        posterior = observe_tokens(params, key, rows, batch, tokens)
        prior = rssm.prior_stats(params["rssm"], posterior.deter)
        free = c.kl.free_nats, c.kl.free_average, axis_name
        losses, kl = kl_losses(rssm.distribution, posterior.stats, prior, *free)
        if c.kl.overshooting:
            noise = latent_noise(jax.random.fold_in(key, AHEAD), rows, (batch.reward.shape[1], c.kl.overshooting))
            actions, is_first = action_vector(batch.prev_action), jnp.asarray(batch.is_first)
            inputs = noise, posterior, actions, is_first, c.kl.free_nats
            losses["overshooting"] = overshooting_loss(rssm, params["rssm"], *inputs, axis_name=axis_name)
        feat = features(posterior)
        outputs = decode(params, feat)
        for name, leaf in spec.observation.items():
            losses[name] = reconstruction_loss(outputs[name], jnp.asarray(observation[name]), leaf, c.decoder)
        target = jnp.asarray(batch.reward)
        target = jnp.tanh(target) if c.reward.squash == "tanh" else target
        losses["rew"] = scalar.loss(reward_logits(params, feat), target)
        target = (discount if c.cont.label == "soft" else 1) * (1 - batch.is_terminal.astype(jnp.float32))
        if c.cont.label != "none":
            losses["con"] = -bernoulli(cont_logit(params, feat)).log_prob(target)
        aux = {
            "tokens": tokens,
            "cont_target": target,
            "posterior": posterior,
            "prior": prior,
            "kl": kl,
            "reconstruction": outputs,
            "posterior_entropy": rssm.distribution(posterior.stats).entropy(),
            "prior_entropy": rssm.distribution(prior).entropy(),
        }
        return losses, posterior, aux

    def prior_stats(params: Any, deter: jax.Array) -> ArrayDict:
        return rssm.prior_stats(params["rssm"], deter)

    def imagine_step(params: Any, noise: Array, state: RSSMState, action: jax.Array) -> RSSMState:
        """One step of the prior; ``action`` is the flat vector [N, A]."""
        return rssm.prior(params["rssm"], noise, state, action)

    def predict(params: Any, feat: Features) -> tuple[jax.Array, jax.Array]:
        """Expected reward and probability of going on, the discount included."""
        expected = scalar.mean(reward_logits(params, feat))
        match c.cont.label:
            case "soft":
                return expected, jax.nn.sigmoid(cont_logit(params, feat))
            case "hard":
                return expected, discount * (cont_logit(params, feat) > 0)
            case "none":
                return expected, jnp.full_like(expected, discount)

    compact = config.replay.context_dtype == "bfloat16"
    index_dtype = "uint8" if config.rssm.classes <= 256 else "uint16"

    def compress(state: RSSMState) -> RSSMState:
        """As replay keeps it: bfloat16 deter and class indices, unless it is to be kept whole."""
        if not compact:
            return state.without_stats()
        discrete = c.rssm.latent == "categorical"
        stoch = jnp.argmax(state.stoch, -1).astype(index_dtype) if discrete else state.stoch.astype(jnp.bfloat16)
        return RSSMState(state.deter.astype(jnp.bfloat16), stoch)

    def expand(state: RSSMState) -> RSSMState:
        stoch = jnp.asarray(state.stoch)
        if jnp.issubdtype(stoch.dtype, jnp.integer):
            stoch = jax.nn.one_hot(stoch, config.rssm.classes, dtype=jnp.float32)
        return RSSMState(jnp.asarray(state.deter).astype(jnp.float32), stoch.astype(jnp.float32))

    latent_spec = {}
    if c.replay.context:
        stored = jax.eval_shape(lambda: compress(rssm.initial(1)))
        parts = {"deter": stored.deter, "stoch": stored.stoch}
        latent_spec = {name: ArraySpec(x.shape[1:], x.dtype.name) for name, x in parts.items()}
    return WorldModel(
        init,
        rssm.initial,
        encode,
        filter_,
        observe,
        loss,
        action_vector,
        latent_noise,
        prior_stats,
        rssm.distribution,
        rssm.carry,
        imagine_step,
        predict,
        decode,
        compress,
        latent_spec,
    )
