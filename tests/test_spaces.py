"""Spaces to named arrays and back."""

import numpy as np
import pytest
from gymnasium import spaces

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.envs.spaces import (
    action_leaves,
    build_action,
    flatten_observation,
    observation_leaves,
    rescale,
    scaling,
)
from dreamer_jax.specs import ArraySpec


def specs(leaves):
    return {leaf.name: leaf.spec for leaf in leaves}


def test_observations_are_flattened_and_typed():
    space = spaces.Dict(
        {
            "arm": spaces.Dict({"angle": spaces.Box(-1, 1, (2,), np.float64), "grip": spaces.Discrete(3, start=5)}),
            "camera": spaces.Box(0, 255, (8, 6, 3), np.uint8),
            "ram": spaces.Box(0, 255, (4,), np.uint8),
            "scalar": spaces.Box(-1, 1, ()),
        }
    )
    leaves = observation_leaves(space)
    assert specs(leaves) == {
        "arm/angle": ArraySpec((2,), "float32"),
        "arm/grip": ArraySpec((), "int32", 3),
        "camera": ArraySpec((8, 6, 3), "uint8"),
        "ram": ArraySpec((4,), "float32"),
        "scalar": ArraySpec((1,), "float32"),
    }
    value = space.sample()
    flat = flatten_observation(leaves, value)
    assert {name: (array.shape, str(array.dtype)) for name, array in flat.items()} == {
        leaf.name: (leaf.spec.shape, leaf.spec.dtype) for leaf in leaves
    }
    assert flat["arm/grip"] == value["arm"]["grip"] - 5
    np.testing.assert_array_equal(flat["camera"], value["camera"])


def test_a_bare_observation_has_a_name():
    leaves = observation_leaves(spaces.Box(-1, 1, (3,)))
    assert specs(leaves) == {"observation": ArraySpec((3,), "float32")}


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.Tuple([spaces.Discrete(2)]), "Tuple is not supported"),
        (spaces.Dict({"a": spaces.Text(3)}), "'a': Text is not supported"),
        (spaces.Dict({"a": spaces.MultiBinary(3)}), "'a': MultiBinary is not supported"),
        (spaces.Box(0, 255, (8, 8), np.uint8), "images are"),
        (spaces.Box(0, 255, (3, 8, 8), np.uint8), r"images are \[height, width, channels\]"),
        (spaces.Box(0, 1, (8, 8, 3)), r"float32 of shape \(8, 8, 3\); if it is an image, give it as uint8"),
        (spaces.Dict({"stoch": spaces.Discrete(2)}), "'stoch': the name is reserved"),
        (spaces.Dict({"a/b": spaces.Discrete(2), "a": spaces.Dict({"b": spaces.Discrete(2)})}), "'a/b': two parts"),
    ],
)
def test_unusable_observations_are_refused(space, words):
    with pytest.raises(ConfigError, match=words) as caught:
        observation_leaves(space)
    assert "\n" not in str(caught.value)


def test_a_wrong_observation_is_noticed():
    leaves = observation_leaves(spaces.Dict({"a": spaces.Box(-1, 1, (3,))}))
    with pytest.raises(ValueError, match=r"'a' has shape \(1,\), its space says \(3,\)"):
        flatten_observation(leaves, {"a": np.zeros(1)})
    with pytest.raises(ValueError, match="'a' is missing"):
        flatten_observation(leaves, {"b": np.zeros(3)})


def act(space, **values):
    return build_action(space, action_leaves(space), {k.replace("__", "/"): np.asarray(v) for k, v in values.items()})


def test_boxes_are_rescaled_and_clipped():
    space = spaces.Box(np.array([0, -2, -np.inf, 0], np.float32), np.array([10, 2, np.inf, np.inf], np.float32))
    assert specs(action_leaves(space)) == {"action": ArraySpec((4,), "float32")}
    np.testing.assert_array_equal(act(space, action=[0, 0.5, 0.3, 0.3]), np.float32([5, 1, 0.3, 0.3]))
    np.testing.assert_array_equal(act(space, action=[-3, 3, 3, -3]), np.float32([0, 2, 1, 0]))
    assert act(space, action=[0, 0, 0, 0]).dtype == np.float32


def test_unit_bounds_leave_every_float_alone():
    action = np.random.default_rng(0).uniform(-1, 1, 1000).astype(np.float32)
    np.testing.assert_array_equal(rescale(action, scaling(spaces.Box(-1, 1, (1000,)))), action)


def test_discrete_actions_honour_their_start():
    space = spaces.Discrete(3, start=-1)
    assert specs(action_leaves(space)) == {"action": ArraySpec((), "int32", 3)}
    assert act(space, action=2) == 1
    assert space.contains(act(space, action=0))


def test_compound_actions_are_split_by_name():
    many = spaces.MultiDiscrete([2, 3], start=[5, 7])
    assert specs(action_leaves(many)) == {"action/0": ArraySpec((), "int32", 2), "action/1": ArraySpec((), "int32", 3)}
    np.testing.assert_array_equal(act(many, action__0=1, action__1=2), [6, 9])
    bits = spaces.MultiBinary([1, 2])
    np.testing.assert_array_equal(act(bits, action__0=1, action__1=0), [[1, 0]])
    both = spaces.Dict({"arm": many, "leg": spaces.Tuple([spaces.Box(0, 2, (1,)), spaces.Discrete(2)])})
    assert list(specs(action_leaves(both))) == ["arm/0", "arm/1", "leg/0", "leg/1"]
    action = act(both, arm__0=0, arm__1=0, leg__0=[0.5], leg__1=1)
    assert both.contains(action)
    np.testing.assert_array_equal(action["leg"][0], [1.5])
    assert list(specs(action_leaves(spaces.Dict({"only": spaces.Discrete(2)})))) == ["action"]


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.Box(0, 4, (2,), np.int64), "ambiguous"),
        (spaces.Dict({"a": spaces.Text(3)}), "'a': Text is not supported"),
        (spaces.Dict({}), "empty"),
        (spaces.Dict({"a/0": spaces.Discrete(2), "a": spaces.MultiBinary(1)}), "'a/0': two parts"),
    ],
)
def test_unusable_actions_are_refused(space, words):
    with pytest.raises(ConfigError, match=words):
        action_leaves(space)
