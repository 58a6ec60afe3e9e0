"""What a checkpoint says without its arrays, and whether its files are still what they were when it was saved.

A checkpoint is a folder ``checkpoints/<agent steps>``, in which ``checksums.json`` has the size and the CRC-32 of every
other file. Its facts are the counters, the settings, the shapes that the environment has, and how long
``metrics.jsonl`` and ``scores.jsonl`` were, with checksums of what they held. Reading them takes no array and no Orbax.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from dreamer_jax.checksums import file_checksum, seal, unseal
from dreamer_jax.config.loading import RESUMABLE
from dreamer_jax.config.schema import Config, ConfigError, flatten
from dreamer_jax.specs import EnvSpec

_CHECKSUMS, _FACTS = "checksums.json", "facts/metadata"


def place(run_dir: Path, step: int) -> Path:
    """The folder of checkpoint ``step``."""
    return run_dir / "checkpoints" / str(step)


def steps(run_dir: Path) -> list[int]:
    """All checkpoints of a run, oldest first. Each was complete when it got its name.

    Raises:
      ConfigError: they can't be listed.
    """
    path = run_dir / "checkpoints"
    try:
        return sorted(int(name) for name in os.listdir(path) if name.isdecimal())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{path}: can't be read ({error.strerror})") from error


def write_facts(folder: Path, content: dict[str, Any]) -> None:
    """Put ``content`` into a checkpoint that is being made."""
    path = folder / _FACTS
    path.parent.mkdir()
    _write(path, json.dumps(content))


def seal_folder(folder: Path) -> None:
    """Write the checksums of all files of a checkpoint that is being made, as the last one."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    _write(folder / _CHECKSUMS, seal({path.relative_to(folder).as_posix(): file_checksum(path) for path in paths}))


def check_folder(folder: Path, items: Collection[str]) -> None:
    """Compare the files of some ``items`` of a checkpoint with their checksums; those of older versions have none.

    Raises:
      ConfigError: naming the one that is damaged.
    """
    path = folder / _CHECKSUMS
    try:
        files = unseal(path.read_bytes())
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"{path}: damaged ({why}), so that nothing there can be checked; remove it to go on unchecked"
        ) from error
    for name, (size, checksum) in files.items():
        if name.partition("/")[0] not in items:
            continue
        try:
            found = file_checksum(folder / name)
        except FileNotFoundError as error:
            raise ConfigError(f"{folder / name}: missing, though {_CHECKSUMS} knows it") from error
        except OSError as error:
            raise ConfigError(f"{folder / name}: can't be read ({error.strerror})") from error
        if found != (size, checksum):
            why = "another checksum" if found[0] == size else f"{found[0]:,} bytes instead of {size:,}"
            raise ConfigError(f"{folder / name}: damaged ({why} than {_CHECKSUMS} has)")


def read_facts(run_dir: Path, step: int) -> dict[str, Any]:
    """What ``write_facts`` took.

    Raises:
      ConfigError: it is damaged.
    """
    folder = place(run_dir, step)
    check_folder(folder, {"facts"})
    try:
        content = json.loads((folder / _FACTS).read_bytes())
        content["facts"], content["empty"]
        return content
    except OSError as error:
        raise ConfigError(f"{folder / _FACTS}: can't be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{folder / _FACTS}: damaged ({error})") from error


def describe(config: Config, spec: EnvSpec, given: bool) -> dict[str, Any]:
    """What a checkpoint has to say of its run that its files can be held against.

    Args:
      given: the agent was passed to ``train``, and is not the one that ``config`` describes.
    """
    settings = {name: value for name, value in flatten(config).items() if name not in RESUMABLE}
    return {"settings": settings, "spec": spec.as_json(), "agent_given": given}


def newest(run_dir: Path) -> tuple[int, dict[str, Any]]:
    """The newest checkpoint whose facts can be read, and these; 0 and nothing if there is none."""
    for step in reversed(steps(run_dir)):
        try:
            return step, read_facts(run_dir, step)["facts"]
        except ConfigError:
            continue  # whoever needs that one says so
    return 0, {}


def _write(path: Path, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
