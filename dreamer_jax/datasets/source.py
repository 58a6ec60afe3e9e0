"""Recorded episodes of one environment, wherever they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from dreamer_jax.config.schema import EnvConfig
from dreamer_jax.datasets.dataset import Episode
from dreamer_jax.specs import EnvSpec


class Source(NamedTuple):
    """``lengths`` are the records of its episodes, and ``episodes`` reads them again at every call."""

    name: str
    spec: EnvSpec
    env: EnvConfig
    lengths: tuple[int, ...]
    episodes: Callable[[], Iterator[Episode]]
