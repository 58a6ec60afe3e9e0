"""Metrics of DreamerV3 in 2023 and 2024 by their names there, from what our update hands out.

They have five numbers of each array, of which our own metrics are a few: those are taken from the update itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dreamer_jax.agent import loss_scales
from dreamer_jax.optim import norm
from parity.older_heads import Heads, start_reward
from parity.older_names import Names
from parity.training import Recording, Update

Found = dict[str, Any]
Number = Callable[[np.ndarray], Any]
LOSSES = {"rew": "reward", "con": "cont", "policy": "actor", "value": "critic", "repval": "replay_critic"}
"""The authors' names of losses by ours, where they differ."""
OWN = {"adv/mean": "adv", "adv/std": "adv_std", "prior_ent/mean": "dyn_ent", "post_ent/mean": "rep_ent"}
OWN |= {"ret/mean": "tar", "ret_normed/mean": "ret", "ret_normed/min": "ret_min", "ret_normed/max": "ret_max"}
OWN |= {"val/mean": "val", "weight/mean": "weight"}
"""Our metrics by the authors' names in 2024."""
RENAMED = {"ret": "extr_return_raw", "ret_normed": "extr_return_normed", "rand": "policy_randomness"}
RENAMED |= {"ent": "policy_entropy", "logp": "policy_logprob", "act": "action"}
"""Arrays of one action's agent, from their names of 2024 to those of 2023."""


def metrics_2024(names: Names, heads: Heads, recording: Recording, update: Update) -> Found:
    """``mag`` is the mean of absolute values."""
    aux, ours, reward = update.seen.aux, update.metrics, start_reward(update.seen, recording.batch)
    behavior = aux["behavior"]
    arrays = _arrays(recording, update) | {"replay_ret": behavior["replayed"]["returns"], "rew": reward}
    found = _numbers(arrays, np.mean) | {name: ours[own] for name, own in OWN.items()} | {"adv/mag": ours["adv_mag"]}
    for name, values in _losses(update).items():
        found |= {f"{name}_loss": values.mean(), f"{name}_loss_std": values.std()}
    for name, values in (("data_rew", recording.batch.reward), ("pred_rew", reward)):
        found |= {f"{name}/max": np.abs(values).max(), f"{name}/mean": values.mean(), f"{name}/std": values.std()}
    for head, numbers in _balances(_replayed(heads, recording, update), recording).items():
        found |= {f"{head}stats/{name}": value for name, value in numbers.items()}
    return found | {
        **{f"ent/{name}/mean": ours[f"ent/{name}"] for name in recording.spec.action},
        "activation/embed": np.abs(aux["model"]["tokens"]).mean(),
        "td_error": np.abs(behavior["returns"] - behavior["value"][:, :-1]).mean(),
        "ret_rate": (np.abs(behavior["returns"]) > 1).mean(),
        "opt_grad_norm": ours["opt/grad_norm"],
        "opt_update_norm": names.root_size * ours["opt/update_rms"],
        "opt_param_norm": names.root_size * ours["opt/param_rms"],
        "opt_loss": ours["loss/total"],
        "opt_grad_steps": update.after.step,
        "opt_param_count": names.recorded_size,
    }


def metrics_2023(names: Names, heads: Heads, recording: Recording, update: Update) -> Found:
    """``mag`` is the largest absolute value; the three optimisers have their own."""
    aux, behavior, batch = update.seen.aux, update.seen.aux["behavior"], recording.batch
    (action,) = recording.spec.action
    arrays = {name.removesuffix(f"/{action}"): values for name, values in _arrays(recording, update).items()}
    arrays |= {"extr_reward": behavior["imagined"].reward[:, 1:], "extr_critic": behavior["value"][:, :-1]}
    numbers = _numbers(arrays, np.max) | {name: update.metrics[own] for name, own in OWN.items()}
    numbers["ent/mean"] = update.metrics[f"ent/{action}"]
    found = {}
    for name, value in numbers.items():
        array, _, number = name.partition("/")
        found[f"{RENAMED.get(array, array)}_{number}"] = value

    scaled = {name: loss_scales(recording.config, recording.spec)[name] * x for name, x in aux["losses"].items()}
    losses = {"actor": scaled.pop("policy"), "critic": scaled.pop("value"), "model": sum(scaled.values())}
    for name, values in (_losses(update) | losses).items():
        found |= {f"{name}_loss_mean": values.mean(), f"{name}_loss_std": values.std()}
    for group, place in (("model", "model_opt"), ("actor", "actor_opt"), ("critic", "extr_critic_critic_opt")):
        found |= {f"{place}_loss": losses[group].mean(), f"{place}_grad_norm": norm(update.seen.grads[group])}
        found[f"{place}_grad_steps"] = update.after.step
    said = _replayed(heads, recording, update)
    for head, balance in _balances(said, recording).items():
        found |= {f"{LOSSES[head]}_{name}": value for name, value in balance.items()}
    return found | {
        "extr_return_rate": (np.abs(behavior["returns"]) >= 0.5).mean(),
        "reward_max_data": np.abs(batch.reward).max(),
        "reward_max_pred": np.abs(said["reward"]).max(),
    }


def _numbers(arrays: dict[str, np.ndarray], magnitude: Number) -> Found:
    numbers: dict[str, Number] = {"mean": np.mean, "std": np.std, "min": np.min, "max": np.max}
    numbers["mag"] = lambda x: magnitude(np.abs(x))
    return {f"{name}/{kind}": number(x) for name, x in arrays.items() for kind, number in numbers.items()}


def _arrays(recording: Recording, update: Update) -> dict[str, np.ndarray]:
    """By the authors' names in 2024; those of actions end in the action's name."""
    model, behavior = update.seen.aux["model"], update.seen.aux["behavior"]
    returns, policy = behavior["returns"], recording.config.policy
    arrays = {
        "adv": behavior["advantage"],
        "prior_ent": model["prior_entropy"],
        "post_ent": model["posterior_entropy"],
        "ret": returns,
        "ret_normed": (returns - behavior["moments"]["low"]) / behavior["scale"],
        "val": behavior["value"],
        "weight": behavior["weight"],
    }
    for name, leaf in recording.spec.action.items():
        event, entropy = behavior["imagined"].action[name], behavior["entropy"][name]
        normal = [
            leaf.size * math.log(std * math.sqrt(2 * math.pi * math.e)) for std in (policy.min_std, policy.max_std)
        ]
        least, most = (0.0, leaf.size * math.log(leaf.classes)) if leaf.classes else normal
        arrays |= {
            f"act/{name}": event.argmax(-1).astype(np.float32) if leaf.classes else event,
            f"ent/{name}": entropy,
            f"rand/{name}": (entropy - least) / (most - least),
            f"logp/{name}": behavior["log_prob"][name],
        }
    return arrays


def _losses(update: Update) -> dict[str, np.ndarray]:
    """By the authors' names; those of actor and critic of every imagined state."""
    behavior = update.seen.aux["behavior"]
    losses = update.seen.aux["losses"] | {"policy": behavior["policy_loss"], "value": behavior["value_loss"]}
    return {LOSSES.get(name, name): x for name, x in losses.items()}


def _replayed(heads: Heads, recording: Recording, update: Update) -> dict[str, np.ndarray]:
    said = heads.replayed(update.before.params["model"], update.seen.aux["model"]["posterior"], recording.batch)
    return {name: np.asarray(x) for name, x in said.items()}


def _balances(said: dict[str, np.ndarray], recording: Recording) -> dict[str, Found]:
    """How well rewards and continuations are told, apart for those above and below a threshold."""
    reward, going = recording.batch.reward, 1 - recording.batch.is_terminal.astype(np.float32)
    return {
        "rew": _balance(said["reward"], said["reward_loss"], reward, 0.1),
        "con": _balance(said["going"], said["going_loss"], going, 0.5),
    }


def _balance(prediction: np.ndarray, loss: np.ndarray, target: np.ndarray, threshold: float) -> Found:
    many, told = target > threshold, prediction > threshold
    found: Found = {"rate": many.mean(), "avg": target.mean(), "pred": prediction.mean()}
    for name, some, right in (("pos", many, told), ("neg", ~many, ~told)):
        if some.any():
            found |= {f"{name}_loss": loss[some].mean(), f"{name}_acc": right[some].mean()}
    return found
