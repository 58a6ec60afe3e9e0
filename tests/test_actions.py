"""What a policy puts out, as an environment's own actions."""

import any_space
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.envs.actions import plan_actions, reach, rescale
from dreamer_jax.specs import ArraySpec

INF = np.inf


def specs(space):
    return {leaf.name: leaf.spec for leaf in plan_actions(space).leaves}


def act(space, **values):
    return plan_actions(space).build({k.replace("__", "/"): np.asarray(v) for k, v in values.items()})


def test_boxes_are_rescaled_and_clipped():
    space = spaces.Box(np.float32([0, -2, -INF, 3]), np.float32([10, 2, INF, 3]))
    assert specs(space) == {"action": ArraySpec((4,), "float32")}
    np.testing.assert_array_equal(act(space, action=[0, 0.5, 0.3, 0.3]), np.float32([5, 1, 0.3, 3]))
    np.testing.assert_array_equal(act(space, action=[-3, 3, 3, -3]), np.float32([0, 2, 1, 3]))
    assert act(space, action=[0, 0, 0, 0]).dtype == np.float32
    single = act(spaces.Box(0, 10, (), np.float64), action=0.5)
    assert isinstance(single, np.ndarray) and single.shape == () and single == 7.5


@pytest.mark.parametrize(
    ("dtype", "low", "high", "reached"),
    [
        (np.float32, 10, INF, (10, 30)),
        (np.float32, -INF, -5, (-15, -5)),
        (np.float32, 0, INF, (0, 2)),
        (np.float32, -INF, 0.25, (-1.75, 0.25)),
        (np.float64, 1e20, INF, (1e20, 3e20)),  # where 1 more would be the same number
        (np.float16, 60_000, INF, (60_000, 65_504)),
        (np.float64, -INF, -1.7e308, (-np.finfo(np.float64).max, -1.7e308)),
        (np.float64, -np.finfo(np.float64).max, np.finfo(np.float64).max, None),
        (np.float32, -np.finfo(np.float32).max, np.finfo(np.float32).max, None),
        (np.longdouble, -1, 4, None),
        (np.float64, -INF, INF, (-1, 1)),
    ],
)
def test_a_whole_interval_is_reached(dtype, low, high, reached):
    space = spaces.Box(dtype(low), dtype(high), (1,), dtype)
    low, high = reached or (float(space.low[0]), float(space.high[0]))
    ends = [act(space, action=[u]) for u in (-1, 1)]
    assert [float(end[0]) for end in ends] == pytest.approx([low, high], rel=1e-15)
    middle = act(space, action=[0.5])
    assert middle.dtype == dtype and space.contains(middle)
    assert float(middle[0]) == pytest.approx(low / 4 + 3 * (high / 4), rel=1e-3)


def test_unit_bounds_leave_every_float_alone():
    action = np.random.default_rng(0).uniform(-1, 1, 1000).astype(np.float32)
    np.testing.assert_array_equal(rescale(action, reach(spaces.Box(-1, 1, (1000,)))), action)


def test_choices_honour_their_start_and_type():
    space = spaces.Discrete(3, start=-1)
    assert specs(space) == {"action": ArraySpec((), "int32", 3)}
    assert act(space, action=2) == 1
    assert space.contains(act(space, action=0))
    assert type(act(any_space.discrete(3, dtype=np.int16), action=2)) is (np.int16 if any_space.TYPED else np.int64)
    assert specs(spaces.Discrete(1)) == {"action": ArraySpec((), "int32", 1)}


def test_compound_actions_are_split_by_name():
    many = spaces.MultiDiscrete([2, 3], start=[5, 7])
    assert specs(many) == {"action/0": ArraySpec((), "int32", 2), "action/1": ArraySpec((), "int32", 3)}
    assert plan_actions(many).leaves[1].space == spaces.Discrete(3, start=7)
    np.testing.assert_array_equal(act(many, action__0=1, action__1=2), [6, 9])
    bits = spaces.MultiBinary([1, 2])
    np.testing.assert_array_equal(act(bits, action__0=1, action__1=0), [[1, 0]])
    both = spaces.Dict({"arm": many, "leg": spaces.Tuple([spaces.Box(0, 2, (1,)), spaces.Discrete(2)])})
    assert list(specs(both)) == ["arm/0", "arm/1", "leg/0", "leg/1"]
    action = act(both, arm__0=0, arm__1=0, leg__0=[0.5], leg__1=1)
    assert both.contains(action)
    np.testing.assert_array_equal(action["leg"][0], [1.5])
    assert list(specs(spaces.Dict({"only": spaces.Discrete(2)}))) == ["action"]


def test_what_is_empty_is_given_as_it_is():
    space = spaces.Tuple([spaces.Box(0, 1, (0, 2)), spaces.Discrete(2), spaces.MultiDiscrete([])])
    assert list(specs(space)) == ["action"]
    action = act(space, action=1)
    assert space.contains(action) and action[1] == 1


def reversed_box():
    space = spaces.Box(0, 1, (2,))
    space.high[1] = -5
    return space


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (None, "action_space is a NoneType, not a gymnasium.Space"),
        (spaces.Box(0, 4, (2,), np.int64), "ambiguous"),
        (spaces.Dict({"a": spaces.Text(3), "b": spaces.Discrete(2)}), "'a': Text is not supported"),
        (spaces.Dict({}), "empty"),
        (spaces.Box(0, 1, (0,)), "empty"),
        (reversed_box(), "'action': no finite number lies between its bounds, low 0.0 and high -5.0"),
        (spaces.Box(INF, INF, (1,)), "no finite number lies between its bounds, low inf and high inf"),
        (spaces.Box(-INF, -INF, ()), "no finite number lies between its bounds, low -inf and high -inf"),
        (spaces.Discrete(2**40), "a choice among 1099511627776 values"),
        (spaces.MultiDiscrete([2, 2**40]), "a choice among 1099511627776 values"),
        pytest.param(
            any_space.discrete(100, 100, np.int8),
            "its last value is 199, which int8 can't hold",
            marks=pytest.mark.skipif(not any_space.TYPED, reason="Gymnasium before 1.3"),
        ),
        (spaces.MultiDiscrete([100], start=[100], dtype=np.int8), "its last value is 199, which int8 can't hold"),
        (spaces.Dict({"a/0": spaces.Discrete(2), "a": spaces.MultiBinary(1)}), "'a/0': two parts"),
        (spaces.Dict({"a" * 201: spaces.Discrete(2), "b": spaces.Discrete(2)}), "at most 200 bytes"),
    ],
)
def test_unusable_actions_are_refused(space, words):
    with pytest.raises(ConfigError, match=words) as caught:
        plan_actions(space)
    assert "\n" not in str(caught.value)


@given(any_space.actions, st.integers(0, 2**32 - 1))
@settings(max_examples=300, deadline=None)
def test_recorded_actions_are_a_policys_own(space, seed):
    """Of any space that can be used: what is built of a policy's numbers is read as these numbers again."""
    try:
        made = plan_actions(space)
    except ConfigError:
        return
    rng = np.random.default_rng(seed)
    chosen = {
        leaf.name: np.asarray(rng.integers(leaf.spec.classes), np.int32)
        if leaf.spec.classes
        else rng.uniform(-1, 1, leaf.spec.shape).astype(np.float32)
        for leaf in made.leaves
    }
    theirs = made.build(chosen)
    found = made.flatten(theirs)
    assert found.keys() == chosen.keys()
    for leaf in made.leaves:
        mine, x = found[leaf.name], chosen[leaf.name]
        assert (mine.dtype, mine.shape) == (x.dtype, x.shape)
        if leaf.reach is None:
            assert mine == x
            continue
        # A number of a narrow type, beside a large centre, has few digits of its place in the interval.
        size = np.maximum(np.abs(leaf.reach.centre), leaf.reach.half)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            step = 4 * np.finfo(leaf.space.dtype).eps * size / leaf.reach.half + 1e-6
        moves = leaf.reach.half > 0
        assert (np.abs(mine - x) <= step)[moves].all() and (mine[~moves] == 0).all()
