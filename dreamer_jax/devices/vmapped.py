"""Updates of several runs in one compiled call: each has a state, a key, batches and numbers of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.config.schema import Config
from dreamer_jax.config.sweep import numbers_of
from dreamer_jax.devices.data_parallel import Updates, compiler_options, repeat
from dreamer_jax.devices.memory import check_fits
from dreamer_jax.devices.packing import Packing, ask_for
from dreamer_jax.interfaces import Agent
from dreamer_jax.processes.lockstep import Lockstep
from dreamer_jax.types import Array, TrainState

AgentOf = Callable[[dict[str, Any]], Agent]
"""An agent from numbers by name, which may be those of a trace."""


def member_updates(configs: Sequence[Config], agent_of: AgentOf, threads: Lockstep, num_devices: int) -> list[Updates]:
    """What updates each of so many runs, in one thread each.

    The devices are as many as can have equally many runs; each updates its own, and needs nothing of the others.
    Runs of settings that differ must be of one group of ``sweep.together``.
    """
    program, count = Program(agent_of, numbers_of(configs)), len(configs)
    updates: list[Updates] = []
    for device, members in shares(count, num_devices):
        room = _Room(program, members, device, threads)
        updates += [MemberUpdates(room, place, count, count // len(members)) for place in range(len(members))]
    return updates


def shares(count: int, num_devices: int) -> Iterator[tuple[jax.Device, range]]:
    """The runs of each device, equally many: of ``count`` on at most ``num_devices``."""
    used = max(number for number in range(1, num_devices + 1) if count % number == 0)
    each = count // used
    for device, first in zip(jax.local_devices()[:used], range(0, count, each), strict=True):
        yield device, range(first, first + each)


class Program:
    """K updates of several agents, ``vmap`` over their states, keys, batches and numbers; states are given away.

    The states lie side by side, not in one array: so each is the run's own, to act with and to save.
    """

    def __init__(self, agent_of: AgentOf, numbers: Sequence[dict[str, float]]) -> None:
        self.packing = Packing(axes=0)
        self.numbers = [{name: np.float32(number) for name, number in mine.items()} for mine in numbers]

        def of_one(state: TrainState, root: Array, batches: Any, numbers: dict[str, Any]) -> Any:
            agent = agent_of(numbers)

            def update(state: TrainState, key: Array, batch: Any) -> tuple[TrainState, jax.Array]:
                state, metrics, latents = agent.update(state, key, batch)
                return state, self.packing.pack((metrics, latents))

            return repeat(update)(state, root, batches)

        def of_all(states: Sequence[TrainState], *rest: Sequence[Any]) -> list[tuple[TrainState, jax.Array]]:
            stacked = (jax.tree.map(lambda *xs: jnp.stack(xs), *each) for each in (states, *rest))
            found = jax.vmap(of_one)(*stacked)
            return [jax.tree.map(lambda x, i=i: x[i], found) for i in range(len(states))]

        self.call = jax.jit(of_all, donate_argnums=0)


class _Room:
    """Where the threads of one device's runs meet: the last who comes calls the program for all."""

    def __init__(self, program: Program, members: range, device: jax.Device, threads: Lockstep) -> None:
        self.device, self.packing, self._jitted = device, program.packing, program.call
        self._call: Callable[..., list[tuple[TrainState, jax.Array]]] = program.call
        self._numbers = tuple(program.numbers[i] for i in members)
        self.compile = threads.meeting(len(members), self._compile)
        self.update = threads.meeting(len(members), self._update)

    def _compile(self, brought: list[Any]) -> list[None]:
        lowered = self._jitted.lower(*zip(*brought, strict=True), self._numbers)
        compiled = lowered.compile(compiler_options())
        check_fits(compiled, self.device, len(brought))
        self._call = compiled
        return [None] * len(brought)

    def _update(self, brought: list[Any]) -> list[tuple[TrainState, jax.Array]]:
        return self._call(*zip(*brought, strict=True), self._numbers)


class MemberUpdates(Updates):
    """One run's part in the updates of all: what it asks for happens when all have asked."""

    def __init__(self, room: _Room, place: int, members: int, devices: int) -> None:
        self._room, self._index, self._packing = room, place, room.packing
        self._alone, self._sharding = True, jax.sharding.SingleDeviceSharding(room.device)
        self._members, self._num_devices = members, devices

    @property
    def where(self) -> str:
        return f"{super().where}, which update {self._members} runs in one program"

    def place(self, state: TrainState) -> TrainState:
        return self.near(state)

    def near(self, tree: Any) -> Any:
        return jax.device_put(tree, self._sharding)

    def compile(self, state: TrainState, root: Array, batches: Any) -> None:
        self._room.compile(self._index, (state, root, batches))

    def __call__(self, state: TrainState, root: Array, batches: Any) -> tuple[TrainState, jax.Array]:
        state, results = self._room.update(self._index, (state, root, batches))
        return state, ask_for(results)
