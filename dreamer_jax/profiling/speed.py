"""How long updates and decisions take here, and which machine that was."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from dreamer_jax.agent import compute_dtype, make_agent
from dreamer_jax.config.schema import Config
from dreamer_jax.devices.acting import make_act
from dreamer_jax.devices.data_parallel import Updates, axis_of, check_devices, compiler_options
from dreamer_jax.devices.memory import held_bytes
from dreamer_jax.envs.vector import make_envs
from dreamer_jax.processes.group import START_TIMEOUT, present
from dreamer_jax.profiling.flops import Work, count_work
from dreamer_jax.replay import record_bytes
from dreamer_jax.runs import directory as run_directory
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import TrajectoryBatch

Note = Callable[[str], None]

MOTORS, BUTTONS = {"action": ArraySpec((6,), "float32")}, {"action": ArraySpec((), "int32", 18)}
SPECS = {
    "proprio": EnvSpec({"state": ArraySpec((24,), "float32")}, MOTORS),
    "vision": EnvSpec({"image": ArraySpec((64, 64, 3), "uint8")}, MOTORS),
    "atari": EnvSpec({"image": ArraySpec((64, 64, 3), "uint8")}, BUTTONS),
}
"""Walker's states, its pictures, and a game of Atari100k."""


def random_windows(spec: EnvSpec, latents: dict[str, ArraySpec], size: int, length: int) -> TrajectoryBatch:
    """Windows [size, length] of random numbers, one start of an episode in each."""
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
        {name: draw(leaf, size) for name, leaf in latents.items()} or None,
    )


def update_work(config: Config, spec: EnvSpec) -> Work:
    """Of one update; it is traced, and nothing is compiled."""
    agent, key = make_agent(config, spec), jax.random.key(0)
    batch = random_windows(spec, agent.latent_spec, config.train.batch_size, config.train.batch_length)
    return count_work(agent.update, jax.eval_shape(agent.init, key), key, batch)


def product_speed(dtype: Any, repeats: int = 5) -> float:
    """Multiplications and additions a second of one large product of square matrices, which reaches the peak.

    Of one device of an accelerator; devices of a CPU share all of its cores, so theirs is that of the machine.
    """
    size = 2048 if jax.default_backend() == "cpu" else 8192
    product, x = jax.jit(lambda x: x @ x), jnp.ones((size, size), dtype)
    product(x).block_until_ready()
    return 2 * size**3 / (1e-3 * median(times_ms(lambda: product(x), repeats)[0]))


class Ready(NamedTuple):
    """A compiled update that goes on from its own last state: ``call`` makes ``updates`` of them on the device."""

    call: Callable[[], Any]
    updates: int
    facts: dict[str, Any]


def ready_update(
    config: Config,
    spec: EnvSpec,
    note: Note = lambda text: None,
    study: Callable[[jax.stages.Compiled], dict[str, Any]] = lambda compiled: {},
) -> Ready:
    """Seconds until the first update, what memory it takes, and the update itself, which has run once.

    Random windows as replay gives them, the state given away as in training, as many updates in one call as
    ``train.updates_per_dispatch`` says (by itself one). Of several processes each has its share of the windows; all
    have to call this. ``study`` adds what it finds in the compiled program.
    """
    train, key = config.train, jax.random.PRNGKey(0)
    devices, updates_each = check_devices(train.devices, train.batch_size), train.updates_per_dispatch or 1
    agent = make_agent(config, spec, axis_name=axis_of(devices))
    updates = Updates(agent, devices)
    note("initialising")
    init_s, state = seconds(lambda: jax.jit(agent.init)(key))
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    state = updates.place(state)
    batch = random_windows(spec, agent.latent_spec, train.batch_size // jax.process_count(), train.batch_length)
    batch = updates.put(jax.tree.map(lambda x: np.stack([x] * updates_each), batch))

    note("compiling the update")
    trace_s, lowered = seconds(lambda: updates.lower(state, key, batch))
    hits = _cache_hits()
    before = len(hits)
    compile_s, compiled = seconds(lambda: lowered.compile(compiler_options()))
    from_cache = len(hits) > before

    # A program for several processes takes their arrays together; pmap's own call takes each process's.
    call = compiled if jax.process_count() == 1 else updates.__call__

    def update() -> Any:
        nonlocal state
        state, results = call(state, key, batch)
        return state, results

    present(START_TIMEOUT).all_gather(None)  # programs find each other within 30 seconds, or fail
    first_s, _ = seconds(update)
    facts = {
        "updates_per_dispatch": updates_each,
        "first_update_ms": round(1e3 * first_s, 3),
        "init_s": round(init_s, 2),
        "trace_s": round(trace_s, 2),
        "compile_s": round(compile_s, 2),
        "from_cache": from_cache,
        "parameters": parameters,
        "replay_bytes_per_step": record_bytes(spec, agent.latent_spec),
        "compiled_memory_mb": round(devices * held_bytes(compiled) / 1e6, 1),
        **study(compiled),
    }
    return Ready(update, updates_each, facts)


def update_speed(
    config: Config,
    spec: EnvSpec,
    repeats: int,
    note: Note = lambda text: None,
    study: Callable[[jax.stages.Compiled], dict[str, Any]] = lambda compiled: {},
) -> dict[str, Any]:
    """Milliseconds of an update (median of ``repeats`` calls), compilation apart, and the facts of ``ready_update``.

    ``cpu_ms`` is what all threads of this process computed meanwhile, ``update_ms_each`` the single ones;
    ``share_of_peak`` is products a second, of those a second that a large product alone reaches here.
    """
    ready = ready_update(config, spec, note, study)
    note(f"measuring {repeats * ready.updates} updates")
    walls, cpus = ([value / ready.updates for value in times] for times in times_ms(ready.call, repeats))
    update_ms, cpu_ms = median(walls), median(cpus)
    train = config.train
    gflop = update_work(config, spec).flops / 1e9
    peak = product_speed(compute_dtype(config)) / 1e9
    if jax.default_backend() != "cpu":
        peak *= check_devices(train.devices) * jax.process_count()
    return {
        "update_ms": update_ms,
        "cpu_ms": cpu_ms,
        "update_ms_each": [round(value, 1) for value in walls],
        "transitions_per_s": round(1e3 * train.batch_size * train.batch_length / update_ms, 1),
        "update_gflop": round(gflop, 3),
        "gflop_per_s": round(1e3 * gflop / update_ms, 2),
        "peak_gflop_per_s": round(peak, 2),
        "share_of_peak": round(1e3 * gflop / update_ms / peak, 4),
        "peak_rss_mb": peak_rss_mb(),
        **ready.facts,
    }


def acting_speed(config: Config, num_envs: int, repeats: int, note: Note = lambda text: None) -> dict[str, Any]:
    """Milliseconds of a decision (median of ``repeats``), and frames a second of environments and of both.

    ``policy_ms`` is one call of the compiled policy until its actions are on the host.
    ``env_frames_per_s`` steps the environments with fixed actions, ``frames_per_s`` with the policy's;
    resets are included.

    Raises:
      ConfigError: there is no such environment here.
    """
    note(f"starting {num_envs} environments")
    envs = make_envs(replace(config.env, num_envs=num_envs), seed=0)
    try:
        agent = make_agent(config, envs.spec)
        root = jax.random.PRNGKey(0)
        state = jax.jit(agent.init)(root)
        act = make_act(agent, "sample")
        carry, timestep = agent.reset(state.params, num_envs), envs.reset()
        note("compiling the policy")
        compile_s, (_, action, _) = seconds(lambda: act(state.params, root, 0, carry, timestep))
        note(f"measuring {repeats} steps")
        policy_ms = median(times_ms(lambda: act(state.params, root, 1, carry, timestep), repeats)[0])

        def step_all() -> None:
            for _ in range(repeats):
                envs.step(action)

        def play() -> None:
            now, latent = timestep, carry
            for step in range(repeats):
                latent, chosen, _ = act(state.params, root, step, latent, now)
                now = envs.step(chosen)

        frames = repeats * num_envs * config.env.action_repeat
        step_s, play_s = seconds(step_all)[0], seconds(play)[0]
    finally:
        envs.close()
    return {
        "num_envs": num_envs,
        "vectorization": envs.vectorization,
        "policy_compile_s": round(compile_s, 2),
        "policy_ms": policy_ms,
        "env_frames_per_s": round(frames / step_s, 1),
        "frames_per_s": round(frames / play_s, 1),
    }


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """Wall-clock seconds until the result is ready, and the result."""
    start = time.perf_counter()
    result = jax.block_until_ready(function())
    return time.perf_counter() - start, result


def times_ms(function: Callable[[], Any], repeats: int) -> tuple[list[float], list[float]]:
    """Of each of ``repeats`` calls, wall-clock and of this process's processors; warm up before."""
    wall, cpu = [], []
    for _ in range(repeats):
        start = time.process_time()
        wall.append(1e3 * seconds(function)[0])
        cpu.append(1e3 * (time.process_time() - start))
    return wall, cpu


def median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 3)


@cache
def _cache_hits() -> list[str]:
    """Grows by one for each program that comes from the folder of compiled ones, from the first call on."""
    hits: list[str] = []

    def listen(event: str, **_: Any) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            hits.append(event)

    jax.monitoring.register_event_listener(listen)
    return hits


def machine() -> dict[str, Any]:
    """What numbers need to be compared: versions, device, and how busy the machine was before."""
    facts = {"versions": run_directory.versions(), **run_directory.machine()}
    return {**facts, "processor": _processor(), "load": round(os.getloadavg()[0], 2)}


def peak_rss_mb() -> float:
    """Most memory that this process has held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
