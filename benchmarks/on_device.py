"""How fast is a training that is one program on the device, and its environments alone? One JSON line for each point.

    python benchmarks/on_device.py --tasks gymnax/CartPole-v1 --num-envs 1 8 64 512 --host
    python benchmarks/on_device.py --tasks gymnax/CartPole-v1 --seeds 1 2 4 8
    python benchmarks/on_device.py --tasks brax/halfcheetah craftax/Craftax-Symbolic-v1 --lowered cuda tpu

Settings are those of ``--config``, and of ``--set``. Each point is a process of its own. ``env_steps_per_s`` are steps
of the environments alone, by random actions in one ``lax.scan``. ``frames_per_s`` and ``updates_per_s`` are of the
whole training, of all seeds together, once updates have begun: the median of several calls of about a second each.
``compile_s`` is tracing and compiling. With ``--host`` the loop of the host trains on the same task in the same run.

``--lowered`` compiles nothing: it says what the program would be on other devices, the operations in one trip of each
of its loops, and whether anything in it calls the host.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from loop import measure as host_speed
from loop_bodies import loops
from train_step import commit

from dreamer_jax.agent import make_agent
from dreamer_jax.config.loading import load, replace
from dreamer_jax.config.schema import Config
from dreamer_jax.devices.data_parallel import compiler_options
from dreamer_jax.devices.huge_pages import restart_with_huge_pages
from dreamer_jax.devices.memory import needed_bytes
from dreamer_jax.envs.pure.streams import make_streams
from dreamer_jax.envs.pure.suites import make
from dreamer_jax.numerics import fixed_numerics
from dreamer_jax.ops.train_ratio import least_windows
from dreamer_jax.profiling.speed import machine, median, peak_rss_mb, seconds
from dreamer_jax.training.device_calls import MOST, together
from dreamer_jax.training.one_program import MEMBERS, Program, make_keys, make_program

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "on_device.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(CONFIG))
    parser.add_argument("--tasks", nargs="+", default=["gymnax/CartPole-v1"])
    parser.add_argument("--num-envs", type=int, nargs="+", default=[8])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="so many trainings in one program")
    parser.add_argument("--host", action="store_true", help="the loop of the host, too, of one seed")
    parser.add_argument("--lowered", nargs="+", choices=("cuda", "tpu"), help="what the program is there, instead")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="other settings")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each call that is timed")
    parser.add_argument("--here", choices=("device", "host"), help="in this process: one point")
    options = parser.parse_args()
    if options.here or options.lowered:
        jax.config.update("jax_enable_compilation_cache", False)
        for config in (configured(options, *point) for point in points(options)):
            found = point_of(config, options)
            facts = {"benchmark": "on_device", "commit": commit(), "task": config.env.task, **found, **machine()}
            print(json.dumps(facts), flush=True)
        return
    for task, num_envs in points(options):
        for seeds, where in [(seeds, "device") for seeds in options.seeds] + [(1, "host")] * options.host:
            one = ["--tasks", task, "--num-envs", str(num_envs), "--seeds", str(seeds), "--here", where]
            status = subprocess.run([sys.executable, __file__, *sys.argv[1:], *one]).returncode
            if status:
                sys.exit(status)


def points(options: argparse.Namespace) -> list[tuple[str, int]]:
    return [(task, num_envs) for task in options.tasks for num_envs in options.num_envs]


def configured(options: argparse.Namespace, task: str, num_envs: int) -> Config:
    named = {"env.task": task, "env.num_envs": str(num_envs), "train.report_frames": "0", "train.frames": "100000000"}
    if options.here == "host":
        named["train.where"] = "host"
    given = (text.partition("=") for text in options.set)
    return load(files=[options.config], overrides=[*named.items(), *((name, value) for name, _, value in given)])


@fixed_numerics()
def point_of(config: Config, options: argparse.Namespace) -> dict[str, Any]:
    facts: dict[str, Any] = {"num_envs": config.env.num_envs, "train_ratio": config.train.train_ratio}
    if options.lowered:
        return {**facts, "where": "lowered", "platforms": {name: lowered(config, name) for name in options.lowered}}
    if options.here == "host":
        found = host_speed(config, options.seconds * options.repeats)
        kept = {name: found[name] for name in ("frames_per_s", "updates_per_s")}
        return {**facts, "where": "host", "seeds": 1, **kept, "peak_rss_mb": peak_rss_mb()}
    (seeds,) = options.seeds
    alone = environment_speed(config, options)
    return {**facts, "where": "device", "seeds": seeds, **alone, **training_speed(config, seeds, options)}


def environment_speed(config: Config, options: argparse.Namespace) -> dict[str, float]:
    """Of random actions, without anything else."""
    env, num_envs = make(config.env.task), config.env.num_envs
    streams = make_streams(env, config.env, num_envs)

    def step(carry: Any, key: Any) -> Any:
        actions = {}
        for index, (name, leaf) in enumerate(env.spec.action.items()):
            its, shape = jax.random.fold_in(key, index), (num_envs, *leaf.shape)
            if leaf.classes is None:
                actions[name] = jax.random.uniform(its, shape, minval=-1, maxval=1)
            else:
                actions[name] = jax.random.randint(its, shape, 0, leaf.classes)
        state, timestep = streams.step(carry, actions)
        return state, timestep.reward.sum()

    @partial(jax.jit, static_argnums=2)
    def play(state: Any, key: Any, steps: int) -> Any:
        return jax.lax.scan(step, state, jax.random.split(key, steps))

    state, _ = jax.jit(streams.begin)(jax.random.key(0))
    steps = 64
    compiling, _ = seconds(lambda: jax.block_until_ready(play(state, jax.random.key(1), steps)))
    took, _ = seconds(lambda: jax.block_until_ready(play(state, jax.random.key(1), steps)))
    steps = int(np.clip(steps * options.seconds / took, 16, 100_000))
    jax.block_until_ready(play(state, jax.random.key(1), steps))
    times = [
        seconds(lambda: jax.block_until_ready(play(state, jax.random.key(2), steps)))[0] for _ in range(options.repeats)
    ]
    return {"env_steps_per_s": round(steps * num_envs / median(times), 1), "env_compile_s": round(compiling, 2)}


def training_speed(config: Config, seeds: int, options: argparse.Namespace) -> dict[str, float]:
    """Of so many trainings, with updates."""
    rows = -(-config.replay.capacity // config.env.num_envs)
    keys = tuple(make_keys(np.uint32(seed)) for seed in range(seeds))
    program = program_of(config, None, rows)
    begin = jax.jit(program.init)
    trainings, counters = tuple(begin(key)[0] for key in keys), begin(keys[0])[1]
    ring = sum(x.size * x.dtype.itemsize for x in trainings[0].ring.fields.values())
    call = together(lambda numbers: program_of(config, MEMBERS, rows))
    if seeds == 1:
        run = jax.jit(program.run, donate_argnums=0)
        inputs: tuple[Any, ...] = trainings[0], counters, keys[0], np.int32(0)
    else:
        run = call
        inputs = trainings, counters, keys, ({},) * seeds, np.int32(0)
    compiling, compiled = seconds(lambda: run.lower(*inputs).compile(compiler_options()))

    def steps_of(trainings: Any, counters: Any, steps: int) -> Any:
        if seeds == 1:
            training, counters, found = compiled(trainings[0], counters, keys[0], np.int32(steps))
            return jax.block_until_ready(((training,), counters, found.metrics))
        each = compiled(trainings, counters, keys, ({},) * seeds, np.int32(steps))
        return jax.block_until_ready((tuple(one[0] for one in each), each[0][1], [one[2].metrics for one in each]))

    num_envs = config.env.num_envs
    needed = -(-least_windows(config.train) // num_envs) + config.train.batch_length + config.train.prefill // num_envs
    while int(counters.started_at) < 0:
        trainings, counters, _ = steps_of(trainings, counters, min(MOST, needed))
    steps, took = 1, 0.0
    while took < options.seconds / 2 and steps < MOST:
        steps = min(MOST, max(2 * steps, int(steps * options.seconds / max(took, 1e-3)) if took > 0.1 else 0))
        took, (trainings, counters, _) = seconds(partial(steps_of, trainings, counters, steps))
    before, times = int(counters.grad_steps), []
    for _ in range(options.repeats):
        took, (trainings, counters, _) = seconds(partial(steps_of, trainings, counters, steps))
        times.append(took)
    updates = (int(counters.grad_steps) - before) / options.repeats
    frames = steps * num_envs * config.env.action_repeat
    return {
        "frames_per_s": round(seeds * frames / median(times), 2),
        "updates_per_s": round(seeds * updates / median(times), 3),
        "compile_s": round(compiling, 2),
        "steps_per_call": steps,
        "needs_mb": round((needed_bytes(compiled) or 0) / 1e6, 1),
        "ring_mb": round(ring / 1e6, 1),
        "peak_rss_mb": peak_rss_mb(),
    }


def program_of(config: Config, members: str | None, rows: int) -> Program:
    env = make(config.env.task)
    return make_program(config, make_agent(config, env.spec), env, rows=rows, most=MOST, members=members)


def lowered(config: Config, platform: str) -> dict[str, Any]:
    """The program for ``platform``: operations in a trip of each loop with more than ten, and calls of the host."""
    rows = -(-config.replay.capacity // config.env.num_envs)
    program = program_of(replace(config, {}), None, rows)
    keys = jax.eval_shape(make_keys, np.uint32(0))
    training, counters = jax.eval_shape(program.init, keys)
    inputs = training, counters, keys, jax.ShapeDtypeStruct((), jnp.int32)
    began = time.perf_counter()
    text = jax.jit(program.run).trace(*inputs).lower(lowering_platforms=(platform,)).as_text(debug_info=True)
    found = [asdict(loop) for loop in loops(text)]
    large = [{name: one[name] for name in ("name", "trips", "operations", "products")} for one in found]
    return {
        "lower_s": round(time.perf_counter() - began, 2),
        "calls_of_the_host": text.count("callback"),
        "loops": [one for one in large if one["operations"] > 10],
    }


if __name__ == "__main__":
    restart_with_huge_pages()  # as the command line does
    main()
