"""What `doctor` finds, and the line that mends each fault."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from dreamer_jax import doctor
from dreamer_jax.cli import main
from dreamer_jax.devices import accelerators, memory
from dreamer_jax.doctor import Finding, describe, packages
from dreamer_jax.terminal import render
from dreamer_jax.training import preflight

ROOT = Path(__file__).parent.parent


@pytest.fixture
def no_frames(monkeypatch):
    monkeypatch.setattr(doctor, "rendering", lambda: iter([Finding("MUJOCO_GL=egl", "draws")]))


def by_name(findings):
    return {one.about: one for one in findings}


def test_packages_in_their_ranges():
    have = {"a": "2.0", "b": "3.1", "c": "0.5"}
    required = ["a>=1", "b<3", "c>=0.5", "missing>=7,<8", 'other>=1; extra == "dev"', 'old>=1; python_version < "3"']
    found = by_name(packages(required, have.get, {"a": "2.0", "c": "0.4"}))
    assert found["a"] == ("a", "2.0", "")
    assert found["c"] == ("c", "0.5 (tested with 0.4)", "")
    assert found["b"].found == "3.1, allowed are <3" and found["b"].mend == 'python -m pip install -U "b<3"'
    assert found["missing"].found == "missing" and found["missing"].mend == 'python -m pip install -U "missing<8,>=7"'
    assert not {"other", "old"} & found.keys()


def test_tested_versions_are_those_of_the_constraints():
    def plain(name):
        return re.sub(r"[-_.]+", "-", name).lower()

    lines = [line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    known = {plain(name): version.strip() for name, version in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.match(r"[\w.-]+", text)[0] for text in project["dependencies"]]
    assert doctor.tested_versions() == {name: known[plain(name)] for name in names}


def test_this_machine(no_frames, capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = {one["about"] for one in found["findings"]}
    assert {"python", "jax", "devices", "cores", "memory", "disk", "compiled programs", "Atari"} <= names
    assert found["faults"] == 0


def test_faults_set_the_status_and_say_what_mends_them(no_frames, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(doctor, "LEAST_DISK_GB", 1e9)
    monkeypatch.setattr(doctor, "system_bytes", lambda: 10)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/proc/nowhere")
    assert main(["doctor"]) == 2
    text = capsys.readouterr().out
    for words in ("end other programs", "give --run-dir on another disk", "--cache DIR"):
        assert words in text


def test_one_library_that_draws_is_enough(monkeypatch):
    class Ended:
        def __init__(self, words, **_):
            self.returncode = 0 if words[-1] in self.works else 1
            self.stdout, self.stderr = "0.0123\n", "Traceback\nConfigError: no library\n"

    Ended.works = {"osmesa"}
    monkeypatch.setattr(doctor.subprocess, "run", Ended)
    found = by_name(doctor.rendering())
    assert found["MUJOCO_GL=osmesa"].found == "draws 64 x 64 in 12.3 ms"
    assert found["MUJOCO_GL=egl"] == ("MUJOCO_GL=egl", "draws nothing: no library", "")
    Ended.works = set()
    assert by_name(doctor.rendering())["MUJOCO_GL=egl"].mend.startswith("apt-get install libegl1")


@pytest.mark.slow
def test_frames_are_drawn():
    found = list(doctor.rendering())
    assert any(re.fullmatch(r"draws 64 x 64 in [\d.]+ ms", one.found) for one in found)


@pytest.mark.parametrize("asked, words", [("", "dreamer-jax[cuda13]"), ("cpu", "")])
def test_an_accelerator_that_is_left_out_is_told_at_every_start(monkeypatch, asked, words, tmp_path):
    from dreamer_jax.config.schema import Config

    driver = tmp_path / "version"
    driver.write_text("550")
    monkeypatch.setattr(accelerators, "NVIDIA", driver)
    monkeypatch.setattr(accelerators, "chosen", lambda: asked)
    counters = {"agent_steps": 0, "env_frames": 0, "grad_steps": 0}
    lines = list(preflight.introduction(Config(), 1, "sync", "cpu", counters))
    assert (words in lines[-1]) if words else not any("accelerator" in line for line in lines)


def test_described():
    text = render(describe([Finding("a", "fine"), Finding("b", "bad", "do this")]))
    assert re.search(r"wrong\s+b\s+bad", text) and text.endswith("b: bad\n  do this")
    assert render(describe([Finding("a", "fine")])).endswith("nothing is in the way of a run")


def test_memory_is_that_of_the_machine_and_of_the_container(monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:   7 kB\n")
    monkeypatch.setattr(memory, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    assert memory.system_bytes() == 7 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("500\n")
    assert memory.system_bytes() == 7 * 1024
    (tmp_path / "memory.max").write_text("1500\n")
    assert memory.system_bytes() == 1000
    monkeypatch.setattr(memory, "_MEMORY", tmp_path / "none")
    monkeypatch.setattr(memory, "_GROUP", tmp_path / "none")
    assert memory.system_bytes() is None
