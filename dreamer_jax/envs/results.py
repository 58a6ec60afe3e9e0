"""What an environment's ``reset`` and ``step`` give back, taken apart, and refused where it is not what they must."""

from __future__ import annotations

from typing import Any

import numpy as np

from dreamer_jax.envs.observations import LARGEST

_LARGEST = float(LARGEST)
RESET = "reset() must return (observation, info)"
STEP = "step() must return (observation, reward, terminated, truncated, info)"


def reset_result(result: Any) -> tuple[Any, dict[str, Any]]:
    """Observation and info.

    Raises:
      TypeError: it is something else.
    """
    if not (isinstance(result, tuple | list) and len(result) == 2 and isinstance(result[1], dict)):
        raise TypeError(f"{RESET}, it gave {_described(result)}")
    return result[0], result[1]


def step_result(result: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
    """Observation, reward, whether the episode terminated or was truncated, and info.

    Raises:
      TypeError: it is something else.
      ValueError: the reward is not a finite float32.
    """
    if not (isinstance(result, tuple | list) and len(result) == 5 and isinstance(result[4], dict)):
        raise TypeError(f"{STEP}, it gave {_described(result)}")
    observation, reward, terminated, truncated, info = result
    return observation, _reward(reward), _flag("terminated", terminated), _flag("truncated", truncated), info


def _reward(reward: Any) -> float:
    if not isinstance(reward, float):
        array = np.asarray(reward)
        if array.dtype.kind not in "fiub" or array.size != 1:
            raise TypeError(f"the reward is {_described(reward)}, not a number")
        reward = float(array.reshape(()))
    if not -_LARGEST <= reward <= _LARGEST:
        raise ValueError(f"the reward is {reward}: not a finite float32")
    return float(reward)


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    array = np.asarray(value)
    if array.dtype.kind not in "biu" or array.size != 1:
        raise TypeError(f"{name} is {_described(value)}, not True or False")
    return bool(array.reshape(()))


def _described(value: Any) -> str:
    kind = type(value).__name__
    if value is None:
        return "None"
    return f"a {kind} of {len(value)}" if isinstance(value, tuple | list | dict) else f"a {kind}"
