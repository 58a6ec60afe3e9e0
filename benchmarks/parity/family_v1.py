"""Whole losses of DreamerV1, of imagined and of given states, against recordings of the authors'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

import parity.names
from dreamer_jax.agent import loss_scales
from dreamer_jax.behaviors import actor_critic
from dreamer_jax.behaviors.imagination import Rollout
from dreamer_jax.config.loading import load, replace
from dreamer_jax.config.schema import Config
from dreamer_jax.models.rssm import RSSMState
from dreamer_jax.models.world_model import make_world_model
from dreamer_jax.ops.moments import initial_range
from dreamer_jax.types import TrainState, TrajectoryBatch
from parity.family_models import flat_state, theirs
from parity.family_v2 import KEY, env_spec, our_action
from parity.units import Absent, Found, Unit

Weights = dict[str, jax.Array]


def settings(meta: Mapping[str, Any], weights: Mapping[str, Any]) -> Config:
    """The recorded agent's settings in our names; layers are counted."""
    c = meta["config"]
    heads = {"reward": "reward", "cont": "pcont", "policy": "actor", "value": "value"}
    counts = {ours: sum(f"{name}/h{i}/kernel" in weights for i in range(9)) for ours, name in heads.items()}
    values: dict[str, Any] = {f"{name}.layers": count for name, count in counts.items()}
    values |= {f"{name}.units": c["num_units"] for name in heads}
    values |= {
        f"{part}.{k}": x for part in ("encoder", "decoder") for k, x in (("depth", c["cnn_depth"]), ("cnn", "valid"))
    }
    values |= {
        **{"dtype": "float32", "nets.norm": "none", "nets.activation": c["dense_act"], "nets.init": "glorot"},
        **{"nets.cnn_activation": c["cnn_act"], "decoder.images": "linear", "decoder.loss": "normal"},
        **{"rssm.latent": "gaussian", "rssm.stoch": c["stoch_size"], "rssm.deter": c["deter_size"]},
        **{"rssm.hidden": c["deter_size"], "rssm.cell": "gru", "rssm.clip_action": False, "rssm.prior_layers": 1},
        **{"reward.dist": "normal", "value.dist": "normal", "value.slow_regularizer": 0.0, "loss.replay_value": 0.0},
        **{"reward.squash": c["clip_rewards"], "cont.label": "soft" if c["pcont"] else "none"},
        **{"policy.dist": "tanh_normal", "policy.init_std": c["action_init_std"], "policy.min_std": 1e-4},
        **{"kl.dyn": c["kl_scale"], "kl.rep": c["kl_scale"], "kl.free_nats": c["free_nats"], "kl.free_average": True},
        **{"loss.cont": c["pcont_scale"], "behavior.gradient": "dynamics", "behavior.returns": "departure"},
        **{"behavior.start": "excluded", "behavior.starts": "but_last" if c["pcont"] else "all"},
        **{"behavior.normalize": "none", "behavior.entropy": 0.0, "behavior.lambda_": c["disclam"]},
        **{"behavior.imagination_length": c["horizon"], "behavior.discount_horizon": round(1 / (1 - c["discount"]))},
    }
    return replace(load(), values)


def behavior_params(weights: Weights, discrete: bool) -> dict[str, Any]:
    """The actor's and the critic's, whose features are the other way round here."""
    deter = weights["dynamics/cell/recurrent_kernel"].shape[0]
    actor = parity.names.policy(parity.names.part(weights, "actor"), discrete)
    critic = parity.names.head(parity.names.part(weights, "value"))
    return {"actor": parity.names.turned(actor, deter), "critic": parity.names.turned(critic, deter)}


def train(u: Unit, meta: Mapping[str, Any]) -> Found:
    """``v1-train_*``."""
    weights = {name: jnp.asarray(x) for name, x in u.part("params").items()}
    config, discrete = settings(meta, weights), meta["config"]["action_dist"] == "onehot"
    observation = {"image": u["in/image"]}
    spec = env_spec(observation, u["in/action"].shape[-1], discrete)
    nothing = np.zeros(u["in/reward"].shape, bool)
    action = {"action": our_action(u["in/action"], discrete)}
    ends = 1 - u["in/discount"]
    batch = TrajectoryBatch(observation, action, u["in/reward"], nothing, nothing, ends)
    model = make_world_model(config, spec)
    learner, scales = actor_critic.make_actor_critic(config, spec, model), loss_scales(config, spec)
    rows = jnp.arange(len(nothing))

    @jax.jit
    def total(weights: Weights) -> Any:
        params = {"model": parity.names.world_v1(weights), **behavior_params(weights, discrete)}
        state = TrainState(jnp.zeros((), jnp.int32), params, params["critic"], None, initial_range())
        losses, seen = model.loss(params["model"], KEY, rows, batch)
        more, aux = learner.loss(params, state, KEY, rows, posterior=seen.posterior, batch=batch)
        weighted = {name: scales[name] * x.mean() for name, x in (losses | more).items()}
        return sum(weighted.values()), (weighted, seen, aux.details)

    (_, (losses, seen, aux)), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(weights)
    parts = ("encode", "dynamics", "decode", "reward", "pcont")
    named = {"model": parts, "actor": ("actor",), "value": ("value",)}
    found: Found = {
        "embed": seen.tokens,
        "post": flat_state(seen.posterior, seen.posterior_stats),
        "imag_feat": jnp.swapaxes(theirs(aux.imagined.features), 0, 1)[1:],
        "behavior": _behavior(aux),
        "actor_loss": losses.pop("policy"),
        "value_loss": losses.pop("value"),
        # Both halves have the value of the one that is differentiated there.
        "model_loss": sum(losses.values()) - losses["rep"],
    }
    for name, parts in named.items():
        own = {key: x for key, x in grads.items() if key.split("/")[0] in parts}
        found |= {f"{name}_grads": own, f"{name}_grad_norm": optax.global_norm(own)}
    return found


def fixed(u: Unit, meta: Mapping[str, Any]) -> Found:
    """``v1-fixed_*``: actor and critic on given imagined states [H, N, F]."""
    weights = {name: jnp.asarray(x) for name, x in u.part("params").items()}
    config = settings(meta, weights)
    feat, deter = jnp.asarray(u["in/imag_feat"]), config.rssm.deter
    discrete, width = meta["config"]["action_dist"] == "onehot", meta["dims"]["A"]
    spec = env_spec({"vector": np.zeros((1, 1, 1), np.float32)}, width, discrete)
    model = make_world_model(config, spec)
    learner = actor_critic.make_actor_critic(config, spec, model)
    heads = {ours: name for ours, name in (("reward", "reward"), ("cont", "pcont")) if parity.names.part(weights, name)}
    count = feat.shape[1]
    start = RSSMState(jnp.zeros((count, 1, deter)), jnp.zeros((count, 1, config.rssm.stoch)))
    if config.behavior.starts == "but_last":
        start = jax.tree.map(lambda x: jnp.repeat(x, 2, 1), start)
    none = jnp.zeros(start.deter.shape[:2])
    batch = TrajectoryBatch({}, {}, none, none, none, none)

    def run(weights: Weights, feat: jax.Array) -> Any:
        def head(name: str) -> Any:
            return parity.names.turned(parity.names.head(parity.names.part(weights, name)), deter)

        actor = _any_policy(feat.shape[-1], width if discrete else 2 * width, discrete)
        params = {"model": {ours: head(name) for ours, name in heads.items()}, "actor": actor, "critic": head("value")}
        state = TrainState(jnp.zeros((), jnp.int32), params, params["critic"], None, initial_range())
        # The start counts for nothing.
        states = jnp.concatenate([jnp.zeros_like(feat[:1]), feat])
        both = states[..., -deter:], states[..., :-deter]
        event = jnp.zeros((len(feat), count, *((1, width) if discrete else (width,))))
        path = Rollout(tuple(x[:-1] for x in both), {"action": event}, tuple(x[-1] for x in both), {"action": event[0]})
        with mock.patch.object(actor_critic, "imagine", lambda *_, **__: path):
            losses, aux = learner.loss(params, state, KEY, jnp.arange(count), posterior=start, batch=batch)
        return {name: x.mean() for name, x in losses.items()}, aux.details

    losses, aux = jax.jit(run)(weights, feat)
    by_feat = jax.jit(jax.grad(lambda w, x: run(w, x)[0]["policy"], 1))(weights, feat)
    by_value = jax.jit(jax.grad(lambda w, x: run(w, x)[0]["value"]))(weights, feat)
    unused = Absent("the actor's optimiser has no place for the gradients of other networks")
    return {
        "behavior": _behavior(aux),
        "actor_loss": losses["policy"],
        "value_loss": losses["value"],
        "actor_grads/imag_feat": by_feat,
        "value_grads": by_value,
        **{f"actor_grads/{name}/": unused for name in ("reward", "value")},
    }


def _any_policy(features: int, outputs: int, discrete: bool) -> Any:
    """One that nobody asks: the recorded states came from nowhere."""
    shapes = {"hout/kernel": (features, outputs), "hout/bias": (outputs,)}
    return parity.names.policy({name: jnp.zeros(shape) for name, shape in shapes.items()}, discrete)


def _behavior(aux: Any) -> Found:
    """Of the imagined states without the start."""
    path = aux.imagined
    whole = {"reward": path.reward, "value": aux.predictions.value, "pcont": path.discount}
    fewer = {"returns": aux.targets.returns, "discount": aux.targets.credit.cumulative_discount[:, :-1]}
    return {name: x[:, 1:].T for name, x in (whole | fewer).items()}
