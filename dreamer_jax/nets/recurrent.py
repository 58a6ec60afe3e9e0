"""Recurrent cells of the RSSM."""

from __future__ import annotations

import operator
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from dreamer_jax.config.schema import NetsConfig
from dreamer_jax.nets.layers import MLP, Dense, Layer, LayerNorm, RMSNorm, parameter, product, truncated_normal
from dreamer_jax.ops.deferred import use_weight


class BlockGRU(nn.Module):
    """GRU whose recurrent layers are block-diagonal (DreamerV3, sec. 3; V3-HEAD).

    Every block sees its own slice of ``deter`` and the same three embedded inputs. The block layers
    work on [blocks, N, D/blocks]: any other layout makes the compiler transpose around each block product.
    """

    deter: int
    hidden: int
    stoch: int  # width of the flat stochastic state
    action: int
    blocks: int
    layers: int
    dtype: Any = jnp.float32
    nets: NetsConfig = NetsConfig()

    def setup(self) -> None:
        blocks, block, hidden = self.blocks, self.deter // self.blocks, self.hidden
        self.embed = [Layer((width,), hidden, self.dtype, self.nets) for width in (self.deter, self.stoch, self.action)]
        kernels, biases, norms = [], [], []
        for index in range(self.layers):
            shared = 3 * hidden if index == 0 else 0
            # The variance follows the width of all blocks together, as in the reference.
            fan_in = self.deter + blocks * shared
            kernels.append(
                parameter(self, f"hidden{index}_kernel", truncated_normal(fan_in), (blocks, block + shared, block))
            )
            biases.append(parameter(self, f"hidden{index}_bias", nn.initializers.zeros, (self.deter,)))
            norms.append(RMSNorm((blocks, 1, block), axes=(0, 2)))
        self.kernels, self.biases, self.norms = kernels, biases, norms
        self.gates_kernel = parameter(self, "gates_kernel", truncated_normal(self.deter), (blocks, block, 3 * block))
        self.gates_bias = parameter(self, "gates_bias", nn.initializers.zeros, (3 * self.deter,))

    def action_term(self, action: jax.Array) -> jax.Array:
        """What the action adds to the first block layer, [..., D]; independent of the state."""
        return self._shared(2, self.embed[2](action))

    def _shared(self, first: int, *xs: jax.Array) -> jax.Array:
        """Product of inputs that all blocks share with the rows of the first kernel that meet them."""
        start, width = self.deter // self.blocks + first * self.hidden, len(xs) * self.hidden
        rows = self.kernels[0][:, start : start + width]
        # One dense product of width D for all blocks, instead of repeating the inputs in each.
        kernel = jnp.swapaxes(rows, 0, 1).reshape(width, self.deter)
        return use_weight(product, jnp.concatenate(xs, -1), kernel.astype(self.dtype))

    def __call__(
        self, deter: jax.Array, before: jax.Array, stoch: jax.Array, action_term: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The next ``deter`` in float32, as rows [N, D] and in blocks, from both, flat stoch and ``action_term``.

        A scan carries both: then nothing enters the blocks in a step, and one copy of what leaves them serves all.
        """
        blocks, block = self.blocks, self.deter // self.blocks
        shared = self._shared(0, self.embed[0](deter), self.embed[1](stoch)) + action_term
        x = before.astype(self.dtype)
        for index, (kernel, bias, norm) in enumerate(zip(self.kernels, self.biases, self.norms, strict=True)):
            x = block_product(x, kernel[:, :block], bias)
            if index == 0:
                x = x + enter_blocks(shared, blocks)
            x = nn.silu(norm(x))
        gates = block_product(x, self.gates_kernel, self.gates_bias).astype(jnp.float32)
        reset, candidate, update = jnp.split(gates, 3, -1)
        candidate = jnp.tanh(nn.sigmoid(reset) * candidate)
        update = nn.sigmoid(update - 1)
        after = update * candidate + (1 - update) * before.astype(jnp.float32)
        return jnp.swapaxes(after, 0, 1).reshape(deter.shape), after


class GRU(nn.Module):
    """``x`` = a layer of [stoch, action], then a gated recurrent unit of ``x`` and ``deter`` (h).

    - ``norm_gru`` (DreamerV2): r, c, u = norm(W [x, h] + b); h' = s(u - 1) tanh(s(r) c) + (1 - s(u - 1)) h.
    - ``gru`` (DreamerV1; Keras): products of x and h have a bias each; h' = s(u) h + (1 - s(u)) tanh(c_x + s(r) c_h).
    - ``gru_reset_before`` (PlaNet): h' = s(u) h + (1 - s(u)) tanh(W [x, s(r) h] + b), gates begin with a bias of 1.
    """

    kind: Literal["norm_gru", "gru", "gru_reset_before"]
    deter: int
    hidden: int
    stoch: int  # width of the flat stochastic state
    action: int
    dtype: Any = jnp.float32
    nets: NetsConfig = NetsConfig()

    def setup(self) -> None:
        width, dtype, nets = self.deter, self.dtype, self.nets
        self.embed = Layer((self.stoch, self.action), self.hidden, dtype, nets)
        both = (self.hidden, width)
        match self.kind:
            case "norm_gru":
                self.gates = Dense(both, 3 * width, dtype=dtype, nets=nets, use_bias=nets.bias)
                self.norm = LayerNorm(3 * width)
            case "gru":
                self.from_input = Dense((self.hidden,), 3 * width, dtype=dtype, nets=nets)
                orthogonal = nn.initializers.orthogonal()
                self.from_state = Dense((width,), 3 * width, dtype=dtype, nets=nets, kernel_init=orthogonal)
            case "gru_reset_before":
                self.gates = Dense(both, 2 * width, dtype=dtype, nets=nets, bias_init=nn.initializers.ones)
                self.candidate = Dense(both, width, dtype=dtype, nets=nets)

    def action_term(self, action: jax.Array) -> jax.Array:
        """What the action adds to the layer before the cell, [..., hidden]; independent of the state."""
        return self.embed.dense.add_bias(self.embed.dense.term(1, action))

    def __call__(
        self, deter: jax.Array, before: jax.Array, stoch: jax.Array, action_term: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The next ``deter`` [N, D] in float32, twice: this cell has no layout of its own."""
        after = self.recur(self.embed.finish(self.embed.dense.term(0, stoch) + action_term), deter)
        return after, after

    def recur(self, x: jax.Array, deter: jax.Array) -> jax.Array:
        """The unit itself."""
        match self.kind:
            case "norm_gru":
                gates = self.norm(self.gates(x, deter).astype(jnp.float32))
                reset, candidate, update = jnp.split(gates, 3, -1)
                keep = 1 - nn.sigmoid(update - 1)
                candidate = jnp.tanh(nn.sigmoid(reset) * candidate)
            case "gru":
                inputs, states = self.from_input(x).astype(jnp.float32), self.from_state(deter).astype(jnp.float32)
                (update, reset, new), (update_h, reset_h, old) = jnp.split(inputs, 3, -1), jnp.split(states, 3, -1)
                keep = nn.sigmoid(update + update_h)
                candidate = jnp.tanh(new + nn.sigmoid(reset + reset_h) * old)
            case "gru_reset_before":
                gates = nn.sigmoid(self.gates(x, deter).astype(jnp.float32))
                reset, keep = jnp.split(gates, 2, -1)
                candidate = jnp.tanh(self.candidate(x, reset * deter).astype(jnp.float32))
        return keep * deter + (1 - keep) * candidate


class RecurrentMLP(nn.Module):
    """``h' = tanh(MLP(h, stoch, action))``: a recurrence without gates."""

    deter: int
    hidden: int
    stoch: int  # width of the flat stochastic state
    action: int
    layers: int = 1
    dtype: Any = jnp.float32
    nets: NetsConfig = NetsConfig()

    def setup(self) -> None:
        self.embed = Layer((self.deter, self.stoch, self.action), self.hidden, self.dtype, self.nets)
        self.mlp = MLP((self.hidden,), self.layers, self.hidden, self.dtype, self.nets)
        self.out = Dense(self.mlp.outputs, self.deter, dtype=self.dtype, nets=self.nets)

    def action_term(self, action: jax.Array) -> jax.Array:
        """What the action adds to the first layer, [..., hidden]."""
        return self.embed.dense.add_bias(self.embed.dense.term(2, action))

    def __call__(
        self, deter: jax.Array, before: jax.Array, stoch: jax.Array, action_term: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The next ``deter`` [N, D] in float32, twice: this cell has no layout of its own."""
        x = self.embed.finish(self.embed.dense.term(0, deter) + self.embed.dense.term(1, stoch) + action_term)
        after = jnp.tanh(self.out(*self.mlp(x)).astype(jnp.float32))
        return after, after


def enter_blocks(x: jax.Array, blocks: int) -> jax.Array:
    """[N, D] to [blocks, N, D/blocks]."""
    return jnp.swapaxes(x.reshape(x.shape[0], blocks, -1), 0, 1)


def block_product(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """A dense layer for each block: [blocks, N, inputs] to [blocks, N, outputs]; ``bias`` is flat."""
    x = use_weight(partial(jnp.einsum, "...gni,gio->...gno"), x, kernel.astype(x.dtype))
    return use_weight(operator.add, x, bias.astype(x.dtype).reshape(len(kernel), 1, -1))
