"""Starts of a run, each of which is to be stopped at a moment drawn by chance."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from phases import CALLS, PHASES
from test_processes import free_port
from test_resume import until
from trainer import Trainer, flags, helpers, tiny_run

from dreamer_jax.config.schema import Config

FRAMES = 160
NEW = ("runs.restore:Restore.new", "replay.storage:clear")
"""Calls that only a new run makes."""
RESUMED = (
    "runs.restore:Restore.checkpoint",
    "replay.host:Replay.restore",
    "replay.journal:Journal.undo",
    "replay.journal:Journal.resume",
)
"""Calls that only one makes that goes on."""


class Kind(NamedTuple):
    """Of run: one that wraps its replay, or one that keeps all records."""

    processes: int
    vectorization: str
    wraps: bool

    def config(self) -> Config:
        envs = 2 * self.processes
        return tiny_run(
            env__task="worlds:World",
            env__num_envs=envs,
            env__vectorization=self.vectorization,
            replay__capacity=20 * envs if self.wraps else FRAMES,
            replay__validation_fraction=0.0,
            train__batch_size=envs,
            train__frames=FRAMES,
            train__eval_frames=50,
            train__eval_episodes=2,
            train__report_frames=80,
            train__save_frames=22,  # as episodes end
        )


KINDS = {
    "sync": Kind(1, "sync", True),
    "async": Kind(1, "async", False),
    "two": Kind(2, "sync", False),
    "two-async": Kind(2, "async", False),
}


class Stop(NamedTuple):
    """A signal to process ``who`` of the run, or to the group of all, at a counted call there or after a while."""

    name: str  # TERM, INT or KILL
    group: bool
    twice: bool
    who: int
    call: str = ""  # as ``phases.kill_at`` takes it, or nothing where time decides
    wait: float = 0.0  # seconds

    @property
    def number(self) -> int:
        return signal.Signals[f"SIG{self.name}"]


class Runs:
    """The processes of one start after another, in one group."""

    def __init__(self, kind: Kind, trainers: list[Trainer], run_dir: Path) -> None:
        self.command = flags(kind.config(), run_dir)
        self.run_dir, self.starts, self.pids = run_dir, 0, list[int]()
        self._trainers = trainers[: kind.processes]
        self.phases = [run_dir.with_name(f"{run_dir.name}.phase{index}") for index in range(kind.processes)]

    def start(self, stop: Stop | None = None) -> None:
        self.starts += 1
        self.logs = [self.run_dir.with_name(f"{path.name}.{self.starts}.log") for path in self.phases]
        address = free_port() if len(self._trainers) > 1 else ""
        self.pids.clear()
        self.begin = time.monotonic()
        for index, each in enumerate(self._trainers):
            self.phases[index].unlink(missing_ok=True)
            shared = ["--coordinator", address, "--processes", str(len(self._trainers)), "--process", str(index)]
            command = self.command + (shared if address else [])
            here = stop is not None and stop.who == index and stop.call
            moment = f"{stop.call} {stop.name}{' group' * stop.group}{' twice' * stop.twice}" if here and stop else ""
            group = self.pids[0] if self.pids else 0
            self.pids.append(
                each.start(command, self.logs[index], kill_at=moment, phases=self.phases[index], group=group)
            )

    def stop(self, stop: Stop) -> tuple[str, list[int]]:
        """Start, and stop so: the phase in which that was, if it came to that, and how each process has ended."""
        self.start(stop)
        if stop.call:
            statuses = self.wait()
            phase, _, hit = self._phase(stop.who).partition(" ")
            return phase if hit else "", statuses
        while time.monotonic() < self.begin + stop.wait and not self._group_is_gone():
            time.sleep(0.005)
        if len(self.pids) > 1 and not self._seen_by_others():
            stop = stop._replace(group=True)
        phase = self._phase(stop.who)
        self._send(stop)
        return phase, self.wait()

    def _phase(self, who: int) -> str:
        with suppress(OSError):
            return self.phases[who].read_text().strip() or PHASES[0]
        return PHASES[0]

    def _send(self, stop: Stop) -> None:
        for _ in range(1 + stop.twice):
            with suppress(ProcessLookupError):
                if stop.group:
                    os.killpg(self.pids[0], stop.number)
                else:
                    os.kill(self.pids[stop.who], stop.number)

    def _seen_by_others(self) -> bool:
        """Whether each of several processes watches the others, so that none waits long for one that is lost."""
        with suppress(OSError, ValueError):
            files = [self.run_dir / "processes" / f"{index}.json" for index in range(len(self.pids))]
            return [json.loads(file.read_text())["pid"] for file in files] == self.pids
        return False

    def wait(self) -> list[int]:
        """How each has ended; none has left a process behind."""
        statuses = [each.wait() for each in self._trainers]
        self.seconds = time.monotonic() - self.begin
        for log in self.logs:
            until(lambda log=log: not helpers(log), f"the end of {helpers(log)}")
        until(self._group_is_gone, f"the end of group {self.pids[0]}")
        return statuses

    def end(self) -> None:
        """Kill all that is left."""
        with suppress(ProcessLookupError, IndexError):
            os.killpg(self.pids[0], signal.SIGKILL)

    def _group_is_gone(self) -> bool:
        try:
            os.killpg(self.pids[0], 0)
        except ProcessLookupError:
            return True
        return False

    def said(self) -> str:
        return "\n".join(log.read_text() for log in self.logs if log.exists())


def draw(
    rng: np.random.Generator,
    kind: Kind,
    calls: Sequence[Mapping[str, int]],
    seconds: float,
    done: int | None,
    last: bool,
) -> Stop:
    """A stop of a run with ``done`` frames behind it, or a new one; if it is not the ``last`` one, something is left.

    ``calls`` says how often each process makes each call, and ``seconds`` how long it takes if nobody stops it.
    """
    name, group, who = str(rng.choice(["TERM", "INT", "KILL"])), rng.random() < 0.5, int(rng.integers(kind.processes))
    twice = name != "KILL" and rng.random() < 0.15
    share = rng.uniform(0, 1.0 if last else 0.4)
    if rng.random() < 0.4:
        return Stop(name, group, twice, who, wait=round(float(share * seconds), 3))
    known = calls[who] if done is None else {**calls[who], **dict.fromkeys(RESUMED, 1), **dict.fromkeys(NEW, 0)}
    places = {phase: [place for place in CALLS[phase].split() if known.get(place)] for phase in CALLS}
    phase = str(rng.choice([phase for phase in CALLS if places[phase] and (last or phase != "closing")]))
    place = str(rng.choice(places[phase]))
    number = 1 + int(share * known[place] * (1 - (done or 0) / FRAMES))
    # Before the processes watch each other, one waits for minutes for another that is lost.
    group = group or (kind.processes > 1 and phase == "opening")
    return Stop(name, group, twice, who, f"{place}:{rng.choice([1, -1]) * number}")
