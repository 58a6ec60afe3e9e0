"""Recurrent state-space model with categorical latents (PlaNet, sec. 3; DreamerV3, eq. 1).

What does not depend on the recurrence stays out of the scan over time: the action's and the tokens'
shares of their layers, all random numbers, and the prior, which learning needs only afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dreamer_jax import distributions
from dreamer_jax.config.schema import RSSMConfig
from dreamer_jax.interfaces import RSSM
from dreamer_jax.nets.layers import MLP, Dense, Layer
from dreamer_jax.nets.recurrent import BlockGRU, enter_blocks
from dreamer_jax.ops.deferred import scan_weights_apart
from dreamer_jax.ops.sequence import swap_time
from dreamer_jax.types import Array, RSSMState


class _Cells(nn.Module):
    config: RSSMConfig
    tokens: int
    action: int
    dtype: Any

    def setup(self) -> None:
        c = self.config
        latent = c.stoch * c.classes
        self.core = BlockGRU(c.deter, c.hidden, latent, self.action, c.blocks, c.dynamics_layers, self.dtype)
        self.prior_mlp = MLP((c.deter,), c.prior_layers, c.hidden, self.dtype)
        self.prior_out = Dense(self.prior_mlp.outputs, latent, dtype=self.dtype)
        self.posterior_in = Layer((c.deter, self.tokens), c.hidden, self.dtype)
        self.posterior_mlp = MLP((c.hidden,), c.posterior_layers - 1, c.hidden, self.dtype)
        self.posterior_out = Dense((c.hidden,), latent, dtype=self.dtype)

    def action_share(self, action: jax.Array) -> jax.Array:
        # Clips to [-1, 1] in value; the gradient is only rescaled.
        action = action / jax.lax.stop_gradient(jnp.maximum(1.0, jnp.abs(action)))
        return self.core.action_share(action)

    def token_share(self, tokens: jax.Array) -> jax.Array:
        return self.posterior_in.dense.add_bias(self.posterior_in.dense.share(1, tokens))

    def next_deter(
        self, deter: jax.Array, cell: jax.Array, stoch: jax.Array, action_share: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return self.core(deter, cell, stoch.reshape(len(stoch), -1), action_share)

    def prior_logits(self, deter: jax.Array) -> jax.Array:
        return self._logits(self.prior_out(*self.prior_mlp(deter)))

    def posterior_logits(self, deter: jax.Array, token_share: jax.Array) -> jax.Array:
        x = self.posterior_in.finish(self.posterior_in.dense.share(0, deter) + token_share)
        return self._logits(self.posterior_out(*self.posterior_mlp(x)))

    def _logits(self, x: jax.Array) -> jax.Array:
        return x.astype(jnp.float32).reshape(*x.shape[:-1], self.config.stoch, self.config.classes)

    def everything(self, deter: jax.Array, stoch: jax.Array, action: jax.Array, tokens: jax.Array) -> Any:
        """Touches every parameter, to initialise them."""
        cell = enter_blocks(deter, self.config.blocks)
        deter, _ = self.next_deter(deter, cell, stoch, self.action_share(action))
        return self.prior_logits(deter), self.posterior_logits(deter, self.token_share(tokens))


def make_rssm(
    config: RSSMConfig, *, tokens: int, action: int, dtype: Any = jnp.float32, rematerialize: bool = False
) -> RSSM:
    """RSSM over ``tokens``-wide tokens and ``action``-wide action vectors; noise is uniform [..., S]."""
    cells = _Cells(config, tokens, action, dtype)

    def initial(rows: int) -> RSSMState:
        stoch = jnp.zeros((rows, config.stoch, config.classes), jnp.float32)
        return RSSMState(jnp.zeros((rows, config.deter), jnp.float32), stoch)

    def init(key: Array) -> Any:
        state = initial(1)
        inputs = state.deter, state.stoch, *(jnp.zeros((1, width), jnp.float32) for width in (action, tokens))
        return cells.init(key, *inputs, method="everything")["params"]

    def carry(state: RSSMState) -> RSSMState:
        """What a scan starts from."""
        return replace(state.without_stats(), cell=enter_blocks(state.deter, config.blocks))

    def call(params: Any, method: str, *inputs: Any) -> Any:
        return cells.apply({"params": params}, *inputs, method=method)

    def distribution(stats: dict[str, jax.Array]) -> Any:
        return distributions.categorical(stats["logits"], config.unimix)

    def prior_stats(params: Any, deter: jax.Array) -> dict[str, jax.Array]:
        return {"logits": call(params, "prior_logits", deter)}

    def step(
        params: Any, state: RSSMState, action_share: jax.Array, noise: Array, logits: Callable[[jax.Array], jax.Array]
    ) -> RSSMState:
        """The next state; it has a ``cell`` if ``state`` has one."""
        before = state if state.cell is not None else carry(state)
        deter, cell = call(params, "next_deter", before.deter, before.cell, before.stoch, action_share)
        stats = {"logits": logits(deter)}
        stoch = distributions.sample(distribution(stats), noise)
        return RSSMState(deter, stoch, stats, cell if state.cell is not None else None)

    def prior(params: Any, noise: Array, state: RSSMState, action: jax.Array) -> RSSMState:
        share = call(params, "action_share", action)
        return step(params, state, share, noise, lambda deter: prior_stats(params, deter)["logits"])

    def posterior_step(params: Any, state: RSSMState, inputs: tuple[jax.Array, ...]) -> RSSMState:
        action_share, token_share, is_first, noise = inputs
        before = RSSMState(mask(state.deter, is_first), mask(state.stoch, is_first))
        if state.cell is not None:
            before = replace(before, cell=jnp.where(is_first[:, None], 0, state.cell))
        return step(
            params, before, action_share, noise, lambda deter: call(params, "posterior_logits", deter, token_share)
        )

    def shares(params: Any, prev_action: jax.Array, tokens: jax.Array, is_first: jax.Array) -> tuple[jax.Array, ...]:
        action_share = call(params, "action_share", mask(prev_action, is_first))
        return action_share, call(params, "token_share", tokens)

    def posterior(
        params: Any, noise: Array, state: RSSMState, prev_action: jax.Array, tokens: jax.Array, is_first: jax.Array
    ) -> RSSMState:
        inputs = *shares(params, prev_action, tokens, is_first), is_first, noise
        return posterior_step(params, state, inputs)

    def observe(
        params: Any, noise: Array, state: RSSMState, prev_action: jax.Array, tokens: jax.Array, is_first: jax.Array
    ) -> RSSMState:
        """``posterior`` over [B, T]; ``state`` [B, ...] is what came before the first record."""

        def one(params: Any, before: RSSMState, inputs: tuple[jax.Array, ...]) -> tuple[RSSMState, RSSMState]:
            after = posterior_step(params, before, inputs)
            return after.without_stats(), after.without_cell()

        inputs = swap_time((*shares(params, prev_action, tokens, is_first), is_first, noise))
        if rematerialize:  # what is kept to take the weights apart is what this is to save
            _, states = jax.lax.scan(jax.checkpoint(partial(one, params)), carry(state), inputs)
        else:
            _, states = scan_weights_apart(one, params, carry(state), inputs)
        return swap_time(states)

    return RSSM(init, initial, carry, prior, posterior, observe, prior_stats, distribution)


def mask(x: jax.Array, is_first: jax.Array) -> jax.Array:
    """Zero where an episode begins; ``is_first`` has the leading axes of ``x``."""
    return jnp.where(is_first.reshape(*is_first.shape, *(1,) * (x.ndim - is_first.ndim)), 0, x)
