"""Recurrent state-space model (PlaNet, sec. 3; DreamerV2, sec. 2; DreamerV3, eq. 1).

``h_t = f(h_{t-1}, z_{t-1}, a_{t-1})``, then ``z_t ~ q(z_t | h_t, x_t)`` with an observation and ``z_t ~ p(z_t | h_t)``
without. What does not depend on the recurrence stays out of the scan over time: the terms that actions and tokens add
inside of their layers, all random numbers, and the prior, which learning needs only afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from dreamer_jax.config.schema import Config
from dreamer_jax.interfaces import Dynamics, MakeLatent
from dreamer_jax.models.latents import make_latent
from dreamer_jax.models.rssm_networks import RSSMNetworks, latent_width, to_cell
from dreamer_jax.ops.deferred import scan_weights_apart
from dreamer_jax.ops.sequence import mask_first, swap_time
from dreamer_jax.types import Array, ArrayDict, Features, Noise, Params, Stats


@struct.dataclass
class RSSMState:
    """``h`` and ``z``."""

    deter: Array  # [..., D]
    stoch: Array  # [..., S, K] or [..., S], as the kind of latent has it
    cell: Array | None = None  # deter again, in the layout of the recurrent cell; only from step to step of a scan


def make_rssm(
    config: Config,
    /,
    *,
    tokens: int,
    action: int,
    dtype: Any = jnp.float32,
    latent: MakeLatent = make_latent,
) -> Dynamics:
    """RSSM over ``tokens``-wide tokens and ``action``-wide action vectors, with this kind of latent variables."""
    c, kind = config.rssm, latent(config.rssm)
    networks = RSSMNetworks(c, kind, tokens=tokens, action=action, dtype=dtype, nets=config.nets)

    def apply(params: Params, method: str, *inputs: Any) -> Any:
        return networks.apply({"params": params}, *inputs, method=method)

    def init(key: Array) -> Params:
        state = initial(1)
        inputs = state.deter, state.stoch, *(jnp.zeros((1, width), jnp.float32) for width in (action, tokens))
        return networks.init(key, *inputs, method="everything")["params"]

    # States and what begins them.

    def initial(size: int) -> RSSMState:
        return RSSMState(jnp.zeros((size, c.deter), jnp.float32), jnp.zeros((size, *kind.shape), jnp.float32))

    def start(params: Params, size: int) -> RSSMState:
        """Zeros, or a learnt ``h`` with the most likely ``z`` that follows from it."""
        state = initial(size)
        if c.initial == "zeros":
            return state
        deter = jnp.broadcast_to(apply(params, "first_deter"), state.deter.shape)
        return RSSMState(deter, kind.mode(apply(params, "prior_stats", deter)))

    def learned_start(params: Params) -> RSSMState | None:
        """Nothing where it is zeros, which need no place among the inputs of a scan."""
        return start(params, 1) if c.initial == "learned" else None

    def reset(first: RSSMState | None, state: RSSMState, is_first: Array) -> RSSMState:
        first = initial(1) if first is None else first
        deter, stoch = (mask_first(getattr(state, name), is_first, getattr(first, name)) for name in ("deter", "stoch"))
        cell = state.cell
        if cell is not None:
            cell = jnp.where(is_first[:, None], to_cell(c, first.deter), cell)
        return RSSMState(deter, stoch, cell)

    def features(state: RSSMState) -> Features:
        return state.deter, state.stoch.reshape(*state.deter.shape[:-1], -1)

    # One step. A state that has a cell gives one that has.

    def step(
        params: Params,
        state: RSSMState,
        action_term: jax.Array,
        noise: Noise | None,
        stats_of: Callable[[jax.Array], Stats],
    ) -> tuple[RSSMState, Stats]:
        before = to_scan_carry(state)
        deter, cell = apply(params, "next_deter", before.deter, before.cell, before.stoch, action_term)
        stats = stats_of(deter)
        stoch = kind.mode(stats) if noise is None else kind.sample(stats, noise)
        return RSSMState(deter, stoch, None if state.cell is None else cell), stats

    def prior_stats(params: Params, posterior: RSSMState) -> Stats:
        stats: Stats = apply(params, "prior_stats", posterior.deter)
        return stats

    def posterior_stats(params: Params, state: RSSMState, tokens: Array) -> Stats:
        stats: Stats = apply(params, "posterior_stats", state.deter, apply(params, "token_term", tokens))
        return stats

    def prior(params: Params, noise: Noise | None, state: RSSMState, action: Array) -> tuple[RSSMState, Stats]:
        term = apply(params, "action_term", action)
        return step(params, state, term, noise, lambda deter: apply(params, "prior_stats", deter))

    def posterior_step(params: Params, state: RSSMState, inputs: tuple[Any, ...]) -> tuple[RSSMState, Stats]:
        action_term, token_term, is_first, noise, first = inputs
        before = reset(first, state, is_first)
        return step(
            params, before, action_term, noise, lambda deter: apply(params, "posterior_stats", deter, token_term)
        )

    def terms(params: Params, prev_action: Array, tokens: Array, is_first: Array) -> tuple[jax.Array, jax.Array]:
        return apply(params, "action_term", mask_first(prev_action, is_first)), apply(params, "token_term", tokens)

    def posterior(
        params: Params, noise: Noise, state: RSSMState, *, prev_action: Array, tokens: Array, is_first: Array
    ) -> tuple[RSSMState, Stats]:
        inputs = *terms(params, prev_action, tokens, is_first), is_first, noise, learned_start(params)
        return posterior_step(params, state, inputs)

    # A scan of steps.

    def to_scan_carry(state: RSSMState) -> RSSMState:
        """With a cell: what carries both layouts changes neither in a step."""
        return state if state.cell is not None else replace(state, cell=to_cell(c, state.deter))

    def observe(
        params: Params, noise: Noise, state: RSSMState, *, prev_action: Array, tokens: Array, is_first: Array
    ) -> tuple[RSSMState, Stats]:
        # The learned first state is a result of weights, not of the recurrence: an input of every step.
        length = is_first.shape[1]
        first = jax.tree.map(lambda x: jnp.broadcast_to(x, (length, *x.shape)), learned_start(params))

        def one(
            params: Params, before: RSSMState, inputs: tuple[Any, ...]
        ) -> tuple[RSSMState, tuple[RSSMState, Stats]]:
            after, stats = posterior_step(params, before, inputs)
            return after, (replace(after, cell=None), stats)

        inputs = *swap_time((*terms(params, prev_action, tokens, is_first), is_first, noise)), first
        if config.rematerialize:  # what is kept to take the weights apart is what this is to save
            _, results = jax.lax.scan(jax.checkpoint(partial(one, params)), to_scan_carry(state), inputs)
        else:
            _, results = scan_weights_apart(one, params, to_scan_carry(state), inputs)
        states: tuple[RSSMState, Stats] = swap_time(results)
        return states

    # What replay keeps.

    compact = config.replay.context_dtype == "bfloat16"

    def compress(state: RSSMState) -> ArrayDict:
        if not compact:
            return {"deter": state.deter, "stoch": state.stoch}
        return {"deter": state.deter.astype(jnp.bfloat16), "stoch": kind.compress(state.stoch)}

    def expand(stored: ArrayDict) -> RSSMState:
        return RSSMState(jnp.asarray(stored["deter"]).astype(jnp.float32), kind.expand(jnp.asarray(stored["stoch"])))

    return Dynamics(
        init=init,
        initial=initial,
        start=start,
        noise=kind.noise,
        prior=prior,
        posterior=posterior,
        observe=observe,
        prior_stats=prior_stats,
        starts=lambda posterior: posterior,
        to_scan_carry=to_scan_carry,
        features=features,
        redraw=lambda state, stats, noise: replace(state, stoch=kind.sample(stats, noise)),
        exchange=lambda state, other: replace(state, stoch=other.stoch),
        compress=compress,
        expand=expand,
        latent=kind,
        feature_widths=(c.deter, latent_width(kind)),
        posterior_stats=posterior_stats,
    )
