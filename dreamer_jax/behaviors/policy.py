"""The actor: features to a distribution for every leaf of the action (DreamerV1 to DreamerV3, sec. 3; V3-HEAD)."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dreamer_jax import distributions
from dreamer_jax.config.schema import NetsConfig, PolicyConfig
from dreamer_jax.nets.layers import MLP, Dense
from dreamer_jax.specs import ArraySpec
from dreamer_jax.types import Array, ArrayDict


class Policy(nn.Module):
    """MLP on the features; for each leaf logits [..., size, classes], or mean and std [..., size].

    A continuous leaf has, with raw outputs m and s and the settings of ``PolicyConfig``, one of these:

    - ``normal`` (DreamerV3): tanh(m) and a bounded deviation. Samples may lie outside [-1, 1], are stored so, and are
      clipped by the environment and the RSSM's input alone.
    - ``tanh_normal`` (DreamerV1): tanh of a normal of mean ``mean_scale tanh(m / mean_scale)`` and deviation
      ``softplus(s + ln(e^init_std - 1)) + min_std``.
    - ``trunc_normal`` (DreamerV2): on [-1, 1], tanh(m) and ``2 sigmoid((s + init_std) / 2) + min_std``.
    """

    config: PolicyConfig
    specs: dict[str, ArraySpec]
    inputs: tuple[int, ...]
    dtype: Any = jnp.float32
    nets: NetsConfig = NetsConfig()

    def setup(self) -> None:
        c = self.config
        self.mlp = MLP(self.inputs, c.layers, c.units, self.dtype, self.nets)

        def dense(width: int) -> Dense:
            return Dense(self.mlp.outputs, width, c.init_scale, self.dtype, self.nets)

        names = {False: ("mean", "std"), True: ("logits",)}
        self.heads = {
            name: {part: dense(spec.width) for part in names[spec.discrete]} for name, spec in self.specs.items()
        }

    def __call__(self, *features: jax.Array) -> dict[str, ArrayDict]:
        """Statistics {name: {"logits"} or {"mean", "std"}}, float32."""
        trunk = self.mlp(*features)
        stats = {}
        for name, spec in self.specs.items():
            raw = {part: head(*trunk).astype(jnp.float32) for part, head in self.heads[name].items()}
            if spec.discrete:
                stats[name] = {"logits": raw["logits"].reshape(*raw["logits"].shape[:-1], spec.size, spec.classes)}
            else:
                mean, std = self._bound(raw["mean"], raw["std"])
                stats[name] = {"mean": mean, "std": std}
        return stats

    def _bound(self, mean: jax.Array, std: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and deviation from raw outputs."""
        c = self.config
        match c.dist:
            case "normal":
                return jnp.tanh(mean), (c.max_std - c.min_std) * jax.nn.sigmoid(std + 2) + c.min_std
            case "tanh_normal":
                std = jax.nn.softplus(std + math.log(math.expm1(c.init_std))) + c.min_std
                return c.mean_scale * jnp.tanh(mean / c.mean_scale), std
            case "trunc_normal":
                return jnp.tanh(mean), 2 * jax.nn.sigmoid((std + c.init_std) / 2) + c.min_std

    def distributions(self, stats: dict[str, ArrayDict]) -> dict[str, Any]:
        """A distribution for each leaf; events are one-hot [..., size, classes] or [..., size]."""
        continuous = {
            "normal": distributions.normal,
            "tanh_normal": distributions.tanh_normal,
            "trunc_normal": distributions.trunc_normal,
        }[self.config.dist]
        return {
            name: distributions.categorical(leaf["logits"], self.config.unimix)
            if "logits" in leaf
            else continuous(leaf["mean"], leaf["std"])
            for name, leaf in stats.items()
        }

    def draw(self, stats: dict[str, ArrayDict], noise: ArrayDict | None, *, best: bool = False) -> ArrayDict:
        """Events of every leaf: samples, or, with ``best`` or without noise, the modes.

        The mode of a ``tanh_normal`` is the most likely of the draws that noise of ``best`` makes.
        """
        parts = self.distributions(stats).items()
        if noise is None or best:
            return {name: distributions.mode(part, None if noise is None else noise[name]) for name, part in parts}
        return {name: distributions.sample(part, noise[name]) for name, part in parts}

    def noise(self, key: Array, rows: Array, length: tuple[int, ...], *, best: bool = False) -> ArrayDict:
        """What ``draw`` takes for ``rows``, {name: [rows, *length, size]}; with ``best`` of many draws each."""
        keys, draws = jax.random.split(key, len(self.specs)), (distributions.MODE_DRAWS,) if best else ()
        return {
            name: distributions.draw_noise(
                leaf_key,
                rows,
                (*length, *draws, spec.size),
                distributions.noise_kind(spec.discrete, self.config.dist),
            )
            for leaf_key, (name, spec) in zip(keys, self.specs.items(), strict=True)
        }

    def vector(self, events: ArrayDict) -> jax.Array:
        """Events as the flat vector that the RSSM takes, leaves in sorted order."""
        axes = {name: 2 if spec.discrete else 1 for name, spec in self.specs.items()}
        leaves = [events[name].reshape(*events[name].shape[: -axes[name]], -1) for name in sorted(events)]
        return jnp.concatenate(leaves, -1)

    def for_environment(self, events: ArrayDict) -> ArrayDict:
        """Events as environments and replay take them: class indices, or float32 of the spec's shape."""
        actions = {}
        for name, spec in self.specs.items():
            event = jnp.argmax(events[name], -1).astype(jnp.int32) if spec.discrete else events[name]
            actions[name] = event.reshape(*event.shape[:-1], *spec.shape)
        return actions
