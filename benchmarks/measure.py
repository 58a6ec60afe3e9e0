"""What all benchmarks share: timing until the result is ready, and which machine it was."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from dreamer_jax.training import run_directory


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """Wall-clock seconds until the result is ready, and the result."""
    start = time.perf_counter()
    result = jax.block_until_ready(function())
    return time.perf_counter() - start, result


def median_ms(function: Callable[[], Any], repeats: int) -> float:
    """Of ``repeats`` calls; warm up before."""
    return round(1e3 * statistics.median(seconds(function)[0] for _ in range(repeats)), 3)


def machine() -> dict[str, Any]:
    """What numbers need to be compared: versions, device, and how busy the machine was before."""
    facts = {"versions": run_directory.versions(), **run_directory.machine()}
    return {**facts, "processor": _processor(), "load": round(os.getloadavg()[0], 2)}


def peak_rss_mb() -> float:
    """Most memory that this process has held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
