"""Environments of any space that behave, or misbehave, as a case says, and what must become of all they emit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from hypothesis import strategies as st

INF = float("inf")
EPISODE = 5
"""Actions of an episode."""
FLOATS = (np.float16, np.float32, np.float64, np.longdouble)
INTEGERS = (np.int8, np.uint8, np.int32, np.int64, np.uint64)
NAMES = "a", "b", "observation", "action", "record", "x/y", "0", "ä b", "", ".."
UNUSABLE_NAMES = "reward", "log", "stoch", "rew", "a\nb", "n" * 300


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
    """The arrays that are to be stored for an observation."""
    arrays = {}
    for path, part in leaves_of(space):
        given = value
        for key in path:
            given = given[key]
        keys = path if isinstance(space, spaces.Dict) else ("observation", *path)
        array = np.array(given)
        if isinstance(part, spaces.Box):
            image = part.dtype == np.uint8 and len(part.shape) == 3
            array = array.astype(np.uint8 if image else np.float32).reshape(part.shape or (1,))
        else:
            array = (array.astype(np.int64) - getattr(part, "start", 0)).astype(np.int32)
        if array.size:
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


# Strategies.


def mostly(usual: list, rare: list, every: int = 25) -> st.SearchStrategy:
    """One of the usual ones, and once in ``every`` a rare one."""
    return st.integers(0, every - 1).flatmap(lambda n: st.sampled_from(rare if n == every - 1 else usual))


@st.composite
def float_boxes(draw: st.DrawFn) -> spaces.Box:
    dtype = draw(st.sampled_from([np.float32, np.float64, np.float16, np.longdouble]))
    shape = draw(mostly([(2,), (1,), (), (3,), (2, 3)] * 3 + [(0,), (2, 0)], [(2, 3, 2), (0, 2, 3), (2, 1, 2, 2)]))
    most = float(np.finfo(np.float64 if dtype == np.longdouble else dtype).max)
    usual = [(-1, 1), (0, 5), (-INF, INF), (10, INF), (-INF, -5), (0, INF), (-most, most), (0, most), (-3, -3)]
    usual += [(-most, INF), (-INF, most), (30_000, INF), (-INF, -30_000.5), (1e-3, INF)]
    rare = [(INF, INF), (-INF, -INF), (most, INF), (most, most), (-INF, -most)]
    size = int(np.prod(shape))
    pairs = draw(st.lists(mostly(usual, rare), min_size=size, max_size=size))
    low, high = (np.array([pair[side] for pair in pairs], dtype).reshape(shape) for side in (0, 1))
    box = spaces.Box(low, high, shape, dtype)
    if size and draw(mostly([False], [True])):  # Gymnasium makes no such one, but bounds can be changed
        box.low = box.high + np.asarray(1, dtype)
    return box


@st.composite
def integer_boxes(draw: st.DrawFn) -> spaces.Box:
    dtype = draw(st.sampled_from((*INTEGERS, np.bool_)))
    shape = draw(mostly([(3,), (1,), (), (0,)], [(2, 3), (4, 4, 3)]))
    low, high = (0, 1) if dtype is np.bool_ else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max) - 1)
    return spaces.Box(low, high, shape, dtype)


images = mostly([(16, 16, 3), (16, 16, 1)], [(16, 32, 3), (16, 16, 0), (24, 16, 3), (3, 16, 16), (16, 16)]).map(
    lambda shape: spaces.Box(0, 255, shape, np.uint8)
)


@st.composite
def choices(draw: st.DrawFn) -> gymnasium.Space:
    match draw(st.sampled_from(["one", "several", "bits"])):
        case "one":
            count = draw(mostly([2, 1, 3, 7, 100, 300], [65_536, 65_537, 2**31, 2**62]))
            start, dtype = draw(
                mostly([(0, np.int64), (1, np.int8), (-3, np.int16), (2**40, np.int64)], [(100, np.int8)])
            )
            return spaces.Discrete(min(count, np.iinfo(dtype).max), start=start, dtype=dtype)
        case "several":
            shape = draw(st.sampled_from([(3,), (1,), (2, 2), (), (0,)]))
            size = int(np.prod(shape))
            counts = draw(st.lists(st.sampled_from([2, 1, 5, 70]), min_size=size, max_size=size))
            start = draw(st.lists(mostly([0, 1, -4, 50], [100]), min_size=size, max_size=size))
            dtype = draw(st.sampled_from([np.int64, np.int8, np.int32]))
            counts, start = (np.array(x, dtype).reshape(shape) for x in (counts, start))
            return spaces.MultiDiscrete(counts, dtype, start=start)
    return spaces.MultiBinary(draw(st.sampled_from([4, 1, [2, 2]])))


unusable = st.sampled_from(
    [
        spaces.Text(3),
        spaces.Graph(spaces.Box(0, 1, (2,)), None),
        spaces.Sequence(spaces.Discrete(2)),
        spaces.OneOf([spaces.Discrete(2), spaces.Box(0, 1, (1,))]),
    ]
)


def nested(usual: list, rare: list) -> st.SearchStrategy:
    leaf = mostly(usual, rare, 40).flatmap(lambda strategy: strategy)
    named = st.tuples(mostly(list(NAMES), list(UNUSABLE_NAMES), 40), st.deferred(lambda: either))
    dicts = st.lists(named, min_size=1, max_size=3, unique_by=lambda pair: pair[0]).map(
        lambda pairs: spaces.Dict(dict(pairs))
    )
    tuples = st.lists(st.deferred(lambda: either), min_size=1, max_size=3).map(spaces.Tuple)
    either = st.sampled_from([leaf] * 5 + [dicts, tuples]).flatmap(lambda strategy: strategy)
    empty = st.sampled_from([spaces.Dict({}), spaces.Tuple([])])
    return mostly([leaf, dicts, dicts, tuples], [empty], 40).flatmap(lambda strategy: strategy)


observations = nested([float_boxes(), float_boxes(), integer_boxes(), choices(), choices(), images], [unusable])
actions = nested([float_boxes(), float_boxes(), choices(), choices()], [unusable, integer_boxes()])


def _changed_element(new: Any) -> Callable[[Any, np.random.Generator], Any]:
    def change(value: Any, rng: np.random.Generator) -> Any:
        array = np.array(value, np.result_type(np.asarray(value).dtype, type(new)))
        if array.size:
            array.flat[int(rng.integers(array.size))] = new
        return array

    return change


def _beyond(value: Any, rng: np.random.Generator) -> Any:
    return np.asarray(value) + np.asarray(value).dtype.type(100)


PART_FAULTS: dict[str, Callable[[Any, np.random.Generator], Any]] = {
    **{
        f"as {np.dtype(kind).name}": lambda value, _, kind=kind: np.asarray(value).astype(kind)
        for kind in (*FLOATS, *INTEGERS, np.complex64, np.bool_)
    },
    "as another byte order": lambda value, _: np.asarray(value).astype(np.asarray(value).dtype.newbyteorder(">")),
    "in [0, 1]": lambda value, _: np.asarray(value) / 255,
    "as a list": lambda value, _: np.asarray(value).tolist(),
    "as an array": lambda value, _: np.asarray(value),
    "as objects": lambda value, _: np.asarray(value).astype(object),
    "as text": lambda value, _: np.asarray(value).astype(str),
    "with an axis more": lambda value, _: np.asarray(value)[None],
    "with an axis less": lambda value, _: (
        np.asarray(value).ravel()[:1].reshape(()) if np.asarray(value).size else value
    ),
    "flat": lambda value, _: np.asarray(value).ravel(),
    "as a view": lambda value, _: np.repeat(np.asarray(value), 2, -1)[..., ::2] if np.asarray(value).ndim else value,
    "read-only": lambda value, _: np.frombuffer(np.asarray(value).tobytes(), np.asarray(value).dtype).reshape(
        np.shape(value)
    ),
    "beyond": _beyond,
    "NaN": _changed_element(float("nan")),
    "infinite": _changed_element(float("-inf")),
    "huge": _changed_element(1e300),
    "large": _changed_element(-3e38),
    "negative": _changed_element(-1),
    "None": lambda value, _: None,
    "missing": lambda value, _: MISSING,
    "a dict": lambda value, _: {"a": value},
}
RESULT_FAULTS: list[tuple[str, str, Callable[[Any, np.random.Generator], Any]]] = [
    ("reset", "without info", lambda result, _: result[0]),
    ("reset", "with no dict", lambda result, _: (result[0], None)),
    ("reset", "as a list", lambda result, _: list(result)),
    ("step", "of four", lambda result, _: result[:3] + result[4:]),
    ("step", "None", lambda result, _: None),
    ("reward", "None", lambda reward, _: None),
    ("reward", "NaN", lambda reward, _: float("nan")),
    ("reward", "huge", lambda reward, _: 1e300),
    ("reward", "an array", lambda reward, _: np.array([reward])),
    ("reward", "float32", lambda reward, _: np.float32(reward)),
    ("reward", "text", lambda reward, _: str(reward)),
    ("terminated", "None", lambda flag, _: None),
    ("terminated", "a number", lambda flag, _: np.int64(flag)),
]
FAULTS = {name: Fault(name, change, "part") for name, change in PART_FAULTS.items()}
FAULTS |= {f"{place} {name}": Fault(f"{place} {name}", change, place) for place, name, change in RESULT_FAULTS}

cases = st.builds(
    Case,
    observation=observations,
    action=actions,
    fault=st.sampled_from([None] * (len(FAULTS) // 3) + list(FAULTS.values())),
    part=st.integers(0, 3),
    begin=st.integers(0, EPISODE),
    num_envs=st.integers(1, 2),
    resumed=st.sampled_from([False, False, False, True]),
)
