"""How long does a decision take, and how many frames a second do environments give? One JSON line.

    python benchmarks/acting.py --preset dreamer_v3 --size 1m --task dmc/walker_walk --num-envs 1 16

``policy_ms`` is one call of the compiled policy until its actions are on the host. ``env_frames_per_s``
steps the environments with fixed actions, ``frames_per_s`` with the policy's; resets are included.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

import jax
from measure import machine, median_ms, peak_rss_mb, seconds

from dreamer_jax.agent import make_agent
from dreamer_jax.config.loading import load
from dreamer_jax.config.presets import PRESETS, SIZES
from dreamer_jax.config.schema import Config
from dreamer_jax.envs.vector import make_envs
from dreamer_jax.training.acting import make_act


def measure(config: Config, num_envs: int, repeats: int) -> dict[str, Any]:
    envs = make_envs(dataclasses.replace(config.env, num_envs=num_envs), seed=0)
    try:
        agent = make_agent(config, envs.spec)
        root = jax.random.PRNGKey(0)
        _, state = seconds(lambda: jax.jit(agent.init)(root))
        act = make_act(agent, "sample")
        carry, timestep = agent.reset(state.params, num_envs), envs.reset()
        compile_s, (_, action, _) = seconds(lambda: act(state.params, root, 0, carry, timestep))
        policy_ms = median_ms(lambda: act(state.params, root, 1, carry, timestep), repeats)

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="dreamer_v3")
    parser.add_argument("--size", choices=SIZES, default="1m")
    parser.add_argument("--task", default="dmc/walker_walk")
    parser.add_argument("--num-envs", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=500)
    options = parser.parse_args()
    config = load(options.preset, options.size, overrides=[("dtype", options.dtype), ("env.task", options.task)])
    jax.config.update("jax_enable_compilation_cache", False)
    before = machine()
    results = [measure(config, num_envs, options.repeats) for num_envs in options.num_envs]
    named = {name: value for name, value in vars(options).items() if name != "num_envs"}
    print(json.dumps({"benchmark": "acting", **named, "results": results, "peak_rss_mb": peak_rss_mb(), **before}))


if __name__ == "__main__":
    main()
