"""What reset and step give back."""

import numpy as np
import pytest

from dreamer_jax.envs.results import reset_result, step_result


def test_what_is_right_comes_through():
    assert reset_result((3, {"a": 1})) == (3, {"a": 1})
    assert step_result((3, 0.5, False, True, {})) == (3, 0.5, False, True, {})
    odd = step_result([3, np.array([2]), np.array([1]), np.False_, {}])
    assert odd == (3, 2.0, True, False, {}) and [type(x) for x in odd[1:4]] == [float, bool, bool]
    assert step_result((3, -np.finfo(np.float32).max, 0, 0, {}))[1] == -3.4028234663852886e38


@pytest.mark.parametrize("result", [None, 3, np.zeros(2), (np.zeros(2),), (1, None), (1, 2), "ab"])
def test_a_reset_without_info_is_refused(result):
    with pytest.raises(TypeError, match=r"reset\(\) must return \(observation, info\), it gave "):
        reset_result(result)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ((1, 0.0, False, {}), r"step\(\) must return \(.*\), it gave a tuple of 4"),
        (None, "it gave None"),
        ((1, 0.0, False, False, None), "it gave a tuple of 5"),
        ((1, None, False, False, {}), "the reward is None, not a number"),
        ((1, "1", False, False, {}), "the reward is a str, not a number"),
        ((1, np.zeros(2), False, False, {}), "the reward is a ndarray, not a number"),
        ((1, 1j, False, False, {}), "the reward is a complex, not a number"),
        ((1, float("nan"), False, False, {}), "the reward is nan: not a finite float32"),
        ((1, np.float64(1e300), False, False, {}), r"the reward is 1e\+300: not a finite float32"),
        ((1, np.float32("-inf"), False, False, {}), "the reward is -inf: not a finite float32"),
        ((1, 0.0, None, False, {}), "terminated is None, not True or False"),
        ((1, 0.0, False, "no", {}), "truncated is a str, not True or False"),
    ],
)
def test_a_step_that_is_none_is_refused(result, words):
    with pytest.raises((TypeError, ValueError), match=words):
        step_result(result)
