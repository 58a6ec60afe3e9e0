"""Encoder, RSSM, decoder, reward and continue heads put together (DreamerV3, sec. 3)."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dreamer_jax.config.schema import Config
from dreamer_jax.distributions import bernoulli, draw_noise
from dreamer_jax.interfaces import MakeDynamics, WorldModel
from dreamer_jax.models.balance import free_nats
from dreamer_jax.models.decoder import Decoder, reconstruction_loss
from dreamer_jax.models.dynamics import make_dynamics
from dreamer_jax.models.encoder import Encoder, flatten_leaves, image_specs, quantize
from dreamer_jax.models.ensemble import make_ensemble
from dreamer_jax.models.heads import Head
from dreamer_jax.models.losses import kl_losses, overshooting_loss
from dreamer_jax.models.representation import make_representation
from dreamer_jax.models.scalars import make_scalar
from dreamer_jax.ops.sequence import rematerialized
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import (
    Array,
    ArrayDict,
    Features,
    LatentState,
    ModelAux,
    Noise,
    Params,
    Stats,
    TrajectoryBatch,
)

PIXELS, AHEAD, ENSEMBLE = 1, 2, 3
"""Folded into a key for the noise of pixels, of latents further ahead, beside that of latents; for an ensemble."""


def make_world_model(
    config: Config,
    spec: EnvSpec,
    *,
    dynamics: MakeDynamics = make_dynamics,
    dtype: Any = jnp.float32,
    axis_name: str | None = None,
) -> WorldModel:
    """World model for the observations and actions of ``spec``. Parameters are a dict by part.

    With ``axis_name`` a batch's means are those over all devices.
    """
    c, nets = config, config.nets
    encoder = Encoder(spec.observation, c.encoder, dtype, nets)
    action_width = sum(leaf.width for leaf in spec.action.values())
    core = dynamics(c, tokens=encoder.width, action=action_width, dtype=dtype)
    inputs = core.feature_widths
    decoder = Decoder(spec.observation, inputs, c.decoder, dtype, nets)
    decodes = c.representation.kind == "decoder"
    representation = make_representation(c, inputs, action_width, encoder.width, dtype=dtype, axis_name=axis_name)
    ensemble = make_ensemble(c, inputs, action_width, encoder.width, dtype=dtype)
    explores = c.explore.ensemble > 0
    scalar = make_scalar(c.reward.dist, c.reward.bins)
    head = partial(Head, inputs, dtype=dtype, nets=nets)
    reward = head(layers=c.reward.layers, units=c.reward.units, outputs=scalar.outputs, scale=c.reward.init_scale)
    cont = head(layers=c.cont.layers, units=c.cont.units, outputs=1, scale=1.0)
    discount = 1 - 1 / c.behavior.discount_horizon

    def init(key: Array) -> dict[str, Any]:
        keys = dict(zip(("encoder", "rssm", "decoder", "reward", "cont"), jax.random.split(key, 5), strict=True))
        observation = {name: jnp.zeros((1, *leaf.shape), leaf.dtype) for name, leaf in spec.observation.items()}
        feat = core.features(core.initial(1))
        return {
            "encoder": encoder.init(keys["encoder"], observation)["params"],
            "rssm": core.init(keys["rssm"]),
            **(
                {"decoder": decoder.init(keys["decoder"], *feat)["params"]}
                if decodes
                else {"projector": representation.init(keys["decoder"])}
            ),
            "reward": reward.init(keys["reward"], *feat)["params"],
            **({} if c.cont.label == "none" else {"cont": cont.init(keys["cont"], *feat)["params"]}),
            **({"ensemble": ensemble.init(jax.random.fold_in(key, ENSEMBLE))} if explores else {}),
        }

    def apply(module: nn.Module, params: Params, *inputs: Any) -> Any:
        return rematerialized(module.apply, config.rematerialize)({"params": params}, *inputs)

    def encode(params: Params, observation: ArrayDict) -> jax.Array:
        tokens: jax.Array = apply(encoder, params["encoder"], observation)
        return tokens

    def decode(params: Params, feat: Features) -> ArrayDict:
        outputs: ArrayDict = apply(decoder, params["decoder"], *feat) if decodes else {}
        return outputs

    def reward_logits(params: Params, feat: Features) -> jax.Array:
        logits: jax.Array = apply(reward, params["reward"], *feat)
        return logits

    def cont_logit(params: Params, feat: Features) -> jax.Array:
        logit: jax.Array = apply(cont, params["cont"], *feat)
        return logit[..., 0]

    def action_vector(action: ArrayDict) -> jax.Array:
        return flatten_leaves(action, spec.action)

    def quantize_images(key: Array, rows: Array, observation: ArrayDict, length: tuple[int, ...]) -> ArrayDict:
        """Observations [rows, *length, ...], their images with ``encoder.image_bits`` bits and noise for the rest."""
        if c.encoder.image_bits == 8:
            return observation
        coarse, key = dict(observation), jax.random.fold_in(key, PIXELS)
        for number, (name, leaf) in enumerate(sorted(image_specs(spec.observation).items())):
            noise = draw_noise(jax.random.fold_in(key, number), rows, (*length, *leaf.shape), "uniform")
            coarse[name] = quantize(jnp.asarray(coarse[name]), c.encoder.image_bits, noise)
        return coarse

    def filter_(
        params: Params,
        key: Array,
        rows: Array,
        state: LatentState,
        *,
        prev_action: ArrayDict,
        observation: ArrayDict,
        is_first: Array,
    ) -> LatentState:
        action = action_vector(prev_action)
        noise = core.noise(key, rows, ())
        tokens = encode(params, quantize_images(key, rows, observation, ()))
        first = jnp.asarray(is_first)
        return core.posterior(params["rssm"], noise, state, prev_action=action, tokens=tokens, is_first=first)[0]

    def observe(params: Params, key: Array, rows: Array, batch: TrajectoryBatch) -> LatentState:
        observation = quantize_images(key, rows, batch.observation, batch.reward.shape[1:])
        return observe_tokens(params, key, rows, batch, encode(params, observation))[0]

    def observe_tokens(
        params: Params, key: Array, rows: Array, batch: TrajectoryBatch, tokens: jax.Array
    ) -> tuple[LatentState, Stats]:
        size, length = batch.reward.shape
        state = core.expand(batch.context) if batch.context is not None else core.start(params["rssm"], size)
        action, first, noise = (
            action_vector(batch.prev_action),
            jnp.asarray(batch.is_first),
            core.noise(key, rows, (length,)),
        )
        return core.observe(params["rssm"], noise, state, prev_action=action, tokens=tokens, is_first=first)

    def loss(
        params: Params, key: Array, rows: Array, batch: TrajectoryBatch, step: Array = 0
    ) -> tuple[dict[str, jax.Array], ModelAux]:
        length = batch.reward.shape[1]
        observation = quantize_images(key, rows, batch.observation, (length,))
        tokens = encode(params, observation)
        posterior, stats = observe_tokens(params, key, rows, batch, tokens)
        prior, least = core.prior_stats(params["rssm"], posterior), free_nats(c.kl, step)
        losses, divergence = kl_losses(
            core.latent.divergence,
            stats,
            prior,
            free_nats=least,
            free_average=c.kl.free_average,
            axis_name=axis_name,
        )
        if c.kl.overshooting:
            losses["overshooting"] = overshooting_loss(
                core,
                params["rssm"],
                core.noise(jax.random.fold_in(key, AHEAD), rows, (length, c.kl.overshooting)),
                posterior=posterior,
                stats=stats,
                prev_action=action_vector(batch.prev_action),
                is_first=jnp.asarray(batch.is_first),
                steps=c.kl.overshooting,
                free_nats=least,
                axis_name=axis_name,
            )
        feat = core.features(posterior)
        outputs = decode(params, feat)
        for name, output in outputs.items():
            leaf = spec.observation[name]
            losses[name] = reconstruction_loss(output, jnp.asarray(observation[name]), leaf, c.decoder)
        if not decodes:
            losses["representation"] = representation.loss(
                params["projector"], tokens, feat, action_vector(batch.prev_action), jnp.asarray(batch.is_first)
            )
        if explores:
            before, first = action_vector(batch.prev_action), jnp.asarray(batch.is_first)
            losses["ensemble"] = ensemble.loss(params["ensemble"], feat, before, first, tokens)
        target = jnp.asarray(batch.reward)
        target = jnp.tanh(target) if c.reward.squash == "tanh" else target
        losses["rew"] = scalar.loss(reward_logits(params, feat), target)
        target = (discount if c.cont.label == "soft" else 1) * (1 - batch.is_terminal.astype(jnp.float32))
        if c.cont.label != "none":
            losses["con"] = -bernoulli(cont_logit(params, feat)).log_prob(target)
        return losses, ModelAux(
            tokens=tokens,
            posterior=posterior,
            posterior_stats=stats,
            prior_stats=prior,
            divergence=divergence,
            posterior_entropy=core.latent.entropy(stats),
            prior_entropy=core.latent.entropy(prior),
            reconstruction=outputs,
            cont_target=target,
        )

    def imagine_step(params: Params, noise: Noise | None, state: LatentState, action: Array) -> LatentState:
        return core.prior(params["rssm"], noise, state, action)[0]

    def predict(params: Params, feat: Features) -> tuple[jax.Array, jax.Array]:
        """Expected reward and probability of going on, the discount included."""
        expected = scalar.mean(reward_logits(params, feat))
        match c.cont.label:
            case "soft":
                return expected, jax.nn.sigmoid(cont_logit(params, feat))
            case "hard":
                return expected, discount * (cont_logit(params, feat) > 0)
            case "none":
                return expected, jnp.full_like(expected, discount)

    def disagree(params: Params, feat: Features, action: Array) -> jax.Array:
        return jnp.asarray(ensemble.disagree(params["ensemble"], feat, action))

    latent_spec = {}
    if c.replay.context:
        stored = jax.eval_shape(lambda: core.compress(core.initial(1)))
        latent_spec = {name: ArraySpec(x.shape[1:], x.dtype.name) for name, x in stored.items()}
    return WorldModel(
        init=init,
        encode=encode,
        filter=filter_,
        observe=observe,
        loss=loss,
        action_vector=action_vector,
        imagine_step=imagine_step,
        predict=predict,
        decode=decode,
        dynamics=core,
        latent_spec=latent_spec,
        disagree=disagree if explores else None,
    )
