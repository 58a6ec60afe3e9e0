"""What the losses of actor and critic are made of, and metrics of it. Letters: N starts, H steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dreamer_jax.behaviors.credit import Credit
from dreamer_jax.specs import ArraySpec
from dreamer_jax.types import Array, ArrayDict, ImaginedTrajectory

stop = jax.lax.stop_gradient


class Predictions(NamedTuple):
    """What the heads say of imagined states, [N, H+1]."""

    reward: Array
    discount: Array  # probability of going on, discount included
    value: Array
    slow_value: Array


class Targets(NamedTuple):
    """What actor and critic are to learn, and how returns are scaled for it."""

    credit: Credit
    returns: Array  # [N, H] the critic's target, without a gradient
    every_return: Array  # the same of all devices
    advantage: Array  # [N, H] scaled
    moments: ArrayDict  # the next ``TrainState.moments``
    scale: Array  # [] what advantages are divided by


class Learnt(NamedTuple):
    """Losses of imagined states and what they come from, [N, H, ...]."""

    policy_loss: Array
    value_loss: Array
    policy: dict[str, ArrayDict]  # {name: statistics}
    log_prob: ArrayDict
    entropy: ArrayDict  # empty where it has no weight


class ReplayedValues(NamedTuple):
    """The critic on replayed states, [B, T]."""

    logits: Array  # [B, T, ...] what the critic puts out
    value: Array
    slow_value: Array
    returns: Array  # [B, T-1] from the next reward on
    weight: Array  # 0 at the end of an episode


class Details(NamedTuple):
    """``BehaviorAux.details`` of an actor-critic."""

    imagined: ImaginedTrajectory
    predictions: Predictions
    targets: Targets
    learnt: Learnt
    replayed: ReplayedValues | None


def learning_metrics(
    predictions: Predictions, targets: Targets, entropy: ArrayDict, specs: Mapping[str, ArraySpec]
) -> dict[str, jax.Array]:
    """Means and extremes {name: []} of what was imagined; ``ret`` are returns as advantages are scaled."""
    advantage = stop(targets.advantage)
    normed = (targets.every_return - targets.moments["low"]) / targets.scale  # moments stay 0 if nothing is normalised
    return {
        "adv": advantage.mean(),
        "adv_std": advantage.std(),
        "adv_mag": jnp.abs(advantage).mean(),
        "rew": predictions.reward.mean(),
        "con": predictions.discount.mean(),
        "ret": normed.mean(),
        "ret_min": normed.min(),
        "ret_max": normed.max(),
        "ret_rate": (jnp.abs(normed) >= 1).mean(),
        "val": predictions.value.mean(),
        "tar": targets.returns.mean(),
        "weight": targets.credit.cumulative_discount.mean(),
        "slowval": predictions.slow_value.mean(),
        **{f"ent/{name}": x.mean() for name, x in entropy.items()},
        # As a fraction of the uniform policy's.
        **{
            f"rand/{name}": entropy[name].mean() / (leaf.size * math.log(leaf.classes))
            for name, leaf in specs.items()
            if leaf.classes is not None and leaf.classes > 1 and entropy
        },
    }
