"""Observations to named arrays: what each part of a space becomes, and which values are cast to that or refused."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from gymnasium import Space, spaces

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.envs.spaces import RESERVED, Path, check_box, check_classes, check_names, part_name, parts
from dreamer_jax.specs import ArraySpec

Cast = Callable[[Any], np.ndarray]

LARGEST = np.float64(np.finfo(np.float32).max)
"""Float64, so that numbers of narrower types are compared with it as they are."""
_SQUARES = {np.dtype(np.float32): np.inf, np.dtype(np.float64): LARGEST**2}
"""Where the sum of squares is below this, all are finite in float32; a product costs less than looking at each."""


class ObservationLeaf(NamedTuple):
    """One named array of an observation, and where to find it."""

    name: str
    path: Path
    space: Space
    spec: ArraySpec


class Observations(NamedTuple):
    """What an observation space becomes. ``flatten`` gives new arrays by name, of the shapes and types of the leaves.

    It raises ValueError, naming the observation, for what is missing, has another shape than its space, can't be
    cast without loss, is NaN or infinite in float32, or is no value of its Discrete, MultiDiscrete or MultiBinary.
    Numbers outside the bounds of a Box are let through.
    """

    leaves: tuple[ObservationLeaf, ...]
    flatten: Callable[[Any], dict[str, np.ndarray]]


def plan_observations(space: Any) -> Observations:
    """Name every array of ``space`` (``observation``, if it is only one) and decide what it becomes.

    ============================  =======================================================
    Box of uint8 [h, w, channels] an image, as it is; floats are refused
    any other Box                 float32, of its shape, [1] for a number
    Discrete                      int32 [], the place among its values, counted from 0
    MultiDiscrete, MultiBinary    int32 of its shape, each counted from 0, all with as
                                  many classes as the one with the most values
    Dict, Tuple                   their parts, named ``key/key`` or ``key/index``
    ============================  =======================================================

    Raises:
      ConfigError: naming the observation that can't be used and the reason.
    """
    leaves, casts = [], []
    for path, part in parts(space, "observation"):
        name = part_name(space, "observation", path)
        if name in RESERVED:
            raise ConfigError(f"observation {name!r}: the name is reserved; rename it")
        spec, cast = _decide(f"observation {name!r}", part)
        leaves.append(ObservationLeaf(name, path, part, spec))
        casts.append((name, path, cast))
    check_names("observation", [leaf.name for leaf in leaves])

    def flatten(observation: Any) -> dict[str, np.ndarray]:
        return {name: cast(part_of(observation, f"observation {name!r}", path)) for name, path, cast in casts}

    return Observations(tuple(leaves), flatten)


def part_of(value: Any, what: str, path: Path) -> Any:
    """What lies at ``path`` of an observation or action; ``what`` it is begins the error.

    Raises:
      ValueError: nothing does.
    """
    for key in path:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            raise ValueError(f"{what} is missing") from None
    return value


def _decide(what: str, space: Space) -> tuple[ArraySpec, Cast]:
    match space:
        case spaces.Discrete():
            check_classes(what, space)
            return ArraySpec((), "int32", int(space.n)), _choice(what, int(space.start), int(space.n))
        case spaces.MultiDiscrete():
            check_classes(what, space)
            start, counts = np.array(space.start, np.int64), np.array(space.nvec, np.int64)
            return ArraySpec(space.shape, "int32", int(counts.max())), _choices(what, space, start, counts)
        case spaces.MultiBinary():
            start, counts = np.zeros(space.shape, np.int64), np.full(space.shape, 2)
            return ArraySpec(space.shape, "int32", 2), _choices(what, space, start, counts)
        case spaces.Box():
            check_box(what, space)
            if space.dtype == np.uint8 and len(space.shape) > 1:
                if len(space.shape) != 3 or space.shape[0] < space.shape[2]:
                    raise ConfigError(f"{what}: bytes of shape {space.shape}; images are [height, width, channels]")
                return ArraySpec(space.shape, "uint8"), _image(what, space)
            if len(space.shape) == 3:
                raise ConfigError(
                    f"{what}: {space.dtype} of shape {space.shape}; if it is an image, give it as uint8 from 0 to 255, "
                    "[height, width, channels], else as a vector"
                )
            return ArraySpec(space.shape or (1,), "float32"), _numbers(what, space)
    kind = type(space).__name__
    raise ConfigError(
        f"{what}: {kind} is not supported; use Box, Discrete, MultiDiscrete, MultiBinary, or Dict and Tuple of these"
    )


def _numbers(what: str, space: spaces.Box) -> Cast:
    shape, reshaped = space.shape, space.shape or (1,)

    def cast(value: Any) -> np.ndarray:
        value = _shaped(what, value, space, shape)
        limit = _SQUARES.get(value.dtype)
        if limit is None or not np.vdot(value, value) < limit:
            _refuse_numbers(what, value, space)
        return value.astype(np.float32).reshape(reshaped)

    return cast


def _refuse_numbers(what: str, value: np.ndarray, space: Space) -> None:
    if value.dtype.kind in "iub":
        return
    if value.dtype.kind != "f":
        raise ValueError(f"{what} is {value.dtype}, its space says {space.dtype}")
    wrong = ~(np.abs(value) <= LARGEST)  # also where it is NaN
    if wrong.any():
        raise ValueError(f"{what} is {value[wrong][0]} somewhere: not a finite float32")


def _image(what: str, space: spaces.Box) -> Cast:
    def cast(value: Any) -> np.ndarray:
        value = _shaped(what, value, space, space.shape)
        if value.dtype != np.uint8:
            if value.dtype.kind not in "iub":
                raise ValueError(f"{what} is {value.dtype}, its space says uint8; images are bytes from 0 to 255")
            if value.min() < 0 or value.max() > 255:
                raise ValueError(f"{what} goes from {value.min()} to {value.max()}; images are bytes from 0 to 255")
        return value.astype(np.uint8)

    return cast


def _choice(what: str, start: int, count: int) -> Cast:
    def cast(value: Any) -> np.ndarray:
        if isinstance(value, np.bool_ | np.ndarray) and value.shape == () and value.dtype.kind == "b":
            value = bool(value)  # NumPy takes its own for an index with a warning, or not at all
        try:
            index = operator.index(value) - start
        except TypeError:
            raise ValueError(f"{what} is {_described(value)}, its space says a whole number") from None
        if not 0 <= index < count:
            raise ValueError(f"{what} is {index + start}, its space says {start} to {start + count - 1}")
        return np.array(index, np.int32)

    return cast


def _choices(what: str, space: Space, start: np.ndarray, counts: np.ndarray) -> Cast:
    def cast(value: Any) -> np.ndarray:
        value = _shaped(what, value, space, start.shape)
        if value.dtype.kind not in "iub":
            raise ValueError(f"{what} is {value.dtype}, its space says {space.dtype}")
        index = value.astype(np.int64) - start
        wrong = (index < 0) | (index >= counts) | (index + start != value)  # the last as uint64 may wrap around
        if wrong.any():
            some = tuple(map(int, np.argwhere(wrong)[0]))
            low, high = start[some], start[some] + counts[some] - 1
            raise ValueError(f"{what} is {value[some]} at {some}, its space says {low} to {high}")
        return index.astype(np.int32)

    return cast


def _shaped(what: str, value: Any, space: Space, shape: tuple[int, ...]) -> np.ndarray:
    if value is None:
        raise ValueError(f"{what} is None, its space says {space.dtype}")
    value = np.asarray(value)
    if value.shape != shape:
        raise ValueError(f"{what} has shape {value.shape}, its space says {shape}")
    return value


def _described(value: Any) -> str:
    return f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else f"{value!r:.60}"
