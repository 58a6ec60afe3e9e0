"""What is to be done, in which order, and doing it: each run is a process of its own, on one core."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from comparison.protocol import LEARNERS, METHODS, NAMES, PREDICTION, RANDOM, Place, Protocol, read
from comparison.run import needs

ONE_CORE = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
}
"""So that several runs can go beside each other, and times are those of one core."""
SAID_SECONDS = 300
"""Between lines while nothing ends."""


class Job(NamedTuple):
    task: str
    method: str
    seed: int

    def __str__(self) -> str:
        return f"{self.task}, {NAMES.get(self.method, self.method)}, seed {self.seed}"


Start = Callable[[Job, TextIO], "subprocess.Popen[Any]"]


def jobs(tasks: Iterable[str], methods: Sequence[str], seeds: Iterable[int]) -> list[Job]:
    """Everything of a seed before the next one; random actions first, what needs the others last."""
    last = [PREDICTION] if set(METHODS) <= set(methods) else []
    order = [RANDOM, *(method for method in METHODS if method in methods), *last]
    return [Job(task, method, seed) for seed in seeds for task in tasks for method in order]


def open_jobs(protocol: Protocol, place: Place, every: Iterable[Job]) -> list[Job]:
    """Those that have left no file yet.

    Raises:
      ConfigError: a file is there, but of another comparison.
    """
    missing = []
    for job in every:
        path = place.result(*job)
        if path.exists():
            read(protocol, path)
        else:
            missing.append(job)
    return missing


def starter(place: Place) -> Start:
    """Starts this program for one job."""
    words = [
        sys.executable,
        str(Path(__file__).parent),
        "--runs",
        str(place.runs),
        "--report",
        str(place.results.parent),
    ]

    def start(job: Job, log: TextIO) -> subprocess.Popen[Any]:
        one = ["--one", job.task, job.method, str(job.seed)]
        return subprocess.Popen([*words, *one], stdout=log, stderr=log, env={**os.environ, **ONE_CORE})

    return start


def work(
    protocol: Protocol,
    place: Place,
    every: Sequence[Job],
    *,
    together: int,
    start: Start,
    say: Callable[[str], None],
    after: Callable[[], None] = lambda: None,
    pause: float = 0.5,
) -> int:
    """Do what is missing, at most ``together`` at a time; the number of jobs that failed or could not be begun.

    ``after`` is called whenever one has ended well.
    """
    waiting, running, failed = open_jobs(protocol, place, every), {}, 0
    done, begin, said = len(every) - len(waiting), time.monotonic(), time.monotonic()
    place.runs.mkdir(parents=True, exist_ok=True)
    say(f"{done} of {len(every)} are done{left(protocol, place, waiting, every, together)}")
    try:
        while waiting or running:
            ready = [
                job for job in waiting if all(place.result(job.task, x, job.seed).exists() for x in needs(job.method))
            ]
            while ready and len(running) < together:
                job = ready.pop(0)
                waiting.remove(job)
                path = place.runs / f"{job.task}-{job.method}-{job.seed}.log"
                say(f"begins: {job}, {path}")
                with path.open("w") as log:
                    running[job] = start(job, log), time.monotonic(), path
            if not running:  # what is left needs something that failed or was not asked for
                for job in waiting:
                    lacking = [x for x in needs(job.method) if not place.result(job.task, x, job.seed).exists()]
                    say(f"not begun: {job}: it needs {', '.join(lacking)} of the same task and seed")
                return failed + len(waiting)
            time.sleep(pause)
            for job, (process, since, path) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[job]
                if process.returncode or not place.result(*job).exists():
                    failed += 1
                    say(f"failed: {job}: {last_line(path) or f'exit status {process.returncode}'}, {path}")
                    continue
                done += 1
                found = read(protocol, place.result(*job))
                remaining = left(protocol, place, [*waiting, *running], every, together)
                say(f"[{done}/{len(every)}] {job}: {outcome(protocol, found, time.monotonic() - since)}{remaining}")
                said = time.monotonic()
                after()
            if time.monotonic() - said > SAID_SECONDS:
                said = time.monotonic()
                hours = (said - begin) / 3600
                say(f"{hours:.1f} h: {done} of {len(every)} are done, {', '.join(map(str, running))} under way")
    finally:
        for process, _, _ in running.values():
            process.terminate()
        for process, _, _ in running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(60)
    return failed


def outcome(protocol: Protocol, found: dict[str, Any], seconds: float) -> str:
    """What a finished job is reported by."""
    if "curve" not in found:
        return f"{seconds:.0f} s"
    score = f"return {np.mean(found['curve']['returns'][-1]):.0f} in {seconds:.0f} s"
    if found["method"] not in LEARNERS:
        return score
    return f"{score}, learnt at {protocol.frames / found['costs']['wall_s']:.0f} frames/s"


def left(protocol: Protocol, place: Place, missing: Sequence[Job], every: Sequence[Job], together: int) -> str:
    """How long the rest takes, where each of its methods has been done before; else nothing."""
    known: dict[str, list[float]] = {}
    for job in every:
        if place.result(*job).exists():
            known.setdefault(job.method, []).append(read(protocol, place.result(*job))["seconds"])
    if not missing or not {job.method for job in missing} <= known.keys():
        return ""
    hours = sum(float(np.mean(known[job.method])) for job in missing) / 3600 / together
    return f"; about {hours:.1f} h left"


def last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
