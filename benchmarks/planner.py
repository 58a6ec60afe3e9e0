"""How many decisions a second does a planner make? One JSON line for each number of environments.

    python benchmarks/planner.py --preset planet --num-envs 1 8
    python benchmarks/planner.py --candidates 200 --set rssm.deter=100 reward.units=100

A decision is what acting takes: an observation through the encoder and the posterior, then all iterations of the
cross-entropy method, until the actions are on the host. All environments decide together, so that there are
``num_envs`` decisions in ``decide_ms``, the median of ``repeats`` calls; ``cpu_ms`` is what this process computed
meanwhile. Compilation is apart; observations are random.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp

from dreamer_jax.agent import compute_dtype, make_agent
from dreamer_jax.config.loading import load
from dreamer_jax.config.named import PRESETS, SIZES
from dreamer_jax.config.schema import Config
from dreamer_jax.devices.acting import make_act
from dreamer_jax.devices.huge_pages import restart_with_huge_pages
from dreamer_jax.profiling.speed import SPECS, machine, median, peak_rss_mb, random_windows, seconds, times_ms
from dreamer_jax.types import TimeStep


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="planet")
    parser.add_argument("--size", choices=SIZES, help="other than the preset's own")
    parser.add_argument("--observation", choices=("proprio", "vision"), default="vision")
    parser.add_argument("--num-envs", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--candidates", type=int, help="planner.candidates; elites are a tenth of them")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="other settings")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    settings = {"behavior.method": "planner", "dtype": options.dtype}
    if options.candidates:
        elites = max(1, options.candidates // 10)
        settings |= {"planner.candidates": str(options.candidates), "planner.elites": str(elites)}
    settings |= dict(setting.split("=", 1) for setting in options.set)
    config = load(options.preset, options.size, overrides=settings.items())
    jax.config.update("jax_enable_compilation_cache", False)
    facts = {"preset": config.preset, "size": config.size, "observation": options.observation, "set": options.set}
    facts |= {"dtype": jnp.dtype(compute_dtype(config)).name, **dataclasses.asdict(config.planner)}
    for num_envs in options.num_envs:
        before = machine()
        found = planning_speed(config, options.observation, num_envs, options.repeats)
        print(json.dumps({"benchmark": "planner", **facts, **found, **before}), flush=True)


def planning_speed(config: Config, observation: str, num_envs: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of a decision of all environments together, and decisions a second."""
    spec = SPECS[observation]
    agent, root = make_agent(config, spec), jax.random.PRNGKey(0)
    params = jax.jit(agent.init)(root).params
    windows = random_windows(spec, agent.latent_spec, num_envs, 2)
    records = jax.tree.map(lambda x: x[:, 1], dataclasses.replace(windows, context=None))
    timestep = TimeStep(*(getattr(records, field.name) for field in dataclasses.fields(TimeStep)))
    act, carry = make_act(agent, "mode"), agent.reset(params, num_envs)
    compile_s, _ = seconds(lambda: act(params, root, 0, carry, timestep))
    times, processors = times_ms(lambda: act(params, root, 1, carry, timestep), repeats)
    decide_ms = median(times)
    return {
        "num_envs": num_envs,
        "repeats": repeats,
        "compile_s": round(compile_s - decide_ms / 1e3, 2),
        "decide_ms": decide_ms,
        "cpu_ms": median(processors),
        "decide_ms_each": [round(value, 1) for value in times],
        "decisions_per_s": round(1e3 * num_envs / decide_ms, 3),
        "peak_rss_mb": peak_rss_mb(),
    }


if __name__ == "__main__":
    restart_with_huge_pages()  # as the command line does
    main()
