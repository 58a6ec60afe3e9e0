"""How fast does kenjyoung/dreamerv2_JAX train on the same task, in one program as well? One JSON line.

    git clone https://github.com/kenjyoung/dreamerv2_JAX
    pip install 'dreamer-jax[gymnax]' dm-haiku gym
    python benchmarks/on_device_peer.py dreamerv2_JAX --task gymnax/CartPole-v1
    python benchmarks/on_device.py --tasks gymnax/CartPole-v1 --num-envs 1

Batches, horizon, records replayed for each step, and numbers of latents are those of configs/on_device.yaml. It has one
environment, one width for everything and other losses (DreamerV2's), so that its ``parameters`` are not ours. The
checkout stays as it is: a function that JAX has renamed since gets its old name here, and as its wrapper knows only
older versions of gymnax, our environment is put behind the functions that it asks for. As in on_device.py
``frames_per_s`` is the median of several calls with updates, compilation apart.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from on_device import CONFIG
from train_step import commit

from dreamer_jax.config.loading import load
from dreamer_jax.config.schema import Config
from dreamer_jax.devices.huge_pages import restart_with_huge_pages
from dreamer_jax.envs.pure.suites import make
from dreamer_jax.interfaces.environment import Environment
from dreamer_jax.profiling.speed import machine, median, peak_rss_mb, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="of kenjyoung/dreamerv2_JAX")
    parser.add_argument("--config", default=str(CONFIG))
    parser.add_argument("--task", default="gymnax/CartPole-v1", help="of gymnax")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200, help="of the environment in each call")
    options = parser.parse_args()
    if not (options.checkout / "initialization.py").exists():
        parser.error(f"{options.checkout}: no checkout of kenjyoung/dreamerv2_JAX, which has initialization.py")
    jax.config.update("jax_enable_compilation_cache", False)
    before = machine()
    config = load(files=[options.config])
    found = measure(options, settings(config, options.steps))
    named = {"benchmark": "on_device", "program": "kenjyoung/dreamerv2_JAX", "commit": commit(options.checkout)}
    facts = {"task": options.task, "num_envs": 1, "seeds": 1, "train_ratio": config.train.train_ratio}
    print(json.dumps({**named, **facts, **found, **before}))


def settings(config: Config, steps: int) -> dict[str, Any]:
    """Ours in its names, and its own defaults; those that only change numbers are as in its ``config.json``."""
    train = config.train
    records = train.batch_size * train.batch_length
    return {
        "jax_env": True,
        "num_features": config.rssm.stoch,
        "feature_width": config.rssm.classes,
        "num_hidden_units": config.rssm.deter,
        "num_hidden_layers": config.policy.layers,
        "num_conv_filters": 16,
        "conv_depth": 3,
        "buffer_size": config.replay.capacity,
        "batch_size": train.batch_size,
        "sequence_length": train.batch_length,
        "rollout_length": config.behavior.imagination_length,
        "train_frequency": round(records / train.train_ratio),
        "eval_frequency": steps,
        "training_start_time": train.start_windows,
        "latent_type": "categorical",
        "binary_state": False,
        "no_conv": True,
        "maximize_nonterminal": True,
        "learn_reward_variance": False,
        "activation": "elu",
        "lmbda": 0.95,
        "discount": 0.99,
        "beta": 0.001,
        "model_alpha": 0.0002,
        "pi_alpha": 0.00004,
        "V_alpha": 0.0001,
        "eps_adam": 1e-5,
        "wd_adam": 1e-6,
        "grad_clip": 100,
        "target_update_frequency": 10,
        "KL_prior_weight": 0.08,
        "KL_posterior_weight": 0.02,
        "posterior_entropy_weight": 0.01,
        "reward_weight": 1.0,
        "termination_weight": 1.0,
        "state_prediction_weight": 1.0,
    }


class Wrapped:
    """One of our environments, of one observation and one choice, as its loop asks for it."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._shown, self._name = next(iter(env.spec.observation)), next(iter(env.spec.action))

    def num_actions(self) -> int:
        return self._env.spec.action[self._name].classes or 0

    def reset(self, key: Any) -> tuple[Any, Any]:
        state, observation = self._env.reset(key)
        return (state, observation[self._shown]), observation[self._shown]

    def get_observation(self, state: Any) -> Any:
        return state[1]

    def step(self, key: Any, state: Any, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        inner, found = self._env.step(key, state[0], {self._name: action})
        shown = found.observation[self._shown]
        return (inner, shown), shown, found.reward, found.terminated | found.truncated, {}


def measure(options: argparse.Namespace, named: dict[str, Any]) -> dict[str, Any]:
    """Its own interaction loop, called until updates have begun, and then timed."""
    jax.tree_map = jax.tree.map  # type: ignore[attr-defined]
    jax.tree_util.register_pytree_node(
        SimpleNamespace, lambda x: (tuple(x.__dict__.values()), tuple(x.__dict__)), lambda keys, x: _space(keys, x)
    )
    sys.path.insert(0, str(options.checkout.resolve()))
    from agent_environment_interaction_loop import (  # type: ignore[import-not-found]
        get_agent_environment_interaction_loop_function as make_loop,
    )
    from initialization import get_init_fns  # type: ignore[import-not-found]

    asked = SimpleNamespace(**named)
    init_state, init_functions = get_init_fns(Wrapped(make(options.task)), asked)
    state = init_state(jax.random.PRNGKey(0))
    # Kinds of numbers as a call leaves them, so that the next one is the same program.
    state = jax.tree.map(jnp.asarray, state)
    loop = jax.jit(make_loop(init_functions(), asked.eval_frequency, asked))
    compile_s, compiled = seconds(lambda: loop.lower(state).compile())
    while int(state.env_t) <= asked.training_start_time:
        state, _ = compiled(state)
    updates, times = int(state.opt_t), []
    for _ in range(options.repeats):
        took, (state, _) = seconds(lambda state=state: compiled(state))
        times.append(took)
    each = (int(state.opt_t) - updates) / options.repeats
    # Its optimiser keeps parameters with their two moments.
    held = [getattr(state, f"{name}_opt_state") for name in ("model", "pi", "V")]
    return {
        "frames_per_s": round(options.steps / median(times), 2),
        "updates_per_s": round(each / median(times), 3),
        "compile_s": round(compile_s, 2),
        "parameters": sum(x.size for x in jax.tree.leaves(held)) // 3,
        "peak_rss_mb": peak_rss_mb(),
    }


def _space(keys: tuple[str, ...], values: Any) -> SimpleNamespace:
    return SimpleNamespace(**dict(zip(keys, values, strict=True)))


if __name__ == "__main__":
    restart_with_huge_pages()  # as the command line does
    main()
