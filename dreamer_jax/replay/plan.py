"""Does the ring that is asked for fit on the disk?"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dreamer_jax.config.schema import INT32, ConfigError, ReplayConfig
from dreamer_jax.replay.device import ring_fields
from dreamer_jax.replay.held_out import WINDOWS
from dreamer_jax.replay.storage import Layout, allocated_bytes, record_bytes, record_fields
from dreamer_jax.specs import ArraySpec, EnvSpec

UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Plan:
    """Size of a ring in records (all environments) and bytes; ``line`` says it to a person."""

    record_bytes: int
    records: int
    total_bytes: int
    journal_bytes: int  # at most, for each checkpoint that can be gone back to
    free_bytes: int
    line: str


def plan(
    directories: Sequence[Path],
    config: ReplayConfig,
    spec: EnvSpec,
    latent_spec: dict[str, ArraySpec],
    *,
    num_envs: int,
    batch_length: int,
    total_records: int,
) -> Plan:
    """Choose the ring's capacity for a run that collects ``total_records``, and check the disk.

    A ring may be in several parts, with a directory each.

    Memory is no limit: the files are mapped, what is used stays in the page cache as far as there
    is room, and sampling from a ring much larger than that reads from the disk.

    Raises:
      ConfigError: too small for one window in every stream, or too large for the disk.
    """
    held_out = config.validation_fraction > 0
    size = record_bytes(spec, latent_spec, held_out=held_out)
    rows, collected = _rows(config, size, num_envs, batch_length, total_records)
    layout = Layout(rows, num_envs, record_fields(spec, latent_spec, held_out=held_out))
    total = layout.total_bytes
    first = directories[0].absolute()
    disk = os.statvfs(next(path for path in (first, *first.parents) if path.exists()))
    free = disk.f_bavail * disk.f_frsize
    line = f"replay: {_units(size)} a record x {rows * num_envs:,} records = {_units(total)} on disk"
    if total - sum(allocated_bytes(directory, layout) for directory in directories) > free:
        raise ConfigError(f"{line}, but {_units(free)} free there; set replay.capacity or replay.capacity_gb lower")
    changing = size if collected > rows else sum(latent.nbytes for latent in latent_spec.values())
    return Plan(size, rows * num_envs, total, rows * num_envs * changing, free, f"{line} ({_units(free)} free)")


def plan_on_device(
    config: ReplayConfig,
    spec: EnvSpec,
    latent_spec: dict[str, ArraySpec],
    *,
    num_envs: int,
    batch_length: int,
    total_records: int,
    free: int | None,
) -> Plan:
    """The same for a ring in the memory of a device that has ``free`` bytes, if it says so.

    Raises:
      ConfigError: too small for one window in every stream, or too large for the device.
    """
    fields = ring_fields(spec, latent_spec, config)
    size = sum(field.nbytes for field in fields.values())
    rows, _ = _rows(config, size, num_envs, batch_length, total_records)
    if rows * num_envs > INT32:
        raise ConfigError(f"replay.capacity: {rows * num_envs:,} records are more than a device counts; set it lower")
    total = rows * num_envs * size
    line = f"replay: {_units(size)} a record x {rows * num_envs:,} records = {_units(total)} on the device"
    if free is not None and total > free:
        raise ConfigError(f"{line}, but {_units(free)} free there; set replay.capacity or replay.capacity_gb lower")
    known = "" if free is None else f" ({_units(free)} free)"
    return Plan(size, rows * num_envs, total, 0, free or 0, line + known)


def _rows(config: ReplayConfig, size: int, num_envs: int, batch_length: int, total_records: int) -> tuple[int, int]:
    """Rows that a ring of records of ``size`` bytes keeps, and those that are collected."""
    limits = {"replay.capacity": config.capacity // num_envs}
    if config.capacity_gb:
        limits["replay.capacity_gb"] = int(config.capacity_gb * 1e9 / (size * num_envs))
    name, allowed = min(limits.items(), key=lambda limit: limit[1])
    if allowed < batch_length + 1:
        raise ConfigError(
            f"{name}: room for {allowed} records of each of {num_envs} environments, "
            f"a window needs {batch_length + 1} (train.batch_length + 1)"
        )
    fraction = config.validation_fraction
    if fraction and allowed < (needed := math.ceil(2 * WINDOWS * (batch_length + 1) / fraction)):
        raise ConfigError(
            f"replay.validation_fraction: got {fraction:g}, which needs {name} for {needed} records "
            f"of each of {num_envs} environments; there is room for {allowed}"
        )
    collected = max(-(-total_records // num_envs), batch_length + 1)
    return min(allowed, collected), collected


def _units(count: float) -> str:
    power = min(4, max(0, (len(str(int(count))) - 1) // 3))
    value = count / 1000**power
    return f"{value:.0f} {UNITS[power]}" if power == 0 or value >= 100 else f"{value:.3g} {UNITS[power]}"
