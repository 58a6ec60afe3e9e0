"""The simulator itself as a world model, which knows everything: what a judgement must find perfect."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.evaluation.recordings import SIMULATOR, Recording
from dreamer_jax.evaluation.simulator import Simulator
from dreamer_jax.evaluation.subject import Subject
from dreamer_jax.interfaces import Agent, Behavior, Dynamics, Latent, WorldModel
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import Array, ArrayDict, Features, Mode, Noise, PolicyCarry, TimeStep, TrajectoryBatch

WORDS = 3
"""float32 numbers whose sum is a float64 number, exactly (24 bits each)."""


class OracleState(NamedTuple):
    words: Array  # [..., 3 Q] the simulator's state
    shown: Array  # [..., D] numbers of the observation, side by side
    reward: Array  # [..., 1]


def to_words(state: np.ndarray) -> np.ndarray:
    """A float64 array [..., Q] as float32 [..., 3 Q], without loss between 1e-20 and 1e30."""
    left, parts = np.asarray(state, np.float64), []
    for _ in range(WORDS):
        parts.append(left.astype(np.float32))
        left = left - parts[-1].astype(np.float64)
    return np.concatenate(parts, -1)


def from_words(words: np.ndarray) -> np.ndarray:
    parts = np.split(np.asarray(words, np.float64), WORDS, -1)
    return parts[0] + (parts[1] + parts[2])


def with_simulator(recordings: list[Recording]) -> list[Recording]:
    """The same recordings, whose observations have the simulator's state beside the numbers."""
    return [
        one._replace(columns=one.columns | {f"observation/{SIMULATOR}": to_words(one.simulator)})
        for one in recordings
        if one.simulator is not None
    ]


def oracle(simulator: Simulator) -> Subject:
    """Dynamics are those of the simulator, by a call to the host. Nothing of it is learnt, and it observes exactly.

    It acts by some function of the numbers that are shown, so that what it imagines can be compared with what comes.
    It takes recordings of numbers that ``with_simulator`` made.
    """
    spec = simulator.stream.env_spec
    width = WORDS * len(simulator.env.simulator_state())
    names = list(spec.observation)
    sizes = [spec.observation[name].size for name in names]
    total = sum(sizes)
    wide = EnvSpec(spec.observation | {SIMULATOR: ArraySpec((width,), "float32")}, spec.action)
    actions = {name: leaf.shape for name, leaf in spec.action.items()}

    def flat(observation: ArrayDict) -> jax.Array:
        parts = [jnp.asarray(observation[name]) for name in names]
        return jnp.concatenate(
            [
                x.reshape(*x.shape[: x.ndim - len(spec.observation[n].shape)], -1)
                for n, x in zip(names, parts, strict=True)
            ],
            -1,
        )

    def observe(params: Any, key: Array, rows: Array, batch: TrajectoryBatch) -> OracleState:
        words = jnp.asarray(batch.observation[SIMULATOR])
        return OracleState(words, flat(batch.observation), jnp.asarray(batch.reward)[..., None])

    def on_host(words: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        words, action = np.asarray(words), np.asarray(action)
        chosen, start = {}, 0
        for name, shape in actions.items():
            size = int(np.prod(shape))
            chosen[name] = action[:, start : start + size].reshape(-1, *shape)
            start += size
        found = simulator.step(from_words(words), chosen)
        shown = np.concatenate([found.observation[name].reshape(len(words), -1) for name in names], -1)
        return to_words(found.state), shown.astype(np.float32), found.reward[:, None]

    def imagine_step(params: Any, noise: Noise | None, state: OracleState, action: Array) -> OracleState:
        rows = state.words.shape[0]
        like = tuple(jax.ShapeDtypeStruct((rows, size), jnp.float32) for size in (width, total, 1))
        return OracleState(*jax.pure_callback(on_host, like, state.words, action))

    def features(state: OracleState) -> Features:
        return state.words, state.shown, state.reward

    def decode(params: Any, feat: Features) -> ArrayDict:
        parts = jnp.split(feat[1], np.cumsum(sizes)[:-1], -1)
        return {
            name: x.reshape(*x.shape[:-1], *spec.observation[name].shape) for name, x in zip(names, parts, strict=True)
        }

    wide_action = sum(leaf.size for leaf in spec.action.values())
    weights = np.random.default_rng(0).normal(size=(total, wide_action)).astype(np.float32)

    def choose(numbers: Array) -> ArrayDict:
        """The same way everywhere, whoever asks."""
        parts = jnp.split(jnp.tanh(numbers @ weights), np.cumsum([leaf.size for leaf in spec.action.values()])[:-1], -1)
        return {name: x.reshape(-1, *leaf.shape) for (name, leaf), x in zip(spec.action.items(), parts, strict=True)}

    def act(params: Any, key: Array, rows: Array, state: OracleState, memory: Any, mode: Mode) -> tuple[Any, ArrayDict]:
        return memory, choose(state.shown)

    def reset(params: Any, num_envs: int) -> PolicyCarry:
        return PolicyCarry((), {n: jnp.zeros((num_envs, *leaf.shape)) for n, leaf in spec.action.items()})

    def policy(
        params: Any, key: Array, carry: PolicyCarry, timestep: TimeStep, mode: Mode = "sample", env_offset: Array = 0
    ) -> tuple[PolicyCarry, ArrayDict, ArrayDict]:
        action = choose(flat(timestep.observation))
        return replace(carry, prev_action=action), action, {}

    def nothing(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("the simulator learns nothing and has no latent")

    def no_noise(key: Array, rows: Array, shape: tuple[int, ...]) -> Noise:
        return jnp.zeros((len(rows), *shape, 0))

    latent = Latent((0,), 0, nothing, no_noise, nothing, nothing, nothing, nothing, nothing)
    dynamics = Dynamics(
        init=nothing,
        initial=nothing,
        start=nothing,
        noise=no_noise,
        prior=nothing,
        posterior=nothing,
        observe=nothing,
        prior_stats=nothing,
        starts=lambda posterior: posterior,
        to_scan_carry=lambda state: state,
        features=features,
        redraw=nothing,
        exchange=nothing,
        compress=lambda state: {},
        expand=nothing,
        latent=latent,
        feature_widths=(width, total, 1),
    )
    model = WorldModel(
        init=lambda key: {},
        encode=nothing,
        filter=nothing,
        observe=observe,
        loss=nothing,
        action_vector=lambda action: jnp.concatenate(
            [jnp.asarray(x).reshape(*x.shape[: x.ndim - len(actions[n])], -1) for n, x in action.items()], -1
        ),
        imagine_step=imagine_step,
        predict=lambda params, feat: (feat[2][..., 0], jnp.ones_like(feat[2][..., 0])),
        decode=decode,
        dynamics=dynamics,
        latent_spec={},
    )
    behavior = Behavior(init=nothing, initial=lambda size: (), act=act, loss=nothing)
    agent = Agent(nothing, reset, policy, nothing, nothing, nothing, nothing, {})
    return Subject(
        "simulator", model, {"model": {}}, wide, symlog=False, behavior=behavior, agent=agent, reads_simulator=True
    )
