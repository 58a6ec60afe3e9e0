"""DreamerV2's actor and critic on given states and actions against recordings of the authors'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import parity.names
from dreamer_jax.behaviors import actor_critic
from dreamer_jax.behaviors.imagination import Rollout
from dreamer_jax.config.loading import load, replace
from dreamer_jax.models.rssm import RSSMState
from dreamer_jax.models.world_model import make_world_model
from dreamer_jax.ops.moments import initial_range
from dreamer_jax.types import TrainState, TrajectoryBatch
from parity.family_v2 import KEY, env_spec
from parity.units import Absent, Found, Unit


def given(u: Unit, meta: Mapping[str, Any]) -> Found:
    """``v2-actorcritic``: actor and critic on given states and actions [H+1, N]."""
    found: Found = {}
    for case, options in meta["cases"].items():
        if isinstance(options["actor_ent"], str):
            found[f"{case}/"] = Absent("no preset changes a setting as time passes")
        else:
            found[case] = _given(u, case, options, meta["dims"])
    return found


def _given(u: Unit, case: str, options: Mapping[str, Any], dims: Mapping[str, int]) -> Found:
    seq = {name: jnp.asarray(u[f"{case}/in/{name}"]) for name in ("feat", "action", "reward", "discount")}
    weights = {
        part: {name: jnp.asarray(x) for name, x in u.part(f"{case}/params/{part}").items()}
        for part in ("actor", "critic", "target_critic")
    }
    discrete, deter = options["dist"] == "onehot", dims["deter"]
    steps, width, count = len(seq["feat"]) - 1, seq["action"].shape[-1], seq["feat"].shape[1]
    layers = {"layers": dims["layers"], "units": dims["units"]}
    config = replace(
        load(),
        {
            **{f"{part}.{k}": x for part in ("policy", "value") for k, x in layers.items()},
            **{"dtype": "float32", "nets.norm": "none", "nets.activation": "elu", "rssm.latent": "gaussian"},
            **{"rssm.deter": deter, "rssm.stoch": seq["feat"].shape[-1] - deter, "rssm.cell": "norm_gru"},
            **{"policy.dist": "trunc_normal", "policy.min_std": options["min_std"], "value.dist": "normal"},
            **{"value.target": "slow", "value.slow_regularizer": 0.0, "loss.replay_value": 0.0},
            **{"behavior.returns": "departure", "behavior.normalize": "none", "behavior.lambda_": options["lambda_"]},
            **{"behavior.gradient": {"both": "mix"}.get(options["actor_grad"], options["actor_grad"])},
            **{"behavior.gradient_mix": options["actor_grad_mix"], "behavior.entropy": options["actor_ent"]},
            **{"behavior.imagination_length": steps, "behavior.chunk_rows": 0},
        },
    )
    spec = env_spec({"vector": np.zeros((1, 1, 1), np.float32)}, width, discrete)
    model, none = make_world_model(config, spec), jnp.zeros((count, 1))
    start = RSSMState(jnp.zeros((count, 1, deter)), jnp.zeros((count, 1, config.rssm.stoch)))
    batch = TrajectoryBatch({}, {}, none, none, none, none)

    def run(weights: Any, seq: Any) -> Any:
        def predict(_: Any, feat: Any) -> tuple[jax.Array, ...]:
            place = slice(None, -1) if feat[0].ndim == 3 else -1  # all states but the last, or that
            return seq["reward"][place], seq["discount"][place]

        learner = actor_critic.make_actor_critic(config, spec, model._replace(predict=predict))
        actor = parity.names.turned(parity.names.policy(weights["actor"], discrete), deter)
        critics = [parity.names.turned(parity.names.head(weights[name]), deter) for name in ("critic", "target_critic")]
        params = {"model": {}, "actor": actor, "critic": critics[0]}
        state = TrainState(jnp.zeros((), jnp.int32), params, critics[1], None, initial_range())
        both = seq["feat"][..., -deter:], seq["feat"][..., :-deter]
        taken = seq["action"][1:, :, None] if discrete else seq["action"][1:]
        path = Rollout(
            tuple(x[:-1] for x in both), {"action": taken}, tuple(x[-1] for x in both), {"action": taken[-1]}
        )
        with mock.patch.object(actor_critic, "imagine", lambda *_, **__: path):
            losses, aux = learner.loss(params, state, KEY, jnp.arange(count), posterior=start, batch=batch)
        return losses["policy"].mean(), (losses, aux.details)

    (actor_loss, (losses, aux)), (by_weights, by_seq) = jax.jit(jax.value_and_grad(run, (0, 1), has_aux=True))(
        weights, seq
    )
    by_critic = jax.jit(jax.grad(lambda w: run(w, seq)[1][0]["value"].mean()))(weights)
    return {
        **{"actor_loss": actor_loss, "critic_loss": losses["value"].mean(), "ent_scale": config.behavior.entropy},
        **{
            "target": aux.targets.returns.T,
            "slow_value": aux.predictions.slow_value.T,
            "critic_value": aux.predictions.value[:, :-1].T,
        },
        **{"baseline": aux.predictions.slow_value[:, :-2].T, "in/weight": aux.targets.credit.cumulative_discount.T},
        **{name: getattr(aux.learnt, name)["action"][:, :-1].T for name in ("log_prob", "entropy")},
        "grad_actor_loss": {
            **{"params": by_weights["actor"], "seq": by_seq},
            "seq/weight": Absent("weights come from discounts, and have no gradient"),
            "target": Absent("returns come from rewards, whose gradients are compared"),
        },
        "grad_critic_loss/params": by_critic["critic"],
    }
