"""Whether a run takes the memory that ``dreamer-jax plan`` says, counted by the system.

    python benchmarks/plan_memory.py [--sizes 1m 12m] > plan_memory.jsonl
    python benchmarks/report.py plan_memory.jsonl --columns where observation size planned_mb measured_mb error_percent

A line of JSON for each size and observation, on the host (updates; replay is on the disk) and on the device (one
program with environment and replay). ``planned_mb`` is what the plan says of the compiled program, ``measured_mb`` how
far the resident memory of a process of its own rises at most from before its parameters are made until updates are
over, its programs compiled beforehand. Linux only: it is the kernel that counts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dreamer_jax.agent import make_agent
from dreamer_jax.config.loading import load
from dreamer_jax.config.schema import Config
from dreamer_jax.devices.data_parallel import Updates, compiler_options
from dreamer_jax.interfaces.environment import Environment
from dreamer_jax.numerics import fixed_numerics
from dreamer_jax.profiling.speed import machine, random_windows
from dreamer_jax.training.device_calls import MOST
from dreamer_jax.training.device_preflight import chosen
from dreamer_jax.training.one_program import make_keys, make_program
from dreamer_jax.training.plan import plan
from dreamer_jax.training.preflight import env_spec
from dreamer_jax.training.schedule import begin_after

TASKS = {
    ("host", "states"): "dmc/walker_walk",
    ("host", "pictures"): "dmc/walker_walk",
    ("device", "states"): "gymnax/CartPole-v1",
    ("device", "pictures"): "craftax/Craftax-Classic-Pixels-v1",
}
UPDATES, RECORDS = 3, 20_000
"""Updates that are made, records of replay on the device."""


def settings(where: str, observation: str, size: str) -> Config:
    named = {"env.task": TASKS[where, observation], "train.where": where, "train.devices": "1"}
    named |= {"env.observation": "image"} if (where, observation) == ("host", "pictures") else {}
    if where == "device":
        named |= {"replay.capacity": str(RECORDS), "train.frames": "1000000", "env.num_envs": "16"}
    return load(size=size, overrides=list(named.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["1m", "12m"])
    parser.add_argument("--where", nargs="+", choices=("host", "device"), default=["host", "device"])
    parser.add_argument("--observations", nargs="+", choices=("states", "pictures"), default=["states", "pictures"])
    parser.add_argument("--part", choices=("plan", "run"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    points = [(where, seen, size) for where in options.where for seen in options.observations for size in options.sizes]
    if options.part:
        config = settings(*points[0])
        print(json.dumps(planned(config) if options.part == "plan" else measured(config)))
        return
    for point in points:
        found = {part: part_of(point, part) for part in ("plan", "run")}
        said, came = found["plan"]["program_bytes"], found["run"]["risen_bytes"]
        line = dict(zip(("where", "observation", "size"), point, strict=True))
        line |= {"benchmark": "plan_memory", "planned_mb": round(said / 1e6, 1), "measured_mb": round(came / 1e6, 1)}
        print(json.dumps({**line, "error_percent": round(100 * (said / came - 1), 1), **machine()}), flush=True)


def part_of(point: tuple[str, str, str], part: str) -> Any:
    """In a process of its own, so that nothing lies in memory yet."""
    where, seen, size = point
    words = ["--part", part, "--where", where, "--observations", seen, "--sizes", size]
    done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def planned(config: Config) -> dict[str, Any]:
    found = plan(config, Path("plan_memory"), on=None, note=lambda text: None)
    return {name: found[name] for name in ("program_bytes", "state_bytes")}


@fixed_numerics()
def measured(config: Config) -> dict[str, int]:
    env = chosen(config)
    run = host_run(config) if env is None else device_run(config, env)
    next(run)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is forgotten
    next(run)
    return {"risen_bytes": memory("VmHWM") - before}


def host_run(config: Config) -> Any:
    """Stops when everything is compiled, and after the updates."""
    spec, train, key = env_spec(config), config.train, jax.random.PRNGKey(0)
    agent = make_agent(config, spec)
    updates = Updates(agent, 1)
    batch = random_windows(spec, agent.latent_spec, train.batch_size, train.batch_length)
    batch = jax.tree.map(lambda x: x[None], batch)
    shape = jax.eval_shape(agent.init, key)
    init = jax.jit(agent.init).lower(key).compile()
    update = updates.lower(shape, key, jax.eval_shape(updates.put, batch)).compile(compiler_options())
    yield
    state, batch = init(key), updates.put(batch)
    for _ in range(UPDATES):
        state, results = update(state, key, batch)
        jax.block_until_ready(results)
    yield


def device_run(config: Config, env: Environment) -> Any:
    """Likewise, in one call that fills replay as far as needed."""
    agent, num_envs = make_agent(config, env.spec), config.env.num_envs
    program = make_program(config, agent, env, rows=RECORDS // num_envs, most=MOST)
    keys = jax.jit(make_keys)(np.uint32(0))
    init = jax.jit(program.init).lower(keys).compile()
    shapes = jax.eval_shape(program.init, keys)
    run = jax.jit(program.run, donate_argnums=0).lower(*shapes, keys, np.int32(1)).compile(compiler_options())
    train = config.train
    every = train.batch_size * train.batch_length / train.train_ratio  # agent steps for an update
    steps = int(np.ceil((begin_after(config) + UPDATES * every) / num_envs))
    yield
    _, counters, found = run(*init(keys), keys, np.int32(steps))
    jax.block_until_ready(found)
    assert counters.grad_steps >= UPDATES, counters
    yield


def memory(name: str) -> int:
    """Bytes of this process, as the kernel counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
