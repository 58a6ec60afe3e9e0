"""Observations to named arrays: what each space becomes, what is cast and what is refused."""

import numpy as np
import pytest
from gymnasium import spaces

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.envs.observations import plan_observations
from dreamer_jax.specs import ArraySpec

HUGE = float(np.finfo(np.float32).max)


def specs(space):
    return {leaf.name: leaf.spec for leaf in plan_observations(space).leaves}


def flatten(space, value):
    return plan_observations(space).flatten(value)


def test_observations_are_flattened_and_typed():
    space = spaces.Dict(
        {
            "arm": spaces.Dict({"angle": spaces.Box(-1, 1, (2,), np.float64), "grip": spaces.Discrete(3, start=5)}),
            "camera": spaces.Box(0, 255, (8, 6, 3), np.uint8),
            "ram": spaces.Box(0, 255, (4,), np.uint8),
            "scalar": spaces.Box(-1, 1, ()),
        }
    )
    expected = {
        "arm/angle": ArraySpec((2,), "float32"),
        "arm/grip": ArraySpec((), "int32", 3),
        "camera": ArraySpec((8, 6, 3), "uint8"),
        "ram": ArraySpec((4,), "float32"),
        "scalar": ArraySpec((1,), "float32"),
    }
    assert specs(space) == expected
    value = space.sample()
    flat = flatten(space, value)
    assert {name: (array.shape, str(array.dtype)) for name, array in flat.items()} == {
        name: (spec.shape, spec.dtype) for name, spec in expected.items()
    }
    assert flat["arm/grip"] == value["arm"]["grip"] - 5
    np.testing.assert_array_equal(flat["camera"], value["camera"])
    value["camera"][:] = 0
    assert flat["camera"].any()  # a copy


def test_several_choices_are_one_array_and_tuples_are_numbered():
    counts = spaces.MultiDiscrete([[2, 3], [4, 1]], start=[[1, 2], [3, -4]])
    space = spaces.Tuple([spaces.MultiBinary([2, 3]), spaces.Dict({"a": counts}), spaces.Discrete(1)])
    assert specs(space) == {
        "observation/0": ArraySpec((2, 3), "int32", 2),
        "observation/1/a": ArraySpec((2, 2), "int32", 4),
        "observation/2": ArraySpec((), "int32", 1),
    }
    bits = np.eye(2, 3, dtype=np.int8)
    flat = flatten(space, (bits, {"a": np.array([[2, 2], [6, -4]])}, 0))
    np.testing.assert_array_equal(flat["observation/0"], bits)
    np.testing.assert_array_equal(flat["observation/1/a"], [[1, 0], [3, 0]])
    assert flat["observation/2"] == 0


def test_a_bare_observation_has_a_name_and_nothing_is_left_out_but_what_is_empty():
    assert specs(spaces.Box(-1, 1, (3,))) == {"observation": ArraySpec((3,), "float32")}
    nothing, number = spaces.Box(0, 1, (2, 0)), spaces.Box(0, 1, (1,))
    assert list(specs(spaces.Dict({"a": nothing, "b": number}))) == ["b"]
    assert list(specs(spaces.Tuple([nothing, number]))) == ["observation/1"]


def test_names_do_not_run_into_each_other():
    """One part is called as the prefix, and the same name lies inside it."""
    space = spaces.Dict({"observation": spaces.Dict({"x": spaces.Box(-1, 1, (2,))}), "x": spaces.Box(-1, 1, (3,))})
    value = {"observation": {"x": np.full(2, 0.25)}, "x": np.full(3, 0.5)}
    assert {name: array.tolist() for name, array in flatten(space, value).items()} == {
        "observation/x": [0.25] * 2,
        "x": [0.5] * 3,
    }


def reversed_box():
    space = spaces.Box(0, 1, (2,))
    space.low[1] = 5
    return space


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (None, "observation_space is a NoneType, not a gymnasium.Space"),
        (spaces.Dict({"a": spaces.Text(3)}), "'a': Text is not supported"),
        (spaces.Graph(spaces.Discrete(2), None), "'observation': Graph is not supported"),
        (spaces.Tuple([spaces.Sequence(spaces.Discrete(2))]), "'observation/0': Sequence is not supported"),
        (spaces.OneOf([spaces.Discrete(2)]), "'observation': OneOf is not supported"),
        (spaces.Box(0, 255, (8, 8), np.uint8), "images are"),
        (spaces.Box(0, 255, (3, 8, 8), np.uint8), r"images are \[height, width, channels\]"),
        (spaces.Box(0, 1, (8, 8, 3)), r"float32 of shape \(8, 8, 3\); if it is an image, give it as uint8"),
        (spaces.Box(0, 1, (0,)), "the observation space is empty"),
        (spaces.Dict({}), "the observation space is empty"),
        (reversed_box(), "'observation': no finite number lies between its bounds, low 5.0 and high 1.0"),
        (spaces.Box(np.inf, np.inf, (1,)), "no finite number lies between"),
        (spaces.Discrete(65_537), "a choice among 65537 values; at most 65536"),
        (spaces.MultiDiscrete([2, 10**6]), "a choice among 1000000 values"),
        (spaces.Dict({"is_last": spaces.Discrete(2)}), "'is_last': the name is reserved"),
        (spaces.Dict({"a/b": spaces.Discrete(2), "a": spaces.Dict({"b": spaces.Discrete(2)})}), "'a/b': two parts"),
        (spaces.Dict({"a\nb": spaces.Discrete(2)}), "printable characters"),
        (spaces.Dict({"ä" * 40: spaces.Discrete(2)}), "at most 200 bytes"),
    ],
)
def test_unusable_spaces_are_refused(space, words):
    with pytest.raises(ConfigError, match=words) as caught:
        plan_observations(space)
    assert "\n" not in str(caught.value)


NUMBERS, IMAGE = spaces.Box(-1, 1, (2,)), spaces.Box(0, 255, (16, 16, 3), np.uint8)
CHOICE, CHOICES = spaces.Discrete(3, start=5), spaces.MultiDiscrete([2, 3], start=[1, 0])


@pytest.mark.parametrize(
    ("space", "value", "expected"),
    [
        (NUMBERS, np.array([0.1, 7.0]), np.float32([0.1, 7])),  # bounds are not enforced
        (NUMBERS, [1, 2], [1, 2]),
        (NUMBERS, np.array([True, False]), [1, 0]),
        (NUMBERS, np.float16([0.5, 60000]), [0.5, 60000]),
        (NUMBERS, np.array([HUGE, -HUGE]), [HUGE, -HUGE]),
        (NUMBERS, np.float32([HUGE, -HUGE]), [HUGE, -HUGE]),
        (NUMBERS, np.array([2**62, 1], np.uint64), [2**62, 1]),
        (NUMBERS, np.arange(4.0)[::2].astype(">f8"), [0, 2]),
        (NUMBERS, np.longdouble([0.5, 2]), [0.5, 2]),
        (spaces.Box(0, 1, ()), 0.5, [0.5]),
        (spaces.Box(0, 9, (2,), np.int64), [0.5, 1], [0.5, 1]),  # a network sees numbers either way
        (IMAGE, np.full((16, 16, 3), 255, np.int64), np.full((16, 16, 3), 255)),
        (CHOICE, 7, 2),
        (CHOICE, np.array(6, np.uint8), 1),
        (spaces.Discrete(2), np.True_, 1),
        (spaces.Discrete(2), np.array(True), 1),
        (CHOICES, [2, 2], [1, 2]),
        (CHOICES, np.array([1, 0], np.uint8), [0, 0]),
    ],
)
def test_harmless_casts(space, value, expected):
    cast, spec = flatten(space, value)["observation"], specs(space)["observation"]
    np.testing.assert_array_equal(cast, np.asarray(expected, spec.dtype))
    assert cast.shape == spec.shape and cast.dtype == spec.dtype


@pytest.mark.parametrize(
    ("space", "value", "words"),
    [
        (NUMBERS, np.zeros(1), r"has shape \(1,\), its space says \(2,\)"),
        (NUMBERS, 0.0, r"has shape \(\), its space says \(2,\)"),
        (NUMBERS, None, "is None, its space says float32"),
        (NUMBERS, ["a", "b"], "is <U1, its space says float32"),
        (NUMBERS, np.array([1j, 0]), "is complex128, its space says float32"),
        (NUMBERS, np.array([None, 0]), "is object, its space says float32"),
        (NUMBERS, np.float32([0, np.nan]), "is nan somewhere"),
        (NUMBERS, np.float16([0, np.inf]), "is inf somewhere"),
        (NUMBERS, np.array([0, -np.inf]), "is -inf somewhere"),
        (NUMBERS, np.array([0, -1e300]), r"is -1e\+300 somewhere: not a finite float32"),
        (NUMBERS, np.longdouble([0, 1e39]), r"is 1e\+39 somewhere"),
        (IMAGE, np.zeros((16, 16, 3)), "is float64, its space says uint8; images are bytes from 0 to 255"),
        (IMAGE, np.full((16, 16, 3), 256), "goes from 256 to 256"),
        (IMAGE, np.full((16, 16, 3), -1, np.int8), "goes from -1 to -1"),
        (CHOICE, 4, "is 4, its space says 5 to 7"),
        (CHOICE, np.int8(8), "is 8, its space says 5 to 7"),
        (CHOICE, 6.0, "is 6.0, its space says a whole number"),
        (CHOICE, np.array([6]), r"is int64 of shape \(1,\), its space says a whole number"),
        (CHOICE, None, "is None, its space says a whole number"),
        (CHOICES, [0, 0], r"is 0 at \(0,\), its space says 1 to 2"),
        (CHOICES, [1, 3], r"is 3 at \(1,\), its space says 0 to 2"),
        (CHOICES, [1.0, 2.0], "is float64, its space says int64"),
        (spaces.MultiBinary(2), np.array([0, 2**64 - 1], np.uint64), r"at \(1,\), its space says 0 to 1"),
        (
            spaces.MultiDiscrete([2], start=[-4]),
            np.array([-4]).astype(np.uint64),
            r"is 18446744073709551612 at \(0,\), its space says -4 to -3",
        ),
        (spaces.Dict({"a": NUMBERS}), {"b": np.zeros(2)}, "observation 'a' is missing"),
        (spaces.Dict({"a": NUMBERS}), np.zeros(2), "observation 'a' is missing"),
        (spaces.Tuple([CHOICE, CHOICE]), (5,), "observation 'observation/1' is missing"),
    ],
)
def test_what_would_be_lost_or_wrong_is_refused(space, value, words):
    with pytest.raises(ValueError, match=words) as caught:
        flatten(space, value)
    assert "\n" not in str(caught.value)
