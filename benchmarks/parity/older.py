"""Whole training steps against recordings of DreamerV3's code of June 2023 (8fa35f8) and July 2024 (251910d).

Settings in our names, and what these recordings have in another form than those of HEAD. Everything else is what
``parity_training`` computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.agent import loss_scales
from dreamer_jax.behaviors.actor_critic import make_actor_critic
from dreamer_jax.config.loading import load, replace
from dreamer_jax.config.schema import Config
from dreamer_jax.distributions import categorical
from dreamer_jax.models.world_model import make_world_model
from dreamer_jax.specs import EnvSpec
from dreamer_jax.types import LatentState, TrainState, TrajectoryBatch
from parity.older_heads import Heads, make_heads, start_reward
from parity.older_metrics import metrics_2023, metrics_2024
from parity.older_names import Names
from parity.training import (
    KEY,
    Arrays,
    Code,
    Gradient,
    Recording,
    Seen,
    Tolerances,
    by_name,
    env_spec,
    part,
    same_gradient,
    trajectory,
)

Found = dict[str, Any]
HEADS = {"reward": ("reward_head", "rewhead"), "cont": ("cont_head", "conhead"), "policy": ("actor",) * 2}
HEADS |= {"value": ("critic",) * 2}
"""The authors' sections in 2023 and 2024, by ours."""


def read(arrays: Arrays, meta: Mapping[str, Any]) -> Recording:
    """The model and the batch that the arrays were recorded with.

    Raises:
      ConfigError, KeyError, TypeError, ValueError: this package does not compute such a thing.
    """
    revision, spec = meta["revision"], env_spec(meta)
    config = {"2023": settings_2023, "2024": settings_2024}[revision](meta["agent_config"])
    names, batch = Names(revision, part(arrays, "init"), config, spec), trajectory(arrays, spec, meta["replay_context"])
    heads = make_heads(config, spec)
    counters = [name for name in part(arrays, "init") if name not in names.tensors]
    code = Code(
        names.state,
        names.arrays,
        partial(forward_2023 if revision == "2023" else forward_2024, heads),
        gradient_in_turn(config, spec, batch) if config.optimizer.order == "model_first" else same_gradient,
        partial(metrics_2023 if revision == "2023" else metrics_2024, names, heads),
        lambda updates: dict.fromkeys(counters, updates),
        lambda start, carry: {"log_entropy": heads.entropy(start.params["actor"], carry.latent)},
        tolerances(revision, pictures=any(leaf.image for leaf in spec.observation.values())),
    )
    return Recording(arrays, config, spec, batch, code)


def tolerances(revision: str, *, pictures: bool) -> Tolerances:
    """Of a recording of either year.

    Metrics are means of predictions that themselves are sums of cancelling terms. What Adam adds, in 2023, is as
    uncertain as the gradient where that is not much larger than eps. Layer norms over 2 or 4 channels, also of 2023,
    take most of a picture's gradient away, and leave rounding a larger share of the rest: in double precision it is as
    far from the recorded gradient as from ours.
    """
    if revision == "2024":
        return Tolerances(forward=3e-5 if pictures else 1e-5, mean=1e-5)
    small = Tolerances(mean=1e-5, added=2e-3)
    return small._replace(forward=5e-5, gradient=1e-3, sign=1e-3) if pictures else small


def settings_2023(agent: Mapping[str, Any]) -> Config:
    """Settings of the code of 2023 in our names, on top of the preset."""
    rssm, optimizers = agent["rssm"], [agent[f"{name}_opt"] for name in ("model", "actor", "critic")]
    fixed = {"actor_grad_disc": "reinforce", "actor_grad_cont": "backprop", "critic_slowreg": "logprob"}
    fixed |= {"grad_heads": ["decoder", "reward", "cont"], "critic_type": "vfunction", "actor_dist_disc": "onehot"}
    _expect(agent, fixed)
    _expect(rssm, {"initial": "learned", "norm": "layer", "act": "silu", "action_clip": 1.0})
    _expect(agent["retnorm"], {"impl": "perc_ema"})
    for name in ("encoder", "decoder"):
        _expect(agent[name], {"cnn": "resnet", "cnn_blocks": 0, "resize": "stride", "norm": "layer", "act": "silu"})
    for one in optimizers:
        _expect(one, {"opt": "adam", "warmup": 0, "wd": 0.0, "lateclip": 0.0})
    _expect(optimizers[1], {"eps": optimizers[2]["eps"]})
    scales, retnorm = agent["loss_scales"], agent["retnorm"]
    _expect(scales, {"vector": scales["image"]})
    return _settings(
        "dreamer_v3_2023",
        agent,
        {
            **{f"{part}.{name}": agent[part][f"mlp_{name}"] for part in ("encoder", "decoder") for name in _MLP},
            **{f"{part}.depth": agent[part]["cnn_depth"] for part in ("encoder", "decoder")},
            "encoder.symlog": agent["encoder"]["symlog_inputs"],
            "rssm.hidden": rssm["units"],
            **{f"rssm.{name}": rssm[name] for name in ("deter", "stoch", "classes", "unimix")},
            "kl.free_nats": agent["dyn_loss"]["free"],
            "loss.reconstruction": scales["image"],
            "loss.cont": scales["cont"],
            "loss.policy": scales["actor"],
            "loss.value": scales["critic"],
            "value.slow_regularizer": scales["slowreg"],
            "behavior.imagination_length": agent["imag_horizon"],
            "behavior.return_rate": 1 - retnorm["decay"],
            "behavior.return_limit": 1 / retnorm["max"],
            "optimizer.learning_rate": optimizers[0]["lr"],
            "optimizer.actor_learning_rate": optimizers[1]["lr"],
            "optimizer.critic_learning_rate": optimizers[2]["lr"],
            "optimizer.eps": optimizers[0]["eps"],
            "optimizer.actor_critic_eps": optimizers[1]["eps"],
            "optimizer.clip": optimizers[0]["clip"],
            "optimizer.actor_critic_clip": optimizers[1]["clip"],
            "optimizer.critic_clip": optimizers[2]["clip"],
        },
    )


def settings_2024(agent: Mapping[str, Any]) -> Config:
    """Settings of the code of 2024 in our names, on top of the preset."""
    rssm, enc, dec, opt = agent["dyn"]["rssm"], agent["enc"]["simple"], agent["dec"]["simple"], agent["opt"]
    fixed = {"contdisc": True, "ac_grads": "none", "imag_start": "all", "imag_repeat": 1, "slowtar": False}
    fixed |= {"reward_grad": True, "replay_critic_loss": True, "replay_critic_bootstrap": "imag"}
    _expect(agent, fixed | {"separate_lrs": False, "return_lambda_replay": agent["return_lambda"]})
    _expect(rssm, {"cell": "blockgru", "absolute": False, "obslayers": 1, "norm": "rms", "act": "silu"})
    for cnn in (enc, dec):
        _expect(cnn, {"mults": [1, 2, 3, 4, 4], "kernel": 5, "outer": True, "norm": "rms", "act": "silu"})
    _expect(dec, {"hidden_stoch": True, "space_hidden": 0})
    _expect(opt, {"scaler": "rms", "momentum": True, "wd": 0.0, "globclip": 0.0, "schedule": "constant", "pmin": 1e-3})
    for name in ("advnorm", "valnorm"):
        _expect(agent[name], {"impl": "off"})
    scales, retnorm = agent["loss_scales"], agent["retnorm"]
    _expect(scales, {"dec_mlp": scales["dec_cnn"]})
    layers = {"dynamics_layers": "dynlayers", "prior_layers": "imglayers"}
    parts = {"encoder": enc, "decoder": dec}
    return _settings(
        "dreamer_v3_2024",
        agent,
        {
            **{f"{ours}.{name}": part[name] for ours, part in parts.items() for name in (*_MLP, "depth")},
            "encoder.symlog": enc["symlog"],
            "decoder.blocks": dec["block_space"],
            **{f"rssm.{name}": rssm[name] for name in ("deter", "hidden", "stoch", "classes", "blocks", "unimix")},
            **{f"rssm.{ours}": rssm[theirs] for ours, theirs in layers.items()},
            "kl.free_nats": agent["rssm_loss"]["free"],
            "loss.reconstruction": scales["dec_cnn"],
            "loss.cont": scales["cont"],
            "loss.policy": scales["actor"],
            "loss.value": scales["critic"],
            "loss.replay_value": scales["replay_critic"],
            "value.slow_regularizer": agent["slowreg"],
            "behavior.imagination_length": agent["imag_length"],
            "behavior.replay_value_grad": agent["replay_critic_grad"],
            "behavior.return_rate": retnorm["rate"],
            "behavior.return_limit": retnorm["limit"],
            "optimizer.learning_rate": opt["lr"],
            **{f"optimizer.{name}": opt[name] for name in ("agc", "beta1", "beta2", "eps")},
        },
    )


_MLP = ("layers", "units")


def _settings(preset: str, agent: Mapping[str, Any], values: Mapping[str, Any]) -> Config:
    """The preset with ``values``, and what both years call the same."""
    heads = {ours: agent[theirs[preset.endswith("2024")]] for ours, theirs in HEADS.items()}
    scales, retnorm, actor = agent["loss_scales"], agent["retnorm"], agent["actor"]
    both = {
        "dtype": "float32",
        **{f"{ours}.{name}": head[name] for ours, head in heads.items() for name in _MLP},
        **{f"{name}.bins": heads[name]["bins"] for name in ("reward", "value")},
        **{"policy.min_std": actor["minstd"], "policy.max_std": actor["maxstd"], "policy.unimix": actor["unimix"]},
        **{"kl.dyn": scales["dyn"], "kl.rep": scales["rep"], "loss.reward": scales["reward"]},
        **{"value.slow_rate": agent["slow_critic_fraction"], "value.slow_every": agent["slow_critic_update"]},
        **{"behavior.discount_horizon": agent["horizon"], "behavior.lambda_": agent["return_lambda"]},
        **{"behavior.entropy": agent["actent"], "behavior.return_low": retnorm["perclo"]},
        **{"behavior.return_high": retnorm["perchi"]},
    }
    return replace(load(preset), both | dict(values))


def _expect(section: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    """Refuse a recording of something that no preset of ours computes."""
    wrong = {name: section[name] for name, value in fixed.items() if section[name] != value}
    if wrong:
        raise ValueError(f"got {wrong}, expected {dict(fixed)}")


def gradient_in_turn(config: Config, spec: EnvSpec, batch: TrajectoryBatch) -> Gradient:
    """Actor and critic where the world model imagines after its step, from the posterior that it had before."""
    behavior = make_actor_critic(config, spec, make_world_model(config, spec))
    scales, rows = loss_scales(config, spec), np.arange(len(batch.reward))

    @jax.jit
    def gradient(learner: Any, ahead: Any, state: TrainState, posterior: LatentState) -> Any:
        def loss(learner: Any) -> tuple[jax.Array, Any]:
            params = learner | {"model": ahead}
            losses, aux = behavior.loss(params, state, KEY, rows, posterior=posterior, batch=batch)
            return sum(scales[name] * value.mean() for name, value in losses.items()), (losses, aux)

        return jax.value_and_grad(loss, has_aux=True)(learner)

    def of_update(before: TrainState, after: TrainState, seen: Seen) -> Seen:
        learner = {name: before.params[name] for name in ("actor", "critic")}
        posterior = seen.aux["model"]["posterior"]
        (_, (losses, aux)), grads = gradient(learner, after.params["model"], before, posterior)
        losses = seen.aux["losses"] | losses
        total = sum(scales[name] * value.mean() for name, value in losses.items())
        return Seen(total, seen.aux | {"losses": losses, "behavior": by_name(aux)}, seen.grads | grads)

    return of_update


# What is recorded at the initial parameters.


def forward_2024(heads: Heads, recording: Recording, start: TrainState, seen: Seen, found: Found) -> Found:
    """The start of imagination has the recorded reward, which is in no loss, and its continuation undiscounted."""
    discount = 1 - 1 / recording.config.behavior.discount_horizon
    return _both(heads, recording, start, seen, found) | {
        "img/rew": start_reward(seen, recording.batch),
        "img/con": seen.aux["behavior"]["imagined"].discount.at[:, 0].divide(discount),
    }


def forward_2023(heads: Heads, recording: Recording, start: TrainState, seen: Seen, found: Found) -> Found:
    """Has the losses of model, actor and critic apart, and the continuation before it is rounded."""
    scales = loss_scales(recording.config, recording.spec)
    scaled = {name: scales[name] * value.mean() for name, value in seen.aux["losses"].items()}
    return _both(heads, recording, start, seen, found) | {
        "loss_actor": scaled["policy"],
        "loss_critic": scaled["value"],
        "loss_model": sum(value for name, value in scaled.items() if name not in ("policy", "value")),
        "img/con_prob": heads.going(start.params["model"], seen.aux["behavior"]["imagined"].features),
    }


def _both(heads: Heads, recording: Recording, start: TrainState, seen: Seen, found: Found) -> Found:
    """What heads say of replayed states, and logits after the uniform share, which is how the authors carry them."""
    model, config = seen.aux["model"], recording.config

    @partial(jax.jit, static_argnums=1)
    def mixed(logits: jax.Array, unimix: float) -> jax.Array:
        return jnp.log(categorical(logits, unimix).distribution.probs)

    said = heads.replayed(start.params["model"], model["posterior"], recording.batch)
    posterior = mixed(model["posterior_stats"]["logits"], config.rssm.unimix)
    choices = [name for name, leaf in recording.spec.action.items() if leaf.discrete]
    logits = {name: found[f"fwd/img/pol_logits/{name}"][..., None, :] for name in choices}
    return {
        **{f"img/pol_mixed_logits/{name}": mixed(x, config.policy.unimix)[..., 0, :] for name, x in logits.items()},
        "rep/rew_logits": said["logits"],
        "rep/rew": said["reward"],
        "rep/con_prob": said["going"],
        "rep/mixed_logit": posterior,
        "rep/prior_mixed_logit": mixed(model["prior_stats"]["logits"], config.rssm.unimix),
        "carry_out/mixed_logit": posterior[:, -1],
    }
