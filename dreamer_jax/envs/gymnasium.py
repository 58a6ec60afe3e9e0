"""Environments that Gymnasium can make by id, and a user's own by ``package.module:callable``."""

from __future__ import annotations

import difflib
import importlib
import os
import re
import sys
from types import ModuleType
from typing import Any

import gymnasium

from dreamer_jax.config.schema import ConfigError


def make(name: str, *, render: bool = False) -> gymnasium.Env:
    """Open a registered environment, such as ``CartPole-v1``, able to draw pictures or not.

    ``module:id`` imports the module that registers it first, which may lie in the working directory.

    Raises:
      ConfigError: the id is unknown or can't be used here, or its constructor fails.
    """
    task = f"gym/{name}"
    module, _, identifier = name.rpartition(":")
    if identifier.startswith("ALE/") and not module:
        raise ConfigError(
            f"env.task: {task!r}: Atari games are a suite of their own, with the preprocessing of published scores; "
            f"use atari/{_game(identifier)}"
        )
    before = set(gymnasium.registry)
    if module:
        _import(task, module)
    spec = gymnasium.registry.get(identifier)
    if spec is not None and spec.entry_point is None:
        raise ConfigError(
            f"env.task: {task!r}: only a vector environment is registered under this id; one that gives single "
            "environments is needed, env.num_envs says how many are opened"
        )
    try:
        return _make(identifier, {"render_mode": "rgb_array"} if render else {})
    except gymnasium.error.DependencyNotInstalled as error:
        raise ConfigError(f"env.task: {task!r} needs a package: {_line(error)}") from error
    except (Exception, SystemExit) as error:
        if not isinstance(error, gymnasium.error.UnregisteredEnv) or spec is not None:
            raise ConfigError(f"env.task: {task!r}: it could not be made: {_reason(error)}") from error
        usable = [known for known, its in gymnasium.registry.items() if its.entry_point is not None]
        close = difflib.get_close_matches(identifier, usable, 3, 0.5)
        close = [f"gym/{match}" if match in before else f"gym/{module}:{match}" for match in close]
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        reason = _line(error).partition(" Did you mean")[0].rstrip(".")  # its own guess is of less help
        raise ConfigError(f"env.task: {task!r}: {reason}{hint}") from error


def make_own(task: str) -> gymnasium.Env:
    """What ``package.module:callable`` gives, a pure environment as one of Gymnasium.

    Raises:
      ConfigError: as ``call_own``; or it gives neither.
    """
    env = call_own(task)
    if isinstance(env, gymnasium.Env):
        return env
    from dreamer_jax.envs.pure import host, suites  # late: they load JAX
    from dreamer_jax.interfaces.environment import Environment

    if not isinstance(env, Environment):
        kind, attribute = type(env).__name__, task.partition(":")[2]
        raise ConfigError(f"env.task: {task!r}: {attribute}() gave a {kind}, not a gymnasium.Env")
    return host.PureEnv(suites.checked(task, env))


def call_own(task: str) -> Any:
    """Call what ``package.module:callable`` names; modules in the working directory can be imported.

    Raises:
      ConfigError: the module or the callable can't be found, or it fails.
    """
    module_name, _, attribute = task.partition(":")
    module = _import(task, module_name)
    if not hasattr(module, attribute):
        close = difflib.get_close_matches(attribute, dir(module), 1)
        close = [f"gym/{task}"] if attribute in gymnasium.registry else [repr(match) for match in close]
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"env.task: {task!r}: {module_name} has no {attribute!r}{hint}")
    factory = getattr(module, attribute)
    if not callable(factory):
        raise ConfigError(f"env.task: {task!r}: {attribute} is not callable")
    try:
        return factory()
    except (Exception, SystemExit) as error:
        raise ConfigError(f"env.task: {task!r}: {attribute}() failed: {_reason(error)}") from error


def _make(identifier: str, options: dict[str, Any]) -> gymnasium.Env:
    try:
        # Its checker only warns and slows every step; `check-env` says more.
        return gymnasium.make(identifier, disable_env_checker=True, **options)
    except TypeError as error:
        if "render_mode" in options and "'render_mode'" in str(error):  # not every constructor has it
            return _make(identifier, {})
        raise


def _import(task: str, name: str) -> ModuleType:
    """A module, also one in the working directory.

    Raises:
      ConfigError: there is none, or importing it fails.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # The module itself, or something that it imports?
        own = error.name is not None and (name == error.name or name.startswith(f"{error.name}."))
        reason = f"no module {error.name!r} in {os.getcwd()} or the installed packages" if own else _line(error)
        raise ConfigError(f"env.task: {task!r}: {reason}") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"env.task: {task!r}: importing {name} failed: {_reason(error)}") from error


def _game(identifier: str) -> str:
    """The name here of a game such as ``ALE/MsPacman-v5``: ``ms_pacman``."""
    name = identifier.removeprefix("ALE/").partition("-")[0]
    return re.sub("(?<!^)(?=[A-Z])", "_", name).lower() or "<game>"


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {_line(error)}".removesuffix(": ")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
