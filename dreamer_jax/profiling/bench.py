"""``dreamer-jax bench``: how fast updates and decisions are on this machine, for each kind of observation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from rich.table import Table

from dreamer_jax.agent import compute_dtype
from dreamer_jax.config.loading import load
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.devices.data_parallel import check_devices
from dreamer_jax.profiling.speed import SPECS, Note, acting_speed, machine, update_speed
from dreamer_jax.terminal import Answer, table

TASKS = {
    "proprio": {"env.task": "dmc/walker_walk"},
    "vision": {"env.task": "dmc/walker_walk", "env.observation": "image"},
    "atari": {"env.task": "atari100k/pong"},
}
"""Settings of environments with such observations."""
STEPS = 100
"""Steps of acting for each update that is measured."""
UPDATE = (
    "observation", "parameters", "update_ms", "cpu_ms", "transitions_per_s", "init_s", "trace_s", "compile_s",
    "from_cache", "compiled_memory_mb",
)  # fmt: skip
PRODUCTS = "observation", "update_gflop", "gflop_per_s", "peak_gflop_per_s", "share_of_peak"
ACTING = "observation", "num_envs", "vectorization", "policy_ms", "env_frames_per_s", "frames_per_s"


def bench(
    observations: Sequence[str], num_envs: Sequence[int], repeats: int, settings: Mapping[str, str], note: Note
) -> Iterator[dict[str, Any]]:
    """A record for each measurement, with the machine it was made on; ``settings`` are those of a run, as text.

    Where an environment can't be opened, the record says why and has no numbers.

    Raises:
      ConfigError: a setting can't be used.
    """
    configs = {name: load(overrides=[*settings.items(), *TASKS[name].items()]) for name in observations}
    for config in configs.values():
        check_devices(config.train.devices)
    here = machine()
    for name, config in configs.items():
        train = config.train
        facts: dict[str, Any] = {"preset": config.preset, "size": config.size, "observation": name}
        facts["dtype"] = jnp.dtype(compute_dtype(config)).name

        def say(text: str, name: str = name) -> None:
            note(f"{name}: {text}")

        sizes = {"batch_size": train.batch_size, "batch_length": train.batch_length, "repeats": repeats}
        yield {"benchmark": "train_step", **facts, **sizes, **update_speed(config, SPECS[name], repeats, say), **here}
        for count in num_envs:
            steps = STEPS * repeats
            facts |= {"task": config.env.task, "num_envs": count, "repeats": steps}
            try:
                found = acting_speed(config, count, steps, say)
            except ConfigError as error:
                found = {"skipped": str(error)}
            yield {"benchmark": "acting", **facts, **found, **here}


def describe(records: Sequence[Mapping[str, Any]]) -> Answer:
    """The machine, a table of the updates and one of acting."""
    first, versions = records[0], records[0]["versions"]
    updates = [record for record in records if record["benchmark"] == "train_step"]
    acting = [record for record in records if record["benchmark"] == "acting" and "skipped" not in record]
    answer: Answer = [
        f"{first['device']}; {first['processor']}, {first['cores']} cores, load {first['load']}",
        ", ".join(
            f"{name} {versions[name]}" for name in ("dreamer-jax", "jax", "jaxlib", "python") if name in versions
        ),
        f"{first['preset']}, size {first['size']}, {first['dtype']}",
        f"\nupdates of {first['batch_size']} x {first['batch_length']} records",
        _table(updates, UPDATE),
        "\nmatrix products of an update, and what one large product reaches here",
        _table(updates, PRODUCTS),
    ]
    answer += ["\nacting", _table(acting, ACTING)] if acting else []
    return answer + [f"\nno acting from {r['observation']}: {r['skipped']}" for r in records if "skipped" in r]


def _table(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    headings = [name.replace("_", " ") for name in names]
    return table(headings, ([_cell(record[name]) for name in names] for record in records), right=headings)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int | float) else str(value)
