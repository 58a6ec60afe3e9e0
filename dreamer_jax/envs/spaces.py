"""Gymnasium spaces taken apart into named arrays: the names, and what no agent can use. See observations, actions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import numpy as np
from gymnasium import Space, spaces

from dreamer_jax.config.schema import ConfigError

Path = tuple[Any, ...]
"""Keys and indices from the outermost Dict or Tuple inwards."""

RESERVED = ("reward", "is_first", "is_last", "is_terminal", "episode", "episode_step", "log")
MOST_CLASSES = 65_536
"""A network has an input or an output for each value of a choice, and a batch that many numbers for each record."""
MOST_NAME_BYTES = 200
"""Of the name in a file's name, which has 255 on most file systems."""


def parts(space: Space, kind: str) -> list[tuple[Path, Space]]:
    """Every part of nested Dicts and Tuples that is neither, those without elements left out.

    Args:
      kind: ``observation`` or ``action``.

    Raises:
      ConfigError: it is no space of Gymnasium, or has no parts with elements.
    """
    if not isinstance(space, Space):
        raise ConfigError(f"{kind}_space is a {type(space).__name__}, not a gymnasium.Space")
    found = [(path, part) for path, part in _parts(space, ()) if not is_empty(part)]
    if not found:
        raise ConfigError(f"the {kind} space is empty")
    return found


def empty_parts(space: Space, kind: str) -> list[str]:
    """Names of the parts without elements."""
    return [part_name(space, kind, path) for path, part in _parts(space, ()) if is_empty(part)]


def is_empty(space: Space) -> bool:
    return isinstance(space, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary) and 0 in space.shape


def part_name(space: Space, kind: str, path: Path) -> str:
    """Keys joined by slashes; indices alone would be poor names, so what is no Dict begins with ``kind``."""
    return "/".join(map(str, path if isinstance(space, spaces.Dict) else (kind, *path))) or kind


def check_names(kind: str, names: list[str]) -> None:
    """Refuse names that arrays and files can't have."""
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{kind} {name!r}: two parts get this name; rename one")
        if not name.isprintable() or len(quote(name, safe="")) > MOST_NAME_BYTES:
            raise ConfigError(
                f"{kind} {name[:40]!r}: a name is made of printable characters and takes at most {MOST_NAME_BYTES} "
                "bytes in a file's name; rename it"
            )


def check_box(what: str, space: spaces.Box) -> None:
    """Refuse bounds between which no finite number lies."""
    low, high = bounds(space)
    wrong = ~(low <= high) | (low == np.inf) | (high == -np.inf)
    if wrong.any():
        first = np.unravel_index(int(np.argmax(wrong)), space.shape)
        raise ConfigError(f"{what}: no finite number lies between its bounds, low {low[first]} and high {high[first]}")


def bounds(space: spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """Low and high in float64, infinite where they are beyond it."""
    with np.errstate(over="ignore"):
        return space.low.astype(np.float64), space.high.astype(np.float64)


def check_classes(what: str, space: spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary) -> None:
    """Refuse a choice among too many values, or with values that its type can't hold."""
    most, last = 2, 1
    if isinstance(space, spaces.Discrete):
        most, last = int(space.n), int(space.start) + int(space.n) - 1
    elif isinstance(space, spaces.MultiDiscrete):
        most = int(space.nvec.max())
        last = max(int(start) + int(n) - 1 for start, n in zip(space.start.flat, space.nvec.flat, strict=True))
    if most > MOST_CLASSES:
        raise ConfigError(f"{what}: a choice among {most} values; at most {MOST_CLASSES} can be used")
    if last > np.iinfo(space.dtype).max:
        raise ConfigError(f"{what}: its last value is {last}, which {space.dtype} can't hold")


def size_of(space: Space) -> int:
    return math.prod(space.shape or ())


def _parts(space: Space, path: Path) -> Iterator[tuple[Path, Space]]:
    match space:
        case spaces.Dict():
            for key, part in space.spaces.items():
                yield from _parts(part, (*path, key))
        case spaces.Tuple():
            for index, part in enumerate(space.spaces):
                yield from _parts(part, (*path, index))
        case _:
            yield path, space
