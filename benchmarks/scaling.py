"""What do more devices cost and gain, and what more seeds in one program? One JSON line for each point.

    python benchmarks/scaling.py --devices 1 2 4 8                # 16 rows, shared by all devices
    python benchmarks/scaling.py --devices 1 2 4 8 --per-device   # 16 rows for each
    python benchmarks/scaling.py --processes 1 2                  # the same rows, shared by processes of a device each
    python benchmarks/scaling.py --seeds 1 2 4 8 --deter 64

Each point is a process of its own, whose CPU becomes as many devices as it asks for, or as many processes as it asks
for: they share the machine's cores, so that only on as many cores or accelerators times say what devices gain.
Compilation is apart.

``collectives`` are counts and bytes of what crosses between devices in an update, of results on one device, read from
the compiled program. They should be ``gradient_bytes`` (those of the parameters), ``returns_bytes`` (all imagined
returns, for their percentiles and extremes) and ``metrics_bytes``; ``other_bytes`` is what there is beside them.

With ``--seeds``, ``together_ms`` is one program that updates so many agents, each with its own state, key and batch,
and ``apart_ms`` as many calls of the update of one, one after another; ``speedup`` is their quotient. They are the
programs of ``train``. ``together_needs_mb`` and ``needs_mb`` are what a call takes beside its arguments.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
from functools import partial
from typing import Any

import jax
import numpy as np
from collectives import collectives
from train_step import add_options, commit, configured, keep_or_forget

from dreamer_jax.agent import make_agent
from dreamer_jax.config.named import PRESETS
from dreamer_jax.config.schema import FIELDS, Config
from dreamer_jax.devices.compilation_cache import collect_rarely
from dreamer_jax.devices.data_parallel import Updates, compiler_options
from dreamer_jax.devices.huge_pages import restart_with_huge_pages
from dreamer_jax.devices.memory import needed_bytes
from dreamer_jax.devices.vmapped import Program
from dreamer_jax.processes.group import start
from dreamer_jax.profiling.speed import (
    SPECS,
    machine,
    median,
    peak_rss_mb,
    random_windows,
    seconds,
    times_ms,
    update_speed,
)
from dreamer_jax.specs import EnvSpec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--per-device", action="store_true", help="--batch-size rows for each device, not for all")
    parser.add_argument("--processes", type=int, nargs="+", help="so many processes of one device each, instead")
    parser.add_argument("--seeds", type=int, nargs="+", help="so many agents in one program, instead")
    parser.add_argument("--deter", type=int, help="rssm.deter; all layers have a quarter of it as their width")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="other settings")
    parser.add_argument("--here", metavar="HOST:PORT/I", help="in this process: one point, devices as they are")
    options = parser.parse_args()
    if options.here:
        address, index = options.here.split("/")
        if options.processes and options.processes != [1]:
            start(address, options.processes[0], int(index))
        keep_or_forget(parser, options.cache)
        measure(options)
        return
    axis = next((name for name in ("seeds", "processes") if getattr(options, name)), "devices")
    for point in getattr(options, axis):
        environment = os.environ | (forced(point if axis == "devices" else 1) if axis != "seeds" else {})
        command, address = [sys.executable, __file__, *sys.argv[1:], f"--{axis}", str(point)], free_address()
        running = [
            subprocess.Popen(
                [*command, "--here", f"{address}/{index}"], env=environment, stdout=subprocess.PIPE, text=True
            )
            for index in range(point if axis == "processes" else 1)
        ]
        for process in running:
            for line in process.communicate()[0].splitlines():
                if line.startswith("{"):  # JAX also says that processes have found each other
                    print(line, flush=True)
        if status := max(abs(process.returncode) for process in running):
            raise SystemExit(status)


def free_address() -> str:
    """Where processes of this machine can meet."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


def forced(devices: int) -> dict[str, str]:
    """The environment of a process whose CPU is so many devices; a thread of each waits for the others."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return {"XLA_FLAGS": flags.strip(), "NPROC": str(max(16, 2 * devices))}


def measure(options: argparse.Namespace) -> None:
    """One point, one line."""
    options.size = options.size or PRESETS[options.preset].size
    spec, chosen = SPECS[options.observation], dict(setting.split("=", 1) for setting in options.set)
    if options.deter:
        width = str(options.deter // 4)
        widths = {name: width for name in FIELDS if name == "rssm.hidden" or name.endswith(".units")}
        chosen = {"rssm.deter": str(options.deter), **widths, **chosen}
    devices, rows = (1 if options.seeds or options.processes else options.devices[0]), options.batch_size
    processes = jax.process_count()
    if options.per_device:
        options.batch_size = rows * devices * processes
    config, before = configured(options, {**chosen, "train.devices": str(devices)}), machine()
    collect_rarely()  # as the command line does
    named = {"benchmark": "scaling", "program": "dreamer_jax", "commit": commit()}
    axes = "here", "seeds", "devices", "processes"
    asked = {name: value for name, value in vars(options).items() if name not in axes}
    if options.seeds:
        (seeds,) = options.seeds
        found = {"seeds": seeds, **seeds_speed(config, spec, seeds, options.repeats)}
    else:
        study = partial(crossing, config, spec)
        sizes = {"devices": devices, "processes": processes}
        found = {**sizes, **update_speed(config, spec, options.repeats, study=study)}
    if jax.process_index() == 0:
        print(json.dumps({**named, **asked, **found, **before}), flush=True)


def crossing(config: Config, spec: EnvSpec, compiled: jax.stages.Compiled) -> dict[str, Any]:
    """What crosses between devices in one update: found in the program, and what should be there."""
    found = collectives(compiled.as_text() or "")
    wanted = wanted_bytes(config, spec) if config.train.devices * jax.process_count() > 1 else {}
    wanted = {name: wanted.get(name, 0) for name in ("gradient_bytes", "returns_bytes", "metrics_bytes")}
    other = sum(kind["bytes"] for kind in found.values()) - sum(wanted.values())
    return {"collectives": found, **wanted, "other_bytes": other}


def wanted_bytes(config: Config, spec: EnvSpec) -> dict[str, int]:
    """Gradients are averaged, and metrics but those of the optimiser, which are known everywhere; returns are gathered.

    Both losses of the KL are the same number with gradients of their own; XLA notices, and sends it once.
    """
    agent, train, behavior = make_agent(config, spec), config.train, config.behavior
    key = jax.random.PRNGKey(0)
    state = jax.eval_shape(agent.init, key)
    batch = random_windows(spec, agent.latent_spec, train.batch_size, train.batch_length)
    _, metrics, _ = jax.eval_shape(agent.update, state, key, batch)
    averaged = [x for name, x in metrics.items() if name != "loss/rep" and not name.startswith("opt/")]
    starts = train.batch_length - (behavior.starts == "but_last")
    imagined = train.batch_size * starts * behavior.imagination_length
    return {
        "gradient_bytes": sum(4 * x.size for x in jax.tree.leaves(state.params)),
        "returns_bytes": 4 * imagined * (behavior.method == "actor_critic"),
        "metrics_bytes": sum(4 * x.size for x in averaged),
    }


def seeds_speed(config: Config, spec: EnvSpec, seeds: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of an update of so many agents in one program, and of as many updates one after another."""
    agent, train = make_agent(config, spec), config.train
    init, keys = jax.jit(agent.init), list(jax.random.split(jax.random.PRNGKey(0), seeds))
    states, alone = ([init(key) for key in keys] for _ in range(2))
    windows = random_windows(spec, agent.latent_spec, seeds * train.batch_size, train.batch_length)
    rows = jax.tree.map(lambda x: x.reshape(seeds, 1, train.batch_size, *x.shape[1:]), windows)
    batches = [jax.device_put(jax.tree.map(lambda x, i=i: x[i], rows)) for i in range(seeds)]
    program, single = Program(lambda _: agent, [{}] * seeds), Updates(agent, 1)
    numbers, options = program.numbers, compiler_options()
    all_s, update_all = seconds(lambda: program.call.lower(states, keys, batches, numbers).compile(options))
    one_s, update_one = seconds(lambda: single.lower(alone[0], keys[0], batches[0]).compile(options))

    def together() -> Any:
        nonlocal states
        states, results = zip(*update_all(states, keys, batches, numbers), strict=True)
        states = list(states)
        return states, results

    def apart() -> Any:
        for i in range(seeds):
            alone[i], results = jax.block_until_ready(update_one(alone[i], keys[i], batches[i]))
        return alone, results

    seconds(together), seconds(apart)
    together_ms, apart_ms = (times_ms(run, repeats)[0] for run in (together, apart))
    both = median(together_ms), median(apart_ms)
    return {
        "together_ms": both[0],
        "apart_ms": both[1],
        "speedup": round(both[1] / both[0], 3),
        "together_ms_each": [round(value, 1) for value in together_ms],
        "apart_ms_each": [round(value, 1) for value in apart_ms],
        "together_compile_s": round(all_s, 2),
        "compile_s": round(one_s, 2),
        "together_needs_mb": round((needed_bytes(update_all) or 0) / 1e6, 1),
        "needs_mb": round((needed_bytes(update_one) or 0) / 1e6, 1),
        "parameters": int(np.sum([x.size for x in jax.tree.leaves(alone[0].params)])),
        "peak_rss_mb": peak_rss_mb(),
    }


if __name__ == "__main__":
    if "--here" in sys.argv:
        restart_with_huge_pages()  # as the command line does
    main()
