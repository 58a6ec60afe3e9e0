"""``train``: one run, or one for each seed and each point of a sweep."""

from __future__ import annotations

import argparse
import shlex
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dreamer_jax.cli.errors import FAILED, explain
from dreamer_jax.cli.output import complain, say
from dreamer_jax.cli.quick_start import start_quickly
from dreamer_jax.cli.settings import named
from dreamer_jax.config.schema import Config, ConfigError
from dreamer_jax.config.sweep import Point, group_by_program, make_points

TIMEOUT = 600
"""Seconds that several processes wait for one that stands still."""


class _Run(NamedTuple):
    run_dir: Path
    point: Point

    @property
    def config(self) -> Config:
        return self.point.config


def train(options: argparse.Namespace, flags: Sequence[tuple[str, str]]) -> int:
    """Train what the command line asks for; the exit status is that of the first run that failed."""
    runs = _runs(options, flags)
    if options.print:
        print("\n".join(shlex.join(["dreamer-jax", *_words(options, flags, run)]) for run in runs))
        return 0
    if options.launch:
        return _launch(options, flags, runs)
    if options.job:
        raise ConfigError(f"--job {options.job[0]}: goes with --launch")
    from dreamer_jax.training.interrupt import Stopped
    from dreamer_jax.training.learner import NoUpdates
    from dreamer_jax.training.train import train

    # An environment of the first run may change the working directory.
    runs = [run._replace(run_dir=run.run_dir.absolute()) for run in runs]
    start_quickly(options)
    _join(options, runs)
    loggers = [name for name in options.logger or ["tensorboard"] if name != "none"]
    if len(runs) == 1:
        timeout = options.timeout or TIMEOUT
        train(runs[0].config, runs[0].run_dir, loggers=loggers, profile=options.profile, timeout=timeout)
        return 0
    from dreamer_jax.training.multi_run import Member, MemberFailed, train_together

    _refuse_early(runs)
    failed: dict[Path, int] = {}
    for group in _groups(runs, options.together or len(runs)):
        members = [Member(run.config, run.run_dir) for run in group]
        _announce(runs, group)
        try:
            if len(members) > 1:
                train_together(members, loggers=loggers, profile=options.profile)
            else:
                train(*members[0], loggers=loggers, profile=options.profile)
        except Stopped:
            raise  # whoever stops a run means all
        except NoUpdates as error:  # all have come to their ends
            complain(str(error))
            failed |= dict.fromkeys(error.run_dirs, FAILED)
        except Exception as error:
            who = group[0].run_dir
            if isinstance(error, MemberFailed) and isinstance(error.__cause__, Exception):
                who, error = error.run_dir, error.__cause__
            status, message = explain(error)
            if message is None:
                traceback.print_exception(error)
            ended = f" ({len(group) - 1} together with it ended, too; --together 1 keeps runs apart)"
            complain(f"{who} failed: {message or repr(error)}{ended if len(group) > 1 else ''}")
            failed |= dict.fromkeys((run.run_dir for run in group), status)
    if failed:
        complain(f"{len(failed)} of {len(runs)} runs failed, the others are complete: {', '.join(map(str, failed))}")
    return next(iter(failed.values()), 0)


def _groups(runs: Sequence[_Run], most: int) -> list[list[_Run]]:
    """Runs that learn together, at most so many, in the order of their first ones."""
    from dreamer_jax.training.multi_run import same_checkpoint

    of, groups = {run.run_dir: run for run in runs}, []
    places = {run.point.name: run.run_dir for run in runs}
    for points in group_by_program([run.point for run in runs]):
        for run_dirs in same_checkpoint([places[point.name] for point in points]):
            members = [of[run_dir] for run_dir in run_dirs]
            groups += [members[first : first + most] for first in range(0, len(members), most)]
    return sorted(groups, key=lambda group: runs.index(group[0]))


def _announce(runs: Sequence[_Run], group: Sequence[_Run]) -> None:
    numbers = [str(runs.index(run) + 1) for run in group]
    if len(group) == 1:
        say(f"run {numbers[0]} of {len(runs)}: {group[0].run_dir}")
        return
    names = ", ".join(run.run_dir.name for run in group)
    say(f"runs {', '.join(numbers)} of {len(runs)} together, in {group[0].run_dir.parent}: {names}")


def _join(options: argparse.Namespace, runs: Sequence[_Run]) -> None:
    """Become one of several processes, if the command line says so."""
    given = {f"--{name}": getattr(options, name) for name in ("coordinator", "processes", "process")}
    asked = [name for name, value in given.items() if value is not None] + ["--distributed"] * options.distributed
    if not asked:
        return
    if len(runs) > 1:
        raise ConfigError(f"{asked[0]}: processes share one run; --print makes a command for each of several")
    count, index = options.processes, options.process
    if index is not None and not 0 <= index < (count or index + 1):
        raise ConfigError(f"--process: got {index}, must be from 0 to {(count or 1) - 1} (--processes {count})")
    missing = [name for name, value in given.items() if value is None]
    if missing and not options.distributed:
        raise ConfigError(f"{asked[0]}: needs {' and '.join(missing)}, too, or --distributed, which looks for them")
    from dreamer_jax.devices.data_parallel import want_devices
    from dreamer_jax.processes.group import start

    want_devices(runs[0].config.train.devices)
    start(options.coordinator, count, index)


def _runs(options: argparse.Namespace, flags: Sequence[tuple[str, str]]) -> list[_Run]:
    points = make_points(
        options.config,
        named(options, flags),
        seeds=options.seeds,
        sweeps=options.sweep,
        sample=options.sample,
        sample_seed=options.sample_seed,
    )
    several, given = options.seeds is not None or options.sweep, options.run_dir
    parent = given if several and given else Path("runs")
    return [_Run(parent / point.name if several or not given else given, point) for point in points]


def _words(options: argparse.Namespace, flags: Sequence[tuple[str, str]], run: _Run) -> list[str]:
    """The command line that trains this run alone, less the program's name."""
    words = [("config", str(file)) for file in options.config] + named(options, flags) + list(run.point.given)
    words += [("logger", name) for name in options.logger or ()]
    words += [] if options.cache is None else [("cache", options.cache)]
    words += [("run-dir", str(run.run_dir))]
    texts = [f"--{name}={text}" for name, text in words] + ["--profile"] * options.profile
    return ["train", *texts]


def _launch(options: argparse.Namespace, flags: Sequence[tuple[str, str]], runs: Sequence[_Run]) -> int:
    """Hand each run to a scheduler, as a job of its own."""
    if options.processes or options.distributed:
        raise ConfigError("--launch: a job is one process; several share a run as the page on Slurm says")
    from dreamer_jax.cli.launch import FOLDER, as_job, launch

    _check_runs(runs)
    runs = [run._replace(run_dir=run.run_dir.absolute()) for run in runs]
    jobs = [as_job(_words(options, flags, run), run.run_dir) for run in runs]
    found = launch(options.launch, jobs, runs[0].run_dir.parent / FOLDER, options.job)
    print("\n".join(f"{name}: {run.run_dir}" for name, run in zip(found, runs, strict=True)))
    return 0


def _refuse_early(runs: Sequence[_Run]) -> None:
    """Before the first of several runs has taken hours, say what is wrong with the last."""
    from dreamer_jax.devices.data_parallel import check_devices

    check_devices(max(run.config.train.devices for run in runs))
    _check_runs(runs)


def _check_runs(runs: Sequence[_Run]) -> None:
    from dreamer_jax.runs.directory import check_run
    from dreamer_jax.training.offline import of_data

    for run in runs:
        check_run(run.run_dir, of_data(run.config, run.run_dir)[0])
