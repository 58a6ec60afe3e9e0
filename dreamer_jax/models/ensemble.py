"""An ensemble of predictors of the next observation, whose disagreement says what the model does not know yet.

Plan2Explore (Sekar et al. 2020, sec. 3): models of one step, which differ in their initial parameters alone, predict
the tokens of the next observation from the latent features and the action. Where they have learnt what follows they
agree, also on what can't be predicted, because all learn its mean.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from dreamer_jax.config.schema import Config
from dreamer_jax.interfaces.dynamics import InitParams
from dreamer_jax.interfaces.world_model import Disagree
from dreamer_jax.models.heads import Head
from dreamer_jax.types import Array, Features, Params

stop = jax.lax.stop_gradient


class EnsembleLoss(Protocol):
    def __call__(self, params: Params, feat: Features, action: Array, is_first: Array, tokens: Array, /) -> Array:
        """[B, T] of features [B, T, F_i], actions [B, T, A] that led to them, resets [B, T] and tokens [B, T, W]."""
        ...


class Ensemble(NamedTuple):
    init: InitParams
    loss: EnsembleLoss
    disagree: Disagree


def make_ensemble(config: Config, inputs: tuple[int, ...], action: int, width: int, *, dtype: Any) -> Ensemble:
    """Of features of widths ``inputs`` and ``action``-wide actions, for tokens of ``width``."""
    c = config.explore
    member = Head(
        (*inputs, action),
        layers=c.ensemble_layers,
        units=c.ensemble_units,
        outputs=width,
        scale=1.0,
        dtype=dtype,
        nets=config.nets,
    )

    def init(key: Array) -> Params:
        example = [jnp.zeros((1, size), jnp.float32) for size in (*inputs, action)]
        members = [member.init(each, *example)["params"] for each in jax.random.split(key, c.ensemble)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)

    def predict(params: Params, feat: Features, action: Array) -> jax.Array:
        """[K, ..., W]."""
        predicted: jax.Array = jax.vmap(lambda each: member.apply({"params": each}, *feat, action))(params)
        return predicted

    def loss(params: Params, feat: Features, action: Array, is_first: Array, tokens: Array) -> jax.Array:
        """Squared errors, the sum of all members and the mean over numbers; 0 where nothing leads to a record."""
        before = tuple(stop(jnp.asarray(x)[:, :-1]) for x in feat)
        target = stop(jnp.asarray(tokens).astype(jnp.float32)[:, 1:])
        error = jnp.square(predict(params, before, jnp.asarray(action)[:, 1:]) - target).mean(-1).sum(0)
        known = 1 - jnp.asarray(is_first)[:, 1:].astype(jnp.float32)
        return jnp.pad(error * known, ((0, 0), (1, 0)))

    def disagree(params: Params, feat: Features, action: Array) -> jax.Array:
        return jnp.std(predict(params, feat, action), 0).mean(-1)

    return Ensemble(init=init, loss=loss, disagree=disagree)
