"""What is compiled for a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dreamer_jax.devices.acting import Act, make_acts
from dreamer_jax.devices.data_parallel import Updates
from dreamer_jax.interfaces import Agent
from dreamer_jax.types import Mode


class Programs(NamedTuple):
    """An agent's; runs that learn together have those for acting in common."""

    agent: Agent
    acts: Mapping[Mode, Act]
    updates: Any
    """``Updates``, or the ``training.device_calls.Calls`` of a run on the device."""
    given: bool = False  # the agent, by a program; else it is the one that the settings describe


def make_programs(agent: Agent, num_devices: int) -> Programs:
    """Of a run by itself."""
    return Programs(agent, make_acts(agent), Updates(agent, num_devices))
