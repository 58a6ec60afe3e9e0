"""benchmarks/accelerator.sh and what it calls: every step is asked for, a step that fails is said, the others go on."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import kernels
import numpy as np
import pytest
import reference_speed

from dreamer_jax.profiling import speed

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SHIM = """#!/bin/sh
case "$1 $2" in
*report.py* | "-c "*) exec {python} "$@" ;;
esac
echo "$XLA_FLAGS|$*" >>{calls}
case "$*" in
*broken*) echo "no such thing: broken" >&2; exit 1 ;;
*parity*) echo "one.npz: 3 of 3 quantities agree" >&2 ;;
*) echo '{{"program": "p", "observation": "o", "size": "s", "dtype": "d", "update_ms": 1.5, "transitions_per_s": 2,
"share_of_peak": 0.5, "compiled_memory_mb": 3, "compile_s": 4, "updates_per_dispatch": 1, "xla_flags": "",
"operation": "dot.1", "calls": 5, "ms": 6, "share": 0.25, "traced_ms": 7, "where": "Head"}}' | tr -d '\\n'; echo ;;
esac
"""


@pytest.fixture
def run(tmp_path):
    def start(**variables):
        shim, calls = tmp_path / "bin" / "python", tmp_path / "calls"
        shim.parent.mkdir(exist_ok=True)
        shim.write_text(SHIM.format(python=sys.executable, calls=calls))
        shim.chmod(0o755)
        environ = {**os.environ, "PATH": f"{shim.parent}:{os.environ['PATH']}", "XLA_FLAGS": "", **variables}
        words = ["bash", BENCHMARKS / "accelerator.sh", tmp_path / "out"]
        ended = subprocess.run(words, capture_output=True, text=True, env=environ)
        return ended, calls.read_text().splitlines(), (tmp_path / "out" / "page.md").read_text()

    return start


def test_everything_is_asked_for_and_shown(run):
    ended, calls, page = run(REFERENCE="/checkout", CALLS="1 8", OPTIONS="--batch-size 4")
    assert ended.returncode == 0, ended.stderr
    of = lambda name: [call for call in calls if name in call]  # noqa: E731
    cases = [call.split("--size")[1] for call in of("train_step.py")]
    wanted = [(s, o, d) for s in ("1m", "12m", "200m") for o in ("proprio", "vision") for d in ("bfloat16", "float32")]
    assert cases[:12] == [f" {size} --observation {seen} --dtype {dtype}" for size, seen, dtype in wanted]
    assert [case.split()[-1] for case in cases[12:]] == ["1", "8", "bfloat16"]
    assert [call.split("|")[0] for call in of("train_step.py")[-2:]] == ["", " --xla_gpu_enable_command_buffer="]
    assert [call.split()[-4:-2] for call in of("reference_speed.py")] == [["--repeats", "20"]] * 2
    assert all("--batch-size 4" in call for call in of("train_step.py") + of("kernels.py") + of("reference_speed.py"))
    assert of("doctor") and of("benchmarks/parity tests/fixtures/train-proprio_rc1.npz")
    assert page.count("| p | o | s | d | 1.5 | 2 | 0.5 | 3 | 4 |") == 14
    assert page.count("| dot.1 | 5 | 6 | 0.25 | 7 | Head |") == 1
    assert page.endswith("- one.npz: 3 of 3 quantities agree\n")


def test_a_step_that_fails_is_said_and_the_others_go_on(run):
    ended, calls, page = run(SIZES="broken 1m", OBSERVATIONS="proprio", DTYPES="float32", CALLS="1")
    assert ended.returncode == 1
    assert ended.stderr.count("no such thing: broken") == 4 and "4 steps failed" in ended.stderr
    assert any("--size 1m" in call for call in calls) and page.count("| p | o |") == 1


def test_it_says_how_it_is_called(tmp_path):
    ended = subprocess.run(["bash", BENCHMARKS / "accelerator.sh"], capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 2 and "bash benchmarks/accelerator.sh FOLDER" in ended.stderr


@pytest.mark.slow
def test_all_of_it_in_earnest(tmp_path):
    small = dict(SIZES="1m", OBSERVATIONS="proprio", DTYPES="float32", CALLS="2", REPEATS="2")
    environ = {**os.environ, **small, "OPTIONS": "--batch-size 4 --batch-length 8"}
    words = ["bash", BENCHMARKS / "accelerator.sh", tmp_path]
    ended = subprocess.run(words, capture_output=True, text=True, env=environ)
    assert ended.returncode == 0, ended.stderr
    assert "of 817 quantities agree" in (tmp_path / "page.md").read_text()


@pytest.fixture
def options(monkeypatch):
    """A program of known operations stands for an update."""
    product = jax.jit(lambda x: jax.lax.fori_loop(0, 7, lambda _, x: jnp.tanh(x @ x), x))
    x = jnp.ones((64, 64))
    compiled = product.lower(x).compile()

    def ready_update(config, spec, study):
        return speed.Ready(lambda: [compiled(x), compiled(x)], 2, study(compiled))

    monkeypatch.setattr(kernels, "ready_update", ready_update)
    return ["--size", "1m", "--repeats", "3", "--slowest", "4"]


def test_kernels(options, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kernels.py", *options])
    kept = jax.config.jax_enable_compilation_cache
    kernels.main()
    jax.config.update("jax_enable_compilation_cache", kept)
    together, *slowest = map(json.loads, capsys.readouterr().out.splitlines())
    assert (together["operation"], together["updates"]) == ("all", 6) and together["ms"] > 0 < together["traced_ms"]
    assert 1 <= len(slowest) <= 4 and sum(line["share"] for line in slowest) <= 1.001
    assert sorted((line["ms"] for line in slowest), reverse=True) == [line["ms"] for line in slowest]
    inside = [line for line in slowest if "while/body" in line["where"]]
    assert inside and all(line["calls"] == 7 for line in inside)
    assert not any(line["operation"].startswith("while") for line in slowest)


def test_arguments_of_jit_by_position_are_named():
    told = {}
    reference_speed.by_name(lambda fun, **named: told.update(named, fun=fun), "f", None, "out", (2,), None, donate=1)
    assert told == {"fun": "f", "out_shardings": "out", "static_argnums": (2,), "donate": 1}


def test_a_batch_for_the_reference():
    spec = speed.SPECS["proprio"]

    class Space:
        def __init__(self, dtype, *shape):
            self.dtype, self.shape = np.dtype(dtype), shape

    spaces = {"state": Space("float32", 24), "action": Space("float32", 6), "reward": Space("float32")}
    spaces |= {name: Space("bool") for name in ("is_first", "is_last", "is_terminal")}
    spaces |= {"consec": Space("int32"), "stepid": Space("uint8", 20), "dyn/deter": Space("float32", 8)}
    found = reference_speed.batch(SimpleNamespace(spaces=spaces), speed.random_windows(spec, {}, 3, 5))
    assert list(found) == list(spaces)
    for name, space in spaces.items():
        assert (found[name].shape, found[name].dtype) == ((3, 5, *space.shape), space.dtype), name
    assert not found["consec"].any() and found["stepid"].std() > 10
