"""Whole updates of DreamerV2's world model, actor and critic against recordings of the authors'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import parity.names
from dreamer_jax.agent import follow, loss_scales
from dreamer_jax.behaviors import actor_critic
from dreamer_jax.config.loading import load, replace
from dreamer_jax.config.schema import Config
from dreamer_jax.models.rssm import RSSMState, make_rssm
from dreamer_jax.models.world_model import make_world_model
from dreamer_jax.ops.moments import initial_range
from dreamer_jax.optim import make_optimizer
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import TrainState, TrajectoryBatch
from parity.family_models import flat_state, prior_of, theirs
from parity.units import Absent, Found, Unit

KEY = jax.random.key(0)  # sampling is replaced, so that no number depends on it
FORWARD = "no preset turns the KL round, takes the sign of rewards, or keeps a head's gradient from the model"


def settings(meta: Mapping[str, Any], shapes: Mapping[str, Any]) -> Config:
    """The recorded agent's settings in our names; ``shapes`` of its observations."""
    c = meta["config"]
    heads = {"reward": "reward_head", "cont": "discount_head", "policy": "actor", "value": "critic"}
    values: dict[str, Any] = {f"{ours}.{k}": c[name][k] for ours, name in heads.items() for k in ("layers", "units")}
    for part in ("encoder", "decoder"):
        layers = c[part]["mlp_layers"]
        sizes = {"depth": c[part]["cnn_depth"], "layers": len(layers), "units": max(layers)}
        values |= {f"{part}.{k}": x for k, x in {**sizes, "cnn": "valid", "symlog": False}.items()}
    rssm, kl, scales, optimizers = (
        c["rssm"],
        c["kl"],
        c["loss_scales"],
        [c[f"{x}_opt"] for x in ("model", "actor", "critic")],
    )
    discrete, gradient = bool(rssm["discrete"]), meta.get("resolved", {}).get("actor_grad", "auto")
    values |= {f"rssm.{k}": rssm[k] for k in ("deter", "hidden", "stoch", "min_std")}
    values |= {
        **{"dtype": "float32", "nets.norm": rssm["norm"], "nets.activation": rssm["act"], "nets.init": "glorot"},
        **{"nets.cnn_activation": c["encoder"]["act"], "decoder.images": "linear", "decoder.loss": "normal"},
        **{"rssm.latent": "categorical" if discrete else "gaussian", "rssm.classes": rssm["discrete"] or 2},
        **{"rssm.cell": "norm_gru", "rssm.std": rssm["std_act"], "rssm.unimix": 0.0, "rssm.clip_action": False},
        **{"rssm.prior_layers": 1, "rssm.posterior_layers": 1, "reward.dist": "normal", "value.dist": "normal"},
        **{
            "reward.squash": {"identity": "none"}.get(c["clip_rewards"], c["clip_rewards"]),
            "policy.dist": "trunc_normal",
        },
        **{"policy.min_std": c["actor"]["min_std"], "value.target": "slow", "value.slow_regularizer": 0.0},
        **{"cont.label": "soft" if c["pred_discount"] else "none", "value.slow_rate": c["slow_target_fraction"]},
        **{
            "cont.start": "recorded" if c["pred_discount"] else "predicted",
            "value.slow_every": c["slow_target_update"],
        },
        **{"kl.dyn": scales["kl"] * kl["balance"], "kl.rep": scales["kl"] * (1 - kl["balance"])},
        **{"kl.free_nats": kl["free"], "kl.free_average": kl["free_avg"], "loss.reward": scales["reward"]},
        **{"loss.cont": scales["discount"], "loss.replay_value": 0.0, "behavior.returns": "departure"},
        **{"behavior.gradient": {"both": "mix"}.get(gradient, gradient), "behavior.gradient_mix": c["actor_grad_mix"]},
        **{"behavior.normalize": "none", "behavior.entropy": c["actor_ent"], "behavior.lambda_": c["discount_lambda"]},
        **{
            "behavior.imagination_length": c["imag_horizon"],
            "behavior.discount_horizon": round(1 / (1 - c["discount"])),
        },
        **{"optimizer.kind": "adam_eps_hat", "optimizer.warmup": 0, "optimizer.agc": 0.0},
        **{"optimizer.learning_rate": optimizers[0]["lr"], "optimizer.actor_learning_rate": optimizers[1]["lr"]},
        **{"optimizer.critic_learning_rate": optimizers[2]["lr"], "optimizer.eps": optimizers[0]["eps"]},
        **{"optimizer.clip": float(optimizers[0]["clip"]), "optimizer.weight_decay": optimizers[0]["wd"]},
    }
    return replace(load(), values)


def env_spec(observation: Mapping[str, np.ndarray], action: int, discrete: bool) -> EnvSpec:
    specs = {name: ArraySpec(x.shape[2:], str(x.dtype)) for name, x in observation.items()}
    return EnvSpec(specs, {"action": ArraySpec((), "int32", action) if discrete else ArraySpec((action,), "float32")})


def our_action(action: np.ndarray, discrete: bool) -> np.ndarray:
    """Classes of one-hot actions; -1, which becomes zeros, where there is none."""
    return np.where(action.any(-1), action.argmax(-1), -1) if discrete else action


def world_model(u: Unit, meta: Mapping[str, Any]) -> Found:
    """``v2-worldmodel_*``."""
    c = meta["config"]
    if c["kl"]["forward"] or c["clip_rewards"] == "sign" or len(c["grad_heads"]) < 2 + c["pred_discount"]:
        return {"": Absent(FORWARD)}
    config, discrete = settings(meta, meta["shapes"]), meta["actions"] == "d"
    observation = {name: u[f"in/{name}"] for name in meta["shapes"]}
    spec = env_spec(observation, u["in/action"].shape[-1], discrete)
    flags = {name: u[f"in/{name}"] > 0 for name in ("is_first", "is_last", "is_terminal")}
    state = u.part("in/state")
    batch = TrajectoryBatch(
        observation,
        {"action": our_action(u["in/action"], discrete)},
        u["in/reward"],
        **flags,
        context={name: state[name] for name in ("deter", "stoch")},
    )
    model, scales = make_world_model(config, spec), loss_scales(config, spec)
    rows = jnp.arange(len(u["in/reward"]))

    @jax.jit
    def total(weights: Any) -> Any:
        losses, aux = model.loss(parity.names.world_v2(weights), KEY, rows, batch)
        return sum(scales[name] * x.mean() for name, x in losses.items()), (losses, aux)

    both = jax.jit(jax.value_and_grad(total, has_aux=True))
    weights = {name: jnp.asarray(x) for name, x in u.part("params0").items()}
    (loss, (losses, aux)), grads = both(weights)
    balance = c["kl"]["balance"]
    rssm = make_rssm(config, tokens=aux.tokens.shape[-1], action=u["in/action"].shape[-1])
    post, stats = aux.posterior, aux.posterior_stats
    likes = {name: -losses[{"reward": "rew", "discount": "con"}.get(name, name)] for name in _likes(u)}
    found: Found = {
        "pre": {
            "reward": np.tanh(batch.reward) if config.reward.squash == "tanh" else batch.reward,
            "discount": aux.cont_target if c["pred_discount"] else Absent("without a head nothing learns it"),
        },
        "loss": loss,
        "grads": grads,
        "out": {
            **{"embed": aux.tokens, "feat": theirs(rssm.features(post)), "post": flat_state(post, stats)},
            **{
                "kl": aux.divergence,
                "prior": flat_state(*prior_of(rssm, parity.names.world_v2(weights)["rssm"], post)),
                "likes": likes,
            },
        },
        "last_state": flat_state(*jax.tree.map(lambda x: x[:, -1], (post, stats))),
        "metrics": {
            **{f"{name}_loss": -x.mean() for name, x in likes.items()},
            "kl_loss": balance * losses["dyn"].mean() + (1 - balance) * losses["rep"].mean(),
            **{"model_kl": aux.divergence.mean(), "prior_ent": aux.prior_entropy.mean()},
            "post_ent": aux.posterior_entropy.mean(),
        },
    }
    chain = make_optimizer(config.optimizer)
    opt_state = chain.init({"model": weights})
    clip = optax.clip_by_global_norm(config.optimizer.clip)
    for step in (1, 2):
        (loss, _), grads = both(weights)
        updates, opt_state = chain.update({"model": grads}, opt_state, {"model": weights})
        weights = optax.apply_updates(weights, updates["model"])
        found[f"step{step}"] = {"loss": loss, "grad_norm": optax.global_norm(grads), "params": weights}
        found[f"step{step}"]["clipped_grads"] = clip.update(grads, clip.init(grads))[0]
    return found


def _likes(u: Unit) -> list[str]:
    return [name.split("/")[2] for name in u if name.startswith("out/likes/")]


def behavior(u: Unit, meta: Mapping[str, Any]) -> Found:
    """``v2-behavior_*``: three updates of actor and critic on the same starts."""
    config, discrete = settings(meta, {}), meta["actions"] == "d"
    start = u.part("in/start")
    stats = {{"logit": "logits"}.get(name, name): x for name, x in start.items() if name not in ("deter", "stoch")}
    posterior = RSSMState(jnp.asarray(start["deter"]), jnp.asarray(start["stoch"]))
    width = u.output("step1/seq/action").shape[-1]
    spec = env_spec({"vector": np.zeros((1, 1, 1), np.float32)}, width, discrete)
    model = make_world_model(config, spec)
    learner = actor_critic.make_actor_critic(config, spec, model)
    terminal, deter = u["in/is_terminal"] > 0, posterior.deter.shape[-1]
    batch = TrajectoryBatch({}, {}, jnp.zeros(terminal.shape), terminal, terminal, terminal)
    world = {name: jnp.asarray(x) for name, x in u.part("params/wm").items()}
    weights = {name: {k: jnp.asarray(x) for k, x in u.part(f"params0/{name}").items()} for name in ("actor", "critic")}
    slow = {name: jnp.asarray(x) for name, x in u.part("params0/target_critic").items()}
    critic_of = lambda w: parity.names.turned(parity.names.head(w), deter)  # noqa: E731

    @jax.jit
    def run(weights: Any, slow: Any, magnitude: jax.Array) -> Any:
        def total(weights: Any) -> Any:
            # A normaliser of rewards that no preset has: the last layer of the head that predicts them takes it in.
            scaled = {k: x / magnitude if k.startswith("heads/reward/out/out/") else x for k, x in world.items()}
            actor = parity.names.turned(parity.names.policy(weights["actor"], discrete), deter)
            params = {"model": parity.names.world_v2(scaled), "actor": actor, "critic": critic_of(weights["critic"])}
            state = TrainState(jnp.zeros((), jnp.int32), params, critic_of(slow), None, initial_range())
            rows = jnp.arange(len(terminal))
            losses, aux = learner.loss(params, state, KEY, rows, posterior=posterior, batch=batch)
            return losses["policy"].mean() + losses["value"].mean(), (losses, aux.details)

        return jax.grad(total, has_aux=True)(weights)

    chain = make_optimizer(config.optimizer)
    opt_state, norm, magnitude, found = chain.init(weights), meta["config"]["reward_norm"], jnp.ones(()), Found()
    for step in (1, 2, 3):
        _, (_, plain) = run(weights, slow, jnp.ones(()))
        size = jnp.abs(plain.imagined.reward).mean()
        magnitude = norm["momentum"] * magnitude + (1 - norm["momentum"]) * size
        divisor = (magnitude + norm["eps"]) / norm["scale"]
        grads, (losses, aux) = run(weights, slow, divisor)
        updates, opt_state = chain.update(grads, opt_state, weights)
        weights = optax.apply_updates(weights, updates)
        # The first of their mixes is a copy, whatever the share; for our presets that is 1, or the two are equal then.
        value = replace(config, {"value.slow_rate": 1.0}).value if step == 1 else config.value
        slow = follow(value, jnp.int32(step), weights["critic"], slow)
        found[f"step{step}"] = {
            "seq": sequence(aux, model, parity.names.world_v2(world), stats, step),
            "target": aux.targets.returns.T,
            "grads": grads,
            "params": weights | {"target_critic": slow},
            "reward_mag": magnitude,
            "metrics": _metrics(config, losses, aux, plain, grads),
        }
    return found


def sequence(aux: Any, model: Any, world: Any, stats: Any, step: int) -> Found:
    """The imagined states [H+1, N] by their names, actions with the state that they led to."""
    path = aux.imagined
    action = path.action["action"].reshape(*path.reward.shape, -1)
    time = lambda x: jnp.swapaxes(x, 0, 1)  # noqa: E731
    action = jnp.concatenate([jnp.zeros_like(action[:, :1]), action[:, :-1]], 1)
    found = {
        "reward": path.reward.T,
        "discount": path.discount.T,
        "weight": aux.targets.credit.cumulative_discount.T,
        "action": time(action),
    }
    if step > 1:
        return found
    later = model.dynamics.prior_stats(world["rssm"], RSSMState(path.features[0][:, 1:], None))
    for name, first in stats.items():
        joined = jnp.concatenate([first.reshape(-1, 1, *first.shape[2:]), later[name]], 1)
        found[{"logits": "logit"}.get(name, name)] = time(joined)
    stoch = path.features[1].reshape(*path.reward.shape, *next(iter(stats.values())).shape[2:])
    return found | {"deter": time(path.features[0]), "stoch": time(stoch), "feat": time(theirs(path.features))}


def _metrics(config: Config, losses: Any, aux: Any, plain: Any, grads: Any) -> Found:
    rewards = {"reward": plain.imagined.reward, "reward_normed": aux.imagined.reward}
    return {
        "actor_loss": losses["policy"].mean(),
        "critic_loss": losses["value"].mean(),
        **{f"{name}_grad_norm": optax.global_norm(x) for name, x in grads.items()},
        **{f"{name}_mean": x.mean() for name, x in rewards.items()},
        **{f"{name}_std": x.std() for name, x in rewards.items()},
        "critic": aux.predictions.value[:, :-1].mean(),
        "critic_slow": aux.predictions.slow_value.mean(),
        "critic_target": aux.targets.returns.mean(),
        "actor_ent": aux.learnt.entropy["action"][:, :-1].mean(),
        "actor_ent_scale": config.behavior.entropy,
        "actor_grad_mix": config.behavior.gradient_mix,
    }
