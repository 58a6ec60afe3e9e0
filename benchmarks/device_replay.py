"""The ring on the device beside flashbax's trajectory buffer: time and memory. One JSON line.

    pip install flashbax
    python benchmarks/device_replay.py [--capacity 10000] [--environments 16] [--repeats 9]

Records of 24 numbers, 6 actions and the latents of size 1m; batches of 16 windows of 65 records. ``append`` adds a
record of every environment and ``sample`` draws a batch; each runs ``INNER`` times in one compiled loop that owns the
ring, and the two take turns. Microseconds an operation: the median over repeats, compile time apart. ``bytes`` is what
the arrays take. flashbax draws windows only: no queue of new ones, no episodes held out, no latents written back, and
what this ring does for those is in its times.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.config.schema import ReplayConfig
from dreamer_jax.profiling.speed import machine
from dreamer_jax.replay.device import make_device_replay
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import TimeStep

SPEC = EnvSpec({"state": ArraySpec((24,), "float32")}, {"action": ArraySpec((6,), "float32")})
LATENTS = {"deter": ArraySpec((512,), "bfloat16"), "stoch": ArraySpec((32,), "uint8")}
BATCH, LENGTH, INNER = 16, 64, 100

Operations = dict[str, Callable[[Any, jax.Array], Any]]
"""By name; each takes the ring and a key and gives the ring and a number that depends on all that it has done."""


def record(environments: int) -> tuple[TimeStep, dict[str, jax.Array], dict[str, jax.Array]]:
    def ones(spec: ArraySpec) -> jax.Array:
        return jnp.ones((environments, *spec.shape), spec.dtype)

    flags = jnp.zeros(environments, bool)
    timestep = TimeStep({"state": ones(SPEC.observation["state"])}, jnp.ones(environments), flags, flags, flags)
    return timestep, {"action": ones(SPEC.action["action"])}, {name: ones(leaf) for name, leaf in LATENTS.items()}


def total(batch: Any) -> jax.Array:
    return sum(leaf.astype(jnp.float32).sum() for leaf in jax.tree.leaves(batch))


def ours(capacity: int, environments: int) -> tuple[Any, Operations]:
    replay = make_device_replay(
        SPEC,
        LATENTS,
        ReplayConfig(capacity=capacity),
        num_envs=environments,
        rows=capacity // environments,
        batch_length=LENGTH,
    )
    one = record(environments)

    def append(ring: Any, _: jax.Array) -> Any:
        ring = replay.append(ring, *one)
        return ring, ring.rows

    def sample(ring: Any, key: jax.Array) -> Any:
        ring, batch, _, _ = replay.sample(ring, key, BATCH)
        return ring, total(batch)

    return replay.init(), {"append": append, "sample": sample}


def flashbax(capacity: int, environments: int) -> tuple[Any, Operations]:
    import flashbax

    buffer = flashbax.make_trajectory_buffer(
        add_batch_size=environments,
        sample_batch_size=BATCH,
        sample_sequence_length=LENGTH + 1,
        period=1,
        min_length_time_axis=LENGTH + 1,
        max_length_time_axis=capacity // environments,
    )
    timestep, action, latents = record(environments)
    flags = {name: getattr(timestep, name) for name in ("is_first", "is_last", "is_terminal")}
    one = {**timestep.observation, **action, **latents, **flags, "reward": timestep.reward}
    rows = jax.tree.map(lambda leaf: leaf[:, None], one)

    def append(ring: Any, _: jax.Array) -> Any:
        ring = buffer.add(ring, rows)
        return ring, ring.current_index

    def sample(ring: Any, key: jax.Array) -> Any:
        return ring, total(buffer.sample(ring, key).experience)

    return buffer.init(jax.tree.map(lambda leaf: leaf[0], one)), {"append": append, "sample": sample}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capacity", type=int, default=10_000, help="records (default 10000)")
    parser.add_argument("--environments", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    rings, programs, result = {}, {}, {"benchmark": "device_replay", **vars(options)}
    for name, make in (("ours", ours), ("flashbax", flashbax)):
        ring, operations = make(options.capacity, options.environments)
        rings[name] = jax.tree.map(jnp.copy, ring)  # leaves of their own, which can be given away
        result[f"{name}_bytes"] = sum(leaf.nbytes for leaf in jax.tree.leaves(rings[name]))
        for what, operation in operations.items():
            loop = jax.jit(lambda ring, keys, step=operation: jax.lax.scan(step, ring, keys), donate_argnums=0)
            programs[what, name] = loop
        keys = jax.random.split(jax.random.key(0), options.capacity // options.environments + 1)
        rings[name], _ = programs["append", name](rings[name], keys)  # full, and wrapped
    keys = jax.random.split(jax.random.key(1), INNER)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in programs}
    for repeat in range(options.repeats + 1):
        for what, name in sorted(programs):
            begin = time.perf_counter()
            rings[name], found = programs[what, name](rings[name], keys)
            jax.block_until_ready(found)
            if repeat:  # the first one compiles
                times[what, name].append(1e6 * (time.perf_counter() - begin) / INNER)
    result |= {f"{name}_{what}_us": round(float(np.median(each)), 1) for (what, name), each in times.items()}
    print(json.dumps({**result, **machine()}))


if __name__ == "__main__":
    main()
