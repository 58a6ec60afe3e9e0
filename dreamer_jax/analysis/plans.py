"""A picture of one decision by planning: the plans that were tried, how good they were, and the one chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.agent import compute_dtype
from dreamer_jax.analysis.plot import COLOURS, open_panels, save_picture
from dreamer_jax.behaviors.plan_search import first_fit
from dreamer_jax.behaviors.planner import Search, make_search
from dreamer_jax.config.schema import Config
from dreamer_jax.models.world_model import make_world_model
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import TimeStep

MOST_PANELS, MOST_LINES = 9, 200


def search_first(config: Config, spec: EnvSpec, params: Any, timestep: TimeStep, *, seed: int) -> Search:
    """The search for a plan after the first record of environment 0, with all that was tried.

    Args:
      params: ``TrainState.params``.
      timestep: first records.
    """
    dtype = compute_dtype(config)
    model = make_world_model(config, spec, dtype=dtype)
    search = make_search(config, spec, model, dtype=dtype)
    rows = jnp.zeros(1, jnp.int32)
    action = {name: jnp.zeros((1, *leaf.shape), leaf.dtype) for name, leaf in spec.action.items()}

    @jax.jit
    def run(params: Any, observation: Any) -> Search:
        key = jax.random.key(seed)
        state = model.filter(
            params["model"],
            key,
            rows,
            model.dynamics.initial(1),
            prev_action=action,
            observation=observation,
            is_first=jnp.ones(1, bool),
        )
        first = first_fit(spec.action, config.planner.horizon).mean
        return search(params, key, rows[0], jax.tree.map(lambda x: x[0], state), first, keep=True)

    return run(params, {name: x[:1] for name, x in timestep.observation.items()})


def draw_search(found: Search, spec: EnvSpec, path: Path) -> Path:
    """Scores by iteration, then a panel for each number of an action: the last plans tried, and the one chosen.

    Classes of a choice are panels, too, with the chance of each.
    """
    plans, scores, chosen = (np.asarray(x) for x in (found.plans, found.scores, found.fit.mean))
    names = [
        (_label(name, leaf, index), leaf.discrete)
        for name, leaf in sorted(spec.action.items())
        for index in range(leaf.width)
    ][: MOST_PANELS - 1]
    figure, (first, *panels) = open_panels(1 + len(names), height=3.4)
    numbers = np.arange(1, len(scores) + 1)
    first.plot(numbers, scores.max(1), color=COLOURS[0], label="best plan")
    first.plot(numbers, scores.mean(1), "--", color=COLOURS[0], label="mean")
    first.set_xticks(numbers[:: -(-len(numbers) // 10)])
    first.set(title="what plans are worth", xlabel="iteration")
    first.legend(frameon=False)
    order = np.argsort(scores[-1])[-MOST_LINES:]
    span = np.ptp(scores[-1][order]) or 1.0
    shade = (scores[-1][order] - scores[-1][order].min()) / span
    steps = np.arange(1, chosen.shape[0] + 1)
    for index, (ax, (name, discrete)) in enumerate(zip(panels, names, strict=True)):
        for place, strength in zip(order, shade, strict=True):
            ax.plot(steps, plans[-1, place, :, index], color=COLOURS[5], alpha=0.05 + 0.25 * strength, linewidth=0.8)
        ax.plot(steps, chosen[:, index], color=COLOURS[1], linewidth=2.2, label="chosen")
        ax.plot([], [], color=COLOURS[5], label="tried (darker: better)")
        ax.set(title=name, xlabel="step ahead", ylim=(-0.05 if discrete else -1.05, 1.05))
    panels[0].legend(frameon=False)
    for ax in (first, *panels):
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    return save_picture(figure, path)


def _label(name: str, leaf: ArraySpec, index: int) -> str:
    if leaf.classes:
        place, chosen = divmod(index, leaf.classes)
        return f"{name}{f'[{place}]' if leaf.size > 1 else ''} = {chosen}"
    return f"{name}[{index}]" if leaf.width > 1 else name
