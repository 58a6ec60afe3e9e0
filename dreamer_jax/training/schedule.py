"""When updates happen, and how many there will be, as far as settings and environment say so beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np

from dreamer_jax.config.schema import Config, ConfigError
from dreamer_jax.ops.train_ratio import least_windows, updates_after

MOST_PER_DISPATCH = 8


def updates_per_dispatch(config: Config) -> int:
    """As configured, or what one step of all environments, or a burst, asks for: a power of two up to 8.

    On the CPU just one: there a dispatch costs nothing, and XLA takes ten times as long for a convolution in a loop.
    """
    train = config.train
    if train.updates_per_dispatch:
        return train.updates_per_dispatch
    if jax.default_backend() == "cpu":
        return 1
    together = max(config.env.num_envs, train.update_every) * train.train_ratio
    return 2 ** int(np.log2(np.clip(together / (train.batch_size * train.batch_length), 1, MOST_PER_DISPATCH)))


class Forecast(NamedTuple):
    """Of a whole run."""

    agent_steps: int
    updates: int  # at most; exactly so many where windows may cross episodes
    notes: tuple[str, ...]  # what stands in the way of them, for a person


def forecast(config: Config, capacity: int, time_limit: int) -> Forecast:
    """What comes of a run whose ring has room for ``capacity`` records, and whose episodes have so many actions.

    ``time_limit`` is 0 where nobody knows.

    Raises:
      ConfigError: updates are asked for, and none can ever be made, however long the run.
    """
    train, num_envs = config.train, config.env.num_envs
    steps = -(-train.frames // (config.env.action_repeat * num_envs)) * num_envs
    if not train.train_ratio:
        return Forecast(steps, 0, ("train.train_ratio is 0: no updates",))
    episodes = config.replay.sampling == "episodes"
    _refuse_what_never_learns(config, capacity // num_envs, steps // num_envs, time_limit)
    begin = begin_after(config)
    per_dispatch = updates_per_dispatch(config)
    due = updates_after(train, steps - begin) if steps >= begin else 0
    notes = list(_relations(config, capacity // num_envs, time_limit)) if episodes else []
    if due < per_dispatch:
        have = f"train.frames {train.frames:,} are {steps:,} agent steps"
        windows, filled = least_windows(train), _filled(config)
        if train.prefill > max(steps, filled - 1):
            notes.append(f"no updates: the first {train.prefill:,} agent steps act at random (train.prefill), {have}")
        elif not due:
            notes.append(f"no updates: {windows:,} windows (train.start_windows) take {filled:,} agent steps, {have}")
        else:
            notes.append(f"no updates: {due} are due, and {per_dispatch} are made at a time")
    return Forecast(steps, due // per_dispatch * per_dispatch, tuple(notes))


def begin_after(config: Config) -> int:
    """Agent steps before the first update, at least; exactly so many where windows may cross episodes."""
    num_envs = config.env.num_envs
    return max(-(-config.train.prefill // num_envs) * num_envs, _filled(config))


def _filled(config: Config) -> int:
    """Agent steps after which replay has enough windows, at the earliest."""
    num_envs, episodes = config.env.num_envs, config.replay.sampling == "episodes"
    return (-(-least_windows(config.train) // num_envs) + config.train.batch_length - episodes) * num_envs


def in_words(config: Config, expected: Forecast, done: Mapping[str, int], update_seconds: float) -> str:
    """What train ratio, batch and frames come to: updates per step, updates in all, hours."""
    train, repeat = config.train, config.env.action_repeat
    per_update = train.batch_size * train.batch_length
    every = train.update_every or per_update / train.train_ratio
    together = f"{every * train.train_ratio / per_update:g} updates" if train.update_every else "an update"
    at_first = f"{train.prefill:,} agent steps of random actions, then " if train.prefill else ""
    most = "at most " if config.replay.sampling == "episodes" else ""
    hours = max(0, expected.updates - done["grad_steps"]) * update_seconds / 3600
    left = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"
    return (
        f"{at_first}{together} every {every:g} agent steps ({every * repeat:g} frames); "
        f"{train.frames:,} frames are {expected.agent_steps:,} agent steps and {most}{expected.updates:,} updates of "
        f"{train.batch_size} x {train.batch_length} records; "
        f"at {1000 * update_seconds:.0f} ms an update, {left} of updates are left"
    )


def _refuse_what_never_learns(config: Config, rows: int, all_rows: int, time_limit: int) -> None:
    """``rows`` of each environment are kept, of ``all_rows`` that the run collects."""
    length, windows = config.train.batch_length, least_windows(config.train)
    episodes = config.replay.sampling == "episodes"
    if episodes and 0 < time_limit < length - 1:
        raise ConfigError(
            f"train.batch_length: got {length}, but an episode of {config.env.task!r} has at most {time_limit + 1} "
            f"records (a time limit of {time_limit} actions), and replay.sampling episodes draws from none that is "
            f"shorter than a window; set it to at most {time_limit + 1}, or replay.sampling to windows"
        )
    most = config.env.num_envs * (rows - length + episodes)
    if rows < all_rows and most < windows:
        raise ConfigError(
            f"replay.capacity: {rows:,} records of each of {config.env.num_envs} environments never hold more than "
            f"{most:,} windows, updates begin with {windows:,} (train.start_windows, or batch_size x batch_length)"
        )


def _relations(config: Config, rows: int, time_limit: int) -> Iterator[str]:
    """Of windows and episodes."""
    length = config.train.batch_length
    ends = (
        f"here they end after {time_limit:,} actions at the latest, which are {time_limit + 1:,} records"
        if time_limit
        else "how long they are here is not known"
    )
    yield f"windows of {length} records (train.batch_length) come from ended episodes of as many or more; {ends}"
    if rows < time_limit + 1:
        yield f"episodes of more than {rows:,} records are never drawn: so many of each environment are kept at a time"
