"""The worlds of ``envs.probes`` as pure functions; for the same random draws they give the same, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dreamer_jax.interfaces.environment import Environment, Transition
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import Array, ArrayDict

TWO = ArraySpec((), "int32", 2)
Step = Callable[[Array, Array, Array, Array], tuple[Any, Any, Array]]
"""``(count, memory, drawn, action)`` to observation [W], reward [] and the next memory; ``count`` is 1 at first."""


@struct.dataclass
class ProbeState:
    count: Array  # [] int32, actions so far
    memory: Array  # [] float32


def draw_bit(key: Array) -> Array:
    return jax.random.bernoulli(key).astype(jnp.float32)


def draw_target(key: Array) -> Array:
    return jax.random.uniform(key, minval=-1, maxval=1)


def make_probe(
    first: Callable[[Array], Any],
    after: Step,
    *,
    steps: int,
    action: ArraySpec = TWO,
    draw: Callable[[Array], Array] = draw_bit,
    terminates: bool = True,
) -> Environment:
    """Episodes of ``steps`` actions; ``first`` makes what was drawn the observation that begins them."""

    def reset(key: Array) -> tuple[ProbeState, ArrayDict]:
        drawn = draw(key)
        return ProbeState(jnp.zeros((), jnp.int32), drawn), {"observation": jnp.stack(first(drawn))}

    def step(key: Array, state: ProbeState, action: ArrayDict) -> tuple[ProbeState, Transition]:
        count = state.count + 1
        observation, reward, memory = after(count, state.memory, draw(key), action["action"])
        over, never = count == steps, jnp.zeros((), bool)
        ends = (over, never) if terminates else (never, over)
        seen = {"observation": jnp.stack([jnp.asarray(x, jnp.float32) for x in observation])}
        return ProbeState(count, memory), Transition(seen, jnp.asarray(reward, jnp.float32), *ends)

    width = len(first(jnp.zeros(())))
    return Environment(EnvSpec({"observation": ArraySpec((width,), "float32")}, {"action": action}), reset, step)


def nothing(drawn: Array) -> list[Any]:
    return [jnp.zeros(())]


def cue(drawn: Array) -> list[Any]:
    return [drawn * 2 - 1, jnp.zeros(())]


def constant_reward(count: Array, memory: Array, drawn: Array, action: Array) -> Any:
    return [_share(count, 10)], 1.0, memory


def delayed_reward(count: Array, memory: Array, drawn: Array, action: Array) -> Any:
    memory = jnp.where(count == 1, action == memory, memory)  # the cue, then whether it was named
    return [0.0, _share(count, 5)], jnp.where(count == 5, memory, 0), memory


def action_reward(count: Array, memory: Array, drawn: Array, action: Array) -> Any:
    return [jnp.where(count == 10, 0, drawn)], action == memory, drawn


def continuous_target(count: Array, memory: Array, drawn: Array, action: Array) -> Any:
    return [jnp.where(count == 10, 0, drawn)], 1 - jnp.abs(action[0] - memory), drawn


def recall(steps: int) -> Step:
    def after(count: Array, memory: Array, drawn: Array, action: Array) -> Any:
        return [0.0, _share(count, steps)], (count == steps) & (action == memory), memory

    return after


def echo(count: Array, memory: Array, drawn: Array, action: Array) -> Any:
    return list(action), 0.0, memory


def terminal_reward(count: Array, memory: Array, drawn: Array, action: Array) -> Any:
    return [_share(count, 4)], count == 4, memory


def time_limit(count: Array, memory: Array, drawn: Array, action: Array) -> Any:
    return [0.5], 1.0, memory


def make(name: str) -> Environment:
    """The world of that name, of ``envs.probes.PROBES``."""
    match name:
        case "constant_reward":
            return make_probe(nothing, constant_reward, steps=10)
        case "delayed_reward":
            return make_probe(cue, delayed_reward, steps=5)
        case "action_reward":
            return make_probe(lambda bit: [bit], action_reward, steps=10)
        case "continuous_target":
            one = ArraySpec((1,), "float32")
            return make_probe(lambda target: [target], continuous_target, steps=10, action=one, draw=draw_target)
        case "memory" | "long_memory":
            steps = 4 if name == "memory" else 65
            return make_probe(cue, recall(steps), steps=steps)
        case "echo":
            two = ArraySpec((2,), "float32")
            return make_probe(lambda _: [jnp.zeros(())] * 2, echo, steps=8, action=two, terminates=False)
        case "terminal_reward":
            return make_probe(nothing, terminal_reward, steps=4)
        case "time_limit":
            return make_probe(lambda _: [jnp.full((), 0.5)], time_limit, steps=6, terminates=False)
    raise KeyError(name)


def _share(count: Array, steps: int) -> Array:
    """From a table, because compiled divisions by constants are not always exact."""
    return jnp.asarray(np.arange(steps + 1) / steps, jnp.float32)[count]
