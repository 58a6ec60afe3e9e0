"""Whether the files of a run are what they were when its newest checkpoint was saved, as far as that says so."""

from __future__ import annotations

import json
import os
from pathlib import Path

from dreamer_jax.checksums import file_checksum
from dreamer_jax.config.loading import load as load_config
from dreamer_jax.config.paths import path_of
from dreamer_jax.config.schema import Config, ConfigError, flatten
from dreamer_jax.runs.facts import newest, steps
from dreamer_jax.specs import EnvSpec

_NAMED = 3
"""Settings in one message."""
_WRITTEN_ANEW = "put back a copy, or remove it and go on with train, which writes it (plot does without)"


def read_run(run_dir: str | Path) -> tuple[Config, EnvSpec]:
    """The settings of a run, and the shapes of its environment.

    Raises:
      ConfigError: it is no run directory, or one of its files is damaged.
    """
    run_dir = path_of(run_dir)
    if not os.path.lexists(run_dir / "config.yaml") and not steps(run_dir):
        raise ConfigError(f"{run_dir}: no config.yaml there; is it the directory of a run?")
    return read_settings(run_dir), read_spec(run_dir)


def read_settings(run_dir: Path) -> Config:
    """The settings in a run's ``config.yaml``.

    Raises:
      ConfigError: it is damaged, or has others than the newest checkpoint that can be read.
    """
    way_out = "put back what it was (plot does without)"
    try:
        config = load_config(files=[run_dir / "config.yaml"])
    except ConfigError as error:
        raise ConfigError(f"{error}; {way_out}") from error
    step, facts = newest(run_dir)
    mine, theirs = flatten(config), facts.get("settings", {})
    others = [
        f"{name} is {mine[name]} and was {theirs[name]}" for name in mine if mine[name] != theirs.get(name, mine[name])
    ]
    if others:
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        raise ConfigError(
            f"{run_dir / 'config.yaml'}: edited or damaged: {'; '.join(others[:_NAMED])}{more} when checkpoint {step} "
            f"was saved; {way_out}"
        )
    return config


def read_spec(run_dir: Path) -> EnvSpec:
    """The shapes in a run's ``env.json``.

    Raises:
      ConfigError: it is damaged, or has others than the newest checkpoint that can be read.
    """
    path = run_dir / "env.json"
    try:
        spec = EnvSpec.from_json(json.loads(path.read_bytes())["spec"])
    except OSError as error:
        raise ConfigError(f"{path}: can't be read ({error.strerror}); {_WRITTEN_ANEW}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: damaged ({error!r}); {_WRITTEN_ANEW}") from error
    step, facts = newest(run_dir)
    if "spec" in facts and EnvSpec.from_json(facts["spec"]) != spec:
        raise ConfigError(
            f"{path}: damaged: other observations or actions than when checkpoint {step} was saved; {_WRITTEN_ANEW}"
        )
    return spec


def check_origin(run_dir: Path, given: bool) -> None:
    """Compare where a run's agent came from with where it comes from now: ``given`` by a program, or from the settings.

    Raises:
      ConfigError: from elsewhere.
    """
    _, facts = newest(run_dir)
    before = facts.get("agent_given", given)  # older checkpoints don't say
    if before and not given:
        raise ConfigError(
            f"{run_dir}: its agent was passed to train(agent=...), and its settings don't describe that one; pass it "
            "again, to train or to load(agent=...)"
        )
    if given and not before:
        raise ConfigError(
            f"{run_dir}: its agent is the one that its settings describe, and agent= may be another; choose another "
            "directory"
        )


def check_lines(path: Path) -> None:
    """Compare ``metrics.jsonl`` or ``scores.jsonl`` with what it held at the newest checkpoint that can be read.

    Raises:
      ConfigError: it is missing, or something else now.
    """
    step, facts = newest(path.parent)
    record = facts.get("files", {}).get(path.name, {"bytes": 0})
    if not record["bytes"]:
        return
    way_out = "put back a copy, or move it away to train on without its lines (evaluate, dream and export need none)"
    try:
        found = file_checksum(path, record["bytes"])
    except OSError as error:
        raise ConfigError(f"{path}: can't be read ({error.strerror}); {way_out}") from error
    if found != (record["bytes"], record["crc32"]):
        what = "shorter than" if found[0] < record["bytes"] else "not"
        raise ConfigError(f"{path}: damaged: {what} what it was when checkpoint {step} was saved; {way_out}")


def lines_lost(run_dir: Path) -> list[str]:
    """Which of these files are missing though they were there, as sentences."""
    step, facts = newest(run_dir)
    lost = [
        name for name, each in facts.get("files", {}).items() if each["bytes"] and not os.path.lexists(run_dir / name)
    ]
    return [f"{run_dir / name}: missing, though it was there at checkpoint {step}; begun again" for name in lost]
