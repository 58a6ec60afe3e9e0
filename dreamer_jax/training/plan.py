"""``dreamer-jax plan``: what a run will take before it begins, and whether it fits."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dreamer_jax.agent import make_agent
from dreamer_jax.config.loading import replace as changed
from dreamer_jax.config.schema import Config, ConfigError
from dreamer_jax.devices.data_parallel import check_devices, compiler_options
from dreamer_jax.devices.memory import free_bytes, held_bytes
from dreamer_jax.envs.preview import Preview
from dreamer_jax.interfaces import Agent
from dreamer_jax.interfaces.environment import Environment
from dreamer_jax.profiling.data_sheets import ACCELERATORS, Accelerator
from dreamer_jax.profiling.speed import Note, acting_speed, seconds, update_speed, update_work
from dreamer_jax.replay.plan import Plan
from dreamer_jax.replay.storage import record_bytes
from dreamer_jax.specs import EnvSpec
from dreamer_jax.terminal import Answer, table
from dreamer_jax.training.device_calls import MOST
from dreamer_jax.training.device_preflight import chosen, device_preview, device_ring_plan
from dreamer_jax.training.one_program import make_keys, make_program
from dreamer_jax.training.preflight import env_preview, ring_plan
from dreamer_jax.training.schedule import begin_after, forecast

UPDATES, STEPS = 5, 100
"""That are measured."""


SHARE_OF_PEAK = 0.3
"""What large products reach of it; an assumption."""
PRODUCT_SECONDS = 13e-6
"""A small product with what stands around it, one after another: 1,713 of them at 1m, for which others have measured
22 ms an update on a GB200."""
MEMORY_SHARE = 0.9
"""Of what is free, that a proposal may take."""


def plan(config: Config, run_dir: Path, *, on: str | None, note: Note) -> dict[str, Any]:
    """Parameters, arithmetic, memory, disk, updates and hours of a run; ``problems`` are what does not fit.

    Args:
      on: one of ``ACCELERATORS``, whose hours are worked out; else updates and decisions are timed here.

    Raises:
      ConfigError: the environment can't be opened, or the settings never lead to an update.
    """
    note("opening an environment")
    env = chosen(config)
    found = env_preview(config) if env is None else device_preview(config, env)
    agent, train = make_agent(config, found.spec), config.train
    state = jax.eval_shape(agent.init, jax.random.key(0))
    record = record_bytes(found.spec, agent.latent_spec, held_out=config.replay.validation_fraction > 0)
    work = update_work(config, found.spec)
    answer: dict[str, Any] = {
        "task": config.env.task,
        "where": "host" if env is None else "device",
        "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params)),
        "state_bytes": sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)),
        "batch_bytes": train.batch_size * (train.batch_length + 1) * record,
        "update_gflop": round(work.flops / 1e9, 3),
        "update_products": work.products,
    }
    problems, records = [], config.replay.capacity
    try:
        ring = _ring(config, run_dir, found, agent, env, on)
        answer |= {"replay_bytes": ring.total_bytes, "replay_records": ring.records}
        records = ring.records
    except ConfigError as error:
        problems.append({"what": str(error), "fits": _smaller_ring(config, run_dir, found, agent, env, on)})
    expected = forecast(config, records, found.time_limit)
    answer |= {"agent_steps": expected.agent_steps, "updates": expected.updates, "notes": list(expected.notes)}
    device = jax.local_devices()[0]
    name, free = (device.device_kind, free_bytes(device)) if on is None else (on, ACCELERATORS[on].memory)
    answer["device"] = name
    needed = answer["state_bytes"] + answer["batch_bytes"]
    ring_there = 0 if env is None else answer.get("replay_bytes", 0)
    if free is not None and needed > free:
        what = f"parameters, optimiser and a batch take {_gb(needed)}, {name} has {_gb(free)}"
        problems.append({"what": what, "fits": "a smaller --size"})
    elif free is not None and needed + ring_there > free:
        what = f"with replay they take {_gb(needed + ring_there)}, {name} has {_gb(free)}"
        records = int(MEMORY_SHARE * (free - needed) / (ring_there / records))
        problems.append({"what": what, "fits": f"--replay.capacity {records}"})
    elif on is not None:
        answer |= _work_out(config, ACCELERATORS[on], answer)
    elif env is None or "replay_bytes" in answer:
        measure = _measure if env is None else partial(_measure_there, env)
        answer |= measure(config, found.spec, answer, note)
        if free is not None and answer["program_bytes"] > free:
            what = f"an update takes {_gb(answer['program_bytes'])}, {name} has {_gb(free)} free"
            beside = answer["state_bytes"] + ring_there
            problems.append({"what": what, "fits": _smaller_batch(config, answer["program_bytes"], beside, free)})
    return answer | {"problems": problems}


def _measure(config: Config, spec: EnvSpec, answer: dict[str, Any], note: Note) -> dict[str, Any]:
    check_devices(config.train.devices, config.train.batch_size)
    update = update_speed(config, spec, UPDATES, note)
    acting = acting_speed(config, config.env.num_envs, STEPS, note)
    seconds = answer["updates"] * update["update_ms"] / 1e3
    seconds += answer["agent_steps"] * config.env.action_repeat / acting["frames_per_s"]
    return {
        "update_ms": update["update_ms"],
        "program_bytes": int(1e6 * update["compiled_memory_mb"]),
        "compile_s": round(update["trace_s"] + update["compile_s"], 1),
        "frames_per_s_acting": acting["frames_per_s"],
        "hours": round(seconds / 3600, 2),
        "how": f"measured here: {UPDATES} updates, {STEPS} steps of {config.env.num_envs} environments",
    }


def _measure_there(
    env: Environment, config: Config, spec: EnvSpec, answer: dict[str, Any], note: Note
) -> dict[str, Any]:
    """Where environment and replay are on the device, in one program with the updates."""
    num_envs, agent = config.env.num_envs, make_agent(config, spec)
    update = update_speed(config, spec, UPDATES, note)
    program = make_program(config, agent, env, rows=answer["replay_records"] // num_envs, most=MOST)
    init, keys = jax.jit(program.init), jax.jit(make_keys)(np.uint32(config.seed % 2**32))
    note("compiling the whole training")
    lowered = jax.jit(program.run, donate_argnums=0).lower(*jax.eval_shape(init, keys), keys, np.int32(1))
    compile_s, run = seconds(lambda: lowered.compile(compiler_options()))
    found = {"update_ms": update["update_ms"], "program_bytes": held_bytes(run), "compile_s": round(compile_s, 1)}
    free = free_bytes(jax.local_devices()[0])
    if free is not None and found["program_bytes"] > free:
        return found
    steps = min(STEPS, MOST, max(1, begin_after(config) // num_envs - 2))
    note(f"measuring {steps} steps")
    (training, counters, _) = run(*init(keys), keys, np.int32(1))
    step_s = seconds(lambda: run(training, counters, keys, np.int32(steps)))[0] / steps
    hours = (answer["updates"] * update["update_ms"] / 1e3 + answer["agent_steps"] / num_envs * step_s) / 3600
    return found | {
        "frames_per_s_acting": round(num_envs * config.env.action_repeat / step_s, 1),
        "hours": round(hours, 2),
        "how": f"measured here: {UPDATES} updates, {steps} steps of {num_envs} environments on the device",
    }


def _work_out(config: Config, device: Accelerator, answer: dict[str, Any]) -> dict[str, Any]:
    dtype = "float32" if config.dtype == "float32" else "bfloat16"
    peak = getattr(device, dtype)
    seconds = max(1e9 * answer["update_gflop"] / (SHARE_OF_PEAK * peak), PRODUCT_SECONDS * answer["update_products"])
    how = (
        f"assumed: {SHARE_OF_PEAK:.0%} of {peak / 1e12:.0f} TFLOP/s in {dtype}, or {1e6 * PRODUCT_SECONDS:.0f} "
        f"us for each of {answer['update_products']:,} products, whichever is longer; environments not counted"
    )
    return {
        "update_ms": round(1e3 * seconds, 2),
        "hours": round(answer["updates"] * seconds / 3600, 2),
        "how": how,
    }


def _ring(config: Config, run_dir: Path, found: Preview, agent: Agent, env: Environment | None, on: str | None) -> Plan:
    """On the disk, or on the device with ``env``."""
    if env is not None:
        return device_ring_plan(config, found, agent, 1, None if on is None else ACCELERATORS[on].memory)
    return ring_plan(config, run_dir, found, agent, 1)


def _smaller_ring(
    config: Config, run_dir: Path, found: Preview, agent: Agent, env: Environment | None, on: str | None
) -> str:
    """The capacity, halved until it fits."""
    capacity = config.replay.capacity
    while (capacity := capacity // 2) > config.env.num_envs * (config.train.batch_length + 1):
        try:
            _ring(changed(config, {"replay.capacity": capacity}), run_dir, found, agent, env, on)
        except ConfigError:
            continue
        return f"--replay.capacity {capacity}"
    return "--run-dir on another disk" if env is None else "fewer --env.num_envs"


def _smaller_batch(config: Config, program_bytes: float, fixed: float, free: float) -> str:
    """What grows with the batch is what is not ``fixed``: state, and replay on the device."""
    share = (MEMORY_SHARE * free - fixed) / max(1, program_bytes - fixed)
    size = 2 ** math.floor(math.log2(max(share, 1e-9) * config.train.batch_size))
    return f"--train.batch_size {size}" if size >= 1 else "a smaller --size, or --rematerialize true"


def describe(answer: dict[str, Any]) -> Answer:
    """A table, and what does not fit with settings that do."""
    rows = [
        ("parameters", f"{answer['parameters']:,}"),
        ("parameters, optimiser, moments", _gb(answer["state_bytes"])),
        ("a batch", _gb(answer["batch_bytes"])),
        ("products of an update", f"{answer['update_gflop']:,.1f} GFLOP in {answer['update_products']:,}"),
    ]
    if "program_bytes" in answer:
        of = "update" if answer["where"] == "host" else "training, replay included"
        rows.append((f"memory of the compiled {of}", _gb(answer["program_bytes"])))
    if "replay_bytes" in answer:
        place = "disk" if answer["where"] == "host" else "the device"
        rows.append((f"replay on {place}", f"{_gb(answer['replay_bytes'])}, {answer['replay_records']:,} records"))
    rows.append(("agent steps, updates", f"{answer['agent_steps']:,}, {answer['updates']:,}"))
    if "update_ms" in answer:
        rows.append((f"an update on {answer['device']}", f"{answer['update_ms']:,.1f} ms"))
    if "hours" in answer:
        rows.append(("in all", f"{answer['hours']:,.2f} hours"))
    lines = [f"does not fit: {one['what']}\n  {one['fits']}" for one in answer["problems"]]
    how = [answer["how"]] if "how" in answer else []
    return [table((answer["task"], ""), rows), *how, *answer["notes"], *lines]


def _gb(count: float) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e8 else f"{count / 1e6:.3g} MB"
