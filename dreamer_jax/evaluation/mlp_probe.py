"""A probe with one hidden layer, several seeds of it in one program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dreamer_jax.evaluation.episodes import Records
from dreamer_jax.evaluation.probes import Probe
from dreamer_jax.evaluation.ridge import principal_axes, standardise
from dreamer_jax.types import Array

Weights = dict[str, Array]


@dataclass(frozen=True)
class MLPProbe:
    """How it is fitted."""

    hidden: int = 256
    components: int = 256  # wider features are reduced to so many principal components
    seeds: int = 3
    epochs: int = 50  # at most
    patience: int = 10  # epochs without a better validation loss until it stops
    batch_size: int = 256
    learning_rate: float = 1e-3


def fit_mlp(train: Records, validation: Records, *, seed: int = 0, settings: MLPProbe | None = None) -> Probe:
    """``W relu(V x + b) + c`` by Adam on mean squares of standardised numbers, as of its best epoch in validation.

    It starts at the mean of the targets, which stays where no epoch is better.
    """
    settings = settings or MLPProbe()
    target = standardise(train.targets)
    transform = reduce_features(train.features, settings.components)
    x, x_validation = (jnp.asarray(transform(part.features), jnp.float32) for part in (train, validation))
    y, y_validation = (jnp.asarray(target(part.targets), jnp.float32) for part in (train, validation))
    rng, rows, batch = np.random.default_rng(seed), len(x), min(settings.batch_size, len(x))
    start: Weights = {
        "inner": rng.normal(0, (2 / x.shape[1]) ** 0.5, (settings.seeds, x.shape[1], settings.hidden)),
        "inner_bias": np.zeros((settings.seeds, settings.hidden)),
        "outer": np.zeros((settings.seeds, settings.hidden, y.shape[1])),
        "outer_bias": np.zeros((settings.seeds, y.shape[1])),
    }
    order = np.broadcast_to(np.arange(rows, dtype=np.int32), (settings.seeds, settings.epochs, rows))
    order = rng.permuted(order, axis=-1)[..., : rows // batch * batch].reshape(*order.shape[:2], -1, batch)
    start = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), start)
    best, epochs = train_members(start, order, (x, y), (x_validation, y_validation), settings)

    def predict(features: Array) -> np.ndarray:
        x = jnp.asarray(transform(features), jnp.float32)
        return target.inverse(jax.vmap(apply, (0, None))(best, x))

    return Probe(predict, target.mean, {"epochs": float(np.mean(epochs))})


def reduce_features(features: Array, components: int) -> Callable[[Array], np.ndarray]:
    """A function of features: standardised ones, or their first principal components with a mean variance of 1."""
    if np.shape(features)[1] <= components:
        return standardise(features).__call__
    axes = principal_axes(features)
    axes = axes._replace(directions=axes.directions[:, :components], squares=axes.squares[:components])
    scale = np.sqrt(np.mean(axes.squares) / len(features))
    return lambda x: axes(x) / scale


def apply(weights: Weights, x: Array) -> jax.Array:
    hidden = jax.nn.relu(x @ weights["inner"] + weights["inner_bias"])
    return hidden @ weights["outer"] + weights["outer_bias"]


def loss(weights: Weights, data: tuple[Array, Array]) -> jax.Array:
    return jnp.square(apply(weights, data[0]) - data[1]).mean()


@partial(jax.jit, static_argnames="settings")
@partial(jax.vmap, in_axes=(0, 0, None, None, None))
def train_members(
    weights: Weights, order: Array, train: tuple[Array, Array], validation: tuple[Array, Array], settings: MLPProbe
) -> tuple[Weights, jax.Array]:
    """The best weights of each member, and after how many epochs it had them.

    Args:
      order: [members, epochs, steps, batch], the rows of each step.
    """
    optimizer = optax.adam(settings.learning_rate)

    def step(carry: Any, rows: Array) -> tuple[Any, None]:
        weights, state = carry
        grads = jax.grad(loss)(weights, jax.tree.map(lambda x: x[rows], train))
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(weights, updates), state), None

    def epoch(carry: Any) -> Any:
        number, at, lowest, best, *learner = carry
        learner, _ = jax.lax.scan(step, tuple(learner), order[number])
        reached = loss(learner[0], validation)
        better = reached < lowest
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), learner[0], best)
        return number + 1, jnp.where(better, number + 1, at), jnp.minimum(reached, lowest), best, *learner

    def goes_on(carry: Any) -> jax.Array:
        number, at = carry[:2]
        return (number < settings.epochs) & (number - at < settings.patience)

    none = jnp.int32(0)
    start = none, none, loss(weights, validation), weights, weights, optimizer.init(weights)
    final = jax.lax.while_loop(goes_on, epoch, start)
    return final[3], final[1]
