"""A policy learnt from demonstrations alone: which action did the best trained agent take?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax

from comparison.adapter import spaces_of, spec_of
from comparison.model_free import ACTOR, UNITS, Variables, actor_of, features_of
from comparison.protocol import CLONES, DEMONSTRATION_SEED, Frozen, Learnt, Protocol
from dreamer_jax.evaluation.forecasts import side_by_side
from dreamer_jax.evaluation.play import MakeActor, play
from dreamer_jax.evaluation.recordings import Recording
from dreamer_jax.evaluation.ridge import standardise
from dreamer_jax.files import replace_file
from dreamer_jax.specs import EnvSpec
from dreamer_jax.types import Array

BATCH, LEARNING_RATE, LONGEST = 256, 1e-3, 100_000


class Clone(nn.Module):
    """An MLP with the widths of the other methods' actors; it standardises observations by what it was shown."""

    actions: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[jax.Array, jax.Array]:
        """Actions [E, A] of observations [E, D], and the last hidden layer [E, F]."""
        width = (x.shape[-1],)
        mean, scale = (self.variable("shown", name, jnp.zeros, width).value for name in ("mean", "scale"))
        x = (x - mean) * scale
        for units in UNITS:
            x = nn.relu(nn.Dense(units)(x))
        return jnp.tanh(nn.Dense(self.actions)(x)), x


def demonstrations(protocol: Protocol, task: str, seed: int, count: int, actor: MakeActor) -> list[Recording]:
    """The first ``count`` episodes that an agent shows: those of fewer are among those of more."""
    found: list[Recording] = []
    for place in range(0, count, protocol.episodes):  # a few environments at a time
        number = min(protocol.episodes, count - place)
        drawn = int(np.random.SeedSequence([DEMONSTRATION_SEED + seed, place]).generate_state(1)[0])
        found += play(protocol.env(task), {"demonstrator": actor}, episodes=number, steps=LONGEST, seed=drawn)
    return found


def learn(
    protocol: Protocol, method: str, task: str, seed: int, folder: Path, demonstrator: str, actor: MakeActor
) -> Learnt:
    """Learn from episodes of ``actor``; a clone has no frames of its own."""
    count, spec = CLONES[method], spec_of(protocol.env(task))
    shown = demonstrations(protocol, task, seed, count, actor)
    wall, cpu = time.perf_counter(), time.process_time()
    variables = jax.device_get(fit(*rows_of(spec, shown), updates=protocol.clone_updates, seed=seed))
    costs = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    costs |= {"updates": protocol.clone_updates, "demonstrator_frames": protocol.frames}
    costs["parameters"] = sum(x.size for x in jax.tree.leaves(variables["params"]))
    costs["demonstration_frames"] = protocol.action_repeat * sum(one.length - 1 for one in shown)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / ACTOR, flax.serialization.to_bytes(variables))
    returns = [float(one.columns["reward"].sum()) for one in shown]
    settings = {"demonstrator": demonstrator, "demonstrations": count, "demonstrated": float(np.mean(returns))}
    return Learnt([(0, actor_of(select(spec), variables))], costs, settings)


def open_agent(protocol: Protocol, task: str, folder: Path) -> Frozen:
    """A finished clone, whose features are its last hidden layer."""
    spec = spec_of(protocol.env(task))
    model, like = _blank(spec)
    variables = flax.serialization.from_bytes(like, (folder / ACTOR).read_bytes())
    see = jax.jit(lambda x: model.apply(variables, x)[1])

    def features(recordings: Sequence[Recording]) -> np.ndarray:
        return features_of(spec, recordings, see)

    return Frozen(actor_of(select(spec), variables), features)


def rows_of(spec: EnvSpec, recordings: Sequence[Recording]) -> tuple[np.ndarray, np.ndarray]:
    """Observations [R, D] and the actions [R, A] taken there, but for the ends of episodes, where none was."""
    parts = [
        [{name: one.columns[f"{kind}/{name}"][:-1] for name in getattr(spec, kind)} for one in recordings]
        for kind in ("observation", "action")
    ]
    seen, done = (np.concatenate([side_by_side(one, 1) for one in part]).astype(np.float32) for part in parts)
    return seen, done


def fit(seen: np.ndarray, done: np.ndarray, *, updates: int, seed: int) -> Variables:
    """Least squares by Adam on batches drawn from all rows."""
    standard, model = standardise(seen), Clone(done.shape[1])
    shown = {"mean": jnp.asarray(standard.mean, jnp.float32), "scale": jnp.asarray(1 / standard.scale, jnp.float32)}
    init, draw = jax.random.split(jax.random.key(seed))
    params = jax.jit(model.init)(init, seen[:1])["params"]
    optimizer = optax.adam(LEARNING_RATE)

    def loss(params: Any, seen: Array, done: Array) -> jax.Array:
        guess, _ = model.apply({"params": params, "shown": shown}, seen)
        return jnp.square(guess - done).mean()

    @jax.jit
    def learn_all(params: Any, keys: Array, seen: Array, done: Array) -> Any:
        def update(carry: Any, key: Array) -> tuple[Any, None]:
            params, state = carry
            rows = jax.random.randint(key, (BATCH,), 0, len(seen))
            change, state = optimizer.update(jax.grad(loss)(params, seen[rows], done[rows]), state)
            return (optax.apply_updates(params, change), state), None

        return jax.lax.scan(update, (params, optimizer.init(params)), keys)[0][0]

    params = learn_all(params, jax.random.split(draw, updates), seen, done)
    return {"params": params, "shown": shown}


def select(spec: EnvSpec) -> Any:
    """``(variables, observations [E, D]) -> actions [E, A]``."""
    model, _ = _blank(spec)
    return jax.jit(lambda variables, x: model.apply(variables, x)[0])


def _blank(spec: EnvSpec) -> tuple[Clone, Variables]:
    seen, done = (space.shape for space in spaces_of(spec))
    model = Clone(done[0])
    return model, model.init(jax.random.key(0), jnp.zeros((1, *seen)))
