"""Whether a compiled program finds room on its device."""

from __future__ import annotations

from pathlib import Path

import jax

from dreamer_jax.config.schema import ConfigError

_MEMORY = Path("/proc/meminfo")


def check_fits(program: jax.stages.Compiled, device: jax.Device, members: int) -> None:
    """Refuse an update of so many runs that asks for more than is free beside its arguments.

    Raises:
      ConfigError: with both numbers, and how many runs would fit.
    """
    needed, free = needed_bytes(program), free_bytes(device)
    if needed is None or free is None or needed <= free:
        return
    fitting = max(1, int(members * free / needed))
    raise ConfigError(
        f"--together: updates of {members} runs in one program need {_gb(needed)}, {device.device_kind} has "
        f"{_gb(free)} free; with --together {fitting} at most {fitting} at a time learn together"
    )


def needed_bytes(program: jax.stages.Compiled) -> int | None:
    """What a call takes beside its arguments; None where that is not known."""
    found = program.memory_analysis()
    if found is None:
        return None
    return found.output_size_in_bytes + found.temp_size_in_bytes - found.alias_size_in_bytes


def free_bytes(device: jax.Device) -> int | None:
    """As the device says, or the system for a CPU; None if they don't."""
    known = device.memory_stats() or {}
    if "bytes_limit" in known:
        return known["bytes_limit"] - known.get("bytes_in_use", 0)
    if device.platform != "cpu" or not _MEMORY.exists():
        return None
    lines = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines() if ":" in line)
    return 1024 * int(lines["MemAvailable"].split()[0]) if "MemAvailable" in lines else None


def _gb(count: int) -> str:
    return f"{count / 1e9:.3g} GB"
