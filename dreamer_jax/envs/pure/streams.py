"""Pure environments as streams of records, ends of episodes included; what ``envs.wrappers.Stream`` is for others.

The only place that begins and ends their episodes. Suites differ in what they do there: some reset by themselves and
lose the last observation, or go back to one cached state, some call a time limit a termination. So adapters hand out
bare ``reset`` and ``step``, and everything else is here.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import struct

from dreamer_jax.config.schema import EnvConfig
from dreamer_jax.interfaces.environment import Environment, EnvState, Transition
from dreamer_jax.types import Array, ArrayDict, TimeStep


@struct.dataclass
class Episode:
    """One that runs. Its random numbers follow from its key and the number of the frame, and from nothing else."""

    key: Array  # []
    frame: Array  # [] int32
    state: EnvState


def begin(env: Environment, key: Array) -> tuple[Episode, ArrayDict]:
    """The episode of ``key``, and its first observation {name: [...]}."""
    state, observation = env.reset(jax.random.fold_in(key, 0))
    return Episode(key, jnp.zeros((), jnp.int32), _settled(state)), _typed(env, observation)


def advance(env: Environment, episode: Episode, action: ArrayDict) -> tuple[Episode, Transition]:
    """One frame, with actions {name: [...]} as a policy puts them out; cut off at the environment's time limit."""
    frame, spec = episode.frame + 1, env.spec.action
    inside = {name: value if spec[name].discrete else jnp.clip(value, -1, 1) for name, value in action.items()}
    state, found = env.step(jax.random.fold_in(episode.key, frame), episode.state, inside)
    truncated = jnp.asarray(found.truncated, bool)
    if env.time_limit:
        truncated |= frame >= env.time_limit
    reward, terminated = jnp.asarray(found.reward, jnp.float32), jnp.asarray(found.terminated, bool)
    log = {name: jnp.asarray(found.log[name], jnp.float32) for name in env.log_names}
    after = Transition(_typed(env, found.observation), reward, terminated, truncated, log)
    return Episode(episode.key, frame, _settled(state)), after


@struct.dataclass
class StreamState:
    """Of ``E`` streams."""

    key: Array  # [E] from which those of a stream's episodes are folded
    number: Array  # [E] int32, of the episode
    actions: Array  # [E] int32, since it began
    ended: Array  # [E] bool, the next record begins another one
    log: ArrayDict  # {name: [E]} of the newest record
    episode: Episode  # [E, ...]


class BeginStreams(Protocol):
    def __call__(self, key: Array, /) -> tuple[StreamState, TimeStep]:
        """The first records of all streams."""
        ...


class StepStreams(Protocol):
    def __call__(self, state: StreamState, action: ArrayDict, /) -> tuple[StreamState, TimeStep]:
        """The next ones; where the last record ended an episode, the action {name: [E, ...]} is ignored."""
        ...


class Streams(NamedTuple):
    """Both are pure functions."""

    begin: BeginStreams
    step: StepStreams


def make_streams(env: Environment, config: EnvConfig, num_envs: int, members: str | None = None) -> Streams:
    """``num_envs`` streams of ``env`` with the action repeat and the time limit of ``config``.

    Episode ``n`` of stream ``i`` is that of the key ``fold_in(fold_in(key, i), n)``, whatever happened before.

    Args:
      members: the axis of a ``vmap`` over several such, which then begin episodes all at once or not at all.
    """

    def any_of(first: Array) -> Array:
        some = first.any()
        return some if members is None else jax.lax.psum(some.astype(jnp.int32), members) > 0

    def first_records(key: Array, number: Array) -> tuple[Episode, ArrayDict]:
        return jax.vmap(lambda key, number: begin(env, jax.random.fold_in(key, number)))(key, number)

    def repeated(episode: Episode, action: ArrayDict) -> tuple[Episode, Transition]:
        """One action for its frames, or until the episode ends."""
        now = advance(env, episode, action)
        for _ in range(config.action_repeat - 1):
            after, more = advance(env, now[0], action)
            longer = after, more._replace(reward=now[1].reward + more.reward)
            now = jax.tree.map(partial(jnp.where, now[1].terminated | now[1].truncated), now, longer)
        return now

    def begin_streams(key: Array) -> tuple[StreamState, TimeStep]:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num_envs))
        zeros, false = jnp.zeros(num_envs, jnp.int32), jnp.zeros(num_envs, bool)
        episode, observation = first_records(keys, zeros)
        record = TimeStep(observation, jnp.zeros(num_envs, jnp.float32), ~false, false, false)
        log = {name: jnp.zeros(num_envs) for name in env.log_names}
        return StreamState(keys, zeros, zeros, false, log, episode), record

    def step_streams(state: StreamState, action: ArrayDict) -> tuple[StreamState, TimeStep]:
        episode, found = jax.vmap(repeated)(state.episode, action)
        first, number, actions = state.ended, state.number + state.ended, state.actions + 1
        now = episode, found.observation
        # Only where one begins at all: to simulators a reset is dear.
        new = jax.lax.cond(any_of(first), lambda: first_records(state.key, number), lambda: now)
        episode, observation = jax.tree.map(lambda new, old: jnp.where(_like(first, old), new, old), new, now)
        truncated = found.truncated
        if config.time_limit:
            truncated |= actions >= config.time_limit
        last = ~first & (found.terminated | truncated)
        terminal = last & (found.terminated | config.timeouts_terminate)
        record = TimeStep(observation, jnp.where(first, 0, found.reward), first, last, terminal)
        return StreamState(state.key, number, jnp.where(first, 0, actions), last, found.log, episode), record

    return Streams(begin_streams, step_streams)


def _typed(env: Environment, observation: ArrayDict) -> ArrayDict:
    return {name: jnp.asarray(observation[name], spec.dtype) for name, spec in env.spec.observation.items()}


def _settled(state: EnvState) -> EnvState:
    """Arrays of one type each, where Python's numbers would take the type of whatever they meet."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.result_type(x)), state)


def _like(flags: Array, value: Array) -> Array:
    """Flags [E] with as many axes as ``value`` [E, ...]."""
    return flags.reshape(flags.shape + (1,) * (value.ndim - flags.ndim))
