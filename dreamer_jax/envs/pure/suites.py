"""From the name of a task to a pure environment. A package is imported only when a task needs it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import jax

from dreamer_jax.config.checks import IN_JAX
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.envs.gymnasium import call_own
from dreamer_jax.envs.probes import PROBES
from dreamer_jax.envs.pure.streams import advance, begin
from dreamer_jax.envs.spaces import RESERVED
from dreamer_jax.envs.suites import missing, unknown
from dreamer_jax.interfaces.environment import Environment
from dreamer_jax.specs import ArraySpec


def find(task: str) -> Environment | None:
    """The environment of ``task``; None where it is none of pure functions.

    Raises:
      ConfigError: it can't be opened.
    """
    suite, slash, name = task.partition("/")
    if slash and suite in IN_JAX:
        return make(task)
    if slash and suite == "probe" and name in PROBES:
        from dreamer_jax.envs.pure import probes

        return probes.make(name)
    if ":" in task and suite != "gym":
        env = call_own(task)
        return checked(task, env) if isinstance(env, Environment) else None
    return None


@cache
def make(task: str) -> Environment:
    """The environment of a task of one of ``IN_JAX``, each a module here, a package, and an extra of ours.

    Raises:
      ConfigError: nothing has this name, or its package is not installed.
    """
    suite, _, name = task.partition("/")
    module = importlib.import_module(f"dreamer_jax.envs.pure.{suite}")
    try:
        names = module.names()
    except ImportError as error:
        raise missing(task, suite) from error
    if name not in names:
        raise unknown(task, name, names)
    return checked(task, module.make(name))


def checked(task: str, env: Environment) -> Environment:
    """``env``, if what its functions give is what its spec says.

    Raises:
      ConfigError: with the part that is wrong.
    """
    spec = env.spec
    for name in spec.observation:
        if name in RESERVED:
            raise ConfigError(f"env.task: {task!r}: observation {name!r}: the name is reserved; rename it")
    if len(spec.action) == 1 and "action" not in spec.action:
        raise ConfigError(f"env.task: {task!r}: its one action is named {next(iter(spec.action))!r}, not 'action'")
    key = jax.eval_shape(lambda: jax.random.key(0))
    actions = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in spec.action.items()}
    episode, observation = _traced(task, lambda key: begin(env, key), key)
    _compare(task, "reset", spec.observation, observation)
    after, found = _traced(task, lambda episode, action: advance(env, episode, action), episode, actions)
    _compare(task, "step", spec.observation, found.observation)
    if found.reward.shape or found.terminated.shape or found.truncated.shape:
        raise ConfigError(f"env.task: {task!r}: step() must give a reward and two flags, each a single number")
    for name, value in found.log.items():
        if value.shape:
            raise ConfigError(f"env.task: {task!r}: step() must log a single number as {name!r}, not {value.shape}")
    before, later = (jax.tree.map(lambda x: (x.shape, x.dtype), some.state) for some in (episode, after))
    if before != later:
        raise ConfigError(f"env.task: {task!r}: step() gives a state of other shapes or types than reset()")
    return env


def _traced(task: str, function: Callable[..., Any], *inputs: Any) -> Any:
    """Shapes and types of what it gives."""
    try:
        return jax.eval_shape(function, *inputs)
    except Exception as error:  # whatever code of others raises
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(f"env.task: {task!r}: its functions can't be traced: {reason:.300}") from error


def _compare(task: str, what: str, specs: Mapping[str, ArraySpec], given: Mapping[str, Any]) -> None:
    for name, spec in specs.items():
        if given[name].shape != spec.shape:
            raise ConfigError(
                f"env.task: {task!r}: observation {name!r} of {what}() has shape {given[name].shape}, its spec says "
                f"{spec.shape}"
            )
