"""Updates compiled for one device, or for several that share each batch. The only place that knows ``pmap``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import jax_utils

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.types import Array, TrainState

AXIS = "devices"
"""Name under which ``make_agent(axis_name=...)`` finds the other devices."""

Update = Callable[[TrainState, Array, Any], tuple[TrainState, Any, Any]]


def check_devices(num_devices: int) -> None:
    """Refuse to share batches among more devices than there are."""
    found = jax.local_device_count()
    if num_devices > found:
        raise ConfigError(f"train.devices: got {num_devices}, JAX finds {found} ({jax.devices()[0].device_kind})")


def repeat(update: Update) -> Update:
    """``update`` over K batches stacked on a leading axis; its key is folded from the state's step."""

    def updates(state: TrainState, root: Array, batches: Any) -> tuple[TrainState, Any, Any]:
        def step(state: TrainState, batch: Any) -> tuple[TrainState, Any]:
            state, metrics, latents = update(state, jax.random.fold_in(root, state.step), batch)
            return state, (metrics, latents)

        if jax.tree.leaves(batches)[0].shape[0] == 1:  # a loop of one is not free: see updates_per_dispatch
            state, outputs = step(state, jax.tree.map(lambda x: x[0], batches))
            metrics, latents = jax.tree.map(lambda x: x[None], outputs)
        else:
            state, (metrics, latents) = jax.lax.scan(step, state, batches)
        return state, metrics, latents

    return updates


def data_parallel(update: Update, num_devices: int) -> Update:
    """K updates in one compiled call that gives its old state away: jit, or pmap over ``num_devices``.

    Batches are [K, B, ...]; with several devices each takes B / num_devices rows, the state carries a
    leading device axis (``replicate``), and metrics and latents come back as from one device.
    """
    if num_devices == 1:
        return jax.jit(repeat(update), donate_argnums=0)
    mapped = jax.pmap(
        repeat(update), AXIS, in_axes=(0, None, 0), donate_argnums=0, devices=jax.local_devices()[:num_devices]
    )

    def split(x: Array) -> np.ndarray:
        parts = np.asarray(x).reshape(x.shape[0], num_devices, -1, *x.shape[2:])
        return np.swapaxes(parts, 0, 1)

    def join(x: Array) -> np.ndarray:
        parts = np.swapaxes(np.asarray(x), 0, 1)
        return parts.reshape(len(parts), -1, *parts.shape[3:])

    def updates(state: TrainState, root: Array, batches: Any) -> tuple[TrainState, Any, Any]:
        state, metrics, latents = mapped(state, root, jax.tree.map(split, batches))
        return state, unreplicate(metrics), jax.tree.map(join, latents)

    return updates


def replicate(state: TrainState, num_devices: int) -> TrainState:
    """The state as ``data_parallel`` takes it."""
    return state if num_devices == 1 else jax_utils.replicate(state, jax.local_devices()[:num_devices])


def unreplicate(tree: Any) -> Any:
    """One device's copy; indexing would gather the others first."""
    return jax.tree.map(lambda x: x.addressable_shards[0].data[0], tree)
