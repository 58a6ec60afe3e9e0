"""The settings that a command line stands for."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dreamer_jax.config.loading import load
from dreamer_jax.config.schema import FIELDS, Config, ConfigError


def named(options: argparse.Namespace, flags: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Name and text of every setting on a command line, those with a flag of their own first."""
    own = {"preset": "preset", "benchmark": "benchmark", "size": "size", "seed": "seed", "env.task": "task"}
    texts = {name: getattr(options, attribute, None) for name, attribute in own.items()}
    return [(name, text) for name, text in texts.items() if text is not None] + list(flags)


def settings(options: argparse.Namespace, flags: Sequence[tuple[str, str]]) -> Config:
    """What files and flags make of the settings."""
    return load(files=options.config, overrides=named(options, flags))


def pairs(rest: Sequence[str]) -> list[tuple[str, str]]:
    """``--name value`` and ``--name=value`` as pairs.

    Raises:
      ConfigError: something else is there, or a flag has no value.
    """
    found, words = [], list(rest)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise ConfigError(f"{word}: expected a flag, such as --env.task dmc/walker_walk")
        name, equals, value = word[2:].partition("=")
        if not equals:
            if not words or words[0].startswith("--"):
                load(overrides=[(name, "")]) if name not in FIELDS else None  # says what name was meant
                raise ConfigError(f"{word}: expected a value")
            value = words.pop(0)
        found.append((name, value))
    return found
