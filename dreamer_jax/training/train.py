"""Starting a run, or going on with one: what is checked, opened and closed around the loop."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, chdir, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple, TextIO

import jax
import numpy as np

from dreamer_jax.agent import make_agent
from dreamer_jax.config.paths import path_of
from dreamer_jax.config.schema import Config, ConfigError
from dreamer_jax.devices.acting import make_acts
from dreamer_jax.devices.data_parallel import axis_of, check_devices, want_devices
from dreamer_jax.devices.memory import check_room
from dreamer_jax.devices.programs import Programs, make_programs
from dreamer_jax.envs.preview import Preview
from dreamer_jax.envs.signals import handled_by
from dreamer_jax.envs.wrappers import EnvironmentFailed
from dreamer_jax.interfaces import Agent
from dreamer_jax.interfaces.environment import Environment
from dreamer_jax.numerics import find_devices, fixed_numerics
from dreamer_jax.processes.group import DistributedGroup, ProcessGroup, present
from dreamer_jax.processes.heartbeat import Heartbeat
from dreamer_jax.profiling.trace import Profile
from dreamer_jax.replay.plan import Plan
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.directory import check_group, check_run, open_run, see_run, write_run
from dreamer_jax.runs.facts import steps
from dreamer_jax.runs.integrity import check_origin
from dreamer_jax.runs.loggers import Logger, check_loggers
from dreamer_jax.runs.progress import Progress, UpdateProgress
from dreamer_jax.specs import EnvSpec
from dreamer_jax.training.device_calls import Calls
from dreamer_jax.training.device_preflight import check_shares, chosen, device_preview, device_ring_plan
from dreamer_jax.training.interrupt import Interrupt, Stopped
from dreamer_jax.training.learner import NoUpdates
from dreamer_jax.training.loop import INIT, Run, make_keys
from dreamer_jax.training.offline import OfflineRun, of_data
from dreamer_jax.training.on_device import OnDeviceRun
from dreamer_jax.training.preflight import env_preview, ring_plan
from dreamer_jax.training.start import Start, read_start
from dreamer_jax.types import TrainState


def train(
    config: Config,
    run_dir: str | Path,
    *,
    agent: Agent | None = None,
    loggers: Sequence[str | Logger] = ("tensorboard",),
    stream: TextIO | None = None,
    profile: bool = False,
    timeout: float = 600.0,
) -> TrainState:
    """Train until ``config.train.frames`` frames are collected; go on where ``run_dir`` left off.

    The processes of ``jax.distributed`` share the run; all have to call this.

    Args:
      agent: instead of the one that ``config`` describes; to be passed again whenever the run goes on.
      loggers: names or callables ``(counters, metrics)``, besides the JSON lines.
      stream: where progress is shown, else stderr.
      profile: write a profiler trace of a few updates into ``run_dir/profile``.
      timeout: seconds after which several processes that stand still give up.

    Raises:
      ConfigError: the run can't be started as asked.
      NotFinite: a loss became NaN or infinite.
      EnvironmentFailed: an environment raised an error.
      NoUpdates: it has come to its end without any of the updates that it was to make; a checkpoint has been saved.
      Stopped: a signal came; a checkpoint has been saved.
    """
    want_devices(config.train.devices)  # before anything else asks JAX
    find_devices()
    run_dir, group = path_of(run_dir).absolute(), present(timeout)  # environments may change the working directory
    if not group.is_primary:
        print(
            f"process {group.process_index} of {group.process_count}; process 0 says how the run is doing",
            file=stream or sys.stderr,
        )
        stream, profile = open(os.devnull, "w"), False  # noqa: SIM115 (for as long as the process lives)
    shown, total = (UpdateProgress, config.offline.updates) if config.offline.data else (Progress, config.train.frames)
    progress = shown(total, stream=stream)
    make = partial(_programs, config, agent)
    interrupt = Interrupt()
    with chdir("."), handled_by(interrupt.handle):
        try:
            ended = run_training(config, run_dir, make, loggers, progress, interrupt, group, profile)
        except (ConfigError, EnvironmentFailed) as error:
            if interrupt.number is None:
                raise
            raise Stopped(interrupt.number) from error  # simulators that a signal has ended as they were opened
    if ended.stop is not None:
        raise Stopped(ended.stop)
    if ended.missing:
        raise NoUpdates({run_dir: ended.missing})
    return ended.state


class Ended(NamedTuple):
    """How a run has ended."""

    stop: int | None  # the number of the signal that asked it to
    missing: str  # why no update was made, though some were expected; else nothing
    state: TrainState


@fixed_numerics()
def run_training(
    config: Config,
    run_dir: Path,
    make: Callable[[EnvSpec], Programs],
    loggers: Sequence[str | Logger],
    progress: Progress,
    interrupt: Interrupt,
    group: ProcessGroup,
    profile: bool = False,
) -> Ended:
    """A run from where it is to its end, or to a signal; as ``train``."""
    with (
        _open(config, run_dir, make, loggers, progress, group) as run,
        Profile(run_dir / "profile" if profile else None, progress.note) as run.profile,
    ):
        run.prepare()
        run.loop(interrupt)
    # One that comes to the end while a signal asks it to stop has not been asked in vain.
    return Ended(interrupt.number if run.stop is None else run.stop, run.missing(), run.learner.state)


def _programs(config: Config, agent: Agent | None, spec: EnvSpec) -> Programs:
    pure = chosen(config) is not None
    devices = check_shares(config) if pure else check_devices(config.train.devices, config.train.batch_size)
    made = agent or make_agent(config, spec, axis_name=axis_of(devices))
    programs = Programs(made, make_acts(made), Calls(devices)) if pure else make_programs(made, devices)
    return programs._replace(given=agent is not None)


@fixed_numerics()
def begin(config: Config, run_dir: str | Path, state: TrainState) -> None:
    """Make ``run_dir`` a run that starts from ``state`` and has done nothing yet; ``train`` goes on with it.

    It appears there whole or not at all, so that no run can begin from other parameters unnoticed.

    Raises:
      ConfigError: something is there already, or it can't be started as asked.
    """
    run_dir = path_of(run_dir).absolute()
    if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
        raise ConfigError(f"{run_dir}: something is there already; choose another directory")
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=run_dir.parent, prefix=f".{run_dir.name}-") as scratch:
        place = Path(scratch, "run")
        progress = Progress(config.train.frames, stream=io.StringIO())
        with _open(config, place, partial(_programs, config, None), (), progress, ProcessGroup(), state):
            pass
        os.replace(place, run_dir)


@contextmanager
def _open(
    config: Config,
    run_dir: Path,
    make: Callable[[EnvSpec], Programs],
    loggers: Sequence[str | Logger],
    progress: Progress,
    group: ProcessGroup,
    state: TrainState | None = None,
) -> Iterator[Run | OfflineRun | OnDeviceRun]:
    """A run with its first checkpoint, or where ``run_dir`` left off; ``state`` is what a new one starts from."""
    if config.offline.data and group.members > 1:
        raise ConfigError("offline.data: one process learns from it; start one, or runs one after another")
    config, sources = of_data(config, run_dir)
    origin = path_of(config.train.start).absolute()  # environments may change the working directory

    def check() -> tuple[Environment | None, Preview, Programs, Start | None]:
        check_loggers(loggers)
        check_devices(config.train.devices)
        pure = chosen(config)
        if pure is not None and group.process_count > 1:
            raise ConfigError("train.where: a run on the device is of one process; set it to host")
        if pure is not None:
            found = device_preview(config, pure)
        else:
            found = Preview(sources[0].spec, (), 0.0, 0) if sources else env_preview(config)
        programs = make(found.spec)
        check_room(config, found.spec, programs.agent)
        begins = bool(config.train.start) and state is None and not steps(run_dir)
        return pure, found, programs, read_start(config, programs.agent, origin) if begins else None

    check_group(config, run_dir, group)
    # Whatever can be refused is refused before anything is written, and by all if by one.
    pure, found, programs, start = group.all_succeed(check)
    spec, records = found.spec, sum(sum(source.lengths) for source in sources)
    changes = group.all_succeed(lambda: check_run(run_dir, config))
    group.all_succeed(lambda: check_origin(run_dir, programs.given))

    def planned() -> Plan:
        if pure is not None:
            return device_ring_plan(config, found, programs.agent, group.members)
        return ring_plan(config, run_dir, found, programs.agent, group.process_count, records)

    size = group.all_succeed(planned)
    lock = group.all_succeed(lambda: open_run(run_dir, config, spec) if group.is_primary else None)
    group.all_succeed(lambda: see_run(run_dir))
    with ExitStack() as opened:
        if lock is not None:
            opened.enter_context(lock)
        # Runs that are apart may be killed between two saves, and must then all go back to the one before.
        keep = max(config.train.keep_checkpoints, 2 if group.separate_runs else 1)
        checkpoints = Checkpoints(run_dir, keep=keep) if group.is_primary else None
        if checkpoints is not None:
            opened.callback(checkpoints.close)
        opened.callback(progress.close)
        if isinstance(group, DistributedGroup):
            opened.enter_context(Heartbeat(run_dir, group))
        if not group.separate_runs:
            progress.note(f"run directory: {run_dir}")
        progress.note(size.line)
        if start is not None:
            progress.note(start.line)
            key = make_keys(np.uint32(config.seed % 2**32))[INIT]
            state = start.begin(group.primary_first(lambda: jax.jit(programs.agent.init)(key)))
        made = programs, size.records, loggers
        run: Run | OfflineRun | OnDeviceRun
        if pure is not None and checkpoints is not None:
            run = OnDeviceRun(config, run_dir, pure, found, *made, checkpoints, progress, state, group, opened)
        elif sources and checkpoints is not None:
            run = OfflineRun(config, run_dir, sources, *made, checkpoints, progress, state, opened)
        else:
            run = Run(config, run_dir, found, *made, checkpoints, progress, state, group, opened)
        for change in changes:
            progress.note(f"changed since the run began: {change}")
        if run.newest is None:
            # From here on there always is a complete checkpoint, and every record comes after one.
            run.save(wait=True)
        elif group.is_primary:
            write_run(run_dir, config, spec)
        yield run
