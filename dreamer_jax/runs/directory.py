"""The directory of a run: whose it is, what it holds, and what went into it."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import jax

from dreamer_jax.config.loading import RESUMABLE, difference, dump
from dreamer_jax.config.schema import Config, ConfigError, flatten
from dreamer_jax.files import replace_file
from dreamer_jax.processes.group import ProcessGroup
from dreamer_jax.runs.facts import steps
from dreamer_jax.runs.integrity import check_lines, lines_lost, read_settings, read_spec
from dreamer_jax.specs import EnvSpec

SECONDS_TO_SEE = 60
"""File systems of a network may need so long to show a new directory everywhere."""
JOB_LOG = "job.log"
"""What a scheduler's job prints."""
UNFINISHED = ("lock", "config.yaml.tmp", JOB_LOG)
"""What may be there before a run: its job's log, and what a start that was killed at once may leave."""
LINES = ("metrics.jsonl", "scores.jsonl")
PACKAGES = (
    "dreamer-jax", "jax", "jaxlib", "flax", "optax", "distrax", "orbax-checkpoint",
    "numpy", "gymnasium", "dm_control", "mujoco",
)  # fmt: skip


def check_run(run_dir: Path, config: Config) -> list[str]:
    """What changed since the run there began, or was lost, as sentences; empty for a new one. Writes nothing.

    Raises:
      ConfigError: the directory holds something else, a run of other settings, or one that is damaged.
    """
    settings = run_dir / "config.yaml"
    try:
        if os.path.lexists(settings):
            changed = _check_settings(settings, config)
            _check_records(run_dir)
            return changed + lines_lost(run_dir)
        if run_dir.is_dir() and any(path.name not in UNFINISHED for path in run_dir.iterdir()):
            known = " (its config.yaml is missing)" if steps(run_dir) else ""
            raise ConfigError(f"--run-dir {run_dir}: not empty and not a run{known}; choose another directory")
    except OSError as error:
        raise ConfigError(f"--run-dir {run_dir}: can't be read ({error.strerror})") from error
    return []


def check_group(config: Config, run_dir: Path, group: ProcessGroup) -> None:
    """Refuse processes that were started with other settings than the first, or that can't share its numbers.

    Raises:
      ConfigError: with the field; the same one for all.
    """
    if group.separate_runs:
        return
    first, *others = group.all_gather({**flatten(config), "--run-dir": str(run_dir.absolute())})
    for number, settings in enumerate(others, start=1):
        for name, value in settings.items():
            if value != first[name]:
                raise ConfigError(f"{name}: process 0 was started with {first[name]}, process {number} with {value}")
    for name, count in (("env.num_envs", config.env.num_envs), ("train.batch_size", config.train.batch_size)):
        if count % group.process_count:
            raise ConfigError(
                f"{name}: got {count}, must be a multiple of the number of processes, {group.process_count}"
            )


def see_run(run_dir: Path) -> None:
    """Wait until the run that another process has opened is seen here, too.

    Raises:
      ConfigError: it is not.
    """
    end = time.monotonic() + SECONDS_TO_SEE
    while not (run_dir / "env.json").exists():
        if time.monotonic() > end:
            raise ConfigError(f"--run-dir {run_dir}: not shared, what process 0 wrote there is not seen by all others")
        time.sleep(0.1)


def open_run(run_dir: Path, config: Config, spec: EnvSpec) -> TextIO:
    """Make ``run_dir`` the home of a run of ``config``, or see that the one there can go on.

    Returns the lock, to be kept open while the run lasts. What is there already stays as it is.

    Raises:
      ConfigError: it can't be written, is in use, is damaged, holds something else or a run of other settings,
        or the environment has other shapes than when the run began.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = _lock(run_dir)
        try:
            check_run(run_dir, config)
            for name in LINES:
                if os.path.lexists(run_dir / name):
                    check_lines(run_dir / name)
            if os.path.lexists(run_dir / "env.json"):
                _check_shapes(run_dir, spec)
            else:
                write_run(run_dir, config, spec)
        except BaseException:
            lock.close()
            raise
    except OSError as error:
        raise ConfigError(f"--run-dir {run_dir}: can't be written ({error.strerror})") from error
    return lock


def write_run(run_dir: Path, config: Config, spec: EnvSpec) -> None:
    """Write ``config.yaml`` and ``env.json``: versions, device, and the shapes that the environment has."""
    replace_file(run_dir / "config.yaml", dump(config))
    facts = {"versions": versions(), **machine(), "spec": spec.as_json()}
    replace_file(run_dir / "env.json", json.dumps(facts, indent=1) + "\n")


def _lock(run_dir: Path) -> TextIO:
    path = run_dir / "lock"
    try:
        lock = open(path, "a")  # noqa: SIM115 (held for as long as the run lasts)
    except OSError as error:
        raise ConfigError(f"{path}: can't be opened ({error.strerror}); it may be removed if no run goes on") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise ConfigError(f"--run-dir {run_dir}: another process is training there") from None
    return lock


def _check_settings(path: Path, config: Config) -> list[str]:
    changed = difference(read_settings(path.parent), config)
    fixed = [f"{name} is {there} there and {here} here" for name, there, here in changed if name not in RESUMABLE]
    if fixed:
        raise ConfigError(f"{path}: a run with other settings: {'; '.join(fixed)}; choose another --run-dir")
    return [f"{name}: {there} before, {here} now" for name, there, here in changed]


def _check_records(run_dir: Path) -> None:
    """Refuse to begin again where records have been collected but no checkpoint is left."""
    if steps(run_dir):
        return
    # A start writes lines, and numbers the undo log by records, only once there is a checkpoint.
    lines = (path for path in (run_dir / name for name in LINES) if path.is_file() and path.stat().st_size)
    undo = (path for path in run_dir.glob("replay*/undo-*.bin") if path.name != "undo-0.bin")
    for path in (*lines, *undo):
        raise ConfigError(
            f"{run_dir / 'checkpoints'}: no checkpoint is there any more, though {path.relative_to(run_dir)} is of a "
            "run that had some; put them back, or choose another --run-dir"
        )


def _check_shapes(run_dir: Path, spec: EnvSpec) -> None:
    if read_spec(run_dir) != spec:
        path = run_dir / "env.json"
        raise ConfigError(f"{path}: env.task has other observations or actions than when the run began")


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """What computes here."""
    device = jax.devices()[0]
    return {"device": device.device_kind, "backend": jax.default_backend(), "cores": os.cpu_count()}
