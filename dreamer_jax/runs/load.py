"""A run's agent for another program, with the run's settings or, where its parameters allow it, with others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from dreamer_jax.agent import make_agent
from dreamer_jax.config.loading import load as load_config
from dreamer_jax.config.paths import path_of
from dreamer_jax.config.schema import Config, ConfigError, flatten
from dreamer_jax.interfaces import Agent
from dreamer_jax.numerics import fixed_numerics
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.integrity import check_origin, read_run
from dreamer_jax.runs.packed import check_arrays, restored, unpacked
from dreamer_jax.specs import EnvSpec
from dreamer_jax.types import TrainState

Overrides = Sequence[tuple[str, str]]
"""Dotted name and text of each setting that is to differ from the run's, such as ``("planner.horizon", "20")``."""


@fixed_numerics()
def load(
    run_dir: str | Path, step: int | None = None, *, overrides: Overrides = (), agent: Agent | None = None
) -> tuple[Agent, TrainState]:
    """The agent of a run and its train state at checkpoint ``step`` (agent steps), or the newest.

    ``run_dir`` may also be a file that ``dreamer-jax pack`` has made of a run; its optimiser then begins anew.

    Needs neither the environment nor the replay. See ``Agent`` for how to act with it. The train state is the run's
    whatever ``overrides`` say, also where they leave a part of it unused.

    Args:
      overrides: settings that are to be others than the run's.
      agent: of a run that was trained with one of your own, ``train(agent=...)``; it can't be combined with overrides.

    Raises:
      ConfigError: there is no such run or checkpoint, its parameters are not for a setting in ``overrides``, or its
        agent is one that a program passed to ``train``.
    """
    run_dir = path_of(run_dir)
    if run_dir.is_file():
        if step is not None or agent is not None:
            raise ConfigError(f"{run_dir}: has one state of its own agent; step and agent are for run directories")
        with unpacked(run_dir) as (folder, arrays):
            config, spec = read_run(folder)
            own = make_agent(config, spec)
            state = jax.eval_shape(own.init, jax.random.key(0))
            check_arrays(run_dir, arrays, state)
            agent = _agent_of(folder, config, spec, state, overrides) if overrides else own
            return agent, restored(arrays, jax.jit(own.init)(jax.random.key(0)))
    config, spec = read_run(run_dir)
    if agent is None:
        check_origin(run_dir, given=False)
        agent = make_agent(config, spec)
    elif overrides:
        raise ConfigError("overrides: the settings of an agent that is passed are its own")
    state = jax.eval_shape(agent.init, jax.random.key(0))
    if overrides:
        agent = _agent_of(run_dir, config, spec, state, overrides)
    checkpoints = Checkpoints(run_dir)
    try:
        step = checkpoints.latest() if step is None else step
        if step is None or not (run_dir / "checkpoints" / str(step)).is_dir():
            raise ConfigError(f"{run_dir}: no complete checkpoint{'' if step is None else f' {step}'}")
        return agent, checkpoints.restore_state(step, state)
    finally:
        checkpoints.close()


def overridden(run_dir: str | Path, overrides: Overrides) -> Config:
    """A run's settings, but for some.

    Raises:
      ConfigError: there is no such setting or value, or it stands for many.
    """
    for name, text in overrides:
        if name in ("preset", "benchmark", "size"):
            raise ConfigError(f"--{name}: got {text}, a run has settings already; name single ones")
    return load_config(files=[path_of(run_dir) / "config.yaml"], overrides=overrides)


def _agent_of(run_dir: Path, config: Config, spec: EnvSpec, state: TrainState, overrides: Overrides) -> Agent:
    """The agent of other settings, whose state is a part of ``state``, of the run's own."""
    known = _leaves(state)

    def fitting(overrides: Overrides) -> Agent | None:
        agent = make_agent(overridden(run_dir, overrides), spec)
        needed = _leaves(jax.eval_shape(agent.init, jax.random.key(0)))
        return agent if needed.items() <= known.items() else None

    agent = fitting(overrides)
    if agent is None:
        name, text = next(pair for i, pair in enumerate(overrides) if fitting(overrides[: i + 1]) is None)
        raise ConfigError(
            f"--{name}: got {text}, but the parameters of {run_dir} were learnt with {flatten(config)[name]}, and have "
            "other names or shapes"
        )
    return agent


def _leaves(state: TrainState) -> dict[str, Any]:
    """Shape and type of every array by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): (leaf.shape, leaf.dtype) for path, leaf in leaves}
