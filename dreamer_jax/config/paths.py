"""Paths as people write them."""

from __future__ import annotations

import os
from pathlib import Path

from dreamer_jax.config.schema import ConfigError


def path_of(text: str | Path) -> Path:
    """``~`` and ``~name`` at the front are the home directories that they are in a shell; twice is as once.

    Raises:
      ConfigError: there is no such home, or no file can have this name.
    """
    place = os.path.expanduser(text)
    try:
        possible = b"\0" not in os.fsencode(place)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise ConfigError(f"{text}: no file can have this name")
    if place.startswith("~"):
        home = place.partition("/")[0]
        raise ConfigError(f"{text}: {home} is nobody's home directory here; a folder of that name is ./{home}")
    path = Path(place)
    return path.absolute() if path.parts[:1] and path.parts[0].startswith("~") else path
