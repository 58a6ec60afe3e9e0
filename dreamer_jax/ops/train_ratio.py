"""When a run acts at random and how many updates are due; steps are Python's, numpy's or a trace's."""

from __future__ import annotations

from fractions import Fraction
from typing import TypeVar

from dreamer_jax.config.schema import TrainConfig
from dreamer_jax.types import Array

Steps = TypeVar("Steps", int, Array)
"""Agent steps, or updates: whole numbers."""


def in_prefill(train: TrainConfig, agent_steps: Array) -> Array:
    """Whether actions are random after so many agent steps; there are no updates then."""
    return agent_steps < train.prefill


def least_windows(train: TrainConfig) -> int:
    """Different windows that replay must have before the first update."""
    return train.start_windows or train.batch_size * train.batch_length


def updates_after(train: TrainConfig, agent_steps: Steps) -> Steps:
    """Updates due so many agent steps after they begin: some at once, then in proportion, or in bursts of what is due.

    Exact in whole numbers. In 32 bits that needs a ``train_ratio`` which, by the records of an update, is a fraction
    of numerator times denominator below 2^31, as every usual one is.
    """
    if train.update_every:
        agent_steps = agent_steps - agent_steps % train.update_every
    rate = Fraction(repr(train.train_ratio)) / (train.batch_size * train.batch_length)
    whole, rest = agent_steps // rate.denominator, agent_steps % rate.denominator
    return train.pretrain + whole * rate.numerator + rest * rate.numerator // rate.denominator
