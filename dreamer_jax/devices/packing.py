"""Many arrays as one: put together on the device, fetched in one transfer, taken apart on the host."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.types import Array


class _Leaf(NamedTuple):
    """Where an array lies among the bytes, and what it is."""

    place: int  # among the leaves of the tree
    start: int
    stop: int
    dtype: np.dtype
    shape: tuple[int, ...]


class Packing:
    """``pack`` is for compiled functions, ``unpack`` takes what they return apart again.

    All leaves begin with the same ``axes`` axes, whose lengths may differ from call to call. What else
    they are is noted while the function is traced, and does not.
    """

    def __init__(self, axes: int) -> None:
        self._axes = axes
        self._found: tuple[Any, list[_Leaf]] = None, []

    def pack(self, tree: Any) -> jax.Array:
        """Bytes [..., n]: the same leading axes, and behind them all that lies there."""
        leaves, structure = jax.tree.flatten(tree)
        lead = leaves[0].shape[: self._axes]
        found, parts, start = list[_Leaf](), [], 0
        # Wide types first and rows of a multiple of the widest: so each array is aligned on the host.
        for place in sorted(range(len(leaves)), key=lambda i: -leaves[i].dtype.itemsize):
            leaf = leaves[place]
            shape, dtype = leaf.shape[self._axes :], np.dtype(leaf.dtype)
            stop = start + math.prod(shape) * dtype.itemsize
            found.append(_Leaf(place, start, stop, dtype, shape))
            whole = leaf.astype(jnp.uint8) if dtype.kind == "b" else leaf
            parts.append(jax.lax.bitcast_convert_type(whole, jnp.uint8).reshape(*lead, stop - start))
            start = stop
        parts.append(jnp.zeros((*lead, -start % 8), jnp.uint8))
        self._found = structure, found  # at once, as another thread may unpack meanwhile
        return jnp.concatenate(parts, -1)

    def unpack(self, packed: np.ndarray) -> Any:
        """The tree, as views of ``packed``; further axes before the leading ones stay."""
        structure, found = self._found
        leaves: list[Any] = [None] * len(found)
        for place, start, stop, dtype, shape in found:
            leaves[place] = packed[..., start:stop].view(dtype).reshape((*packed.shape[:-1], *shape))
        return jax.tree.unflatten(structure, leaves)


def fetch(packed: Array) -> np.ndarray:
    """Wait for an array and bring it to the host: where a training loop waits for its device, and nowhere else."""
    return np.asarray(packed)


def ask_for(packed: Array) -> Array:
    """Let an array come to the host as soon as it is there, without waiting."""
    packed.copy_to_host_async()
    return packed
