"""What a world model predicts, and how well: dreams from a context, and numbers about latents and errors."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from dreamer_jax.config.schema import Config, DecoderConfig
from dreamer_jax.interfaces import Behavior, WorldModel
from dreamer_jax.models.balance import free_nats
from dreamer_jax.models.decoder import decoder_target, reconstruction_loss
from dreamer_jax.ops.sequence import scan_time
from dreamer_jax.specs import EnvSpec
from dreamer_jax.types import Array, ArrayDict, Dream, Features, LatentState, Mode, TrainState, TrajectoryBatch

HORIZONS = (1, 5, 15)
"""Steps after which an open-loop prediction is measured; the last is also that of the returns."""


def dream(
    model: WorldModel,
    behavior: Behavior,
    params: Any,
    key: Array,
    seen: TrajectoryBatch,
    actions: ArrayDict | None,
    length: int,
    mode: Mode = "sample",
) -> Dream:
    """Watch ``seen`` [B, C], then imagine ``length`` = H steps: by ``actions`` [B, H, ...], or by the policy's own."""
    seen_feat, ahead = foresee(model, behavior, params, key, seen, actions, length, mode)
    feat = jax.tree.map(lambda *parts: jnp.concatenate(parts, 1), seen_feat, ahead)
    return Dream(model.decode(params["model"], feat), *model.predict(params["model"], feat))


def foresee(
    model: WorldModel,
    behavior: Behavior | None,
    params: Any,
    key: Array,
    seen: TrajectoryBatch,
    actions: ArrayDict | None,
    length: int,
    mode: Mode = "sample",
) -> tuple[Features, Features]:
    """Features of what is seen [B, C, F_i], and of what is imagined after it [B, H, F_i]; as ``dream``.

    With ``actions`` no behavior is needed.
    """
    rows = jnp.arange(seen.reward.shape[0])
    dynamics = model.dynamics
    posterior = model.observe(params["model"], key, rows, seen)
    memory = () if behavior is None else behavior.initial(len(rows))
    start = jax.tree.map(lambda x: x[:, -1], dynamics.starts(posterior)), memory
    noise = dynamics.noise(jax.random.fold_in(key, 1), rows, (length,))
    steps = jnp.broadcast_to(jnp.arange(length), (len(rows), length))
    given = None if actions is None else model.action_vector(actions)

    def step(before: tuple[LatentState, Any], inputs: tuple[Any, ...]) -> tuple[tuple[LatentState, Any], Features]:
        (latent, memory), (noise, number, action) = before, inputs
        if action is None:
            assert behavior is not None, "without actions somebody has to choose them"
            act_key = jax.random.fold_in(jax.random.fold_in(key, 2), number[0])
            memory, chosen = behavior.act(params, act_key, rows, latent, memory, mode)
            action = model.action_vector(chosen)
        latent = model.imagine_step(params["model"], noise, latent, action)
        return (latent, memory), dynamics.features(latent)

    _, ahead = scan_time(step, start, (noise, steps, given))
    return dynamics.features(posterior), ahead


def report(
    config: Config,
    spec: EnvSpec,
    model: WorldModel,
    behavior: Behavior,
    state: TrainState,
    key: Array,
    batch: TrajectoryBatch,
) -> tuple[dict[str, jax.Array], Dream]:
    """Numbers about windows [B, T], and their dream: the first half seen, the second by recorded actions.

    Errors of numbers are mean squares, in symlog space or of images in [0, 1]; of classes cross entropies. A model
    without a decoder has none of observations. Metrics are means over all records, those ahead only over records
    without a reset before them:

    - ``kl`` raw, ``kl_latent/i`` of each latent, ``kl_below_free_nats`` the share of records below free nats; under
      the name that the kind of latents gives to its divergence;
    - ``active_latents``, whose distribution says something about the record (``Latent.active``);
    - ``elbo`` in nats a record, if that divergence is a KL: log-likelihoods of observation, reward and continuation,
      less the KL (a squared error is the likelihood of a normal with variance 1/2);
    - ``posterior_error``, ``prior_error`` (the latent drawn one step ahead), ``permuted_error`` (the latent of
      another window) of each observation;
    - ``openloop_error/<key>/<h>`` h steps ahead, ``repeat_error`` of the last record seen, ``mean_error`` of
      the mean of all records seen;
    - ``return_imagined`` and ``return_realised`` over the longest horizon, ``return_error`` their mean square.
    """
    params, rows = state.params["model"], jnp.arange(batch.reward.shape[0])
    losses, aux = model.loss(params, key, rows, batch, state.step)
    dynamics, latent = model.dynamics, model.dynamics.latent
    each, kl = latent.divergence(aux.posterior_stats, aux.prior_stats), latent.divergence_name
    metrics = {
        kl: each.sum(-1).mean(),
        f"{kl}_below_free_nats": (each.sum(-1) < free_nats(config.kl, state.step)).mean(),
        **{f"{kl}_latent/{i:02d}": x for i, x in enumerate(each.mean((0, 1)))},
        "active_latents": latent.active(aux.posterior_stats).sum(),
    }
    decoded = {name: leaf for name, leaf in spec.observation.items() if name in aux.reconstruction}
    if latent.bounds_likelihood and decoded:
        nats = sum(_nats(losses, spec, config.decoder).values())
        metrics["elbo"] = -(aux.divergence + losses["rew"] + losses.get("con", 0) + nats).mean()

    prior_noise = dynamics.noise(jax.random.fold_in(key, 3), rows, batch.reward.shape[1:])
    others = {
        "prior": dynamics.redraw(aux.posterior, aux.prior_stats, prior_noise),
        "permuted": dynamics.exchange(aux.posterior, jax.tree.map(lambda x: jnp.roll(x, 1, 0), aux.posterior)),
    }
    outputs = {"posterior": aux.reconstruction}
    outputs |= {label: model.decode(params, dynamics.features(state)) for label, state in others.items()}
    squared = replace(config.decoder, loss="squared")
    for name, leaf in decoded.items():
        target = jnp.asarray(batch.observation[name])
        for label, output in outputs.items():
            error = reconstruction_loss(output[name], target, leaf, squared) / leaf.size
            metrics[f"{label}_error/{name}"] = error.mean()

    context = batch.reward.shape[1] // 2
    seen, ahead = split_window(jax.tree.map(jnp.asarray, batch), context)
    length = ahead.reward.shape[1]
    dreamt = dream(model, behavior, state.params, key, seen, ahead.prev_action, length)
    # Nothing can be predicted across a reset.
    valid = (jnp.cumsum(ahead.is_first, 1) == 0).astype(jnp.float32)

    def mean(x: jax.Array, weight: jax.Array) -> jax.Array:
        return (x * weight).sum() / jnp.maximum(1, weight.sum())

    for name, leaf in decoded.items():
        if leaf.discrete:
            continue
        target = decoder_target(jnp.asarray(batch.observation[name]), leaf, config.decoder.symlog)
        guesses = {
            "openloop": dreamt.observation[name][:, context:],
            "repeat": target[:, context - 1 : context],
            "mean": target[:, :context].mean((0, 1), keepdims=True),
        }
        for label, guess in guesses.items():
            square = jnp.square(guess - target[:, context:]).reshape(*valid.shape, -1).mean(-1)
            for h in HORIZONS:
                if h <= length:
                    metrics[f"{label}_error/{name}/{h}"] = mean(square[:, h - 1], valid[:, h - 1])

    weight = valid[:, : HORIZONS[-1]]
    imagined, realised = (
        (reward[:, : HORIZONS[-1]] * weight).sum(1) for reward in (dreamt.reward[:, context:], ahead.reward)
    )
    metrics |= {"return_imagined": imagined.mean(), "return_realised": realised.mean()}
    metrics["return_error"] = jnp.square(imagined - realised).mean()
    return metrics, dreamt


def split_window(batch: TrajectoryBatch, context: int) -> tuple[TrajectoryBatch, TrajectoryBatch]:
    """The first ``context`` records of windows, with the latents before them, and the records after."""
    records = replace(batch, context=None)
    seen = jax.tree.map(lambda x: x[:, :context], records)
    return replace(seen, context=batch.context), jax.tree.map(lambda x: x[:, context:], records)


def _nats(losses: ArrayDict, spec: EnvSpec, config: DecoderConfig) -> ArrayDict:
    """Negative log-likelihoods of the observations."""
    squared = config.loss == "squared"
    return {
        name: losses[name] + (leaf.size / 2 * math.log(math.pi) if squared and not leaf.discrete else 0)
        for name, leaf in spec.observation.items()
    }
