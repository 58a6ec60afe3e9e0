"""What a policy puts out, as an environment's own actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from gymnasium import Space, spaces

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.envs.observations import part_of
from dreamer_jax.envs.spaces import (
    Path,
    bounds,
    check_box,
    check_classes,
    check_names,
    is_empty,
    part_name,
    parts,
    size_of,
)
from dreamer_jax.specs import ArraySpec

Build = Callable[[dict[str, np.ndarray]], Any]


class Reach(NamedTuple):
    """What a policy's [-1, 1] becomes in a Box: ``centre + half u``, all float64 of its shape; see ``reach``."""

    low: np.ndarray
    high: np.ndarray
    centre: np.ndarray
    half: np.ndarray


class ActionLeaf(NamedTuple):
    """One named array of an action, as a policy sees it."""

    name: str
    spec: ArraySpec
    space: spaces.Box | spaces.Discrete
    reach: Reach | None  # of a Box


class Actions(NamedTuple):
    """What an action space becomes. ``build`` makes the environment's own action from one array for each leaf.

    ``flatten`` is its inverse, for actions that were recorded elsewhere: numbers of a Box outside of its reach are cut.
    """

    leaves: tuple[ActionLeaf, ...]
    build: Build
    flatten: Callable[[Any], dict[str, np.ndarray]]


def plan_actions(space: Any) -> Actions:
    """Name every array of ``space``: ``action`` if there is only one, else by key or index.

    A Box of floats is float32 of its shape, mapped as ``reach`` says. Discrete, and each element of a MultiDiscrete or
    MultiBinary, is an int32 [] counted from 0. What has no elements is given to the environment as it is.

    Raises:
      ConfigError: naming the action that can't be used and the reason.
    """
    found = [single for path, part in parts(space, "action") for single in _singles(path, part)]
    names = {path: "action" if len(found) == 1 else part_name(space, "action", path) for path, _ in found}
    check_names("action", list(names.values()))
    leaves = tuple(_decide(names[path], part) for path, part in found)
    boxes = {leaf.name: leaf.reach for leaf in leaves if leaf.reach is not None}
    places = [(path, single) for path, part in parts(space, "action") for single, _ in _singles(path, part)]

    def flatten(action: Any) -> dict[str, np.ndarray]:
        return {
            leaf.name: _read(leaf, part_of(action, f"action {leaf.name!r}", path), single[len(path) :])
            for leaf, (path, single) in zip(leaves, places, strict=True)
        }

    return Actions(leaves, _builder(space, (), names, boxes), flatten)


def _read(leaf: ActionLeaf, value: Any, element: Path) -> np.ndarray:
    """A policy's number or choice; ``element`` says which one of several."""
    value = np.asarray(value).reshape(-1)[element[0]] if element else value
    if leaf.reach is None:
        assert isinstance(leaf.space, spaces.Discrete)
        return np.asarray(int(value) - int(leaf.space.start), np.int32)
    away, half = np.asarray(value, np.float64) - leaf.reach.centre, leaf.reach.half
    return np.clip(np.divide(away, half, out=np.zeros(half.shape), where=half > 0), -1, 1).astype(np.float32)


def reach(space: spaces.Box) -> Reach:
    """The finite interval, of each element, that a policy's [-1, 1] is mapped to.

    The bounds, where both are finite. With one finite bound b it is ``2 max(1, |b|)`` wide and begins or ends there,
    so that it has room beside b in floating point, too; without any it is [-1, 1].
    """
    low, high = bounds(space)
    below, above = np.isfinite(low), np.isfinite(high)
    largest = np.minimum(np.finfo(space.dtype).max, np.finfo(np.float64).max).astype(np.float64)
    one, other = np.where(below, low, -1.0), np.where(above, high, 1.0)
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large is cut off, what has no sense not taken
        one = np.where(above & ~below, np.maximum(high - 2 * np.maximum(1, np.abs(high)), -largest), one)
        other = np.where(below & ~above, np.minimum(low + 2 * np.maximum(1, np.abs(low)), largest), other)
    # Centre and half width, so that bounds of [-1, 1] leave every float exactly as it is. A sum of bounds may overflow.
    return Reach(one, other, one / 2 + other / 2, other / 2 - one / 2)


def rescale(action: np.ndarray, reach: Reach) -> np.ndarray:
    """Clip to [-1, 1] and map to the interval. In float64."""
    # Not np.clip, which takes several times as long for a few numbers.
    unit = np.minimum(np.maximum(np.asarray(action, np.float64), -1), 1)
    return np.minimum(np.maximum(reach.centre + unit * reach.half, reach.low), reach.high)


def _singles(path: Path, space: Space) -> list[tuple[Path, Space]]:
    """A part, or each element of one of several choices."""
    if not isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        return [(path, space)]
    if isinstance(space, spaces.MultiBinary):
        return [((*path, index), spaces.Discrete(2)) for index in range(size_of(space))]
    check_classes(f"action {'/'.join(map(str, path)) or 'action'!r}", space)
    each = zip(space.nvec.flat, space.start.flat, strict=True)
    return [((*path, index), spaces.Discrete(int(n), start=int(start))) for index, (n, start) in enumerate(each)]


def _decide(name: str, space: Space) -> ActionLeaf:
    what = f"action {name!r}"
    match space:
        case spaces.Discrete():
            check_classes(what, space)
            return ActionLeaf(name, ArraySpec((), "int32", int(space.n)), space, None)
        case spaces.Box() if np.issubdtype(space.dtype, np.floating):
            check_box(what, space)
            return ActionLeaf(name, ArraySpec(space.shape, "float32"), space, reach(space))
        case spaces.Box():
            raise ConfigError(f"{what}: a Box of {space.dtype} is ambiguous; use Discrete or MultiDiscrete")
    raise ConfigError(f"{what}: {type(space).__name__} is not supported")


def _builder(space: Space, path: Path, names: dict[Path, str], boxes: dict[str, Reach]) -> Build:
    match space:
        case spaces.Dict():
            keyed = {key: _builder(part, (*path, key), names, boxes) for key, part in space.spaces.items()}
            return lambda action: {key: build(action) for key, build in keyed.items()}
        case spaces.Tuple():
            listed = [_builder(part, (*path, index), names, boxes) for index, part in enumerate(space.spaces)]
            return lambda action: tuple(build(action) for build in listed)
        case _ if is_empty(space):
            return lambda action: np.zeros(space.shape, space.dtype)
        case spaces.MultiDiscrete() | spaces.MultiBinary():
            singles = [names[(*path, index)] for index in range(size_of(space))]
            start = space.start if isinstance(space, spaces.MultiDiscrete) else np.zeros(space.shape, space.dtype)

            def build_several(action: dict[str, np.ndarray]) -> np.ndarray:
                chosen = np.array([int(action[name]) for name in singles], space.dtype)
                return (chosen.reshape(space.shape) + start).astype(space.dtype)

            return build_several
    name = names[path]
    if isinstance(space, spaces.Discrete):
        kind, first = np.dtype(space.dtype).type, int(space.start)
        return lambda action: kind(int(action[name]) + first)
    box = boxes[name]
    return lambda action: np.asarray(rescale(action[name], box), space.dtype)
