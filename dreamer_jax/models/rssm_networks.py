"""Networks of the recurrent state-space model: the recurrence, the prior and the posterior."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dreamer_jax.config.schema import NetsConfig, RSSMConfig
from dreamer_jax.interfaces import Latent
from dreamer_jax.nets.layers import MLP, Dense, Layer, parameter
from dreamer_jax.nets.recurrent import GRU, BlockGRU, RecurrentMLP, enter_blocks
from dreamer_jax.types import Stats


class RSSMNetworks(nn.Module):
    """``h_t = f(h_{t-1}, z_{t-1}, a_{t-1})``, and the statistics of ``p(z_t | h_t)`` and ``q(z_t | h_t, x_t)``."""

    config: RSSMConfig
    latent: Latent
    tokens: int
    action: int
    dtype: Any
    nets: NetsConfig

    def setup(self) -> None:
        c, dtype, nets = self.config, self.dtype, self.nets
        sizes = {"deter": c.deter, "hidden": c.hidden, "stoch": latent_width(self.latent), "action": self.action}
        if c.cell == "block_gru":
            self.core = BlockGRU(**sizes, blocks=c.blocks, layers=c.dynamics_layers, dtype=dtype, nets=nets)
        elif c.cell == "mlp":
            self.core = RecurrentMLP(**sizes, layers=c.dynamics_layers, dtype=dtype, nets=nets)
        else:
            self.core = GRU(c.cell, **sizes, dtype=dtype, nets=nets)
        outputs = self.latent.outputs
        self.prior_mlp = MLP((c.deter,), c.prior_layers, c.hidden, dtype, nets)
        self.prior_out = Dense(self.prior_mlp.outputs, outputs, dtype=dtype, nets=nets)
        self.posterior_in = Layer((c.deter, self.tokens), c.hidden, dtype, nets)
        self.posterior_mlp = MLP((c.hidden,), c.posterior_layers - 1, c.hidden, dtype, nets)
        self.posterior_out = Dense((c.hidden,), outputs, dtype=dtype, nets=nets)
        if c.initial == "learned":
            self.first = parameter(self, "first", nn.initializers.zeros, (c.deter,))

    def first_deter(self) -> jax.Array:
        return jnp.tanh(self.first)

    def action_term(self, action: jax.Array) -> jax.Array:
        """What the action adds inside of ``f``; independent of the state."""
        if self.config.clip_action:  # to [-1, 1] in value; the gradient is only rescaled
            action = action / jax.lax.stop_gradient(jnp.maximum(1.0, jnp.abs(action)))
        return self.core.action_term(action)

    def token_term(self, tokens: jax.Array) -> jax.Array:
        """What the tokens add inside of ``q``; independent of the state."""
        return self.posterior_in.dense.add_bias(self.posterior_in.dense.term(1, tokens))

    def next_deter(
        self, deter: jax.Array, cell: jax.Array, stoch: jax.Array, action_term: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """``f``: the next ``h``, [N, D] and in the layout of the recurrent cell, from both."""
        return self.core(deter, cell, stoch.reshape(len(stoch), -1), action_term)

    def prior_stats(self, deter: jax.Array) -> Stats:
        return self._stats(self.prior_out(*self.prior_mlp(deter)))

    def posterior_stats(self, deter: jax.Array, token_term: jax.Array) -> Stats:
        x = self.posterior_in.finish(self.posterior_in.dense.term(0, deter) + token_term)
        return self._stats(self.posterior_out(*self.posterior_mlp(x)))

    def _stats(self, x: jax.Array) -> Stats:
        return self.latent.stats(x.astype(jnp.float32))

    def everything(self, deter: jax.Array, stoch: jax.Array, action: jax.Array, tokens: jax.Array) -> Any:
        """Touches every parameter, to initialise them."""
        deter, _ = self.next_deter(deter, to_cell(self.config, deter), stoch, self.action_term(action))
        return self.prior_stats(deter), self.posterior_stats(deter, self.token_term(tokens))


def latent_width(latent: Latent) -> int:
    """Of all latents as one vector."""
    return math.prod(latent.shape)


def to_cell(config: RSSMConfig, deter: jax.Array) -> jax.Array:
    """``h`` [N, D] in the layout of the recurrent cell."""
    return enter_blocks(deter, config.blocks) if config.cell == "block_gru" else deter
