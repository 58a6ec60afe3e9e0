"""Several runs in one process whose updates are one program. Each is the run that it would be alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import chdir
from pathlib import Path
from typing import NamedTuple, TextIO

from dreamer_jax.agent import make_agent
from dreamer_jax.config.loading import replace
from dreamer_jax.config.schema import Config, ConfigError
from dreamer_jax.config.sweep import numbers_of
from dreamer_jax.devices.acting import make_acts
from dreamer_jax.devices.data_parallel import Updates, check_devices
from dreamer_jax.devices.programs import Programs
from dreamer_jax.devices.vmapped import member_updates
from dreamer_jax.envs.signals import handled_by, hold
from dreamer_jax.envs.wrappers import EnvironmentFailed
from dreamer_jax.interfaces import Agent
from dreamer_jax.numerics import fixed_numerics
from dreamer_jax.processes.lockstep import BrokenRendezvous, Lockstep, ThreadGroup
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.loggers import Logger
from dreamer_jax.runs.progress import SharedProgress
from dreamer_jax.specs import EnvSpec
from dreamer_jax.training.device_calls import Calls, member_calls
from dreamer_jax.training.device_preflight import chosen
from dreamer_jax.training.interrupt import Interrupt, Stopped
from dreamer_jax.training.learner import NoUpdates
from dreamer_jax.training.preflight import env_spec
from dreamer_jax.training.train import Ended, run_training
from dreamer_jax.types import TrainState

SECONDS_TO_HOLD = 0.5
"""Environments of other threads may have taken the signals for so long."""


class Member(NamedTuple):
    """One of the runs."""

    config: Config
    run_dir: Path


class MemberFailed(Exception):
    """A run ended with an error, which is the cause of this one, and all others with it."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(f"{run_dir} failed")
        self.run_dir = run_dir


def train_together(
    members: Sequence[Member],
    *,
    loggers: Sequence[str | Logger] = ("tensorboard",),
    stream: TextIO | None = None,
    profile: bool = False,
) -> list[TrainState]:
    """``train`` for runs of one group of ``sweep.together``, each in a thread; their states.

    They make the same steps at the same times, save and stop together, and go on from a checkpoint that all have.

    Args:
      profile: trace a few updates, into the first run's directory.

    Raises:
      ConfigError: they can't be started together, or one of them can't be started.
      MemberFailed: one of them ended with an error.
      NoUpdates: some have come to their ends without any, all others to theirs; as ``train``.
      Stopped: a signal came; checkpoints have been saved.
    """
    members = [Member(config, run_dir.absolute()) for config, run_dir in members]
    run_dirs = [run_dir for _, run_dir in members]
    if len(same_checkpoint(run_dirs)) > 1:
        raise ConfigError(f"--together: {', '.join(map(str, run_dirs))} have no checkpoint in common")
    names = [run_dir.name for run_dir in run_dirs]
    progress = SharedProgress(members[0].config.train.frames, names, stream=stream)
    threads = Lockstep(names, progress.flush)
    programs = _programs([config for config, _ in members], threads)
    ended: dict[int, Ended] = {}
    failed: dict[int, BaseException] = {}

    def run(index: int, interrupt: Interrupt) -> None:
        config, run_dir = members[index]
        group, own = ThreadGroup(threads, index), programs[index]
        try:
            ended[index] = run_training(
                config, run_dir, lambda _: own, loggers, progress.of(index), interrupt, group, profile and not index
            )
        except BrokenRendezvous:
            pass
        except BaseException as error:
            failed[index] = error
            threads.leave()

    interrupt = Interrupt()
    with chdir("."), handled_by(interrupt.handle):
        running = [
            threading.Thread(target=run, args=(index, interrupt), name=name, daemon=True)
            for index, name in enumerate(names)
        ]
        for thread in running:
            thread.start()
        for thread in running:
            while thread.is_alive():
                thread.join(SECONDS_TO_HOLD)
                hold()  # the threads can't
    progress.flush()
    progress.close()
    for index, error in failed.items():
        if isinstance(error, ConfigError | EnvironmentFailed) and interrupt.number is not None:
            raise Stopped(interrupt.number) from error  # as ``train``
        if isinstance(error, ConfigError):
            raise error
        raise MemberFailed(run_dirs[index]) from error
    for each in ended.values():
        if each.stop is not None:
            raise Stopped(each.stop)
    if missing := {run_dirs[index]: each.missing for index, each in sorted(ended.items()) if each.missing}:
        raise NoUpdates(missing)
    return [ended[index].state for index in range(len(members))]


@fixed_numerics()
def _programs(configs: Sequence[Config], threads: Lockstep) -> list[Programs]:
    """Of each run; only what depends on numbers that differ is compiled for each of them."""
    first, pure = configs[0], chosen(configs[0])
    devices, spec = check_devices(first.train.devices), env_spec(first) if pure is None else pure.spec
    agent = make_agent(first, spec)
    agent_of, acts = _agent_of(first, spec, agent), make_acts(agent)
    updates: Sequence[Updates | Calls]
    if pure is None:
        updates = member_updates(configs, agent_of, threads, devices)
    else:
        updates = member_calls(configs, agent_of, pure, threads, devices)
    agents = [agent._replace(report=agent_of(numbers).report) for numbers in numbers_of(configs)]
    return [Programs(agent, acts, update) for agent, update in zip(agents, updates, strict=True)]


def _agent_of(config: Config, spec: EnvSpec, agent: Agent) -> Callable[[dict], Agent]:
    return lambda numbers: make_agent(replace(config, numbers), spec) if numbers else agent


def same_checkpoint(run_dirs: Sequence[Path]) -> list[list[Path]]:
    """Groups that can go on from the same place: the newest checkpoint of all, or none.

    Where a kill came between the saves of runs that went in step, those that had saved can go back to the one before.
    """
    newest, before, known = dict[Path, int](), dict[Path, int](), dict[Path, set[str]]()
    for run_dir in run_dirs:
        newest[run_dir], before[run_dir], known[run_dir] = _progress(run_dir)
    left, groups = list(run_dirs), []
    while left:
        place = min(newest[run_dir] for run_dir in left)
        there = {run_dir for run_dir in left if newest[run_dir] == place}
        names = {run_dir.name for run_dir in there}
        there |= {run_dir for run_dir in left if before[run_dir] == place and names & known[run_dir]}
        groups.append([run_dir for run_dir in left if run_dir in there])
        left = [run_dir for run_dir in left if run_dir not in there]
    return sorted(groups, key=lambda group: run_dirs.index(group[0]))


def _progress(run_dir: Path) -> tuple[int, int, set[str]]:
    """The newest checkpoint, the one before (-1 for none), and the names of the runs that saved with it."""
    if not (run_dir / "checkpoints").is_dir():
        return -1, -2, set()
    checkpoints = Checkpoints(run_dir)
    try:
        steps = [-2, -1, *checkpoints.steps()]
        facts = checkpoints.facts(steps[-1]) if steps[-1] >= 0 else {}
    finally:
        checkpoints.close()
    return steps[-1], steps[-2], set(facts.get("together", ()))
