"""Does a model put policies in the order of what they are worth? Imagined and real returns of several of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.config.schema import EnvConfig
from dreamer_jax.datasets.collect import uniform
from dreamer_jax.evaluation.agreement import spearman
from dreamer_jax.evaluation.closed_loop import play_on, restored, watch
from dreamer_jax.evaluation.features import image_names
from dreamer_jax.evaluation.fidelity import Section
from dreamer_jax.evaluation.intervals import bootstrap_rows
from dreamer_jax.evaluation.open_loop import predict
from dreamer_jax.evaluation.play import MakeActor, play, policy_of
from dreamer_jax.evaluation.recordings import Recording, Windows, cut
from dreamer_jax.evaluation.simulator import Simulator
from dreamer_jax.evaluation.subject import Subject
from dreamer_jax.interfaces import Behavior
from dreamer_jax.ops.transforms import symexp
from dreamer_jax.specs import EnvSpec
from dreamer_jax.types import Array, ArrayDict, LatentState, Mode, TimeStep

NOISES = (0.0, 0.1, 0.3, 0.6, 1.0)
"""Beside the policy's likeliest actions: a deviation of numbers, a chance of another choice."""
STRENGTHS = (*NOISES, math.nan)
"""The last one is that of actions at random."""
RANDOM = "random"
EPISODES = 5
"""Of each policy, where no state can be set."""


class Disturbance(NamedTuple):
    """What becomes of actions [R, ...]: the same in imagination and in the simulator, so that they can be compared."""

    spec: EnvSpec
    strength: np.ndarray  # [R], NaN for actions at random
    normal: ArrayDict  # {name: [R, H, ...]}
    other: ArrayDict  # actions at random
    chance: np.ndarray  # [R, H] uniform in [0, 1)

    def __call__(self, action: ArrayDict, step: Any) -> ArrayDict:
        found = {}
        random = jnp.isnan(self.strength)
        for name, leaf in self.spec.action.items():
            shape = (-1, *(1,) * len(leaf.shape))
            draws = self.normal[name], self.other[name], self.chance
            normal, other, chance = (jnp.asarray(x)[:, step] for x in draws)
            if leaf.classes:
                changed, swap = action[name], random | (chance < self.strength)
            else:
                noise = jnp.nan_to_num(self.strength).reshape(shape) * normal
                changed, swap = jnp.clip(action[name] + noise, -1, 1), random
            found[name] = jnp.where(swap.reshape(shape), other, changed).astype(leaf.dtype)
        return found


def disturbance(spec: EnvSpec, count: int, horizon: int, seed: int) -> Disturbance:
    """For ``count`` states under each of ``STRENGTHS``, one behind the other; each has the same draws."""
    rng = np.random.default_rng([seed, 3])
    draw = uniform(spec, count, rng)
    none: Any = None
    rows = [draw(none) for _ in range(horizon)]
    normal = {name: rng.normal(size=(count, horizon, *leaf.shape)) for name, leaf in spec.action.items()}
    other = {name: np.stack([row[name] for row in rows], 1) for name in spec.action}
    chance = rng.random((count, horizon))
    return Disturbance(spec, np.repeat(np.array(STRENGTHS, np.float32), count), *_repeat((normal, other, chance)))


def ranking(
    subject: Subject,
    earlier: Mapping[str, Subject],
    recordings: Sequence[Recording],
    simulator: Simulator,
    *,
    horizon: int,
    count: int,
    context: int,
    samples: int,
    discount: float,
    seed: int,
) -> Section:
    """Mean returns over ``horizon`` records from the same states, and Spearman's correlation of the two orders.

    The policies are the subject's own likeliest actions under noise, actions at random, and other checkpoints, which
    see what the model decodes.

    Args:
      discount: what the model's probability of going on includes where an episode goes on for sure.
    """
    windows = cut(recordings, subject.spec, context=context, horizon=horizon, count=count, seed=seed)
    states = restored(recordings, windows)
    some: dict[str, Any] = {"horizon": horizon, "samples": samples, "discount": discount, "seed": seed}
    names, imagined = _imagined_under_noise(subject, windows, **some)
    change = jax.jit(partial(Disturbance.__call__, disturbance(subject.spec, len(states), horizon, seed)))
    played = play_on(
        subject,
        _repeat(windows),
        _repeat(states),
        simulator,
        horizon=horizon,
        seed=seed,
        mode="mode",
        change=lambda action, step: jax.device_get(change(action, np.int32(step))),
    )
    realised = np.split(played.reward.sum(1, np.float64), len(STRENGTHS))
    for name, other in earlier.items():
        names.append(name)
        imagined.append(_imagine(looking(subject, other, windows, seed), windows, **some))
        played = play_on(other, windows, states, simulator, horizon=horizon, seed=seed, mode="mode")
        realised.append(played.reward.sum(1, np.float64))
    return as_section(names, np.stack(imagined, 1), np.stack(realised, 1), windows.episode, seed) | {"horizon": horizon}


def _repeat(rows: Any) -> Any:
    """Once for each strength, one behind the other."""
    return jax.tree.map(lambda x: np.concatenate([x] * len(STRENGTHS)), rows)


def _imagined_under_noise(
    subject: Subject, windows: Windows, *, horizon: int, samples: int, discount: float, seed: int
) -> tuple[list[str], list[np.ndarray]]:
    """Names, and returns [S] each, all at once."""
    change = disturbance(subject.spec, len(windows.start), horizon, seed)
    noisy = subject._replace(behavior=disturbed(subject, change))
    rows = _imagine(noisy, _repeat(windows), horizon=horizon, samples=samples, discount=discount, seed=seed)
    names = [f"policy, noise {noise:g}" if noise else "policy" for noise in NOISES]
    return [*names, RANDOM], np.split(rows, len(STRENGTHS))


def ranking_of_episodes(
    subject: Subject,
    earlier: Mapping[str, Subject],
    config: EnvConfig,
    recordings: Sequence[Recording],
    *,
    horizon: int,
    count: int,
    context: int,
    steps: int,
    samples: int,
    discount: float,
    seed: int,
) -> Section:
    """As ``ranking`` where no state can be set: real returns are those of episodes, their first ``steps`` records.

    Only the orders can be compared. The interval is over real episodes.
    """
    windows = cut(recordings, subject.spec, context=context, horizon=horizon, count=count, seed=seed)
    some: dict[str, Any] = {"horizon": horizon, "samples": samples, "discount": discount, "seed": seed}
    names, imagined = _imagined_under_noise(subject, windows, **some)
    actors: dict[str, MakeActor] = {
        name: uniform if np.isnan(strength) else policy_of(subject, seed, strength, "mode")
        for name, strength in zip(names, STRENGTHS, strict=True)
    }
    for name, other in earlier.items():
        imagined.append(_imagine(looking(subject, other, windows, seed), windows, **some))
        actors[name] = policy_of(other, seed, mode="mode")
    played = play(config, actors, episodes=EPISODES, steps=steps, seed=seed)
    realised = [
        [one.columns["reward"].sum(dtype=np.float64) for one in played if one.source == name] for name in actors
    ]
    means = np.broadcast_to(np.mean(imagined, 1), (EPISODES, len(actors)))
    found = as_section(list(actors), means, np.array(realised).T, np.arange(EPISODES), seed)
    return found | {"states": len(windows.start), "episodes": EPISODES}


def as_section(
    names: Sequence[str], imagined: np.ndarray, realised: np.ndarray, episode: np.ndarray, seed: int
) -> Section:
    """Of returns [S, P] of policies from states; ``regret`` is what the best one has more than the one chosen."""

    def order(imagined: np.ndarray, realised: np.ndarray) -> np.ndarray:
        return np.array(spearman(imagined.mean(0), realised.mean(0)))

    found = bootstrap_rows(order, imagined, realised, episode=episode, seed=seed)
    means = imagined.mean(0), realised.mean(0)
    return {
        "states": len(imagined),
        "spearman": float(found.value),
        "ci95": [float(found.low), float(found.high)],
        "regret": float(means[1].max() - means[1][means[0].argmax()]),
        "policies": {
            name: {"imagined": float(own), "realised": float(real)}
            for name, own, real in zip(names, *means, strict=True)
        },
    }


def _imagine(
    subject: Subject, windows: Windows, *, horizon: int, samples: int, discount: float, seed: int
) -> np.ndarray:
    """Returns [S], in which a reward counts as likely as its episode lasts until then."""
    prediction = predict(subject, windows, samples=samples, seed=seed, policy=True)
    lasts = np.minimum(prediction.going_on[..., :-1].astype(np.float64) / discount, 1)
    weight = np.concatenate([np.ones_like(lasts[..., :1]), np.cumprod(lasts, -1)], -1)
    return np.asarray((weight * prediction.reward)[..., :horizon].sum(-1).mean(0))


def disturbed(subject: Subject, change: Disturbance) -> Behavior:
    """The subject's likeliest actions, changed."""
    inner = subject.behavior
    assert inner is not None

    def act(params: Any, key: Array, rows: Array, state: LatentState, memory: Any, mode: Mode) -> Any:
        before, step = memory
        before, action = inner.act(params, key, rows, state, before, "mode")
        return (before, step + 1), change(action, step)

    return inner._replace(initial=lambda size: (inner.initial(size), jnp.zeros((), jnp.int32)), act=act)


def sees_all(subject: Subject) -> bool:
    """Whether the model decodes all that an agent would see."""
    spec = subject.spec.observation
    features = [jnp.zeros((1, 1, width)) for width in subject.model.dynamics.feature_widths]
    decoded = jax.eval_shape(subject.model.decode, subject.params["model"], tuple(features))
    return decoded.keys() >= spec.keys() and not any(leaf.discrete for leaf in spec.values())


def looking(subject: Subject, other: Subject, windows: Windows, seed: int) -> Subject:
    """The subject, in whose imagination another checkpoint acts: that knows the records before, and sees what is
    decoded. What differs between checkpoints is among the parameters, so that all are one compiled program.
    """
    agent, inner = other.agent, subject.behavior
    assert agent is not None and inner is not None
    before = jax.tree.map(lambda x: x[:, :-1], windows.seen)
    carry = watch(other, before, seed, "mode")[0]
    carry = replace(carry, prev_action={name: x[:, -1] for name, x in windows.seen.prev_action.items()})
    nothing = jax.tree.map(jnp.zeros_like, carry)

    def act(params: Any, key: Array, rows: Array, state: LatentState, memory: Any, mode: Mode) -> Any:
        known, step = memory
        known = jax.tree.map(lambda first, now: jnp.where(step == 0, first, now), params["other"]["carry"], known)
        features = jax.tree.map(lambda x: x[:, None], subject.model.dynamics.features(state))
        decoded = subject.model.decode(params["model"], features)
        shown = {name: _as_shown(subject, name, decoded[name][:, 0]) for name in subject.spec.observation}
        none = jnp.zeros(len(rows), bool)
        timestep = TimeStep(shown, jnp.zeros(len(rows)), none, none, none)
        known, action, _ = agent.policy(params["other"]["params"], key, known, timestep, "mode")
        return (known, step + 1), action

    params = subject.params | {"other": {"params": other.params, "carry": carry}}
    behavior = inner._replace(initial=lambda size: (nothing, jnp.zeros((), jnp.int32)), act=act)
    return subject._replace(params=params, behavior=behavior)


def _as_shown(subject: Subject, name: str, decoded: Array) -> Array:
    """As an environment shows it."""
    if name in image_names(subject):
        return jnp.clip(jnp.rint(255 * decoded), 0, 255).astype(jnp.uint8)
    return symexp(decoded) if subject.symlog else decoded
