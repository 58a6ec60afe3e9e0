"""Environments of any space that behave, or misbehave, as a case says, and what must become of all they emit."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

EPISODE = 5
"""Actions of an episode."""


@dataclass(frozen=True)
class Fault:
    """What is done to a value, from which call on in an episode: to a part of the observation or to a result."""

    name: str
    change: Callable[[Any, np.random.Generator], Any]
    place: str  # part, reset, step, or the field of a step's result


@dataclass(frozen=True)
class Case:
    observation: gymnasium.Space
    action: gymnasium.Space
    fault: Fault | None = None
    part: int = 0  # which one, modulo their number
    begin: int = 0
    num_envs: int = 1
    resumed: bool = False

    def __repr__(self) -> str:
        fault = f"{self.fault.name} from {self.begin} on, part {self.part}" if self.fault else "no fault"
        return f"<{self.observation} -> {self.action}; {fault}; {self.num_envs} environments>"


class Generated(gymnasium.Env):
    """Lives by ``case``; ``opened`` has all since that was set, each with what it ``emitted`` and ``received``.

    It writes over arrays that it has handed out, and over actions, as soon as the next call comes.
    """

    case: ClassVar[Case]
    opened: ClassVar[list[Generated]]

    @classmethod
    def begin(cls, case: Case) -> None:
        cls.case, cls.opened = case, []

    def __init__(self) -> None:
        self.observation_space, self.action_space = self.case.observation, self.case.action
        self.emitted: list[tuple[Any, float, bool]] = []  # observation, reward, whether it is the last
        self.received: list[Any] = []  # the action before each; None before the first of an episode
        self._out: list[np.ndarray] = []
        self.opened.append(self)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        super().reset(seed=seed)
        self._calls = 0
        self.received.append(None)
        return self._faulty("reset", (self._look(0.0, False), {}))

    def step(self, action: Any) -> Any:
        self.received.append(copy.deepcopy(action))
        for array in _arrays(action):
            array[...] = 1
        self._calls += 1
        reward, last = float(self.np_random.normal()), self._calls == EPISODE
        result = [self._look(reward, last), reward, False, last, {}]
        for place, field in (("reward", 1), ("terminated", 2)):
            result[field] = self._faulty(place, result[field])
        return self._faulty("step", tuple(result))

    def _look(self, reward: float, last: bool) -> Any:
        for array in self._out:
            array[...] = 1
        observation = valid(self.case.observation, self.np_random)
        leaves = list(leaves_of(self.case.observation))
        if leaves:
            path = leaves[self.case.part % len(leaves)][0]
            observation = _replaced(observation, path, lambda value: self._faulty("part", value))
        self.emitted.append((copy.deepcopy(observation), reward, last))
        self._out = [array for array in _arrays(observation) if array.flags.writeable]
        return observation

    def _faulty(self, place: str, value: Any) -> Any:
        fault = self.case.fault
        if fault is None or fault.place != place or self._calls < self.case.begin:
            return value
        with np.errstate(all="ignore"):
            return fault.change(value, self.np_random)


MISSING = object()


def _replaced(value: Any, path: tuple, change: Callable[[Any], Any]) -> Any:
    if not path:
        return change(value)
    key, *rest = path
    inner = _replaced(value[key], tuple(rest), change)
    if isinstance(value, dict):
        return {
            name: inner if name == key else part for name, part in value.items() if inner is not MISSING or name != key
        }
    parts = [inner if index == key else part for index, part in enumerate(value)]
    return tuple(part for part in parts if part is not MISSING)


def _arrays(value: Any) -> Iterator[np.ndarray]:
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, dict | tuple | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _arrays(part)


def leaves_of(space: gymnasium.Space, path: tuple = ()) -> Iterator[tuple[tuple, gymnasium.Space]]:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        items = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        for key, part in items:
            yield from leaves_of(part, (*path, key))
    else:
        yield path, space


def valid(space: gymnasium.Space, rng: np.random.Generator) -> Any:
    """Something that the space contains, as an environment's author would give it."""
    match space:
        case spaces.Dict():
            return {key: valid(part, rng) for key, part in space.spaces.items()}
        case spaces.Tuple():
            return tuple(valid(part, rng) for part in space.spaces)
        case spaces.Discrete():
            return space.dtype.type(int(space.start) + int(rng.integers(int(space.n))))
        case spaces.MultiDiscrete():
            return (space.start + (rng.random(space.shape) * space.nvec).astype(space.dtype)).astype(space.dtype)
        case spaces.MultiBinary():
            return rng.integers(0, 2, space.shape, np.int8)
        case spaces.Box() if space.dtype.kind in "iub":
            low, high = (
                np.clip(bound.astype(np.float64), -1000, 1000).astype(int) for bound in (space.low, space.high)
            )
            return np.asarray(rng.integers(low, high, space.shape, endpoint=True), space.dtype)
        case spaces.Box():
            with np.errstate(invalid="ignore"):
                return np.clip(np.asarray(rng.normal(0, 3, space.shape), space.dtype), space.low, space.high)
        case _:
            return None


# What must become of it, worked out anew, slowly.


def observed(space: gymnasium.Space, value: Any) -> dict[str, np.ndarray]:
    """The arrays that are to be stored for an observation: nothing may be lost but what float32 rounds."""
    arrays = {}
    for path, part in leaves_of(space):
        if not math.prod(part.shape):
            continue  # whatever stands there holds nothing
        given = value
        for key in path:
            given = given[key]
        keys = path if isinstance(space, spaces.Dict) else ("observation", *path)
        array = np.array(given)
        if isinstance(part, spaces.Box):
            image = part.dtype == np.uint8 and len(part.shape) == 3
            array = array.astype(np.uint8 if image else np.float32)
            assert array.shape == np.shape(given) == part.shape
            assert np.allclose(array, given, rtol=0 if image else 1e-6, atol=0 if image else 1e-40)
            array = array.reshape(part.shape or (1,))
        else:
            start = getattr(part, "start", 0)
            counts = 2 if isinstance(part, spaces.MultiBinary) else getattr(part, "n", getattr(part, "nvec", None))
            array = (array.astype(np.int64) - start).astype(np.int32)
            assert array.shape == np.shape(given) == part.shape
            assert (array + np.int64(start) == given).all() and (array >= 0).all() and (array < counts).all()
        arrays["/".join(map(str, keys)) or "observation"] = array
    return arrays


def nested_alike(space: gymnasium.Space, value: Any) -> bool:
    """Whether ``value`` is nested as ``space`` is."""
    match space:
        case spaces.Dict():
            return (
                type(value) is dict
                and value.keys() == space.spaces.keys()
                and all(nested_alike(part, value[key]) for key, part in space.spaces.items())
            )
        case spaces.Tuple():
            return (
                type(value) is tuple and len(value) == len(space.spaces) and all(map(nested_alike, space.spaces, value))
            )
    return value.shape == space.shape and value.dtype == space.dtype


def check_action(space: gymnasium.Space, stored: dict[str, np.ndarray], received: Any) -> None:
    """What an environment received is inside its space, and what the stored action stands for."""
    assert nested_alike(space, received)
    found = []
    for path, part in leaves_of(space):
        keys = path if isinstance(space, spaces.Dict) else ("action", *path)
        value = received
        for key in path:
            value = value[key]
        found += [("/".join(map(str, name)) or "action", *rest) for name, *rest in _singles(keys, part, value)]
    names = {name for name, *_ in found}
    assert stored.keys() == ({"action"} if len(names) == 1 else names)
    for name, check in found:
        check(stored["action"] if len(names) == 1 else stored[name])


def _singles(keys: tuple, part: gymnasium.Space, value: Any) -> Iterator[tuple[tuple, Callable[[np.ndarray], None]]]:
    if isinstance(part, spaces.Box):
        assert isinstance(value, np.ndarray) and (part.low <= value).all() and (value <= part.high).all()
        if value.size:
            yield (
                keys,
                lambda stored: [
                    _check_number(part, *numbers)
                    for numbers in zip(part.low.flat, part.high.flat, stored.flat, value.flat, strict=True)
                ],
            )
    elif isinstance(part, spaces.Discrete):
        yield keys, lambda stored: _same(int(value) - int(part.start), int(stored), int(part.n))
    else:
        several = isinstance(part, spaces.MultiDiscrete)
        start, counts = (part.start, part.nvec) if several else (np.zeros(part.shape, int), np.full(part.shape, 2))
        for index, numbers in enumerate(zip(value.flat, start.flat, counts.flat, strict=True)):
            one, first, count = map(int, numbers)
            yield (
                (*keys, index),
                partial(lambda place, count, stored: _same(place, int(stored), count), one - first, count),
            )


def _same(place: int, expected: int, count: int) -> None:
    assert place == expected and 0 <= place < count


def _check_number(part: spaces.Box, low: Any, high: Any, stored: Any, received: Any) -> None:
    """``received`` lies where ``stored``, clipped to [-1, 1], lies: in exact arithmetic, up to rounding."""
    largest = Fraction(float(min(np.finfo(part.dtype).max, np.longdouble(np.finfo(np.float64).max))))
    with np.errstate(over="ignore"):
        low, high = float(low), float(high)
    match bool(np.isfinite(low)), bool(np.isfinite(high)):
        case True, True:
            first, last = Fraction(low), Fraction(high)
        case True, False:
            first = Fraction(low)
            last = min(first + 2 * max(Fraction(1), abs(first)), largest)
        case False, True:
            last = Fraction(high)
            first = max(last - 2 * max(Fraction(1), abs(last)), -largest)
        case _:
            first, last = Fraction(-1), Fraction(1)
    unit = (max(Fraction(-1), min(Fraction(1), Fraction(float(stored)))) + 1) / 2
    expected = first + unit * (last - first)
    info = np.finfo(np.float64 if part.dtype == np.longdouble else part.dtype)
    rounding = 2 * Fraction(float(info.eps)) * max(abs(first), abs(last)) + Fraction(float(info.tiny))
    assert abs(Fraction(float(received)) - expected) <= rounding
