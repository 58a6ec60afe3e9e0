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
from dreamer_jax.models.encoder import Encoder, flatten_leaves
from dreamer_jax.models.heads import Head
from dreamer_jax.models.losses import kl_losses
from dreamer_jax.models.rssm import make_rssm
from dreamer_jax.ops.sequence import rematerialized
from dreamer_jax.ops.transforms import symexp_bins, twohot_loss, twohot_mean
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import Array, ArrayDict, RSSMState, TrajectoryBatch

Features = tuple[jax.Array, jax.Array]


def features(state: RSSMState) -> Features:
    """What heads read: deter [..., D] and flat stoch [..., S*K]."""
    return state.deter, state.stoch.reshape(*state.stoch.shape[:-2], -1)


def make_world_model(config: Config, spec: EnvSpec, *, dtype: Any = jnp.float32) -> WorldModel:
    """World model for the observations and actions of ``spec``. Parameters are a dict by part."""
    latent = config.rssm.stoch * config.rssm.classes
    inputs = (config.rssm.deter, latent)
    encoder = Encoder(spec.observation, config.encoder, dtype)
    action_width = sum(leaf.width for leaf in spec.action.values())
    sizes = {"tokens": encoder.width, "action": action_width}
    rssm = make_rssm(config.rssm, **sizes, dtype=dtype, rematerialize=config.rematerialize)
    decoder = Decoder(spec.observation, inputs[::-1], config.decoder, dtype)
    reward = Head(inputs, config.reward.layers, config.reward.units, config.reward.bins, 0.0, dtype)
    cont = Head(inputs, config.cont.layers, config.cont.units, 1, 1.0, dtype)
    bins = symexp_bins(config.reward.bins)
    discount = 1 - 1 / config.behavior.discount_horizon

    def init(key: Array) -> dict[str, Any]:
        keys = dict(zip(("encoder", "rssm", "decoder", "reward", "cont"), jax.random.split(key, 5), strict=True))
        observation = {name: jnp.zeros((1, *leaf.shape), leaf.dtype) for name, leaf in spec.observation.items()}
        feat = features(rssm.initial(1))
        return {
            "encoder": encoder.init(keys["encoder"], observation)["params"],
            "rssm": rssm.init(keys["rssm"]),
            "decoder": decoder.init(keys["decoder"], *feat[::-1])["params"],
            "reward": reward.init(keys["reward"], *feat)["params"],
            "cont": cont.init(keys["cont"], *feat)["params"],
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
        return draw_noise(key, rows, (*length, config.rssm.stoch), noise_kind(discrete=True))

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
        return rssm.posterior(params["rssm"], noise, state, action, encode(params, observation), jnp.asarray(is_first))

    def observe(params: Any, key: Array, rows: Array, batch: TrajectoryBatch) -> RSSMState:
        """Posterior of every record, [B, T]; starts from the stored context where there is one."""
        return observe_tokens(params, key, rows, batch, encode(params, batch.observation))

    def observe_tokens(params: Any, key: Array, rows: Array, batch: TrajectoryBatch, tokens: jax.Array) -> RSSMState:
        size, length = batch.reward.shape
        state = expand(batch.context) if batch.context is not None else rssm.initial(size)
        action = action_vector(batch.prev_action)
        noise = latent_noise(key, rows, (length,))
        return rssm.observe(params["rssm"], noise, state, action, tokens, jnp.asarray(batch.is_first))

    def loss(
        params: Any, key: Array, rows: Array, batch: TrajectoryBatch
    ) -> tuple[dict[str, jax.Array], RSSMState, dict[str, Any]]:
        tokens = encode(params, batch.observation)
        posterior = observe_tokens(params, key, rows, batch, tokens)
        prior = rssm.prior_stats(params["rssm"], posterior.deter)
        losses, kl = kl_losses(rssm.distribution, posterior.stats, prior, config.kl.free_nats)
        feat = features(posterior)
        outputs = decode(params, feat)
        for name, leaf in spec.observation.items():
            losses[name] = reconstruction_loss(outputs[name], jnp.asarray(batch.observation[name]), leaf)
        logits = reward_logits(params, feat)
        losses["rew"] = twohot_loss(logits, jnp.asarray(batch.reward), bins)
        target = discount * (1 - batch.is_terminal.astype(jnp.float32))
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
        return twohot_mean(reward_logits(params, feat), bins), jax.nn.sigmoid(cont_logit(params, feat))

    compact = config.replay.context_dtype == "bfloat16"
    index_dtype = "uint8" if config.rssm.classes <= 256 else "uint16"

    def compress(state: RSSMState) -> RSSMState:
        """As replay keeps it: bfloat16 deter and class indices, unless it is to be kept whole."""
        if not compact:
            return state.without_stats()
        return RSSMState(state.deter.astype(jnp.bfloat16), jnp.argmax(state.stoch, -1).astype(index_dtype))

    def expand(state: RSSMState) -> RSSMState:
        stoch = jnp.asarray(state.stoch)
        if jnp.issubdtype(stoch.dtype, jnp.integer):
            stoch = jax.nn.one_hot(stoch, config.rssm.classes, dtype=jnp.float32)
        return RSSMState(jnp.asarray(state.deter).astype(jnp.float32), stoch)

    latent_spec: dict[str, ArraySpec] = {}
    if config.replay.context:
        latent_spec["deter"] = ArraySpec((config.rssm.deter,), config.replay.context_dtype)
        whole = ArraySpec((config.rssm.stoch, config.rssm.classes), "float32")
        latent_spec["stoch"] = ArraySpec((config.rssm.stoch,), index_dtype) if compact else whole
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
