"""Which operations take the time of an update? JSON lines: all of them together, then the slowest.

    python benchmarks/kernels.py --preset dreamer_v3 --size 1m > kernels.jsonl
    python benchmarks/report.py kernels.jsonl --columns operation calls ms share where

A few updates are traced by JAX's profiler, after one that is not. ``ms`` and ``calls`` are of one update, ``share`` is
of the time that its operations take together. Of those together ``traced_ms`` is the time of an update meanwhile: where
it is much more than ``ms``, the device waits. ``where`` is the operation's place in the program. Operations of a CPU
run beside each other, so that their sum can be more than the time.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from train_step import add_options, commit, configured, keep_or_forget

from dreamer_jax.config.named import PRESETS
from dreamer_jax.devices.huge_pages import restart_with_huge_pages
from dreamer_jax.profiling.speed import SPECS, machine, ready_update, seconds

CONTROL = re.compile(r"(while|call|conditional)(\.|$)")
"""Operations whose time is that of those inside."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--slowest", type=int, default=20, metavar="N", help="so many lines (default 20)")
    options = parser.parse_args()
    options.size = options.size or PRESETS[options.preset].size
    keep_or_forget(parser, options.cache)
    before = machine()
    named = {name: getattr(options, name) for name in ("preset", "size", "observation", "dtype")}
    head = {"benchmark": "kernels", "program": "dreamer_jax", "commit": commit(), **named}
    for line in measure(options):
        print(json.dumps({**head, **line, **before}))


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All operations together, then the slowest."""
    places: dict[str, str] = {}

    def study(compiled: jax.stages.Compiled) -> dict[str, Any]:
        places.update(places_of(compiled.as_text() or ""))
        return {}

    ready = ready_update(configured(options, {}), SPECS[options.observation], study=study)
    updates = options.repeats * ready.updates
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            took, _ = seconds(lambda: [ready.call() for _ in range(options.repeats)][-1])
        found = list(operations(Path(folder)))
    nanoseconds, calls = Counter[str](), Counter[str]()
    for name, duration in found:
        nanoseconds[name] += duration
        calls[name] += 1
    total = sum(nanoseconds.values())

    def line(operation: str, duration: float, count: int) -> dict[str, Any]:
        ms, share = round(duration / 1e6 / updates, 4), round(duration / total, 4)
        return {"operation": operation, "calls": round(count / updates, 2), "ms": ms, "share": share}

    together = line("all", total, len(found)) | {"traced_ms": round(1e3 * took / updates, 3), "updates": updates}
    slowest = nanoseconds.most_common(options.slowest)
    return [together, *(line(name, ns, calls[name]) | {"where": places.get(name, "")} for name, ns in slowest)]


def operations(folder: Path) -> Iterator[tuple[str, float]]:
    """Name and nanoseconds of everything that a device executed, from the profiler's newest file in ``folder``."""
    file = max(folder.glob("**/*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    planes = list(jax.profiler.ProfileData.from_file(str(file)).planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    for plane in devices or planes:
        lines = list(plane.lines)
        streams = [line for line in lines if line.name.startswith("Stream")] if devices else lines
        for line in streams or [line for line in lines if line.name == "XLA Ops"]:
            for event in line.events:
                known = dict(event.stats)
                if (devices or "hlo_op" in known) and not CONTROL.match(event.name):
                    yield event.name, event.duration_ns


def places_of(text: str) -> dict[str, str]:
    """Of a compiled program's instructions: where in the traced functions they come from."""
    pattern = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = .*op_name="([^"]*)"', re.MULTILINE)
    return {name: place.partition("/")[2] for name, place in pattern.findall(text)}


if __name__ == "__main__":
    restart_with_huge_pages()  # as the command line does
    main()
