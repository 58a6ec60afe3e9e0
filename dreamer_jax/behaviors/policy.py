"""The actor: features to a distribution for every leaf of the action (DreamerV3, sec. 3; V3-HEAD)."""

from __future__ import annotations

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

    A continuous leaf is a plain normal with ``tanh`` mean and bounded deviation: its samples may lie
    outside [-1, 1], are stored so, and are clipped by the environment and the RSSM's input alone.
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
        c, stats = self.config, {}
        for name, spec in self.specs.items():
            raw = {part: head(*trunk).astype(jnp.float32) for part, head in self.heads[name].items()}
            if spec.discrete:
                stats[name] = {"logits": raw["logits"].reshape(*raw["logits"].shape[:-1], spec.size, spec.classes)}
            else:
                std = (c.max_std - c.min_std) * jax.nn.sigmoid(raw["std"] + 2) + c.min_std
                stats[name] = {"mean": jnp.tanh(raw["mean"]), "std": std}
        return stats

    def distributions(self, stats: dict[str, ArrayDict]) -> dict[str, Any]:
        """A distribution for each leaf; events are one-hot [..., size, classes] or [..., size]."""
        unimix = self.config.unimix
        return {
            name: distributions.categorical(leaf["logits"], unimix)
            if "logits" in leaf
            else distributions.normal(leaf["mean"], leaf["std"])
            for name, leaf in stats.items()
        }

    def draw(self, stats: dict[str, ArrayDict], noise: ArrayDict | None) -> ArrayDict:
        """Events of every leaf: samples, or without noise the modes."""
        parts = self.distributions(stats).items()
        return {
            name: distributions.mode(part) if noise is None else distributions.sample(part, noise[name])
            for name, part in parts
        }

    def noise(self, key: Array, rows: Array, length: tuple[int, ...]) -> ArrayDict:
        """What ``draw`` takes for ``rows``, {name: [rows, *length, size]}."""
        keys = jax.random.split(key, len(self.specs))
        return {
            name: distributions.draw_noise(
                leaf_key, rows, (*length, spec.size), distributions.noise_kind(spec.discrete)
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
