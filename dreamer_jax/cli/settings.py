"""The settings that a command line stands for."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Collection, Sequence
from typing import NoReturn

from dreamer_jax.config.loading import load
from dreamer_jax.config.schema import FIELDS, Config, ConfigError

OF_OTHERS = {
    **dict.fromkeys(("logdir", "log_dir", "outdir", "out_dir", "output_dir", "workdir", "root_dir"), "--run-dir"),
    **dict.fromkeys(("steps", "total_steps", "num_steps", "env_steps", "total_timesteps"), "--train.frames"),
    **dict.fromkeys(("env", "env_id", "env_name"), "--env.task"),
    "configs": "--config",
    "envs": "--env.num_envs",
}
"""What other programs call something, and what it is called here."""


def named(options: argparse.Namespace, flags: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Name and text of every setting on a command line, those with a flag of their own first."""
    own = {"preset": "preset", "benchmark": "benchmark", "size": "size", "seed": "seed", "env.task": "task"}
    own |= {"offline.only": "only", "train.start": "start", "train.freeze": "freeze"}
    texts = {name: getattr(options, attribute, None) for name, attribute in own.items()}
    if getattr(options, "data", None) is not None:
        texts["offline.data"] = ",".join(options.data)
    return [(name, text) for name, text in texts.items() if text is not None] + list(flags)


def settings(options: argparse.Namespace, flags: Sequence[tuple[str, str]]) -> Config:
    """What files and flags make of the settings."""
    return load(files=options.config, overrides=named(options, flags))


def with_values(words: Sequence[str]) -> list[str]:
    """``--name=value`` in the place of ``--name value``, for every setting."""
    joined: list[str] = []
    for word in words:
        last = joined[-1].removeprefix("--") if joined and joined[-1].startswith("--") else ""
        if last in FIELDS and not word.startswith("--"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def pairs(rest: Sequence[str], flags: Collection[str] = ()) -> list[tuple[str, str]]:
    """Name and value of each ``--name=value``, as ``with_values`` makes them.

    Args:
      flags: those of the command that are no settings.

    Raises:
      ConfigError: something else is there, or a flag has no value.
    """
    found = []
    for word in rest:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in FIELDS:
            refuse(word, flags)
        if not equals:
            raise ConfigError(f"{word}: expected a value")
        found.append((name, value))
    return found


def refuse(word: str, flags: Collection[str]) -> NoReturn:
    """Say what may be meant by a word that is neither one of a command's ``flags`` nor a setting.

    Raises:
      ConfigError: always.
    """
    if not word.startswith("--"):
        raise ConfigError(f"{word}: expected a flag, such as --env.task dmc/walker_walk")
    flag, settings = word.partition("=")[0], "--config" in flags
    leaf = flag.rpartition(".")[2].lstrip("-").replace("-", "_")
    known = [*flags, *(f"--{name}" for name in FIELDS if settings)]
    meant = [OF_OTHERS.get(leaf), *(name for name in known if name.rpartition(".")[2] == leaf)]
    meant += difflib.get_close_matches(flag[:99], known, 1, 0.75)
    for name in meant:
        if name in known:
            raise ConfigError(f"{flag}: unknown flag; did you mean {name}?")
    if settings:
        load(overrides=[(flag.removeprefix("--"), "")])  # says which sections there are
    raise ConfigError(f"{flag}: unknown flag; there are {', '.join(sorted(flags))}")
