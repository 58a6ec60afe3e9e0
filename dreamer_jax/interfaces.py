"""Functions that travel between the parts: bundles of pure functions with explicit keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from dreamer_jax.specs import ArraySpec


class RSSM(NamedTuple):
    """Recurrent state-space model (PlaNet, eq. 4). States are ``RSSMState``."""

    init: Callable[..., Any]  # (key) -> params
    initial: Callable[..., Any]  # (rows) -> state of zeros
    start: Callable[..., Any]  # (params, rows) -> state before an episode
    carry: Callable[..., Any]  # (state) -> state that a scan of prior or posterior starts from
    prior: Callable[..., Any]  # (params, noise, state, action) -> state one step ahead
    posterior: Callable[..., Any]  # (params, noise, state, prev_action, tokens, is_first) -> state
    observe: Callable[..., Any]  # (params, noise, state, prev_action, tokens, is_first) -> [B, T]
    prior_stats: Callable[..., Any]  # (params, deter) -> stats of p(stoch | deter)
    distribution: Callable[..., Any]  # (stats) -> distribution


class WorldModel(NamedTuple):
    """Encoder, RSSM, decoder and the reward and continue heads."""

    init: Callable[..., Any]  # (key) -> params
    initial: Callable[..., Any]  # (rows) -> state of zeros
    encode: Callable[..., Any]  # (params, observation) -> tokens
    filter: Callable[..., Any]  # (params, key, rows, state, prev_action, observation, is_first)
    observe: Callable[..., Any]  # (params, key, rows, batch) -> posterior [B, T]
    loss: Callable[..., Any]  # (params, key, rows, batch) -> (losses, posterior, aux)
    action_vector: Callable[..., Any]  # ({name: action}) -> the flat vector that the RSSM takes
    latent_noise: Callable[..., Any]  # (key, rows, shape) -> noise for latent samples
    prior_stats: Callable[..., Any]  # (params, deter) -> stats of p(stoch | deter)
    distribution: Callable[..., Any]  # (stats) -> distribution of stoch
    carry: Callable[..., Any]  # (state) -> state that a scan of imagine_step starts from
    imagine_step: Callable[..., Any]  # (params, noise, state, action vector) -> state
    predict: Callable[..., Any]  # (params, features) -> (reward, discount)
    decode: Callable[..., Any]  # (params, features) -> {name: reconstruction}
    compress: Callable[..., Any]  # (state) -> state as replay stores it
    latent_spec: dict[str, ArraySpec]  # what compress yields, without batch axes


class Behavior(NamedTuple):
    """How an agent chooses actions, and what it learns from imagination."""

    init: Callable[..., Any]  # (key) -> {"actor": ..., "critic": ...}, or {} if nothing is learnt
    act: Callable[..., Any]  # (params, key, rows, state, mode) -> {name: action}
    loss: Callable[..., Any]  # (params, train_state, key, rows, posterior, batch) -> losses, aux


class Agent(NamedTuple):
    """A whole agent; the training loop knows nothing else about an algorithm.

    ``params`` is ``TrainState.params``. ``latent_spec`` lists the arrays that ``policy`` and
    ``update`` hand back for replay to keep beside each record (empty if there are none).
    """

    init: Callable[..., Any]  # (key) -> TrainState
    reset: Callable[..., Any]  # (params, E) -> PolicyCarry
    policy: Callable[..., Any]  # (params, key, carry, timestep, mode, first) -> (carry, action, latents)
    loss: Callable[..., Any]  # (params, state, key, batch) -> (total, aux)
    update: Callable[..., Any]  # (state, key, batch) -> (state, metrics, refreshed latents [B, T])
    report: Callable[..., Any]  # (state, key, batch) -> ({name: []}, Dream), see report.py
    dream: Callable[..., Any]  # (params, key, batch seen, actions or None, length, mode) -> Dream
    latent_spec: dict[str, ArraySpec]
