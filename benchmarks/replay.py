"""How long do the ring's operations take, and what memory? One JSON line: milliseconds at several sizes.

    python benchmarks/replay.py [--directory runs] [--records 10000 1000000 10000000] [--repeats 200]

16 environments, batches of 16 windows of 64 records, 24-dim observations, 6-dim actions, bfloat16
latents of 512 + 32 class indices. Every ring is filled by ``append``, has wrapped, and is on the disk
before anything is timed. Each operation has its median and its 95th percentile, and its mean time on the CPU:

``sample``, ``write_back``, ``append``: pages in memory, no checkpoint to go back to.
``*_logged``: just after a checkpoint, when old content goes to the undo log.
``*_fresh``: in a ring just opened: in the page cache, but not in this process's page tables.
``*_cold``: nothing in the page cache, all comes from the disk; ``read_kb_cold`` of it for one batch. The
latents go back after the time of an update, as in a run, to the undo log too.

``anonymous_mb`` is what the ring added to the memory that is no file's (RssAnon) once all was done,
``mapped_mb`` what it has in the page tables (RssFile); the latter are the kernel's to take back.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from dreamer_jax.replay import Replay, record_bytes
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import TimeStep

ENVS, BATCH, LENGTH = 16, 16, 64
COLD = 20
"""Times that the ring is closed, and dropped from memory."""
UPDATE_SECONDS = 0.25
SPEC = EnvSpec({"state": ArraySpec((24,), "float32")}, {"action": ArraySpec((6,), "float32")})
LATENTS = {"deter": ArraySpec((512,), "bfloat16"), "stoch": ArraySpec((32,), "uint8")}


def records(shape: tuple[int, ...]) -> tuple[TimeStep, dict, dict]:
    flags = np.zeros(shape, bool)
    timestep = TimeStep({"state": np.ones((*shape, 24), np.float32)}, np.ones(shape, np.float32), flags, flags, flags)
    latents = {"deter": np.ones((*shape, 512), ml_dtypes.bfloat16), "stoch": np.ones((*shape, 32), np.uint8)}
    return timestep, {"action": np.ones((*shape, 6), np.float32)}, latents


def memory_mb() -> tuple[float, float]:
    """RssAnon and RssFile of this process."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    kb = {words[0]: int(words[1]) for words in lines if words[0].startswith("Rss")}
    return kb["RssAnon:"] / 1e3, kb["RssFile:"] / 1e3


def disk_bytes() -> int:
    """What this process has had read from disks so far."""
    words = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(words["read_bytes"])


def evict(directory: str) -> None:
    """Drop the files there from the page cache; no process may have them mapped."""
    for path in Path(directory).iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


class Ring:
    """A ring of ``capacity`` records that may be closed and opened again, with what has been timed in it."""

    def __init__(self, directory: str, capacity: int) -> None:
        self.directory, self.capacity = directory, capacity
        self.row, self.refreshed = records((ENVS,)), records((BATCH, LENGTH))[2]
        self.times: dict[str, list[np.ndarray]] = {}
        self.name = self.batches = 0
        self.replay = self.opened()

    def opened(self) -> Replay:
        shape = dict(num_envs=ENVS, capacity=self.capacity, batch_length=LENGTH, seed=0)
        return Replay(self.directory, SPEC, LATENTS, **shape, online=True)

    def time(self, kind: str, function: Callable[[int], Any], repeats: int = 1) -> None:
        """Milliseconds on the clock and of this process's CPU, for each call."""
        for number in range(repeats):
            start, cpu = time.perf_counter(), time.process_time()
            function(number)
            took = 1e3 * np.array([time.perf_counter() - start, time.process_time() - cpu])
            self.times.setdefault(kind, []).append(took)

    def sample(self, kind: str, repeats: int = 1) -> list[np.ndarray]:
        """Windows of batches that nobody has drawn before."""
        seen: list[np.ndarray] = []
        self.time(kind, lambda k: seen.append(self.replay.sample(BATCH, self.batches + k, online=False)[1]), repeats)
        self.batches += repeats
        return seen

    def append(self, kind: str, repeats: int) -> None:
        self.time(kind, lambda _: self.replay.append(*self.row), repeats)

    def write_back(self, kind: str, indices: list[np.ndarray]) -> None:
        self.time(kind, lambda number: self.replay.write_back(indices[number], self.refreshed), len(indices))

    def snapshot(self, kind: str, *, sync: bool = False) -> None:
        self.name += 1
        self.time(kind, lambda _: self.replay.snapshot(self.name, sync=sync))
        self.replay.committed(self.name)

    def reopen(self, *, cold: bool) -> None:
        """As it was at the last snapshot; ``cold``: with nothing of it in the page cache."""
        state = self.replay.state()
        self.replay.close()
        del self.replay
        gc.collect()
        if cold:
            evict(self.directory)
        self.replay = self.opened()
        self.time("restore", lambda _: self.replay.restore(state, self.name))

    def megabytes(self, pattern: str) -> float:
        return round(sum(path.stat().st_size for path in Path(self.directory).glob(pattern)) / 1e6, 1)


def measure(directory: str, capacity: int, repeats: int) -> dict[str, Any]:
    gc.collect()
    before = memory_mb()
    ring = Ring(directory, capacity)
    start = time.perf_counter()
    for _ in range(capacity // ENVS + repeats):
        ring.replay.append(*ring.row)
    result: dict[str, Any] = {"records": capacity, "fill_s": round(time.perf_counter() - start, 2)}
    ring.replay.flush()

    ring.append("append", repeats)
    ring.write_back("write_back", ring.sample("sample", repeats))
    ring.replay.flush()
    ring.snapshot("snapshot")
    ring.append("append_logged", repeats)
    ring.write_back("write_back_logged", ring.sample("sample", repeats))
    anonymous, mapped = (round(now - then, 2) for then, now in zip(before, memory_mb(), strict=True))
    result |= {"anonymous_mb": anonymous, "mapped_mb": mapped}
    result |= {"undo_mb": ring.megabytes("undo-*"), "file_mb": ring.megabytes("[!u]*.bin")}

    read = 0
    for number in range(2 * COLD):
        cold = number >= COLD
        ring.snapshot("snapshot_sync", sync=True)
        ring.reopen(cold=cold)
        read -= disk_bytes() if cold else 0
        seen = ring.sample("sample_cold" if cold else "sample_fresh")
        read += disk_bytes() if cold else 0
        time.sleep(UPDATE_SECONDS)
        ring.write_back("write_back_cold" if cold else "write_back_fresh", seen)
    ring.replay.close()
    result["read_kb_cold"] = round(read / COLD / 1e3, 1)
    for kind, times in ring.times.items():
        clock, cpu = np.array(times).T
        result[kind] = [round(float(x), 3) for x in (*np.quantile(clock, (0.5, 0.95)), cpu.mean())]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", help="where to make the (temporary) files")
    parser.add_argument("--records", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
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
