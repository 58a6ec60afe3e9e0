"""Strategies over Gymnasium spaces, and over what environments do wrong: the cases for ``generated``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from generated import EPISODE, MISSING, Case, Fault
from gymnasium import spaces
from hypothesis import strategies as st

INF = float("inf")
FLOATS = (np.float16, np.float32, np.float64, np.longdouble)
INTEGERS = (np.int8, np.uint8, np.int32, np.int64, np.uint64)
NAMES = "a", "b", "observation", "action", "record", "x/y", "0", "ä b", "", ".."
UNUSABLE_NAMES = "reward", "log", "stoch", "rew", "a\nb", "n" * 300


TYPED = "dtype" in inspect.signature(spaces.Discrete).parameters
"""Whether single choices have a type of their own, as they do since Gymnasium 1.3; before, all are int64."""


def discrete(count: int, start: int = 0, dtype: type = np.int64) -> spaces.Discrete:
    return spaces.Discrete(count, start=start, **({"dtype": dtype} if TYPED else {}))


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
            return discrete(min(count, np.iinfo(dtype).max), start, dtype)
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
    "beyond, as int64": lambda value, _: np.asarray(value).astype(np.int64) + 1000,
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

OF_BYTES = [name for name in FAULTS if name.startswith(("as float", "as int", "beyond"))] + ["in [0, 1]", "negative"]
"""What goes wrong with pictures: some faults of all those above are too rare together with a picture."""


def _cases(observations: st.SearchStrategy, faults: list[Fault | None], parts: st.SearchStrategy) -> st.SearchStrategy:
    return st.builds(
        Case,
        observation=observations,
        action=actions,
        fault=st.sampled_from(faults),
        part=parts,
        begin=st.integers(0, EPISODE),
        num_envs=st.integers(1, 2),
        resumed=st.sampled_from([False, False, False, True]),
    )


of_any_kind = _cases(observations, [None] * (len(FAULTS) // 3) + list(FAULTS.values()), st.integers(0, 3))
of_pictures = _cases(
    st.tuples(images, observations).map(spaces.Tuple) | images, [FAULTS[name] for name in OF_BYTES], st.just(0)
)
cases = mostly([of_any_kind], [of_pictures], 6).flatmap(lambda strategy: strategy)
