"""A profile of a few updates, in a run that goes on as one without it."""

import gzip
import json

import jax
import numpy as np
import pytest
from trainer import flags, tiny_run

from dreamer_jax.profiling.trace import TRACED, WARM_UP, Profile
from dreamer_jax.runs.metrics import read_jsonl


def test_a_run_is_profiled_and_goes_on(tmp_path, process):
    plain, profiled, log = tmp_path / "plain", tmp_path / "profiled", tmp_path / "log"
    config = tiny_run(train__frames=100)
    assert process.run(flags(config, plain), tmp_path / "plain.log") == 0
    assert process.run([*flags(config, profiled), "--profile"], log) == 0, log.read_text()
    assert not (plain / "profile").exists()

    (note,) = [line for line in log.read_text().splitlines() if line.startswith("profile of")]
    assert note.startswith(
        f"profile of {TRACED} dispatches of updates: {profiled / 'profile'}; open its newest *.trace"
    )
    (xplane,) = (profiled / "profile").rglob("*.xplane.pb")
    (trace,) = (profiled / "profile").rglob("*.trace.json.gz")
    assert xplane.stat().st_size > 1000
    names = [event.get("name", "") for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]]
    # One call of the update for each dispatch, and of the policy for each step between them.
    assert all(sum(program in name for name in names) >= TRACED for program in ("updates", "policy"))

    before, after = (read_jsonl(run / "scores.jsonl") for run in (plain, profiled))
    assert before == after and before[-1]["agent_steps"] > 2 * WARM_UP


def test_a_run_too_short_for_a_profile_says_so(tmp_path, process):
    run_dir, log = tmp_path / "run", tmp_path / "log"
    assert process.run([*flags(tiny_run(train__frames=24), run_dir), "--profile"], log) == 0, log.read_text()
    count = read_jsonl(run_dir / "metrics.jsonl")[-1]["grad_steps"]
    assert 0 < count < WARM_UP and not (run_dir / "profile").exists()
    assert f"no profile: it begins after {WARM_UP} dispatches of updates, and there were {count}" in log.read_text()


def test_a_run_that_ends_within_its_profile_writes_what_there_is(tmp_path):
    notes = []
    with pytest.raises(KeyboardInterrupt), Profile(tmp_path, notes.append) as profile:
        for _ in range(WARM_UP + 1):
            profile.dispatched(np.ones(3))
        raise KeyboardInterrupt
    assert notes[0].startswith(f"profile of 1 dispatches of updates: {tmp_path};") and len(notes) == 1
    assert list(tmp_path.rglob("*.xplane.pb"))


def test_nothing_is_traced_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(jax.profiler, "start_trace", None)
    with Profile(None, None) as profile:
        for _ in range(WARM_UP + TRACED):
            profile.dispatched(None)
