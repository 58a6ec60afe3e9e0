"""What is judged: a world model with its parameters, and perhaps a behavior that acts in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax

from dreamer_jax.agent import compute_dtype, make_behavior
from dreamer_jax.behaviors.networks import make_networks
from dreamer_jax.config.schema import Config, ConfigError
from dreamer_jax.interfaces import Agent, Behavior, WorldModel
from dreamer_jax.models.world_model import make_world_model
from dreamer_jax.runs.integrity import read_run
from dreamer_jax.runs.load import load
from dreamer_jax.specs import EnvSpec
from dreamer_jax.types import Array, Features, Params


class Critic(NamedTuple):
    """``value(params, features)`` [...] is the sum of rewards to come, each record's discounted once more."""

    value: Callable[[dict[str, Params], Features], Array]
    discount: float
    own: bool = False  # whether the state's own reward is the first of them (``behavior.returns: departure``)


class Subject(NamedTuple):
    """``params`` are ``TrainState.params``; of a model from elsewhere {"model": ...} is enough.

    ``symlog`` says that its decoder puts out numbers in symlog space.
    """

    name: str
    model: WorldModel
    params: dict[str, Params]
    spec: EnvSpec
    symlog: bool
    behavior: Behavior | None = None
    agent: Agent | None = None  # what acts in an environment
    critic: Critic | str = "there is no critic"  # or why there is none to judge
    reads_simulator: bool = False  # whether observations have the simulator's own state, as the oracle's do


def of_run(run_dir: Path, checkpoint: int | None = None) -> tuple[Subject, Config]:
    """A run at a checkpoint, or its newest.

    Raises:
      ConfigError: there is no such run or checkpoint.
    """
    config, spec = read_run(run_dir)
    agent, state = load(run_dir, checkpoint)
    dtype = compute_dtype(config)
    model = make_world_model(config, spec, dtype=dtype)
    needed, known = jax.eval_shape(model.init, jax.random.key(0)), state.params.get("model")
    if not isinstance(known, dict) or not needed.keys() <= known.keys():
        raise ConfigError(f"{run_dir}: its agent has no world model as its settings describe one; judge it from Python")
    behavior = make_behavior(config, spec, model, dtype=dtype, axis_name=None)
    critic = critic_of(config, spec, model)
    return Subject(str(run_dir), model, state.params, spec, config.decoder.symlog, behavior, agent, critic), config


def critic_of(config: Config, spec: EnvSpec, model: WorldModel) -> Critic | str:
    """Of an agent as configured, or why there is none whose values are those of the task under its own actions."""
    if config.behavior.method == "planner":
        return "its actions are planned, without a critic"
    if config.behavior.act == "planner":
        return "its actions are planned, and the critic is of the policy"
    if config.offline.only == "world_model":
        return "only its world model was trained"
    if model.disagree is not None:
        return "its critic counts what was not known as a reward"
    networks = make_networks(config, spec, model.dynamics.feature_widths, dtype=compute_dtype(config))

    def value(params: dict[str, Params], feat: Features) -> Array:
        return networks.scalar.mean(networks.critic(params["critic"], feat))

    return Critic(value, 1 - 1 / config.behavior.discount_horizon, config.behavior.returns == "departure")


def untrained(subject: Subject, seed: int) -> Subject:
    """The same networks with new parameters.

    Raises:
      ValueError: it has no agent that could make some.
    """
    if subject.agent is None:
        raise ValueError(f"{subject.name}: there is nothing that makes new parameters")
    state = jax.jit(subject.agent.init)(jax.random.key(seed))
    return subject._replace(name="untrained", params=state.params)
