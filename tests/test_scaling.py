"""What crosses between devices, and that the benchmark of it can be run. No figure of time is asserted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from agents import QUICK
from collectives import collectives, result_bytes

PROGRAM = Path(__file__).parent.parent / "benchmarks" / "scaling.py"
LAYERS = [f"{part}.layers=1" for part in ("encoder", "decoder", "reward", "cont", "policy", "value")]

HLO = """
%fused (p: f32[2,3]) -> f32[2,3] {
  ROOT %all-reduce.9 = f32[2,3]{1,0} add(%p, %p), metadata={op_name="jit(f)/ all-reduce(x)"}
}
ENTRY %main (p0: f32[4]) -> (f32[4], bf16[8,4]) {
  %all-reduce.1 = (f32[]{:T(128)}, f32[3,5]{1,0:T(8,128)}, /*index=2*/bf16[7]{0}) all-reduce(%a, %b, %c), \
channel_id=2, to_apply=%add, metadata={op_name="jit(f)/psum"}
  %get-tuple-element.3 = f32[3,5]{1,0} get-tuple-element(%all-reduce.1), index=1
  %ag = bf16[8,4]{1,0} all-gather(%d), channel_id=1, dimensions={0}
  %all-gather-start.1 = (f32[2,2]{1,0}, f32[8,2]{1,0}) all-gather-start(%e), dimensions={0}
  %all-gather-done.1 = f32[8,2]{1,0} all-gather-done(%all-gather-start.1)
  %ars = f32[10]{0} all-reduce-start(%f), to_apply=%add
  %ard = f32[10]{0} all-reduce-done(%ars)
  %rs = s8[6]{0} reduce-scatter(%g), dimensions={0}, to_apply=%add
  ROOT %t = (pred[3]{0}, u4[5]{0}) all-to-all(%h, %i)
}
"""


def test_collectives_of_a_program():
    assert collectives(HLO) == {
        "all-reduce": {"count": 2, "bytes": 4 + 60 + 14 + 40},
        "all-gather": {"count": 2, "bytes": 64 + 64},
        "reduce-scatter": {"count": 1, "bytes": 6},
        "all-to-all": {"count": 1, "bytes": 3 + 3},
    }
    assert collectives("") == {}


@pytest.mark.parametrize(
    ("result", "size"),
    [("f32[]", 4), ("f32[0,3]", 0), ("c64[2]", 16), ("f8e4m3fn[2,3]{1,0}", 6), ("bf16[<=5]{0}", 10), ("token[]", 0)],
)
def test_bytes_of_a_result(result, size):
    assert result_bytes(result) == size


def lines(path, *arguments):
    """What the program prints with tiny networks; programs are kept where the tests keep theirs."""
    sizes = "--batch-size 4 --batch-length 5 --imagination-length 3 --repeats 2 --deter 64".split()
    flags = " ".join(f"--{name}={value}" for name, value in QUICK.items())
    done = subprocess.run(
        [sys.executable, PROGRAM, *sizes, "--cache", path, *arguments, "--set", *LAYERS],
        env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(PROGRAM.parent.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_gradients_returns_and_metrics_cross_and_nothing_else(tmp_path):
    one, two = lines(tmp_path, "--devices", "1", "2", "--per-device")
    assert [(found["devices"], found["batch_size"]) for found in (one, two)] == [(1, 4), (2, 8)]
    assert one["collectives"] == {} and one["parameters"] == two["parameters"] > 10_000
    assert two["gradient_bytes"] == 4 * two["parameters"]
    assert two["returns_bytes"] == 4 * 8 * 5 * 3 and two["metrics_bytes"] == 4 * 25
    assert two["collectives"] == {
        "all-gather": {"count": 1, "bytes": two["returns_bytes"]},
        "all-reduce": {"count": 1, "bytes": two["gradient_bytes"] + two["metrics_bytes"]},
    }
    for found in (one, two):
        assert (found["benchmark"], found["other_bytes"], found["deter"]) == ("scaling", 0, 64)
        assert found["update_ms"] > 0 < found["compile_s"]


@pytest.mark.slow
def test_processes_share_rows(tmp_path):
    (found,) = lines(tmp_path, "--processes", "2")
    assert (found["processes"], found["devices"], found["batch_size"]) == (2, 1, 4)
    assert found["collectives"]["all-reduce"]["bytes"] == found["gradient_bytes"] + found["metrics_bytes"]
    assert found["gradient_bytes"] == 4 * found["parameters"] and found["other_bytes"] == 0
    assert len(found["update_ms_each"]) == 2 and found["update_ms"] > 0


@pytest.mark.slow
def test_seeds_together_and_apart(tmp_path):
    (found,) = lines(tmp_path, "--seeds", "2")
    assert (found["seeds"], found["batch_size"]) == (2, 4)
    assert found["speedup"] == pytest.approx(found["apart_ms"] / found["together_ms"], abs=1e-3)
    assert len(found["together_ms_each"]) == len(found["apart_ms_each"]) == found["repeats"] == 2
