"""How much of the time is an update running while `train` does everything else as well? One JSON line.

    python benchmarks/loop.py --task dmc/walker_walk --size 1m --num-envs 16 --train-ratio 512 --seconds 60

The real training loop in a temporary run directory. Counting begins some updates after the first one, so that
compilation and filling the replay are apart. ``update_share`` is the part of the time in which an update ran: from its
dispatch, or from the end of the one before where that came later, until its results were there. The policy's share
of the device, where it waits between two updates, is counted as theirs. ``idle_ms`` is the rest, for each dispatch.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import queue
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import jax

import dreamer_jax
from dreamer_jax.config.loading import load, replace
from dreamer_jax.config.named import PRESETS, SIZES
from dreamer_jax.config.schema import Config
from dreamer_jax.devices.data_parallel import check_devices
from dreamer_jax.devices.huge_pages import restart_with_huge_pages
from dreamer_jax.profiling.speed import machine, peak_rss_mb
from dreamer_jax.training import learner

WARM_UP = 10
"""Dispatches before counting begins."""


class Done(Exception):
    pass


class Watch:
    """Knows when each dispatch began and ended; and tells when enough of the run has been seen."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.spans: list[tuple[float, float]] = []
        self.logged: list[tuple[float, dict[str, int]]] = []
        self._waiting: queue.Queue = queue.Queue()
        self._thread = threading.Thread(target=self._wait)
        self._thread.start()

    def dispatched(self, results: Any, began: float) -> None:
        self._waiting.put((jax.tree.leaves(results)[0], began))

    def _wait(self) -> None:
        while (dispatch := self._waiting.get()) is not None:
            result, began = dispatch
            result.block_until_ready()
            self.spans.append((began, time.perf_counter()))

    def __call__(self, counters: Mapping[str, int], metrics: Mapping[str, float]) -> None:
        """As a logger of the run."""
        if len(self.spans) > WARM_UP:
            self.logged.append((time.perf_counter(), dict(counters)))
        if self.logged and self.logged[-1][0] - self.logged[0][0] >= self.seconds:
            raise Done

    def close(self) -> None:
        self._waiting.put(None)
        self._thread.join()

    def result(self) -> dict[str, float]:
        (start, before), (end, after) = self.logged[0], self.logged[-1]
        passed, busy, free, dispatches = end - start, 0.0, start, 0
        for began, ended in self.spans:
            busy += max(0.0, min(ended, end) - max(began, free))
            dispatches += start < ended <= end
            free = max(free, ended)
        updates = after["grad_steps"] - before["grad_steps"]
        return {
            "seconds": round(passed, 2),
            "updates": updates,
            "frames_per_s": round((after["env_frames"] - before["env_frames"]) / passed, 2),
            "updates_per_s": round(updates / passed, 3),
            "update_share": round(busy / passed, 4),
            "update_ms": round(1e3 * busy / dispatches, 2),
            "idle_ms": round(1e3 * (passed - busy) / dispatches, 2),
        }


def measure(config: Config, seconds: float, directory: str | None = None) -> dict[str, float]:
    """The loop of ``train`` on the host; what it writes is below ``directory`` and goes again."""
    logged = {"train.log_seconds": min(1, seconds / 4), "train.report_frames": 0}
    config = replace(config, logged)
    watch = Watch(seconds)
    prepare = learner.Learner.prepare

    def prepared(self: Any, example: Any) -> Any:
        trial = prepare(self, example)
        update = self._update

        def timed(*args: Any) -> Any:
            began = time.perf_counter()
            state, *results = update(*args)
            watch.dispatched(results, began)
            return state, *results

        self._update = timed
        return trial

    learner.Learner.prepare = prepared  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory(dir=directory) as folder, suppress(Done):
            dreamer_jax.train(config, os.path.join(folder, "run"), loggers=[watch], stream=io.StringIO())
    finally:
        learner.Learner.prepare = prepare  # type: ignore[method-assign]
        watch.close()
    return watch.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="dreamer_v3")
    parser.add_argument("--size", choices=SIZES, help="other than the preset's own")
    parser.add_argument("--task", default="dmc/walker_walk")
    parser.add_argument("--num-envs", type=int, default=16)
    parser.add_argument("--train-ratio", type=float, default=512)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--batch-length", type=int, default=64)
    parser.add_argument("--devices", type=int, default=1, help="that share each batch; a CPU becomes as many")
    parser.add_argument("--updates-per-dispatch", type=int, default=0)
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--directory", help="where to make the (temporary) run")
    options = parser.parse_args()
    options.size = options.size or PRESETS[options.preset].size
    check_devices(options.devices)
    before = machine()
    named = {
        "env.task": options.task,
        "env.num_envs": options.num_envs,
        "train.train_ratio": options.train_ratio,
        "train.batch_size": options.batch_size,
        "train.batch_length": options.batch_length,
        "train.devices": options.devices,
        "train.updates_per_dispatch": options.updates_per_dispatch,
        "dtype": options.dtype,
    }
    config = load(options.preset, options.size, overrides=[(name, str(value)) for name, value in named.items()])
    found = measure(config, options.seconds, options.directory)
    print(json.dumps({"benchmark": "loop", **vars(options), **found, "peak_rss_mb": peak_rss_mb(), **before}))


if __name__ == "__main__":
    restart_with_huge_pages()  # as the command line does
    main()
