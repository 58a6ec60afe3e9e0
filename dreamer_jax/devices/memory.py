"""Whether what a run computes with finds room on its device."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jax

from dreamer_jax.config.schema import Config, ConfigError
from dreamer_jax.interfaces import Agent
from dreamer_jax.replay.storage import record_bytes
from dreamer_jax.specs import EnvSpec

_MEMORY, _GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


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


def check_room(config: Config, spec: EnvSpec, agent: Agent) -> None:
    """Refuse an agent, or a batch, that alone is larger than what is free, before anything of it is made.

    Raises:
      ConfigError: with both numbers.
    """
    device = jax.local_devices()[0]
    free = free_bytes(device)
    if free is None:
        return
    state = jax.eval_shape(agent.init, jax.eval_shape(lambda: jax.random.key(0)))
    needed = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    if needed > free:
        raise ConfigError(
            f"size: parameters and optimiser of these widths take {_gb(needed)}, {device.device_kind} has {_gb(free)} "
            "free; choose smaller ones"
        )
    train = config.train
    needed = train.batch_size * (train.batch_length + 1) * record_bytes(spec, agent.latent_spec, held_out=False)
    if needed > free:
        raise ConfigError(
            f"train.batch_size: got {train.batch_size} x {train.batch_length} records, which take {_gb(needed)}; "
            f"{device.device_kind} has {_gb(free)} free"
        )


def needed_bytes(program: jax.stages.Compiled) -> int | None:
    """What a call takes beside its arguments; None where that is not known."""
    found = program.memory_analysis()
    if found is None:
        return None
    return found.output_size_in_bytes + found.temp_size_in_bytes - found.alias_size_in_bytes


def held_bytes(program: jax.stages.Compiled) -> int:
    """What is held while a call goes on, its arguments included."""
    found: Any = program.memory_analysis()
    return (
        found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes - found.alias_size_in_bytes
    )


def free_bytes(device: jax.Device) -> int | None:
    """As the device says, or the system for a CPU; None if they don't."""
    known = device.memory_stats() or {}
    if "bytes_limit" in known:
        return known["bytes_limit"] - known.get("bytes_in_use", 0)
    return system_bytes() if device.platform == "cpu" else None


def system_bytes() -> int | None:
    """What programs may still take of the machine, and of their container; None where nothing says so."""
    known = []
    if _MEMORY.exists():
        lines = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines() if ":" in line)
        known += [1024 * int(lines["MemAvailable"].split()[0])] if "MemAvailable" in lines else []
    if (_GROUP / "memory.max").exists():
        most, used = ((_GROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        known += [int(most) - int(used)] if most != "max" else []
    return min(known, default=None)


def _gb(count: int) -> str:
    return f"{count / 1e9:.3g} GB"
