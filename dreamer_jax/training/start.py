"""A run that begins with parameters of another one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dreamer_jax.config.checks import MODEL_PARTS
from dreamer_jax.config.schema import Config, ConfigError
from dreamer_jax.interfaces import Agent
from dreamer_jax.runs.integrity import read_run
from dreamer_jax.runs.load import load
from dreamer_jax.types import TrainState

Leaves = dict[str, Any]
"""Arrays by their places, such as ``rssm/prior/kernel``; the model's parts and the behavior's stand side by side."""


class Start(NamedTuple):
    """Parameters to begin with, by place; ``line`` says to a person which ones they are."""

    known: Leaves
    line: str

    def begin(self, state: TrainState) -> TrainState:
        """A new state with these parameters; the slow critic is a copy of the critic, and all else is new."""
        known = self.known
        params = jax.tree_util.tree_map_with_path(lambda path, x: jnp.asarray(known.get(_place(path), x)), state.params)
        return replace(state, params=params, slow=jax.tree.map(jnp.copy, params.get("critic", {})))


def read_start(config: Config, agent: Agent, run_dir: Path) -> Start:
    """What ``agent`` begins with: all of ``train.start_parts`` that the run at ``run_dir`` has learnt.

    What it has not stays new. What only it has is left there.

    Raises:
      ConfigError: there is no such run, it has none of these parts, or one of them has another shape.
    """
    try:
        _, theirs = load(run_dir)
    except ConfigError as error:
        raise ConfigError(f"train.start: {error}") from error
    mine = _leaves(jax.eval_shape(agent.init, jax.random.key(0)).params)
    known, asked = _leaves(theirs.params), config.train.start_parts
    if asked == "all" and read_run(run_dir)[0].offline.only == "world_model":  # the others have learnt nothing
        known = {name: x for name, x in known.items() if _part(name) in MODEL_PARTS}
    parts = list(dict.fromkeys(_part(name) for name in mine)) if asked == "all" else asked.split(",")
    taken: Leaves = {name: known[name] for name in mine if _part(name) in parts and name in known}
    for name, x in taken.items():
        if x.shape != mine[name].shape:
            raise ConfigError(
                f"train.start: {name} has shape {list(x.shape)} in {run_dir} and {list(mine[name].shape)} here; set "
                "the same widths and environment, or name other parts in train.start_parts"
            )
    found = sorted(set(map(_part, taken)))
    if not found or (asked != "all" and set(parts) - set(found)):
        raise ConfigError(
            f"train.start_parts: got {asked}, the parts of {run_dir} are {', '.join(sorted(set(map(_part, known))))}"
        )
    new = {name: None for name in mine if name not in taken}
    line = f"begins with {', '.join(found)} of {run_dir} after {int(theirs.step):,} updates"
    line += f"; new: {', '.join(_in_short(new, mine))}" if new else ""
    left = {name: None for name in known if name not in mine}
    line += f"; not used: {', '.join(_in_short(left, known))}" if left else ""
    return Start(taken, line)


def _in_short(some: Leaves, of: Leaves) -> list[str]:
    """Whole parts by their name, else single arrays."""
    whole = {part for part in map(_part, some) if all(name in some for name in of if _part(name) == part)}
    return sorted({_part(name) if _part(name) in whole else name for name in some})


def _leaves(params: Any) -> Leaves:
    return {_place(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def _place(path: tuple[Any, ...]) -> str:
    keys = [str(key.key) for key in path]
    return "/".join(keys[1:] if keys[0] == "model" else keys)


def _part(name: str) -> str:
    return name.partition("/")[0]
