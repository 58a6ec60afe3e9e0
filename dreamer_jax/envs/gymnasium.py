"""Environments that Gymnasium can make by id, and a user's own by ``package.module:callable``."""

from __future__ import annotations

import difflib
import importlib
import os
import sys

import gymnasium

from dreamer_jax.config.schema import ConfigError


def make(name: str, *, render: bool = False) -> gymnasium.Env:
    """Open a registered environment, such as ``CartPole-v1``, able to draw pictures or not.

    Raises:
      ConfigError: the id is unknown, or a package it needs is missing.
    """
    try:
        # Its checker only warns and slows every step; `check-env` says more.
        return gymnasium.make(name, disable_env_checker=True, render_mode="rgb_array" if render else None)
    except gymnasium.error.DependencyNotInstalled as error:
        raise ConfigError(f"env.task: 'gym/{name}' needs a package: {_line(error)}") from error
    except ModuleNotFoundError as error:
        raise ConfigError(f"env.task: 'gym/{name}': {_line(error)}") from error
    except gymnasium.error.Error as error:
        close = difflib.get_close_matches(name, gymnasium.registry, 3, 0.5)
        hint = f"; did you mean {' or '.join(f'gym/{match}' for match in close)}?" if close else ""
        reason = _line(error).partition(" Did you mean")[0]  # its own guess is of less help
        raise ConfigError(f"env.task: 'gym/{name}': {reason}{hint}") from error


def make_own(task: str) -> gymnasium.Env:
    """Call what ``package.module:callable`` names; modules in the working directory can be imported.

    Raises:
      ConfigError: the module or the callable can't be found, or gives no ``gymnasium.Env``.
    """
    module_name, _, attribute = task.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # The module itself, or something that it imports?
        own = error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}."))
        reason = f"no module {error.name!r} in {os.getcwd()} or the installed packages" if own else _line(error)
        raise ConfigError(f"env.task: {task!r}: {reason}") from error
    except Exception as error:
        raise ConfigError(
            f"env.task: {task!r}: importing {module_name} failed: {type(error).__name__}: {_line(error)}"
        ) from error
    if not hasattr(module, attribute):
        close = difflib.get_close_matches(attribute, dir(module), 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"env.task: {task!r}: {module_name} has no {attribute!r}{hint}")
    factory = getattr(module, attribute)
    if not callable(factory):
        raise ConfigError(f"env.task: {task!r}: {attribute} is not callable")
    try:
        env = factory()
    except Exception as error:
        reason = f"{type(error).__name__}: {_line(error)}"
        raise ConfigError(f"env.task: {task!r}: {attribute}() failed: {reason}") from error
    if not isinstance(env, gymnasium.Env):
        raise ConfigError(f"env.task: {task!r}: {attribute}() gave a {type(env).__name__}, not a gymnasium.Env")
    return env


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
