"""Planning every action anew in the world model (PlaNet, sec. 2, algorithm 2; TD-MPC, sec. 3).

What is searched with is in ``plan_search.py``; what a plan is worth is ``score_plans``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dreamer_jax.behaviors.imagination import imagine
from dreamer_jax.behaviors.networks import Networks, make_networks
from dreamer_jax.behaviors.plan_search import Fit, Refit, draw_plans, first_fit, make_refit, split_leaves
from dreamer_jax.config.schema import Config, ExploreConfig
from dreamer_jax.distributions import draw_noise, noise_kind
from dreamer_jax.interfaces import Behavior, WorldModel
from dreamer_jax.ops.sequence import swap_time
from dreamer_jax.specs import EnvSpec
from dreamer_jax.types import (
    Array,
    ArrayDict,
    BehaviorAux,
    Features,
    LatentState,
    Mode,
    Noise,
    TrainState,
    TrajectoryBatch,
)

AT_ONCE = 8
"""Environments whose candidates are one batch: a thousand narrow rows leave an accelerator idle, and the memory of
all environments' would grow with their number."""


class Search(NamedTuple):
    """What was found for one state, and on the way there."""

    fit: Fit  # after the last iteration
    plans: Array | None  # [iterations, J, H, A] that were tried, if asked for
    scores: Array | None  # [iterations, J]


def make_planner(
    config: Config, spec: EnvSpec, model: WorldModel, *, refit: Refit | None = None, dtype: Any = jnp.float32
) -> Behavior:
    """Acting by plans in ``model``, the same in every mode; nothing is learnt for it.

    An action is the mean of the first ones of the last iteration, of a choice its most frequent class. With
    ``planner.warm_start`` the next search begins with what this one found, a step later.

    Args:
      refit: how to search, else what ``planner.method`` says.
      dtype: in which actor and critic compute, where the planner uses them.
    """
    c, search = config.planner, make_search(config, spec, model, refit=refit, dtype=dtype)
    begin = first_fit(spec.action, c.horizon).mean

    def initial(size: int) -> Any:
        return jnp.broadcast_to(begin, (size, *begin.shape)) if c.warm_start else ()

    def act(params: Any, key: Array, rows: Array, state: LatentState, carry: Any, mode: Mode) -> tuple[Any, ArrayDict]:
        def plan(each: tuple[Array, LatentState, Any]) -> jax.Array:
            row, start, before = each
            return jnp.asarray(search(params, key, row, start, before if c.warm_start else begin).fit.mean)

        means = jax.lax.map(plan, (jnp.asarray(rows), state, carry), batch_size=min(len(rows), AT_ONCE))
        if c.warm_start:
            carry = jnp.concatenate([means[:, 1:], initial(len(rows))[:, -1:]], 1)
        return carry, split_leaves(means[:, 0], spec.action)

    def loss(
        params: Any, state: TrainState, key: Array, rows: Array, *, posterior: LatentState, batch: TrajectoryBatch
    ) -> tuple[dict[str, jax.Array], BehaviorAux]:
        """None; the statistics of returns stay as they are."""
        return {}, BehaviorAux(moments=state.moments, metrics={})

    return Behavior(init=lambda key: {}, initial=initial, act=act, loss=loss)


def make_search(
    config: Config, spec: EnvSpec, model: WorldModel, *, refit: Refit | None = None, dtype: Any = jnp.float32
) -> Callable[..., Search]:
    """``search(params, key, row, start, mean, keep=False)`` for the state ``start`` [...] of one row.

    An iteration draws plans from normals around ``mean`` [H, A] at first, adds those of the policy, scores all, and
    refits. ``keep`` also hands out what was tried.
    """
    c, method = config.planner, refit or make_refit(config.planner)
    networks = make_networks(config, spec, model.dynamics.feature_widths, dtype=dtype)
    std = first_fit(spec.action, c.horizon).std

    def search(params: Any, key: Array, row: Array, start: LatentState, mean: Array, *, keep: bool = False) -> Search:
        value = (lambda feat: networks.scalar.mean(networks.critic(params["critic"], feat))) if c.value else None
        size = c.candidates - c.policy_plans, *std.shape
        own = jnp.zeros((0, *std.shape))
        if c.policy_plans:
            last_key = jax.random.fold_in(key, c.iterations)
            own = policy_plans(model, networks, params, last_key, row, start, c.policy_plans, c.horizon)

        def improve(fit: Fit, number: Array) -> tuple[Fit, Any]:
            plan_key, latent_key = jax.random.split(jax.random.fold_in(key, number))
            noise = draw_noise(plan_key, row[None], size, noise_kind(discrete=False))[0]
            plans = jnp.concatenate([draw_plans(spec.action, fit, noise), own])
            sampled = c.latents == "sampled"
            ends = config.cont.label != "none"
            options: dict[str, Any] = dict(value=value, ends=ends, sampled=sampled, explore=config.explore)
            scores = score_plans(model, params, latent_key, row, start, plans, **options)
            return method(fit, plans, scores), (plans, scores) if keep else None

        fit, tried = jax.lax.scan(improve, Fit(mean, std), jnp.arange(c.iterations))
        return Search(fit, *(tried or (None, None)))

    return search


def score_plans(
    model: WorldModel,
    params: Any,
    key: Array,
    row: Array,
    start: LatentState,
    plans: jax.Array,
    *,
    value: Callable[[Features], jax.Array] | None = None,
    ends: bool = False,
    sampled: bool = True,
    explore: ExploreConfig | None = None,
) -> jax.Array:
    """Sum of expected rewards [J] of ``plans`` [J, H, A], all of which begin in the state ``start`` [...] of one row.

    Args:
      params: ``TrainState.params``.
      row: [] int, its index among all, to which the random numbers of the imagined states belong.
      value: what a last state is worth; rewards and it then count by the probability of coming so far, the discount
        included.
      ends: the model predicts ends of episodes, so that rewards count by that probability in any case.
      sampled: latents are drawn, else the most likely ones.
      explore: what disagreement and reward count, where the model has an ensemble.
    """
    dynamics, weighted = model.dynamics, ends or value is not None

    def step(
        before: tuple[LatentState, jax.Array, jax.Array], inputs: tuple[Noise | None, jax.Array]
    ) -> tuple[Any, None]:
        state, total, weight = before
        left = dynamics.features(state)
        state = model.imagine_step(params["model"], inputs[0], state, inputs[1])
        reward, discount = model.predict(params["model"], dynamics.features(state))
        if model.disagree is not None and explore is not None:
            unsure = model.disagree(params["model"], left, inputs[1])
            reward = explore.task_reward * reward + explore.disagreement * unsure
        total = total + weight * reward
        return (state, total, weight * discount if weighted else weight), None

    noise = jax.tree.map(lambda x: x[0], dynamics.noise(key, row[None], plans.shape[:2])) if sampled else None
    starts = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(plans), *x.shape)), start)
    begin = dynamics.to_scan_carry(starts), jnp.zeros(len(plans), jnp.float32), jnp.ones(len(plans), jnp.float32)
    (last, total, weight), _ = jax.lax.scan(step, begin, swap_time((noise, plans)))
    return total if value is None else total + weight * value(dynamics.features(last))


def policy_plans(
    model: WorldModel,
    networks: Networks,
    params: Any,
    key: Array,
    row: Array,
    start: LatentState,
    count: int,
    horizon: int,
) -> jax.Array:
    """What the policy does in imagination from the state ``start`` [...] of one row, as plans [count, H, A]."""
    starts = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), start)
    rows = row * count + jnp.arange(count)
    path = imagine(model, networks.policy, params, key, rows=rows, start=starts, length=horizon)
    return jnp.clip(jnp.swapaxes(networks.policy.vector(path.action), 0, 1), -1, 1)
