"""How long do the ring's operations take? One JSON line: median milliseconds at several sizes.

    python benchmarks/replay.py [--directory runs] [--records 100000 1000000] [--repeats 200]

16 environments, batches of 16 windows of 64 records, 24-dim observations, 6-dim actions, bfloat16
latents of 512 + 32 class indices. ``*_logged`` are the same just after a checkpoint, when old
content goes to the undo journal; ``append`` is into a ring that has wrapped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time

import ml_dtypes
import numpy as np

from dreamer_jax.replay import Replay, record_bytes
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import TimeStep

ENVS, BATCH, LENGTH = 16, 16, 64
SPEC = EnvSpec({"state": ArraySpec((24,), "float32")}, {"action": ArraySpec((6,), "float32")})
LATENTS = {"deter": ArraySpec((512,), "bfloat16"), "stoch": ArraySpec((32,), "uint8")}


def records(shape: tuple[int, ...]) -> tuple[TimeStep, dict, dict]:
    flags = np.zeros(shape, bool)
    timestep = TimeStep({"state": np.ones((*shape, 24), np.float32)}, np.ones(shape, np.float32), flags, flags, flags)
    latents = {"deter": np.ones((*shape, 512), ml_dtypes.bfloat16), "stoch": np.ones((*shape, 32), np.uint8)}
    return timestep, {"action": np.ones((*shape, 6), np.float32)}, latents


def median_ms(function, repeats: int) -> float:
    times = []
    for number in range(repeats):
        start = time.perf_counter()
        function(number)
        times.append(time.perf_counter() - start)
    return round(1e3 * statistics.median(times), 4)


def measure(directory: str, capacity: int, repeats: int) -> dict[str, float]:
    replay = Replay(
        directory, SPEC, LATENTS, num_envs=ENVS, capacity=capacity, batch_length=LENGTH, online=True, seed=0
    )
    row, refreshed = records((ENVS,)), records((BATCH, LENGTH))[2]
    start = time.perf_counter()
    for _ in range(capacity // ENVS):
        replay.append(*row)
    result = {"records": capacity, "fill_s": round(time.perf_counter() - start, 2)}
    indices = [replay.sample(BATCH, number, online=False)[1] for number in range(repeats)]
    result["sample"] = median_ms(lambda number: replay.sample(BATCH, number, online=False), repeats)
    result["append"] = median_ms(lambda _: replay.append(*row), repeats)
    result["write_back"] = median_ms(lambda number: replay.write_back(indices[number], refreshed), repeats)
    result["snapshot"] = median_ms(replay.snapshot, 1)
    result["append_logged"] = median_ms(lambda _: replay.append(*row), repeats)
    result["write_back_logged"] = median_ms(lambda number: replay.write_back(indices[number], refreshed), repeats)
    result["snapshot_sync"] = median_ms(lambda _: replay.snapshot(1, sync=True), 1)
    state = replay.state()
    replay.close()
    result["restore"] = median_ms(lambda _: replay.restore(state, 0), 1)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", help="where to make the (temporary) files")
    parser.add_argument("--records", type=int, nargs="+", default=[10_000, 100_000, 500_000])
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    sizes = []
    for capacity in options.records:
        with tempfile.TemporaryDirectory(dir=options.directory) as directory:
            sizes.append(measure(directory, capacity, options.repeats))
    shape = {"envs": ENVS, "batch": BATCH, "length": LENGTH, "record_bytes": record_bytes(SPEC, LATENTS)}
    print(json.dumps({"benchmark": "replay", "unit": "ms", **shape, "sizes": sizes}))


if __name__ == "__main__":
    main()
