"""Runs as jobs of a scheduler, with submitit: an array, whose jobs save when they must leave and come back later."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.runs.directory import JOB_LOG

FOLDER = "jobs"
"""Of submitit's own files, beside the run directories."""
DEFAULTS: dict[str, Any] = {"name": "dreamer-jax", "timeout_min": 24 * 60}


@dataclass(frozen=True)
class Job:
    """Trains one run in a process of its own; submitit calls it, and ``checkpoint`` when the job has to leave.

    The process saves and ends on SIGTERM, as every run does, and the same command goes on from there.
    """

    command: list[str]
    log: Path

    def __call__(self) -> None:
        """Raises RuntimeError: the run has failed; its log says why."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        # submitit's own signal is for this process, whoever sends it to both.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        try:
            with open(self.log, "ab") as log:
                process = subprocess.Popen(
                    self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            _running.append(process.pid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        signal.signal(signal.SIGTERM, lambda *_: _end())
        status = process.wait()
        if status:
            raise RuntimeError(f"exit status {status}; see {self.log}")

    def checkpoint(self) -> Any:
        """What submitit starts again later."""
        from submitit.helpers import DelayedSubmission

        for process in _end():
            # Not Popen.wait, whose lock the interrupted one holds; it is left to be waited for.
            os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(self)


_running: list[int] = []
"""The process of this one's job."""


def _end() -> list[int]:
    for process in _running:
        os.kill(process, signal.SIGTERM)
    return _running


def parameters(words: Sequence[str]) -> dict[str, Any]:
    """``NAME=VALUE`` of each word, as submitit names them, such as ``slurm_partition=gpu``."""
    found = dict(DEFAULTS)
    for word in words:
        name, equals, text = word.partition("=")
        if not (name and equals and text):
            raise ConfigError(f"--job {word}: must be NAME=VALUE, such as timeout_min=240 or slurm_partition=gpu")
        try:
            found[name] = yaml.safe_load(text)
        except yaml.YAMLError:
            found[name] = text
    return found


def launch(cluster: str, jobs: Sequence[Job], folder: Path, words: Sequence[str]) -> list[str]:
    """Hand jobs over, as one array where there are several; their identities.

    Args:
      folder: where submitit keeps what it needs to start them again.
      words: parameters, see ``parameters``.

    Raises:
      ConfigError: submitit is not here, or it or the scheduler refuses.
    """
    asked = parameters(words)
    try:
        import submitit
    except ImportError as error:
        raise ConfigError("--launch: needs submitit; pip install 'dreamer_jax[slurm]'") from error
    try:
        executor = submitit.AutoExecutor(folder / "%j", cluster=cluster)
        executor.update_parameters(**asked)
        with executor.batch():
            submitted = [executor.submit(job) for job in jobs]
    except Exception as error:  # its own kinds, and those of the scheduler's programs
        with suppress(OSError):
            folder.rmdir()  # if it is empty
        raise ConfigError(f"--launch {cluster}: {str(error).strip().splitlines()[-1]}") from error
    return [job.job_id for job in submitted]


def as_job(words: Sequence[str], run_dir: Path) -> Job:
    """``words`` follow the program's name."""
    return Job([sys.executable, "-m", "dreamer_jax", *words], run_dir / JOB_LOG)
