"""End-to-end reinforcement learning by sbx-rl, with the library's defaults but for smaller batches and networks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.serialization
import jax
import numpy as np

from comparison.adapter import Flat, motors, spec_of, vector
from comparison.protocol import MODEL_FREE, Frozen, Learnt, Protocol
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.datasets.collect import Actor
from dreamer_jax.envs.wrappers import open_stream
from dreamer_jax.evaluation.play import MakeActor
from dreamer_jax.evaluation.recordings import Recording
from dreamer_jax.files import replace_file
from dreamer_jax.specs import EnvSpec
from dreamer_jax.types import Array, TimeStep

UNITS, BATCH, BURST = [256, 256], 64, 10
"""Of every network, also of CrossQ's critics; and 10 updates of 64 records after every 10 actions instead of an update
of 256 after each: one program makes them, and a night is enough."""
TRAINING = 0
"""The purpose of these environments, as training has it everywhere."""
ACTOR = "actor.msgpack"
Variables = dict[str, Any]


def library() -> Any:
    """sbx.

    Raises:
      ConfigError: it is not installed.
    """
    try:
        import sbx
    except ImportError as error:
        raise ConfigError(
            f"methods {', '.join(MODEL_FREE)}: need a package: pip install 'dreamer-jax[baselines]' ({error})"
        ) from error
    return sbx


def make(protocol: Protocol, method: str, task: str, seed: int) -> Any:
    """The library's algorithm on our environment."""
    algorithm = getattr(library(), MODEL_FREE[method])
    env = Flat(open_stream(protocol.env(task), seed=seed, purpose=TRAINING, index=0))
    decisions = protocol.frames // protocol.action_repeat
    replay = {"buffer_size": decisions, "train_freq": BURST, "gradient_steps": BURST}
    kept = {"seed": seed, "device": "cpu", "batch_size": BATCH, "policy_kwargs": {"net_arch": UNITS}}
    return algorithm("MlpPolicy", env, **kept, **({} if method == "ppo" else replay))


def learn(protocol: Protocol, method: str, task: str, seed: int, folder: Path) -> Learnt:
    """Train from the start, keep the actor at the evaluations' frames, and leave the last one in ``folder``."""
    from stable_baselines3.common.callbacks import BaseCallback

    repeat = protocol.action_repeat
    wanted = [-(-frames // repeat) for frames in protocol.evaluated]
    found: dict[int, Variables] = {}

    class Snapshots(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps in wanted:
                found[self.num_timesteps] = variables_of(self.model)
            return self.num_timesteps < max(wanted)

    model = make(protocol, method, task, seed)
    wall, cpu = time.perf_counter(), time.process_time()
    model.learn(protocol.frames // repeat, callback=Snapshots())
    costs = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    costs |= {"updates": updates(model), "parameters": parameters(model)}
    model.env.close()
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / ACTOR, flax.serialization.to_bytes(found[max(wanted)]))
    select = greedy(model)
    curve = [(step * repeat, actor_of(select, found[step])) for step in wanted]
    versions = {name: metadata.version(name) for name in ("sbx-rl", "stable_baselines3")}
    return Learnt(curve, costs, {**versions, "units": UNITS, "gamma": model.gamma, "batch_size": BATCH})


def open_agent(protocol: Protocol, method: str, task: str, seed: int, folder: Path) -> Frozen:
    """A finished actor, whose features are its last hidden layer."""
    model = make(protocol, method, task, seed)
    model.env.close()
    spec = spec_of(protocol.env(task))
    variables = flax.serialization.from_bytes(variables_of(model), (folder / ACTOR).read_bytes())
    see = jax.jit(lambda x: hidden(model, variables, x))

    def features(recordings: Sequence[Recording]) -> np.ndarray:
        return features_of(spec, recordings, see)

    return Frozen(actor_of(greedy(model), variables), features)


def features_of(spec: EnvSpec, recordings: Sequence[Recording], see: Callable[[np.ndarray], Array]) -> np.ndarray:
    """What ``see`` makes of each observation [R, D] -> [R, F] of recordings, [N, T, F]; 0 after their ends."""
    rows = [
        np.asarray(see(vector(spec, {n: one.columns[f"observation/{n}"] for n in spec.observation}, 1)))
        for one in recordings
    ]
    longest = max(map(len, rows))
    return np.stack([np.pad(row, ((0, longest - len(row)), (0, 0))) for row in rows])


def variables_of(model: Any) -> Variables:
    """Of the actor, on the host."""
    state = model.policy.actor_state
    held = {"params": state.params, "batch_stats": state.batch_stats} if hasattr(state, "batch_stats") else state.params
    return jax.device_get(held)


def greedy(model: Any) -> Callable[[Variables, Array], jax.Array]:
    """``(variables, observations [E, D]) -> actions [E, A]``: the mode, compiled once for all variables."""
    actor, apply = model.policy.actor, type(model.policy.actor).apply  # its own apply is compiled and can't be traced
    return jax.jit(lambda variables, x: apply(actor, variables, x).mode())


def actor_of(select: Callable[[Variables, Array], Array], variables: Variables) -> MakeActor:
    """Acts greedily in any number of environments."""

    def make_actor(spec: EnvSpec, num_envs: int, rng: np.random.Generator) -> Actor:
        def act(timestep: TimeStep) -> Any:
            chosen = select(variables, vector(spec, timestep.observation, 1))
            return motors(spec, np.clip(np.asarray(chosen), -1, 1))

        return act

    return make_actor


def hidden(model: Any, variables: Variables, x: Array) -> jax.Array:
    """What the layer reads that puts the mean action out, [E, F]."""
    actor, seen = model.policy.actor, []
    mean = f"Dense_{len(UNITS)}"

    def watch(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.module.name == mean and context.method_name == "__call__":
            seen.append(args[0])
        return call(*args, **kwargs)

    with nn.intercept_methods(watch):
        type(actor).apply(actor, variables, x)
    return seen[0]


def updates(model: Any) -> int:
    """Steps of the optimisers; PPO itself counts passes through what it has collected."""
    batches = model.n_steps // model.batch_size if hasattr(model, "n_epochs") else 1
    return int(model._n_updates * batches)


def parameters(model: Any) -> int:
    """Of actor and critics, their slow copies apart."""
    policy = model.policy
    states = [getattr(policy, name, None) for name in ("actor_state", "qf_state", "qf1_state", "qf2_state", "vf_state")]
    return sum(x.size for state in states if state is not None for x in jax.tree.leaves(state.params))
