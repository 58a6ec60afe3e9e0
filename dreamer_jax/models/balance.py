"""What the parts of the loss count: as settings say, by a schedule, or as the model learns it.

Cyclical annealing is of Fu et al. 2019, learnt scales are of HarmonyDream (Ma et al. 2024, eq. 5).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dreamer_jax.config.schema import Config, KLConfig
from dreamer_jax.specs import EnvSpec
from dreamer_jax.types import Array, ArrayDict, Params

DIVERGENCES = ("dyn", "rep", "overshooting")
"""Losses that are a KL."""


class Balance(NamedTuple):
    """``total(params, step, losses)`` is the sum [] of losses {name: [B, T]}; ``params`` are the model's."""

    init: Callable[[], dict[str, Params]]  # parameters to add to the model's
    total: Callable[[Params, Array, ArrayDict], jax.Array]
    metrics: Callable[[Params, Array], dict[str, jax.Array]]


def make_balance(config: Config, spec: EnvSpec, scales: dict[str, float]) -> Balance:
    """Of losses with these ``scales``; those of a KL change as ``kl.schedule`` says.

    Where they are learnt, the mean ``L`` of a group (all observations; the reward; both KL, of whose ``scales`` only
    the ratio is then used) counts as ``L exp(-s) + ln(1 + exp(s))``, with a parameter ``s`` that begins with 0.
    """
    kl = config.kl
    seen = tuple(spec.observation) if config.representation.kind == "decoder" else ("representation",)
    groups = {"observation": seen, "reward": ("rew",), "kl": ("dyn", "rep")}
    learned = config.loss.balance == "learned"
    whole = kl.dyn + kl.rep if learned else 1

    def init() -> dict[str, Params]:
        return {"balance": {group: jnp.zeros(()) for group in groups}} if learned else {}

    def total(params: Params, step: Array, losses: ArrayDict) -> jax.Array:
        factor = kl_factor(kl, step)
        if factor is None and not learned:
            return jnp.asarray(sum(scales[name] * value.mean() for name, value in losses.items()))
        terms = {name: scales[name] * value.mean() for name, value in losses.items()}
        if factor is not None:
            terms |= {name: factor * terms[name] for name in DIVERGENCES if name in terms}
        if learned:
            for group in (group for group, names in groups.items() if names[0] in terms):
                s, names = params["balance"][group], groups[group]
                together = sum(terms.pop(name) for name in names) / (whole if group == "kl" else 1)
                terms[group] = together * jnp.exp(-s) + jax.nn.softplus(s)
        return jnp.asarray(sum(terms.values()))

    def metrics(params: Params, step: Array) -> dict[str, jax.Array]:
        factor = kl_factor(kl, step)
        scheduled = {} if factor is None or kl.schedule == "constant" else {"scale/kl": jnp.asarray(factor)}
        return scheduled | {f"scale/{group}": jnp.exp(-s) for group, s in params.get("balance", {}).items()}

    return Balance(init=init, total=total, metrics=metrics)


def kl_factor(config: KLConfig, step: Array) -> Array | None:
    """What all scales of a KL are multiplied with in update ``step``, from 0; None where it is always 1."""
    if config.schedule == "constant":
        return None if isinstance(config.beta, int | float) and config.beta == 1 else config.beta
    done = step / config.schedule_updates
    rising = done if config.schedule == "linear" else 2 * (done % 1)
    return config.beta * jnp.minimum(1.0, rising)


def free_nats(config: KLConfig, step: Array) -> Array:
    """``kl.free_nats`` in update ``step``, from 0."""
    if not config.free_nats_updates:
        return config.free_nats
    done = jnp.minimum(1.0, step / config.free_nats_updates)
    return config.free_nats + done * (config.free_nats_final - config.free_nats)
