"""Calls of the one program of a run on the device: by itself, or of several runs at once, each in a thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.config.schema import Config
from dreamer_jax.config.sweep import numbers_of
from dreamer_jax.devices.data_parallel import compiler_options
from dreamer_jax.devices.memory import check_fits
from dreamer_jax.devices.vmapped import AgentOf, shares
from dreamer_jax.interfaces import Agent
from dreamer_jax.interfaces.environment import Environment
from dreamer_jax.processes.lockstep import Lockstep
from dreamer_jax.training.one_program import (
    MEMBERS,
    Counters,
    Found,
    Program,
    Training,
    make_program,
    parts_of_training,
)
from dreamer_jax.types import Array

MOST = 1024
"""Steps in one call."""


class Calls:
    """Of a run by itself, on one device or on several that share its environments and its batches."""

    def __init__(self, num_devices: int = 1) -> None:
        self._num_devices = num_devices
        self._call: Any = None

    @property
    def where(self) -> str:
        """The devices, in words."""
        return f"{self._num_devices} x {jax.devices()[0].device_kind}"

    def program(self, config: Config, agent: Agent, env: Environment, rows: int) -> Program:
        """Of the run, with a ring of so many rows."""
        return make_program(config, agent, env, rows=rows, most=MOST, num_devices=self._num_devices)

    def compile(self, program: Program, rows: int, *inputs: Any) -> None:
        """Before the first call, for inputs like these."""
        self._call = jax.jit(program.run, donate_argnums=0).lower(*inputs).compile(compiler_options())

    def __call__(self, training: Training, counters: Counters, keys: Array, steps: int) -> Any:
        """As ``Program.run``; the training is given away."""
        return self._call(training, counters, keys, np.int32(steps))


def member_calls(
    configs: Sequence[Config], agent_of: AgentOf, env: Environment, threads: Lockstep, num_devices: int
) -> list[Calls]:
    """Those of each of so many runs of one group of ``sweep.together``, in one thread each.

    The devices are as many as can have equally many runs; each has its own, and needs nothing of the others.
    """

    def program_of(numbers: dict[str, Any], rows: int) -> Program:
        return make_program(configs[0], agent_of(numbers), env, rows=rows, most=MOST, members=MEMBERS)

    numbers = [{name: np.float32(number) for name, number in mine.items()} for mine in numbers_of(configs)]
    calls: list[Calls] = []
    for device, members in shares(len(configs), num_devices):
        room = _Room(program_of, [numbers[i] for i in members], device, threads)
        calls += [MemberCalls(room, place, len(configs), len(configs) // len(members)) for place in range(len(members))]
    return calls


class _Room:
    """Where the threads of one device's runs meet: the last who comes calls the program for all.

    The trainings lie side by side, not in one array: so each is the run's own, to look at and to save.
    """

    def __init__(
        self,
        program_of: Callable[[dict[str, Any], int], Program],
        numbers: Sequence[dict[str, Any]],
        device: jax.Device,
        threads: Lockstep,
    ) -> None:
        self.device, self._program_of, self._numbers = device, program_of, tuple(numbers)
        self._call: Any = None
        self.compile = threads.meeting(len(numbers), self._compile)
        self.run = threads.meeting(len(numbers), self._run)

    def _compile(self, brought: list[Any]) -> list[None]:
        rows, program_of = brought[0][0], self._program_of
        program = together(lambda numbers: program_of(numbers, rows))
        lowered = program.lower(*self._together([each for _, each in brought]))
        self._call = lowered.compile(compiler_options())
        check_fits(self._call, self.device, len(brought))
        return [None] * len(brought)

    def _run(self, brought: list[Any]) -> list[tuple[Training, Counters, Found]]:
        return self._call(*self._together(brought))

    def _together(self, brought: Sequence[Any]) -> tuple[Any, ...]:
        trainings, counters, keys, steps = zip(*brought, strict=True)
        return trainings, counters[0], keys, self._numbers, steps[0]


def together(program_of: Callable[[dict[str, Any]], Program]) -> Any:
    """Steps of several trainings in one program, compiled when it is called; trainings are given away.

    It takes trainings and the counters of all, then a key and numbers for each, as ``program_of`` takes them, and the
    number of steps; it gives training, counters and ``Found`` of each.
    """

    def of_one(training: Training, counters: Counters, keys: Array, numbers: dict[str, Any], steps: Array) -> Any:
        return program_of(numbers).run(training, counters, keys, steps)

    def of_all(trainings: Any, counters: Counters, keys: Any, numbers: Any, steps: Array) -> list[Any]:
        first = trainings[0].ring
        stacked, keys, numbers = (_stack(each) for each in (trainings, keys, numbers))
        # What is the same in all is not stacked, so that they make the same steps and updates together.
        ring = replace(stacked.ring, rows=first.rows, taken=first.taken)
        axes = parts_of_training(state=0, streams=0, rows=0, same=None)
        of_each = jax.vmap(of_one, (axes, None, 0, 0, None), (axes, None, 0), axis_name=MEMBERS)
        training, counters, found = of_each(replace(stacked, ring=ring), counters, keys, numbers, steps)
        return [(_part(training, i), counters, jax.tree.map(lambda x, i=i: x[i], found)) for i in range(len(trainings))]

    return jax.jit(of_all, donate_argnums=0)


class MemberCalls(Calls):
    """One run's part in the calls of all: what it asks for happens when all have asked for as many steps."""

    def __init__(self, room: _Room, place: int, members: int, devices: int) -> None:
        super().__init__(devices)
        self._room, self._index, self._members = room, place, members

    @property
    def where(self) -> str:
        return f"{super().where}, which train {self._members} runs in one program"

    def program(self, config: Config, agent: Agent, env: Environment, rows: int) -> Program:
        return make_program(config, agent, env, rows=rows, most=MOST)

    def compile(self, program: Program, rows: int, *inputs: Any) -> None:
        self._room.compile(self._index, (rows, self._near(inputs)))

    def __call__(self, training: Training, counters: Counters, keys: Array, steps: int) -> Any:
        return self._room.run(self._index, self._near((training, counters, keys, np.int32(steps))))

    def _near(self, inputs: Any) -> Any:
        return jax.device_put(inputs, self._room.device)


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *xs: jnp.stack(xs), *trees)


def _part(training: Training, index: int) -> Training:
    """One run's."""
    ring = training.ring
    mine: Training = jax.tree.map(lambda x: x[index], replace(training, ring=replace(ring, rows=None, taken=None)))
    return replace(mine, ring=replace(mine.ring, rows=ring.rows, taken=ring.taken))
