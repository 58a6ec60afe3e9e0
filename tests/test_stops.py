"""Runs that are stopped anywhere, by any signal, again and again: they go on, lose nothing and leave nobody behind.

A chain is one run: started, stopped, started again with the same command until it has been stopped often enough,
and then left to finish. ``python tests/test_stops.py sync 17`` repeats chain 17 of a kind, and says what it does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from phases import CALLS, PHASES
from test_processes import free_port
from test_resume import assert_same_run, complete, until
from trainer import PATIENCE, Trainer, flags, helpers, tiny_run, trainer

from dreamer_jax.replay.export import export_episodes
from dreamer_jax.training.checkpoint import read_replays
from dreamer_jax.training.metrics import read_jsonl

LOOKS = ("eval/score", "replayed/low", "replayed/high")
LEFT_ALONE = 75
LONGEST = 8
"""Stops of one chain."""
FRAMES = 160


class Kind(NamedTuple):
    """Of run: one that wraps its replay, or one that keeps all records."""

    processes: int
    vectorization: str
    wraps: bool

    def config(self, vectorization: str) -> Any:
        envs = 2 * self.processes
        return tiny_run(
            env__task="worlds:World",
            env__num_envs=envs,
            env__vectorization=vectorization,
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
    "two-async": Kind(2, "async", True),
}


class Stop(NamedTuple):
    """A signal to process ``who`` of the run, or to the group of all, at a counted call there or after a while."""

    name: str  # TERM, INT or KILL
    group: bool
    twice: bool
    who: int
    phase: str  # "" where time decides
    call: str  # module:Class.method:n, or "" where time decides
    wait: float  # seconds

    @property
    def number(self) -> int:
        return signal.Signals[f"SIG{self.name}"]


class Reference:
    """The run of a kind that nobody stops, all of its numbers, and how long it takes."""

    def __init__(self, kind: Kind, trainers: list[Trainer], folder: Path) -> None:
        self.run_dir = folder / f"reference-{kind.processes}-{kind.wraps}"
        runs = Runs(kind, trainers, self.run_dir, "sync")
        runs.start()
        assert runs.wait() == [0] * kind.processes, runs.said()
        self.calls = [json.loads(file.with_name(f"{file.name}.calls").read_text()) for file in runs.phases]
        self.scores = read_jsonl(self.run_dir / "scores.jsonl")
        self.looks = looks(self.run_dir)
        self.rings = read_replays(self.run_dir)
        self.pictures = pictures(self.run_dir)
        assert len(self.scores) >= 8 and self.looks.keys() == set(LOOKS) and len(self.pictures) == FRAMES // 80
        assert len(self.looks["eval/score"]) == FRAMES // 50


class Runs:
    """The processes of one start after another, in one group."""

    def __init__(self, kind: Kind, trainers: list[Trainer], run_dir: Path, vectorization: str) -> None:
        self.command = flags(kind.config(vectorization), run_dir)
        self.run_dir, self.starts = run_dir, 0
        self._trainers = trainers[: kind.processes]
        self.phases = [run_dir.with_name(f"{run_dir.name}.phase{index}") for index in range(kind.processes)]

    def start(self, stop: Stop | None = None) -> None:
        self.starts += 1
        self.logs = [self.run_dir.with_name(f"{path.name}.{self.starts}.log") for path in self.phases]
        address, self.pids = free_port() if len(self._trainers) > 1 else "", list[int]()
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

    def phase(self, who: int) -> str:
        """That process ``who`` is in."""
        try:
            return self.phases[who].read_text().strip() or PHASES[0]
        except OSError:
            return PHASES[0]

    def hit(self, who: int) -> str:
        """The phase in which process ``who`` has sent a signal at a call; nothing if it never came to that."""
        return self.phase(who).removesuffix(" hit") if self.phase(who).endswith(" hit") else ""

    def send(self, stop: Stop) -> None:
        for _ in range(1 + stop.twice):
            with suppress(ProcessLookupError):
                if stop.group:
                    os.killpg(self.pids[0], stop.number)
                else:
                    os.kill(self.pids[stop.who], stop.number)

    def seen_by_others(self) -> bool:
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

    def _group_is_gone(self) -> bool:
        try:
            os.killpg(self.pids[0], 0)
        except ProcessLookupError:
            return True
        return False

    def said(self) -> str:
        return "\n".join(log.read_text() for log in self.logs if log.exists())


def draw(rng: np.random.Generator, kind: Kind, reference: Reference, seconds: float, done: int) -> Stop:
    """A stop of a run that takes ``seconds`` from its start, with ``done`` frames behind it."""
    name = str(rng.choice(["TERM", "INT", "KILL"]))
    group, twice, by_time = rng.random() < 0.5, rng.random() < 0.1, rng.random() < 0.4
    who, phase, share, returning = int(rng.integers(kind.processes)), str(rng.choice(list(CALLS))), rng.random(), ""
    calls = {place: reference.calls[who].get(place, 1) for place in CALLS[phase].split()}
    place = str(rng.choice(list(calls)))
    if by_time:
        return Stop(name, group, twice, who, "", "", round(float(share * seconds), 3))
    # What remains of the calls; at least one, which may never come.
    number = 1 + int(share * calls[place] * (1 - done / FRAMES))
    if rng.random() < 0.5:
        returning = "-"
    # Before the processes watch each other, one waits for minutes for another that is lost.
    group = group or (kind.processes > 1 and phase == "opening")
    return Stop(name, group, twice, who, phase, f"{place}:{returning}{number}", 0.0)


def chain(kind: Kind, seed: list[int], stops: int, trainers: list[Trainer], reference: Reference, folder: Path) -> dict:
    """Stop a run up to so many times and let it finish; how often it was in which phase then, and stopped how."""
    rng = np.random.default_rng(seed)
    run_dir, hits = folder / "run", Counter[str]()
    runs, seconds, lived = Runs(kind, trainers, run_dir, kind.vectorization), 4.0 * kind.processes, list[dict]()
    print(f"chain {seed}")
    try:
        for _ in range(stops):
            before = newest(run_dir) or 0
            if before == FRAMES:
                break
            stop = draw(rng, kind, reference, seconds, before)
            print(f"from {before}: {stop}")
            runs.start(stop)
            if not stop.call:
                time.sleep(stop.wait)
                if kind.processes > 1 and not runs.seen_by_others():
                    stop = stop._replace(group=True)
                phase = runs.phase(stop.who)
                runs.send(stop)
            statuses = runs.wait()
            phase = runs.hit(stop.who) if stop.call else phase
            print(f"  {phase or 'not stopped'}: {statuses}, checkpoint {newest(run_dir)}, {runs.seconds:.1f} s")
            if statuses == [0] * kind.processes:
                assert newest(run_dir) == FRAMES
                seconds = runs.seconds
            else:
                hits.update([phase, stop.name])
            check_statuses(statuses, stop, phase, runs)
            assert (newest(run_dir) or 0) >= before
            lived += examine(run_dir, reference, folder)
        runs.start()
        assert runs.wait() == [0] * kind.processes
        print(f"  finished in {runs.seconds:.1f} s")
        examine(run_dir, reference, folder)
        finished(run_dir, reference, lived)
    except BaseException:
        print(runs.said())
        raise
    return hits


def check_statuses(statuses: list[int], stop: Stop, phase: str, runs: Runs) -> None:
    ended = newest(runs.run_dir) == FRAMES
    for who, status in enumerate(statuses):
        if not phase:
            right = {0}
        elif stop.name == "KILL":
            right = {-signal.SIGKILL} if stop.group or who == stop.who else {LEFT_ALONE}
        else:
            right = {128 + stop.number}
        if phase == "starting" or ended:
            right |= {-stop.number}
        if ended:
            right |= {0}  # it had nothing more to do
        assert status in right, f"process {who} ended with {status}, right are {right}"
    if stop.name != "KILL" and not stop.twice and not ended and phase != "starting":
        last = read_jsonl(runs.run_dir / "metrics.jsonl")[-1]
        assert newest(runs.run_dir) == last["agent_steps"], "no checkpoint of the moment"


def newest(run_dir: Path) -> int | None:
    return max(complete(run_dir), default=None)


def looks(run_dir: Path) -> dict[str, list[tuple[int, int, float]]]:
    """Evaluations and reports: when each was, and what it gave."""
    file = run_dir / "metrics.jsonl"
    lines = read_jsonl(file) if file.exists() else []
    return {
        name: [(line["agent_steps"], line["grad_steps"], line[name]) for line in lines if name in line]
        for name in LOOKS
    }


def pictures(run_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run_dir / "reports").glob("*")}


def examine(run_dir: Path, reference: Reference, folder: Path) -> list[dict]:
    """Whether all that a run has written is what the reference wrote, up to the checkpoint and after it; its scores."""
    step = newest(run_dir)
    if step is None:
        return []
    scores = read_jsonl(run_dir / "scores.jsonl")
    assert scores == reference.scores[: len(scores)]
    assert len(scores) >= sum(line["agent_steps"] <= step for line in reference.scores), "a score is missing"
    for name, found in looks(run_dir).items():
        right = reference.looks[name]
        assert found == right[: len(found)], name
        assert len(found) >= sum(line[0] <= step for line in right), f"{name} is missing"
    lines = read_jsonl(run_dir / "metrics.jsonl")
    for name in ("agent_steps", "env_frames", "grad_steps", "seconds"):
        values = [line[name] for line in lines]
        assert values == sorted(values), f"{name} goes back"
    rings = read_replays(run_dir)
    with tempfile.TemporaryDirectory(dir=folder) as export:
        assert export_episodes(rings, export) == len(list(Path(export).iterdir())) >= 2 * bool(step)
    for ring, right in zip(rings, reference.rings, strict=True):
        assert ring.rows.stop == step // (len(rings) * ring.num_envs)
        rows = range(max(ring.rows.start, right.rows.start), ring.rows.stop)
        for name in [name for name in ring.fields if not name.startswith("latents/")] if rows else []:
            for env in range(ring.num_envs):
                assert ring.column(name, env, rows).tobytes() == right.column(name, env, rows).tobytes(), name
    return scores


def finished(run_dir: Path, reference: Reference, lived: list[dict]) -> None:
    assert_same_run(run_dir, reference.run_dir)
    assert looks(run_dir) == reference.looks
    assert pictures(run_dir) == reference.pictures
    aside = run_dir / "scores.superseded.jsonl"
    kept = read_jsonl(run_dir / "scores.jsonl") + (read_jsonl(aside) if aside.exists() else [])
    assert all(line in kept for line in lived)


def stop_often(name: str, stops: int, trainers: list[Trainer], references: dict, folder: Path) -> Counter:
    """Chains until a run of this kind has been stopped so many times."""
    kind, hits, number = KINDS[name], Counter[str](), 0
    while (done := sum(hits[each] for each in ("TERM", "INT", "KILL"))) < stops:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            seed = [list(KINDS).index(name), number]
            length = min(stops - done, 1 + number % LONGEST)
            hits += chain(kind, seed, length, trainers, reference_of(name, trainers, references, folder), Path(place))
        number += 1
    print(f"{name}: {number} chains, {dict(hits)}")
    return hits


def reference_of(name: str, trainers: list[Trainer], references: dict, folder: Path) -> Reference:
    if name not in references:
        references[name] = Reference(KINDS[name], trainers, folder)
    return references[name]


@pytest.fixture(scope="module")
def trainers():
    with ExitStack() as stack:
        yield [stack.enter_context(trainer()) for _ in range(2)]


@pytest.fixture(scope="module")
def references():
    return {}


@pytest.mark.parametrize(("name", "stops"), {"sync": 12, "async": 10, "two": 5, "two-async": 3}.items())
def test_stopped_anywhere(name, stops, trainers, references, tmp_path_factory):
    hits = stop_often(name, stops, trainers, references, tmp_path_factory.mktemp("stops"))
    assert sum(hits[each] for each in ("TERM", "INT", "KILL")) >= stops


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stops"), {"sync": 400, "async": 300, "two": 200, "two-async": 100}.items())
def test_stopped_anywhere_very_often(name, stops, trainers, references, tmp_path_factory):
    hits = stop_often(name, stops, trainers, references, tmp_path_factory.mktemp("stops"))
    assert not [each for each in (*PHASES, "TERM", "INT", "KILL") if not hits[each]], hits


@pytest.mark.parametrize("stops", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_stopped_while_it_imports(stops, tmp_path):
    """As a user starts it: nothing is there to be saved, and it ends at once."""
    rng = np.random.default_rng(stops)
    command = [sys.executable, "-m", "dreamer_jax", *flags(tiny_run(), tmp_path / "run")]
    for _ in range(stops):
        number, share = int(rng.choice([signal.SIGINT, signal.SIGTERM])), rng.random()
        running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        maps = Path(f"/proc/{running.pid}/maps")
        until(lambda maps=maps: "numpy" in maps.read_text(), "the first imports")
        time.sleep(share)
        os.killpg(running.pid, number)
        said = running.communicate(timeout=PATIENCE)[1]
        assert running.returncode == 128 + number and "stopped by" in said.splitlines()[-1], (share, said)
        assert "Traceback" not in said, (share, said)


if __name__ == "__main__":
    with ExitStack() as stack:
        servers = [stack.enter_context(trainer()) for _ in range(2)]
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        which, number = sys.argv[1], int(sys.argv[2])
        model = Reference(KINDS[which], servers, scratch)
        seed = [list(KINDS).index(which), number]
        print(chain(KINDS[which], seed, 1 + number % LONGEST, servers, model, scratch))
