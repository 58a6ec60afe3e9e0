"""Recurrent state-space model (PlaNet, sec. 3; DreamerV2, sec. 2; DreamerV3, eq. 1).

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
from dreamer_jax.config.schema import NetsConfig, RSSMConfig
from dreamer_jax.interfaces import RSSM
from dreamer_jax.nets.layers import MLP, Dense, Layer, parameter
from dreamer_jax.nets.recurrent import GRU, BlockGRU, enter_blocks
from dreamer_jax.ops.deferred import scan_weights_apart
from dreamer_jax.ops.sequence import swap_time
from dreamer_jax.types import Array, ArrayDict, RSSMState


class _Cells(nn.Module):
    config: RSSMConfig
    tokens: int
    action: int
    dtype: Any
    nets: NetsConfig

    def setup(self) -> None:
        c, dtype, nets = self.config, self.dtype, self.nets
        widths = c.deter, c.hidden, latent_width(c), self.action
        if c.cell == "block_gru":
            self.core = BlockGRU(*widths, c.blocks, c.dynamics_layers, dtype, nets)
        else:
            self.core = GRU(c.cell, *widths, dtype, nets)
        outputs = c.stoch * (c.classes if c.latent == "categorical" else 2)
        self.prior_mlp = MLP((c.deter,), c.prior_layers, c.hidden, dtype, nets)
        self.prior_out = Dense(self.prior_mlp.outputs, outputs, dtype=dtype, nets=nets)
        self.posterior_in = Layer((c.deter, self.tokens), c.hidden, dtype, nets)
        self.posterior_mlp = MLP((c.hidden,), c.posterior_layers - 1, c.hidden, dtype, nets)
        self.posterior_out = Dense((c.hidden,), outputs, dtype=dtype, nets=nets)
        if c.initial == "learned":
            self.first = parameter(self, "first", nn.initializers.zeros, (c.deter,))

    def action_share(self, action: jax.Array) -> jax.Array:
        if self.config.clip_action:  # to [-1, 1] in value; the gradient is only rescaled
            action = action / jax.lax.stop_gradient(jnp.maximum(1.0, jnp.abs(action)))
        return self.core.action_share(action)

    def first_deter(self) -> jax.Array:
        return jnp.tanh(self.first)

    def token_share(self, tokens: jax.Array) -> jax.Array:
        return self.posterior_in.dense.add_bias(self.posterior_in.dense.share(1, tokens))

    def next_deter(
        self, deter: jax.Array, cell: jax.Array, stoch: jax.Array, action_share: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return self.core(deter, cell, stoch.reshape(len(stoch), -1), action_share)

    def prior_stats(self, deter: jax.Array) -> ArrayDict:
        return self._stats(self.prior_out(*self.prior_mlp(deter)))

    def posterior_stats(self, deter: jax.Array, token_share: jax.Array) -> ArrayDict:
        x = self.posterior_in.finish(self.posterior_in.dense.share(0, deter) + token_share)
        return self._stats(self.posterior_out(*self.posterior_mlp(x)))

    def _stats(self, x: jax.Array) -> ArrayDict:
        c, x = self.config, x.astype(jnp.float32)
        if c.latent == "categorical":
            return {"logits": x.reshape(*x.shape[:-1], c.stoch, c.classes)}
        mean, raw = jnp.split(x, 2, -1)
        match c.std:
            case "softplus":
                std = nn.softplus(raw)
            case "sigmoid":
                std = nn.sigmoid(raw)
            case "sigmoid2":
                std = 2 * nn.sigmoid(raw / 2)
        return {"mean": mean, "std": std + c.min_std}

    def everything(self, deter: jax.Array, stoch: jax.Array, action: jax.Array, tokens: jax.Array) -> Any:
        """Touches every parameter, to initialise them."""
        cell = enter_cell(self.config, deter)
        deter, _ = self.next_deter(deter, cell, stoch, self.action_share(action))
        return self.prior_stats(deter), self.posterior_stats(deter, self.token_share(tokens))


def latent_width(config: RSSMConfig) -> int:
    """Of the flat stochastic state."""
    return config.stoch * (config.classes if config.latent == "categorical" else 1)


def enter_cell(config: RSSMConfig, deter: jax.Array) -> jax.Array:
    """``deter`` [N, D] in the layout of the recurrent cell."""
    return enter_blocks(deter, config.blocks) if config.cell == "block_gru" else deter


NETS = NetsConfig()


def make_rssm(
    config: RSSMConfig,
    *,
    tokens: int,
    action: int,
    dtype: Any = jnp.float32,
    rematerialize: bool = False,
    nets: NetsConfig = NETS,
) -> RSSM:
    """RSSM over ``tokens``-wide tokens and ``action``-wide action vectors.

    Noise is [..., S], uniform for categorical latents and normal for Gaussian ones.
    """
    cells = _Cells(config, tokens, action, dtype, nets)

    def initial(rows: int) -> RSSMState:
        classes = (config.classes,) if config.latent == "categorical" else ()
        stoch = jnp.zeros((rows, config.stoch, *classes), jnp.float32)
        return RSSMState(jnp.zeros((rows, config.deter), jnp.float32), stoch)

    def start(params: Any, rows: int) -> RSSMState:
        """The state before an episode: zeros, or learnt with the most likely latent that follows from it."""
        state = initial(rows)
        if config.initial == "zeros":
            return state
        deter = jnp.broadcast_to(call(params, "first_deter"), state.deter.shape)
        return RSSMState(deter, distributions.mode(distribution(prior_stats(params, deter))))

    def init(key: Array) -> Any:
        state = initial(1)
        inputs = state.deter, state.stoch, *(jnp.zeros((1, width), jnp.float32) for width in (action, tokens))
        return cells.init(key, *inputs, method="everything")["params"]

    def carry(state: RSSMState) -> RSSMState:
        """What a scan starts from."""
        return replace(state.without_stats(), cell=enter_cell(config, state.deter))

    def call(params: Any, method: str, *inputs: Any) -> Any:
        return cells.apply({"params": params}, *inputs, method=method)

    def distribution(stats: ArrayDict) -> Any:
        if "logits" in stats:
            return distributions.categorical(stats["logits"], config.unimix)
        return distributions.normal(stats["mean"], stats["std"])

    def prior_stats(params: Any, deter: jax.Array) -> ArrayDict:
        return call(params, "prior_stats", deter)

    def step(
        params: Any, state: RSSMState, action_share: jax.Array, noise: Array, stats_of: Callable[[jax.Array], ArrayDict]
    ) -> RSSMState:
        """The next state; it has a ``cell`` if ``state`` has one."""
        before = state if state.cell is not None else carry(state)
        deter, cell = call(params, "next_deter", before.deter, before.cell, before.stoch, action_share)
        stats = stats_of(deter)
        stoch = distributions.sample(distribution(stats), noise)
        return RSSMState(deter, stoch, stats, cell if state.cell is not None else None)

    def prior(params: Any, noise: Array, state: RSSMState, action: jax.Array) -> RSSMState:
        share = call(params, "action_share", action)
        return step(params, state, share, noise, lambda deter: prior_stats(params, deter))

    def posterior_step(params: Any, state: RSSMState, inputs: tuple[Any, ...]) -> RSSMState:
        action_share, token_share, is_first, noise, first = inputs
        first = initial(1) if first is None else first
        before = jax.tree.map(lambda x, y: mask(x, is_first, y), RSSMState(state.deter, state.stoch), first)
        if state.cell is not None:
            cell = enter_cell(config, first.deter)
            before = replace(before, cell=jnp.where(is_first[:, None], cell, state.cell))
        return step(
            params, before, action_share, noise, lambda deter: call(params, "posterior_stats", deter, token_share)
        )

    def shares(params: Any, prev_action: jax.Array, tokens: jax.Array, is_first: jax.Array) -> tuple[jax.Array, ...]:
        action_share = call(params, "action_share", mask(prev_action, is_first))
        return action_share, call(params, "token_share", tokens)

    def learnt_start(params: Any) -> RSSMState | None:
        """Nothing where it is zeros, which need no place among the inputs of a scan."""
        return start(params, 1) if config.initial == "learned" else None

    def posterior(
        params: Any, noise: Array, state: RSSMState, prev_action: jax.Array, tokens: jax.Array, is_first: jax.Array
    ) -> RSSMState:
        inputs = *shares(params, prev_action, tokens, is_first), is_first, noise, learnt_start(params)
        return posterior_step(params, state, inputs)

    def observe(
        params: Any, noise: Array, state: RSSMState, prev_action: jax.Array, tokens: jax.Array, is_first: jax.Array
    ) -> RSSMState:
        """``posterior`` over [B, T]; ``state`` [B, ...] is what came before the first record."""
        # The scan's weight gradients are taken apart, and this is no weight: every record brings it along.
        length = is_first.shape[1]
        first = jax.tree.map(lambda x: jnp.broadcast_to(x, (length, *x.shape)), learnt_start(params))

        def one(params: Any, before: RSSMState, inputs: tuple[Any, ...]) -> tuple[RSSMState, RSSMState]:
            after = posterior_step(params, before, inputs)
            return after.without_stats(), after.without_cell()

        inputs = *swap_time((*shares(params, prev_action, tokens, is_first), is_first, noise)), first
        if rematerialize:  # what is kept to take the weights apart is what this is to save
            _, states = jax.lax.scan(jax.checkpoint(partial(one, params)), carry(state), inputs)
        else:
            _, states = scan_weights_apart(one, params, carry(state), inputs)
        return swap_time(states)

    return RSSM(init, initial, start, carry, prior, posterior, observe, prior_stats, distribution)


def mask(x: jax.Array, is_first: jax.Array, first: jax.Array | float = 0) -> jax.Array:
    """``first`` where an episode begins; ``is_first`` has the leading axes of ``x``."""
    return jnp.where(is_first.reshape(*is_first.shape, *(1,) * (x.ndim - is_first.ndim)), first, x)
