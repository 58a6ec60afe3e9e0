"""Does a long run need ever more memory, open files or threads? One JSON line and a picture.

    python benchmarks/soak.py --minutes 120 --output soak.png

The command `dreamer-jax train` in a process of its own, with evaluations, reports, checkpoints and TensorBoard on and
a replay ring that soon wraps. Every few seconds its private memory (resident, without what is shared: the files of the
ring are mapped), resident memory, open files and threads are read, and the number and private memory of the processes
it has started. The first fifth of the time is warm-up. Each quantity is given as its medians over the first and over
the last third of what follows, and is called flat if the second is at most 3 % and 1 (file, thread, process) or 16
(MB) above the first. At the end the run is asked to stop by SIGTERM, and has to leave with status 143. Exit status 1
if anything grew or the run failed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from dreamer_jax.profiling.speed import machine

SETTINGS = {
    "env.vectorization": "async",
    "replay.capacity": 4000,
    "train.frames": 1_000_000_000,
    "train.train_ratio": 16,
    "train.save_frames": 10_000,  # each leaves a little behind in Orbax: docs/memory.md
    "train.report_frames": 1000,
    "train.eval_frames": 2000,
    "train.log_seconds": 5,
}
"""Beside those of --config; later --set wins."""
SLACK = {"private_mb": 16, "resident_mb": 16, "files": 1, "threads": 1, "children": 1, "children_private_mb": 16}
SHARE = 0.03


def sample(process: psutil.Process) -> dict[str, float]:
    """What the process and those it has started hold now."""
    memory, children = process.memory_info(), process.children(recursive=True)
    private = 0
    for child in children:
        try:
            held = child.memory_info()
        except psutil.NoSuchProcess:
            continue
        private += held.rss - held.shared
    return {
        "private_mb": (memory.rss - memory.shared) / 1e6,
        "resident_mb": memory.rss / 1e6,
        "files": process.num_fds(),
        "threads": process.num_threads(),
        "children": len(children),
        "children_private_mb": private / 1e6,
    }


def watch(process: psutil.Process, minutes: float, every: float) -> Iterator[tuple[float, dict[str, float]]]:
    """Minutes and a sample, until the time is over or the process has ended."""
    begin = time.monotonic()
    while (passed := time.monotonic() - begin) < 60 * minutes:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return
            yield passed / 60, sample(process)
        except psutil.NoSuchProcess:
            return
        time.sleep(every)


def judge(times: list[float], samples: list[dict[str, float]]) -> dict[str, dict[str, Any]]:
    """First and last medians of each quantity after the warm-up, and whether it is flat."""
    kept = [row for minute, row in zip(times, samples, strict=True) if minute >= times[-1] / 5]
    third = max(1, len(kept) // 3)
    found = {}
    for name, slack in SLACK.items():
        values = np.array([row[name] for row in kept])
        first, last = float(np.median(values[:third])), float(np.median(values[-third:]))
        flat = last <= first * (1 + SHARE) + slack
        found[name] = {
            "first": round(first, 1),
            "last": round(last, 1),
            "highest": round(float(values.max()), 1),
            "flat": flat,
        }
    return found


def draw(times: list[float], samples: list[dict[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = (
        ("private memory, MB", ("private_mb", "children_private_mb")),
        ("open files", ("files",)),
        ("threads, processes", ("threads", "children")),
    )
    figure, axes = pyplot.subplots(len(panels), 1, figsize=(7, 7), sharex=True, layout="constrained")
    for axis, (title, names) in zip(axes, panels, strict=True):
        for name in names:
            axis.plot(times, [row[name] for row in samples], linewidth=1, label=name.replace("_", " "))
        axis.set(title=title, ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend(loc="lower right")
    axes[-1].set_xlabel("minutes")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def soak(options: argparse.Namespace, run_dir: Path) -> dict[str, Any]:
    settings = {
        **{name: str(value) for name, value in SETTINGS.items()},
        **dict(pair.split("=", 1) for pair in options.set),
    }
    flags = [word for name, value in settings.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-m", "dreamer_jax", "train", "--config", options.config, "--run-dir", str(run_dir)]
    log = run_dir.with_suffix(".log")
    times: list[float] = []
    samples: list[dict[str, float]] = []
    with open(log, "w") as output:
        started = subprocess.Popen([*command, *flags], stdout=output, stderr=subprocess.STDOUT)
        try:
            told = 0.0
            for minute, row in watch(psutil.Process(started.pid), options.minutes, options.every):
                times.append(minute)
                samples.append(row)
                if minute >= told:
                    numbers = ", ".join(f"{name} {value:.0f}" for name, value in row.items())
                    print(f"minute {minute:.0f} of {options.minutes:g}: {numbers}", file=sys.stderr, flush=True)
                    told += max(1, options.minutes / 24)
        finally:
            started.send_signal(signal.SIGTERM)
            status = started.wait()
    found = judge(times, samples) if samples else {}
    counters = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1]) if status == 143 else {}
    done = {name: counters[name] for name in ("env_frames", "grad_steps") if name in counters}
    if status != 143:
        print(log.read_text()[-2000:], file=sys.stderr)
    if options.output:
        draw(times, samples, options.output)
    size = sum(file.stat().st_size for file in run_dir.rglob("*") if file.is_file())
    return {
        "status": status,
        "minutes_seen": round(times[-1], 1) if times else 0,
        "samples": len(samples),
        **done,
        "run_mb": round(size / 1e6, 1),
        "quantities": found,
        "flat": status == 143 and all(row["flat"] for row in found.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--every", type=float, default=5, help="seconds between two samples")
    parser.add_argument("--config", default="configs/debug.yaml")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="other settings of the run")
    parser.add_argument("--output", type=Path, help="a picture of all samples")
    parser.add_argument("--directory", help="where to make the (temporary) run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        found = soak(options, Path(directory, "run"))
    shown = {name: str(value) if isinstance(value, os.PathLike) else value for name, value in vars(options).items()}
    print(json.dumps({"benchmark": "soak", **shown, **found, **machine()}))
    sys.exit(not found["flat"])


if __name__ == "__main__":
    main()
