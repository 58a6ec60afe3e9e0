"""Runs that are stopped anywhere, by any signal, again and again: they go on, lose nothing and leave nobody behind.

A chain is one run: started, stopped, started again with the same command until it has been stopped often enough,
and then left to finish. ``python tests/test_stops.py sync 17`` repeats chain 17 of a kind, and says what it does.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from phases import CALLS
from stops import FRAMES, KINDS, Kind, Runs, Stop, draw
from test_resume import assert_same_run, complete, until
from trainer import PATIENCE, Trainer, flags, helpers, tiny_run, trainer

from dreamer_jax.replay.export import export_episodes
from dreamer_jax.runs.checkpoint import read_replays
from dreamer_jax.runs.metrics import read_jsonl

LOOKS = ("eval/score", "replayed/low", "replayed/high")
LEFT_ALONE = 75
LONGEST = 8
"""Stops of one chain."""


class Reference:
    """The run of a kind that nobody stops, all of its numbers, and how long it takes."""

    def __init__(self, kind: Kind, trainers: list[Trainer], folder: Path) -> None:
        self.run_dir = folder / f"reference-{kind.processes}-{kind.wraps}"
        runs = Runs(kind, trainers, self.run_dir)
        runs.start()
        assert runs.wait() == [0] * kind.processes, runs.said()
        self.seconds = runs.seconds
        self.calls = [json.loads(file.with_name(f"{file.name}.calls").read_text()) for file in runs.phases]
        self.scores = read_jsonl(self.run_dir / "scores.jsonl")
        self.looks = looks(self.run_dir)
        self.rings = read_replays(self.run_dir)
        self.pictures = pictures(self.run_dir)
        assert len(self.scores) >= 8 and self.looks.keys() == set(LOOKS) and len(self.pictures) == FRAMES // 80
        assert len(self.looks["eval/score"]) == FRAMES // 50


def chain(name: str, number: int, most: int, trainers: list[Trainer], references: dict, folder: Path) -> Counter:
    """Stop a run, at ``most`` so often, and let it finish; how often in which phase and by which signal."""
    kind, reference = KINDS[name], reference_of(name, trainers, references, folder)
    rng, hits, lived = np.random.default_rng([list(KINDS).index(name), number]), Counter[str](), list[dict]()
    stops, run_dir = min(most, LONGEST - number % LONGEST), Path(tempfile.mkdtemp(dir=folder)) / "run"
    runs = Runs(kind, trainers, run_dir)
    print(f"{name} {number}")
    try:
        while stops and (before := newest(run_dir)) != FRAMES:
            stop = draw(rng, kind, reference.calls, reference.seconds, before, last=stops == 1)
            print(f"from {before}: {stop}")
            phase, statuses = runs.stop(stop)
            print(f"  {phase or 'not stopped'}: {statuses}, checkpoint {newest(run_dir)}, {runs.seconds:.1f} s")
            check_statuses(statuses, stop, phase, run_dir)
            assert (newest(run_dir) or 0) >= (before or 0)
            lived += examine(run_dir, reference, folder)
            if any(statuses):
                hits.update([phase, stop.name])
                stops -= 1
        runs.start()
        assert runs.wait() == [0] * kind.processes
        print(f"  finished in {runs.seconds:.1f} s")
        examine(run_dir, reference, folder)
        finished(run_dir, reference, lived)
        shutil.rmtree(run_dir.parent)
    except BaseException:
        runs.end()
        print(runs.said())
        raise
    return hits


def check_statuses(statuses: list[int], stop: Stop, phase: str, run_dir: Path) -> None:
    ended = newest(run_dir) == FRAMES
    for who, status in enumerate(statuses):
        if not phase:
            right = {0}
        elif stop.name == "KILL":
            right = {-signal.SIGKILL} if stop.group or who == stop.who else {LEFT_ALONE}
        else:
            right = {128 + stop.number}
            if stop.twice and not stop.group and who != stop.who:
                right |= {LEFT_ALONE}  # by one that did not wait
        if phase == "starting" or ended:
            right |= {-stop.number}
        if ended:
            right |= {0}  # it had nothing more to do
        assert status in right, f"process {who} ended with {status}, right are {right}"
    if stop.name != "KILL" and not stop.twice and not ended and phase != "starting":
        last = read_jsonl(run_dir / "metrics.jsonl")[-1]
        assert newest(run_dir) == last["agent_steps"], "no checkpoint of the moment"


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
    hits, number = Counter[str](), 0
    while (done := sum(hits[each] for each in ("TERM", "INT", "KILL"))) < stops:
        hits += chain(name, number, stops - done, trainers, references, folder)
        number += 1
    print(f"{name}: {number} chains, {dict(hits)}")
    return hits


def reference_of(name: str, trainers: list[Trainer], references: dict, folder: Path) -> Reference:
    kind = KINDS[name]._replace(vectorization="sync")
    if kind not in references:
        references[kind] = Reference(kind, trainers, folder)
    return references[kind]


@pytest.fixture(scope="module")
def trainers():
    with ExitStack() as stack:
        yield [stack.enter_context(trainer()) for _ in range(2)]


@pytest.fixture(scope="module")
def references():
    return {}


@pytest.mark.parametrize(("name", "stops"), {"sync": 5, "async": 3, "two": 1, "two-async": 1}.items())
def test_stopped_anywhere(name, stops, trainers, references, tmp_path_factory):
    hits = stop_often(name, stops, trainers, references, tmp_path_factory.mktemp("stops"))
    assert sum(hits[each] for each in ("TERM", "INT", "KILL")) >= stops


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stops"), {"sync": 450, "async": 350, "two": 120, "two-async": 80}.items())
def test_stopped_anywhere_very_often(name, stops, trainers, references, tmp_path_factory):
    hits = stop_often(name, stops, trainers, references, tmp_path_factory.mktemp("stops"))
    assert not [each for each in (*CALLS, "TERM", "INT", "KILL") if not hits[each]], hits


@pytest.mark.parametrize("stops", [5, pytest.param(60, marks=pytest.mark.slow)])
def test_stopped_while_workers_start(stops, trainers, tmp_path):
    """A signal to all processes comes before those of environments, and what starts them, can handle any."""
    rng = np.random.default_rng(stops)
    runs = Runs(KINDS["async"], trainers, tmp_path / "run")
    for number in rng.choice([signal.SIGINT, signal.SIGTERM], stops):
        runs.start()
        until(lambda: helpers(runs.logs[0]), "a process that starts others")
        time.sleep(rng.uniform(0, 0.6))
        os.killpg(runs.pids[0], number)
        assert runs.wait() == [128 + number] and "Traceback" not in runs.said(), runs.said()
        assert newest(tmp_path / "run") == 0 == read_jsonl(tmp_path / "run" / "metrics.jsonl")[-1]["agent_steps"]


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
        print(chain(sys.argv[1], int(sys.argv[2]), LONGEST, servers, {}, scratch))
