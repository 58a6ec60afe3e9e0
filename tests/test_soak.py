"""The program that watches a long run: it finds what grows, and real runs pass it."""

import json
import mmap
import os
import sys

import psutil
import pytest
import soak

FLAT = {"private_mb": 700.0, "resident_mb": 900, "files": 36, "threads": 30, "children": 4, "children_private_mb": 150}


@pytest.mark.parametrize("grows", [None, *soak.SLACK])
def test_what_grows_is_found_and_named(grows):
    times = [minute / 10 for minute in range(600)]
    samples = [FLAT | ({grows: FLAT[grows] * (1 + minute / 60)} if grows else {}) for minute in times]
    found = soak.judge(times, samples)
    assert [name for name, row in found.items() if not row["flat"]] == ([grows] if grows else [])


def test_growth_while_warming_up_does_not_count():
    times = [minute / 10 for minute in range(600)]
    samples = [FLAT | {"private_mb": 700 if minute > 11 else 100} for minute in times]
    assert soak.judge(times, samples)["private_mb"] == {"first": 700, "last": 700, "highest": 700, "flat": True}


def test_a_sample_counts_files_and_memory():
    process = psutil.Process(os.getpid())
    before = soak.sample(process)
    anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # new memory, where a list could reuse what was freed before
    with open(os.devnull), open(os.devnull), mmap.mmap(-1, 64 << 20, flags=anonymous) as held:
        held.write(b"x" * len(held))
        after = soak.sample(process)
    assert after["files"] == before["files"] + 2
    assert after["private_mb"] > before["private_mb"] + 0.9 * (64 << 20) / 1e6


@pytest.mark.slow
def test_a_real_run(monkeypatch, capsys, tmp_path):
    arguments = ["soak", "--minutes", "2", "--every", "1", "--output", str(tmp_path / "soak.png")]
    monkeypatch.setattr(sys, "argv", [*arguments, "--set", "env.vectorization=sync"])
    with pytest.raises(SystemExit):
        soak.main()
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == 143 and found["grad_steps"] > 0 and found["samples"] > 20
    assert found["quantities"].keys() == soak.SLACK.keys()
    assert (tmp_path / "soak.png").stat().st_size > 10_000
