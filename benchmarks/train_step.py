"""How long does one update take, and how long does it take to compile? One JSON line.

    python benchmarks/train_step.py --preset dreamer_v3 --size 1m --batch-size 16 --batch-length 64

Random windows as replay gives them, state given away as in training, compilation apart. Compile
times are those of a first run, unless ``--cache DIR`` keeps compiled programs there: with an empty
folder it then measures a cold start, and when called again a warm one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from measure import machine, median_ms, peak_rss_mb, seconds

from dreamer_jax.agent import make_agent
from dreamer_jax.config.loading import load
from dreamer_jax.config.presets import PRESETS, SIZES
from dreamer_jax.replay import record_bytes
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.training.program_cache import keep_programs
from dreamer_jax.types import RSSMState, TrajectoryBatch

MOTORS, BUTTONS = {"action": ArraySpec((6,), "float32")}, {"action": ArraySpec((), "int32", 18)}
SPECS = {
    "proprio": EnvSpec({"state": ArraySpec((24,), "float32")}, MOTORS),
    "vision": EnvSpec({"image": ArraySpec((64, 64, 3), "uint8")}, MOTORS),
    "atari": EnvSpec({"image": ArraySpec((64, 64, 3), "uint8")}, BUTTONS),
}
"""Walker's states, its pictures, and a game of Atari100k."""


def random_windows(spec: EnvSpec, latents: dict[str, ArraySpec], size: int, length: int) -> TrajectoryBatch:
    """Windows [size, length] of normal numbers, one start of an episode in each."""
    rng = np.random.default_rng(0)

    def draw(leaf: ArraySpec, *axes: int) -> np.ndarray:
        dtype = ml_dtypes.bfloat16 if leaf.dtype == "bfloat16" else leaf.dtype
        if np.issubdtype(dtype, np.integer):
            return rng.integers(leaf.classes or (256 if leaf.image else 4), size=(*axes, *leaf.shape)).astype(dtype)
        return rng.uniform(-1, 1, (*axes, *leaf.shape)).astype(dtype)

    steps = np.arange(length)
    starts = rng.integers(1, length, (size, 1))
    is_first, is_last = steps == starts, steps == starts - 1
    return TrajectoryBatch(
        {name: draw(leaf, size, length) for name, leaf in spec.observation.items()},
        {name: draw(leaf, size, length) for name, leaf in spec.action.items()},
        rng.uniform(size=(size, length)).astype(np.float32),
        is_first,
        is_last,
        is_last & False,
        RSSMState(*(draw(latents[name], size) for name in ("deter", "stoch"))),
    )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    named = {
        "dtype": options.dtype,
        "rematerialize": str(options.rematerialize).lower(),
        "behavior.imagination_length": str(options.imagination_length),
    }
    config = load(options.preset, options.size, overrides=named.items())
    spec = SPECS[options.observation]
    agent = make_agent(config, spec)
    key = jax.random.PRNGKey(0)
    init_s, state = seconds(lambda: jax.jit(agent.init)(key))
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    batch = jax.device_put(random_windows(spec, agent.latent_spec, options.batch_size, options.batch_length))

    trace_s, lowered = seconds(lambda: jax.jit(agent.update, donate_argnums=0).trace(state, key, batch).lower())
    compile_s, compiled = seconds(lowered.compile)
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes

    def update() -> Any:
        nonlocal state
        state, metrics, latents = compiled(state, key, batch)
        return state, metrics, latents

    first_s, _ = seconds(update)
    update_ms = median_ms(update, options.repeats)
    return {
        "update_ms": update_ms,
        "transitions_per_s": round(1e3 * options.batch_size * options.batch_length / update_ms, 1),
        "first_update_ms": round(1e3 * first_s, 3),
        "init_s": round(init_s, 2),
        "trace_s": round(trace_s, 2),
        "compile_s": round(compile_s, 2),
        "parameters": parameters,
        "replay_bytes_per_step": record_bytes(spec, agent.latent_spec),
        "peak_rss_mb": peak_rss_mb(),
        "compiled_memory_mb": round((held - memory.alias_size_in_bytes) / 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="dreamer_v3")
    parser.add_argument("--size", choices=SIZES, default="1m")
    parser.add_argument("--observation", choices=SPECS, default="proprio")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--batch-length", type=int, default=64)
    parser.add_argument("--imagination-length", type=int, default=15)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rematerialize", action="store_true", help="less memory, more time")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cache", metavar="DIR", help="keep compiled programs there")
    options = parser.parse_args()
    if options.cache is None:
        jax.config.update("jax_enable_compilation_cache", False)
    elif problem := keep_programs(Path(options.cache)):
        parser.error(problem)
    before = machine()
    print(json.dumps({"benchmark": "train_step", **vars(options), **measure(options), **before}))


if __name__ == "__main__":
    main()
