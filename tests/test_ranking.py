"""Runs beside each other: values by hand, which settings are named, what is refused."""

import json
import re

import pytest
from test_compare import ONE, PRESET, ZERO, write_run

from dreamer_jax.analysis.ranking import describe, rank
from dreamer_jax.cli import main
from dreamer_jax.terminal import render

TASK = "dmc/cartpole_swingup"


def flat(*scores, start=100):
    return [(start * (i + 1), score) for i, score in enumerate(scores)]


def test_values_by_hand(tmp_path):
    late = flat(1000, *range(1, 11))  # the last ten, hence 5.5
    runs = [
        write_run(tmp_path / "b1", flat(2, 4), ("kl.rep", "0.3"), seed=1),
        write_run(tmp_path / "a", late, ("kl.rep", "0.2")),
        write_run(tmp_path / "b0", flat(7), ("kl.rep", "0.3"), ("train.log_seconds", "3")),
        write_run(tmp_path / "best", flat(8)),
    ]
    (runs[2] / "metrics.jsonl").write_text('{"seconds": 5, "env_frames": 150}\n')
    tables = rank(runs)
    assert list(tables) == [TASK]
    best, a, b = tables[TASK]
    assert [row.settings for row in (best, a, b)] == [{"kl.rep": 0.1}, {"kl.rep": 0.2}, {"kl.rep": 0.3}]
    assert (a.returns, a.interval.value) == ([5.5], 5.5)
    assert (b.returns, b.interval.value, b.run_dirs) == ([7, 3], 5, [runs[2], runs[0]])
    assert (b.interval.low, b.interval.high) == (3, 7)  # of two seeds, drawn both ways
    lines = render(describe(tables)).splitlines()
    assert lines == [
        f"{TASK}: return of the last 10 episodes, mean over seeds",
        "return  95 % interval  seeds  frames  settings",
        "   8.0                     1     100  kl.rep 0.1",
        "   5.5                     1   1,100  kl.rep 0.2",
        "   5.0     3.0 to 7.0      2     150  kl.rep 0.3",
    ]


def test_settings_are_named_as_they_were_chosen(tmp_path):
    runs = [
        write_run(tmp_path / "a", flat(3), ("rssm.stoch", "8"), ("train.frames", "9"), size="1m"),
        write_run(tmp_path / "b", flat(2), size="12m"),
        write_run(tmp_path / "c", flat(1), preset="dreamer_v2", size="own"),
    ]
    rows = rank(runs)[TASK]
    assert [row.label for row in rows] == [
        f"preset {PRESET}, size 1m, rssm.stoch 8",
        f"preset {PRESET}, size 12m, rssm.stoch 32",
        "preset dreamer_v2, size own, rssm.stoch 32",
    ]
    assert [row.label for row in rank(runs[:1])[TASK]] == [PRESET]


def test_tasks_are_tables_of_their_own(tmp_path):
    runs = [
        write_run(tmp_path / "a", flat(3), ("kl.rep", "0.3"), task="probe/echo"),
        write_run(tmp_path / "b", flat(9), ("env.num_envs", "2"), task="probe/count"),
        write_run(tmp_path / "c", flat(8), ("env.num_envs", "4"), task="probe/count"),
    ]
    labels = {task: [row.label for row in rows] for task, rows in rank(runs).items()}
    assert labels == {"probe/count": ["env.num_envs 2", "env.num_envs 4"], "probe/echo": [PRESET]}


def test_the_command(tmp_path, capsys):
    runs = [write_run(tmp_path / "zero", ZERO), write_run(tmp_path / "one", ONE, seed=1)]
    runs += [write_run(tmp_path / "low", flat(-50, -50), ("value.bins", "51"))]
    picture = tmp_path / "out.svg"
    command = ["compare", *map(str, runs), "--output", str(picture)]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[2:]] == ["255", "51", str(picture)]
    drawn = picture.read_text()
    assert len(re.findall("value.bins 255: mean of 2 seeds", drawn)) == 1 and "value.bins 51: 1 seed" in drawn
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["picture"] == str(picture)
    first, last = result["tasks"][TASK]
    zero, one = (9 + 15 + 30 + 20 + 500) / 5, (10 + 26 + 900) / 3
    assert (first["seeds"], first["frames"], first["runs"]) == ([0, 1], [420, 320], list(map(str, runs[:2])))
    assert first["returns"] == pytest.approx([zero, one]) and first["return"] == pytest.approx((zero + one) / 2)
    assert first["ci95"] == pytest.approx([zero, one]) and first["settings"] == {"value.bins": 255}
    assert (last["return"], last["ci95"], last["settings"]) == (-50, None, {"value.bins": 51})


def test_runs_that_cannot_be_ranked(tmp_path, capsys):
    good, again = write_run(tmp_path / "good", ZERO), write_run(tmp_path / "again", ONE)
    nothing = write_run(tmp_path / "nothing", [(100, None)], seed=1)
    for runs, message in (
        ([good, again], f"{again}: has seed 0, as has {good}; name one of them"),
        ([good, nothing], f"{nothing}: no episode with a finite score"),
        ([good, tmp_path / "none"], "none: not a run directory"),
    ):
        before = sorted(tmp_path.rglob("*"))
        assert main(["compare", *map(str, runs), "--output", str(tmp_path / "out.png")]) == 2
        printed = capsys.readouterr()
        assert message in printed.err and printed.err.count("\n") == 1 and not printed.out
        assert sorted(tmp_path.rglob("*")) == before
