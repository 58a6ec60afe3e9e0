"""Planning every action anew in the world model, by the cross-entropy method (PlaNet, sec. 2, algorithm 2)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dreamer_jax.config.schema import Config, ConfigError
from dreamer_jax.distributions import draw_noise, noise_kind
from dreamer_jax.interfaces import Behavior, WorldModel
from dreamer_jax.ops.sequence import swap_time
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import Array, ArrayDict, BehaviorAux, LatentState, Mode, Noise, TrainState, TrajectoryBatch

MIN_VARIANCE = 1e-6
"""Added to that of the elites."""
AT_ONCE = 8
"""Environments whose candidates are one batch: a thousand narrow rows leave an accelerator idle, and the memory of
all environments' would grow with their number."""


def make_planner(config: Config, spec: EnvSpec, model: WorldModel) -> Behavior:
    """Acting by plans in ``model``; nothing is learnt for it, and it is the same in every mode.

    Raises:
      ConfigError: an action is discrete.
    """
    for name, leaf in spec.action.items():
        if leaf.discrete:
            raise ConfigError(
                f"behavior.method: planner takes continuous actions, and {name!r} is a choice of {leaf.classes}; "
                "set it to actor_critic"
            )
    c = config.planner
    width = sum(leaf.width for leaf in spec.action.values())

    def init(key: Array) -> dict[str, Any]:
        return {}

    def plan(params: Any, key: Array, row: Array, start: LatentState) -> jax.Array:
        """Mean [A] of the first action, after the last iteration, for one row.

        An iteration draws plans from N(mean, std^2), clips them, and fits mean and std to the best.
        """

        def improve(number: Array, fit: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            mean, std = fit
            plan_key, latent_key = jax.random.split(jax.random.fold_in(key, number))
            size = (c.candidates, c.horizon, width)
            noise = draw_noise(plan_key, row[None], size, noise_kind(discrete=False))[0]
            plans = jnp.clip(mean + std * noise, -1, 1)
            scores = score_plans(model, params, latent_key, row, start, plans)
            elites = plans[jax.lax.top_k(scores, c.elites)[1]]
            return elites.mean(0), jnp.sqrt(elites.var(0) + MIN_VARIANCE)

        fit = jnp.zeros((c.horizon, width)), jnp.ones((c.horizon, width))
        mean: jax.Array = jax.lax.fori_loop(0, c.iterations, improve, fit)[0]
        return mean[0]

    def act(
        params: Any, key: Array, rows: Array, state: LatentState, carry: tuple[()], mode: Mode
    ) -> tuple[tuple[()], ArrayDict]:
        each = jnp.asarray(rows), state
        vector = jax.lax.map(lambda row: plan(params, key, *row), each, batch_size=min(len(rows), AT_ONCE))
        return carry, split_leaves(vector, spec.action)

    def loss(
        params: Any, state: TrainState, key: Array, rows: Array, *, posterior: LatentState, batch: TrajectoryBatch
    ) -> tuple[dict[str, jax.Array], BehaviorAux]:
        """None; the statistics of returns stay as they are."""
        return {}, BehaviorAux(moments=state.moments, metrics={})

    return Behavior(init=init, initial=lambda size: (), act=act, loss=loss)


def score_plans(
    model: WorldModel, params: Any, key: Array, row: Array, start: LatentState, plans: jax.Array
) -> jax.Array:
    """Sum of expected rewards [J] of ``plans`` [J, H, A], all of which begin in the state ``start`` [...] of one row.

    Args:
      params: ``TrainState.params``.
      row: [] int, its index among all, to which the random numbers of the imagined states belong.
    """
    dynamics = model.dynamics

    def step(before: tuple[LatentState, jax.Array], inputs: tuple[Noise, jax.Array]) -> tuple[Any, None]:
        state, total = before
        state = model.imagine_step(params["model"], inputs[0], state, inputs[1])
        reward, _ = model.predict(params["model"], dynamics.features(state))
        return (state, total + reward), None

    noise = jax.tree.map(lambda x: x[0], dynamics.noise(key, row[None], plans.shape[:2]))
    starts = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(plans), *x.shape)), start)
    begin = dynamics.to_scan_carry(starts), jnp.zeros(len(plans), jnp.float32)
    (_, total), _ = jax.lax.scan(step, begin, swap_time((noise, plans)))
    return total


def split_leaves(vector: jax.Array, specs: dict[str, ArraySpec]) -> ArrayDict:
    """The continuous leaves [..., *shape] of a flat vector that has them in sorted order of their names."""
    leaves, begin = {}, 0
    for name in sorted(specs):
        leaf = vector[..., begin : begin + specs[name].width]
        leaves[name] = leaf.reshape(*vector.shape[:-1], *specs[name].shape)
        begin += specs[name].width
    return {name: leaves[name] for name in specs}
