"""A transformer in the place of the recurrence (TransDreamer, Chen et al. 2022, sec. 3; STORM, Zhang et al. 2023).

``z_t ~ q(z_t | x_t)`` sees the observation alone, ``h_t = f(z_{<t}, a_{<t})`` is what attention makes of the latents
and actions before, and ``z_t ~ p(z_t | h_t)``. Each layer sees the last W steps of the episode. So a window is computed
at once, without a scan; a step of acting or imagining looks at the keys and values of the last W steps, which the state
carries.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dreamer_jax.config.schema import Config, NetsConfig, RSSMConfig
from dreamer_jax.interfaces import Dynamics, Latent, MakeLatent
from dreamer_jax.models.latents import make_latent
from dreamer_jax.models.rssm_networks import latent_width
from dreamer_jax.nets.layers import MLP, Dense
from dreamer_jax.nets.transformer import Transformer
from dreamer_jax.ops.sequence import mask_first
from dreamer_jax.types import Array, ArrayDict, Features, Noise, Params, Stats


@struct.dataclass
class TransformerState:
    """``h`` and ``z``, and what attention will see of the steps that led to them."""

    deter: Array  # [..., D]
    stoch: Array  # [..., S, K] or [..., S]
    memory: Array  # [..., W, L, 2, D], oldest first: keys and values of each layer
    filled: Array  # [..., W] bool: which of these there are


@struct.dataclass
class ObservedStates:
    """States of a window, whose memories overlap: of record t it is the W places that end with W + t."""

    deter: Array  # [B, T, D]
    stoch: Array  # [B, T, ...]
    memory: Array  # [B, W + T, L, 2, D]
    episode: Array  # [B, W + T] int: places of equal numbers see each other; -1 where there is nothing


class TransformerNetworks(nn.Module):
    """``h``, and the statistics of ``p(z_t | h_t)`` and ``q(z_t | x_t)``."""

    config: RSSMConfig
    latent: Latent
    tokens: int
    action: int
    dtype: Any
    nets: NetsConfig

    def setup(self) -> None:
        c, dtype, nets = self.config, self.dtype, self.nets
        self.embed = Dense((latent_width(self.latent), self.action), c.deter, dtype=dtype, nets=nets)
        self.attention = Transformer(c.deter, c.transformer_layers, c.heads, dtype, nets)
        outputs = self.latent.outputs
        self.prior_mlp = MLP((c.deter,), c.prior_layers, c.hidden, dtype, nets)
        self.prior_out = Dense(self.prior_mlp.outputs, outputs, dtype=dtype, nets=nets)
        self.posterior_mlp = MLP((self.tokens,), c.posterior_layers, c.hidden, dtype, nets)
        self.posterior_out = Dense(self.posterior_mlp.outputs, outputs, dtype=dtype, nets=nets)

    def __call__(
        self, stoch: jax.Array, action: jax.Array, memory: jax.Array, visible: jax.Array, ago: np.ndarray
    ) -> tuple[jax.Array, jax.Array]:
        """``h`` [N, Q, D] of latents [N, Q, ...] and actions [N, Q, A], and their memory; as ``Transformer``."""
        if self.config.clip_action:  # to [-1, 1] in value; the gradient is only rescaled
            action = action / jax.lax.stop_gradient(jnp.maximum(1.0, jnp.abs(action)))
        return self.attention(self.embed(stoch.reshape(*action.shape[:-1], -1), action), memory, visible, ago)

    def prior_stats(self, deter: jax.Array) -> Stats:
        return self.latent.stats(self.prior_out(*self.prior_mlp(deter)).astype(jnp.float32))

    def posterior_stats(self, tokens: jax.Array) -> Stats:
        return self.latent.stats(self.posterior_out(*self.posterior_mlp(tokens)).astype(jnp.float32))

    def everything(self, stoch: jax.Array, action: jax.Array, memory: jax.Array, tokens: jax.Array) -> Any:
        """Touches every parameter, to initialise them."""
        window = memory.shape[1] + 1
        deter, _ = self(stoch, action, memory, jnp.ones((1, 1, window), bool), np.zeros((1, window), int))
        return self.prior_stats(deter), self.posterior_stats(tokens)


def make_transformer(
    config: Config,
    /,
    *,
    tokens: int,
    action: int,
    dtype: Any = jnp.float32,
    latent: MakeLatent = make_latent,
) -> Dynamics:
    """Dynamics by attention over the last ``rssm.memory`` steps of an episode; replay keeps nothing of a state."""
    c, kind, window = config.rssm, latent(config.rssm), config.rssm.memory
    networks = TransformerNetworks(c, kind, tokens=tokens, action=action, dtype=dtype, nets=config.nets)
    one_ago = np.arange(window, -1, -1)[None]  # of a single step

    def apply(params: Params, method: str, *inputs: Any) -> Any:
        return networks.apply({"params": params}, *inputs, method=method)

    def init(key: Array) -> Params:
        state = initial(1)
        inputs = state.stoch[:, None], jnp.zeros((1, 1, action)), state.memory, jnp.zeros((1, tokens))
        return networks.init(key, *inputs, method="everything")["params"]

    def initial(size: int) -> TransformerState:
        return TransformerState(
            jnp.zeros((size, c.deter), jnp.float32),
            jnp.zeros((size, *kind.shape), jnp.float32),
            jnp.zeros((size, window, c.transformer_layers, 2, c.deter), jnp.float32),
            jnp.zeros((size, window), bool),
        )

    def features(state: TransformerState | ObservedStates) -> Features:
        return state.deter, state.stoch.reshape(*state.deter.shape[:-1], -1)

    def draw(stats: Stats, noise: Noise | None) -> jax.Array:
        return jnp.asarray(kind.mode(stats) if noise is None else kind.sample(stats, noise))

    def attend(params: Params, state: TransformerState, action: Array) -> TransformerState:
        """``h`` one step ahead, whose latent is still the one before."""
        # The oldest place is W steps ago, and out of sight.
        visible = jnp.concatenate([state.filled.at[:, 0].set(False), jnp.ones_like(state.filled[:, :1])], 1)
        inputs = state.stoch[:, None], jnp.asarray(action)[:, None], state.memory, visible[:, None], one_ago
        deter, kept = apply(params, "__call__", *inputs)
        memory = jnp.concatenate([state.memory[:, 1:], kept], 1)
        filled = jnp.concatenate([state.filled[:, 1:], jnp.ones_like(state.filled[:, :1])], 1)
        return replace(state, deter=deter[:, 0], memory=memory, filled=filled)

    def prior(
        params: Params, noise: Noise | None, state: TransformerState, action: Array
    ) -> tuple[TransformerState, Stats]:
        after = attend(params, state, action)
        stats = apply(params, "prior_stats", after.deter)
        return replace(after, stoch=draw(stats, noise)), stats

    def posterior(
        params: Params, noise: Noise, state: TransformerState, *, prev_action: Array, tokens: Array, is_first: Array
    ) -> tuple[TransformerState, Stats]:
        first = jnp.asarray(is_first)
        stoch, filled, before = (mask_first(jnp.asarray(x), first) for x in (state.stoch, state.filled, prev_action))
        after = attend(params, replace(state, stoch=stoch, filled=filled.astype(bool)), before)
        stats = apply(params, "posterior_stats", tokens)
        return replace(after, stoch=draw(stats, noise)), stats

    def observe(
        params: Params, noise: Noise, state: TransformerState, *, prev_action: Array, tokens: Array, is_first: Array
    ) -> tuple[ObservedStates, Stats]:
        first = jnp.asarray(is_first)
        stats = apply(params, "posterior_stats", tokens)
        stoch = draw(stats, noise)
        before = jnp.concatenate([jnp.asarray(state.stoch)[:, None], stoch[:, :-1]], 1)
        before, led = mask_first(before, first), mask_first(jnp.asarray(prev_action), first)
        length = first.shape[1]
        own = jnp.cumsum(first, 1)
        episode = jnp.concatenate([jnp.where(state.filled, 0, -1), own], 1)
        ago = np.arange(length)[:, None] + window - np.arange(window + length)[None]
        visible = ((ago >= 0) & (ago < window)) & (own[:, :, None] == episode[:, None, :])
        deter, kept = apply(params, "__call__", before, led, state.memory, visible, ago)
        memory = jnp.concatenate([state.memory, kept], 1)
        return ObservedStates(deter, stoch, memory, episode), stats

    def starts(states: ObservedStates) -> TransformerState:
        length = states.deter.shape[1]
        places = np.arange(length)[:, None] + 1 + np.arange(window)
        filled = states.episode[:, places] == states.episode[:, window:, None]
        return TransformerState(states.deter, states.stoch, states.memory[:, places], filled)

    return Dynamics(
        init=init,
        initial=initial,
        start=lambda params, size: initial(size),
        noise=kind.noise,
        prior=prior,
        posterior=posterior,
        observe=observe,
        prior_stats=lambda params, states: apply(params, "prior_stats", states.deter),
        starts=starts,
        to_scan_carry=lambda state: state,
        features=features,
        redraw=lambda states, stats, noise: replace(states, stoch=kind.sample(stats, noise)),
        exchange=lambda states, other: replace(states, stoch=other.stoch),
        compress=lambda state: {},
        expand=expand,
        latent=kind,
        feature_widths=(c.deter, latent_width(kind)),
        posterior_stats=lambda params, state, tokens: apply(params, "posterior_stats", tokens),
    )


def expand(stored: ArrayDict) -> TransformerState:
    """Never asked for, because ``compress`` keeps nothing."""
    raise NotImplementedError("a transformer's state is not kept in replay")
