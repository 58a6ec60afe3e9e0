"""Gymnasium spaces to named arrays: observations flattened, raw policy outputs turned into actions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from gymnasium import Space, spaces

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.specs import ArraySpec

RESERVED = ("reward", "is_first", "is_last", "is_terminal", "deter", "stoch", "episode", "episode_step", "log")


class ObservationLeaf(NamedTuple):
    """One named array of an observation and where to find it."""

    name: str
    path: tuple[Any, ...]  # keys from the outermost dict inwards
    space: Space
    spec: ArraySpec


def observation_leaves(space: Space) -> list[ObservationLeaf]:
    """Name every array of ``space``; an observation that isn't a dict is called ``observation``.

    Raises:
      ConfigError: naming the observation that can't be used and the reason.
    """
    leaves = []
    for path, leaf in _observation_parts(space, ()):
        name = "/".join(map(str, path)) or "observation"
        if name in RESERVED:
            raise ConfigError(f"observation {name!r}: the name is reserved; rename it")
        leaves.append(ObservationLeaf(name, path, leaf, _observation_spec(name, leaf)))
    return _distinct("observation", leaves)


def flatten_observation(leaves: list[ObservationLeaf], observation: Any) -> dict[str, np.ndarray]:
    """Arrays of the declared shapes and types.

    Raises:
      ValueError: a part is missing or has another shape than its space declares.
    """
    flat = {}
    for name, path, space, spec in leaves:
        value = observation
        for key in path:
            if key not in value:
                raise ValueError(f"observation {name!r} is missing")
            value = value[key]
        value = np.asarray(value)
        if value.shape != space.shape:
            raise ValueError(f"observation {name!r} has shape {value.shape}, its space says {space.shape}")
        if isinstance(space, spaces.Discrete):
            value = value - space.start
        flat[name] = value.astype(spec.dtype).reshape(spec.shape)
    return flat


class Scaling(NamedTuple):
    """How [-1, 1] becomes the bounds of a box, all float64 of its shape."""

    low: np.ndarray
    high: np.ndarray
    centre: np.ndarray
    half: np.ndarray  # of the width; 1 where unbounded


class ActionLeaf(NamedTuple):
    """One named array of an action, as a policy sees it."""

    name: str
    spec: ArraySpec
    space: spaces.Box | spaces.Discrete
    scaling: Scaling | None  # of a box


def action_leaves(space: Space) -> list[ActionLeaf]:
    """Name every array of ``space``: ``action`` if there is only one, else by key or index.

    Raises:
      ConfigError: naming the action that can't be used and the reason.
    """
    parts = list(_action_parts(space, ()))
    # Indices alone would be poor names, so a space that starts with them gets a prefix.
    prefix = () if isinstance(space, spaces.Dict) else ("action",)
    leaves = []
    for path, leaf in parts:
        name = "action" if len(parts) == 1 else "/".join(map(str, prefix + path))
        if isinstance(leaf, spaces.Discrete):
            spec = ArraySpec((), "int32", int(leaf.n))
        elif np.issubdtype(leaf.dtype, np.floating):
            spec = ArraySpec(leaf.shape, "float32")
        else:
            raise ConfigError(f"action {name!r}: a Box of {leaf.dtype} is ambiguous; use Discrete or MultiDiscrete")
        leaves.append(ActionLeaf(name, spec, leaf, scaling(leaf) if isinstance(leaf, spaces.Box) else None))
    if not leaves:
        raise ConfigError("the action space is empty")
    return _distinct("action", leaves)


def build_action(space: Space, leaves: list[ActionLeaf], action: dict[str, np.ndarray]) -> Any:
    """The environment's own action from raw policy outputs, one array per leaf."""
    return _assemble(
        space, (action[name] if bounds is None else rescale(action[name], bounds) for name, _, _, bounds in leaves)
    )


def scaling(space: spaces.Box) -> Scaling:
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    bounded = np.isfinite(low) & np.isfinite(high)
    # Centre and half width, so that bounds of [-1, 1] leave every float exactly as it is.
    centre = np.where(bounded, (np.where(bounded, low, 0) + np.where(bounded, high, 0)) / 2, 0)
    half = np.where(bounded, (np.where(bounded, high, 0) - np.where(bounded, low, 0)) / 2, 1)
    return Scaling(low, high, centre, half)


def rescale(action: np.ndarray, bounds: Scaling) -> np.ndarray:
    """Clip to [-1, 1] and map to the bounds; unbounded entries are clipped but keep their scale. In float64."""
    # Not np.clip, which takes several times as long for a few numbers.
    unit = np.minimum(np.maximum(np.asarray(action, np.float64), -1), 1)
    return np.minimum(np.maximum(bounds.centre + unit * bounds.half, bounds.low), bounds.high)


def _observation_parts(space: Space, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Space]]:
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from _observation_parts(part, (*path, key))
    else:
        yield path, space


def _observation_spec(name: str, space: Space) -> ArraySpec:
    if isinstance(space, spaces.Discrete):
        return ArraySpec((), "int32", int(space.n))
    if not isinstance(space, spaces.Box):
        kind = type(space).__name__
        raise ConfigError(f"observation {name!r}: {kind} is not supported; use Box, Discrete or Dict of these")
    if space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[0] >= space.shape[2]:
        return ArraySpec(space.shape, "uint8")
    if space.dtype == np.uint8 and len(space.shape) > 1:
        raise ConfigError(f"observation {name!r}: bytes of shape {space.shape}; images are [height, width, channels]")
    if len(space.shape) == 3:
        raise ConfigError(
            f"observation {name!r}: {space.dtype} of shape {space.shape}; if it is an image, give it as uint8 from 0 "
            "to 255, [height, width, channels], else as a vector"
        )
    if np.issubdtype(space.dtype, np.complexfloating):
        raise ConfigError(f"observation {name!r}: complex numbers are not supported")
    return ArraySpec(space.shape or (1,), "float32")


def _action_parts(
    space: Space, path: tuple[Any, ...]
) -> Iterator[tuple[tuple[Any, ...], spaces.Box | spaces.Discrete]]:
    match space:
        case spaces.Dict():
            for key, part in space.spaces.items():
                yield from _action_parts(part, (*path, key))
        case spaces.Tuple():
            for index, part in enumerate(space.spaces):
                yield from _action_parts(part, (*path, index))
        case spaces.MultiDiscrete():
            for index, classes in enumerate(space.nvec.ravel()):
                yield (*path, index), spaces.Discrete(int(classes))
        case spaces.MultiBinary():
            for index in range(int(np.prod(space.shape))):
                yield (*path, index), spaces.Discrete(2)
        case spaces.Discrete() | spaces.Box():
            yield path, space
        case _:
            name = "/".join(map(str, path)) or "action"
            raise ConfigError(f"action {name!r}: {type(space).__name__} is not supported")


def _assemble(space: Space, values: Iterator[np.ndarray]) -> Any:
    """Consumes ``values`` in the order in which ``_action_parts`` lists them."""
    match space:
        case spaces.Dict():
            return {key: _assemble(part, values) for key, part in space.spaces.items()}
        case spaces.Tuple():
            return tuple(_assemble(part, values) for part in space.spaces)
        case spaces.MultiDiscrete() | spaces.MultiBinary():
            flat = np.array([int(next(values)) for _ in range(int(np.prod(space.shape)))], space.dtype)
            start = space.start if isinstance(space, spaces.MultiDiscrete) else 0
            return (flat.reshape(space.shape) + start).astype(space.dtype)
        case spaces.Discrete():
            return np.int64(int(next(values)) + int(space.start))
        case spaces.Box():
            return next(values).astype(space.dtype)
        case _:
            raise TypeError(f"{type(space).__name__} has no parts")


def _distinct(kind: str, leaves: list) -> list:
    names = [leaf.name for leaf in leaves]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{kind} {twice[0]!r}: two parts get this name; rename one")
    return leaves
