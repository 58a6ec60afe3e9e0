"""What a world model makes of recorded episodes: its features, its latents' distributions, what it decodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.evaluation.recordings import SIMULATOR, Recording, as_batch
from dreamer_jax.evaluation.subject import Subject
from dreamer_jax.ops.transforms import symexp
from dreamer_jax.types import Array, ArrayDict, Stats, TrajectoryBatch

ROWS, IMAGE_ROWS = 64, 4
"""Episodes that a model sees at a time, of numbers and of images."""


class Observed(NamedTuple):
    """``N`` episodes of ``T`` records as a model sees them.

    ``features`` by name [N, T, d] are ``tokens``, ``deter``, ``stoch`` (expected, not drawn), ``state`` (both) and
    ``prior`` (the state with the latent of one step before its observation). Errors [N, T] by observation are those of
    decoding the ``posterior``, the ``prior``, and states with another episode's latent (``permuted``), with none
    (``deterministic``), or with another episode's everything else (``latent``).
    """

    real: np.ndarray  # [N, T] bool: which records there are
    features: dict[str, np.ndarray]
    posterior: Stats  # [N, T, ...]
    prior: Stats
    errors: dict[str, dict[str, np.ndarray]]
    decoded: np.ndarray | None  # [N, T, D] numbers in the environment's units
    reward: np.ndarray  # [N, T] expected


def observe(subject: Subject, recordings: Sequence[Recording], seed: int) -> Observed:
    """Everything that is seen at once, chunk by chunk."""
    batch, real = as_batch(recordings, subject.spec)
    images = any(leaf.image for leaf in subject.spec.observation.values())
    size = IMAGE_ROWS if images else ROWS
    see = jax.jit(_observer(subject))
    key, found = jax.random.key(seed), []
    for start in range(0, len(recordings), size):
        rows = np.arange(start, start + size) % len(recordings)  # of one shape, so that it is compiled once
        chunk = jax.tree.map(lambda x, rows=rows: x[rows], batch)
        wanted = min(size, len(recordings) - start)
        seen = jax.device_get(see(subject.params["model"], key, rows, chunk))
        found.append(jax.tree.map(lambda x, wanted=wanted: np.asarray(x[:wanted]), seen))
    return Observed(real, **jax.tree.map(lambda *parts: np.concatenate(parts), *found))


def _observer(subject: Subject) -> Callable[..., dict[str, Any]]:
    model, dynamics = subject.model, subject.model.dynamics
    latent = dynamics.latent

    def expected(stats: Stats, drawn: Array) -> jax.Array:
        return jnp.asarray(drawn if latent.mean is None else latent.mean(stats))

    def flat(x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:2], -1)

    def see(params: Any, key: Array, rows: Array, batch: TrajectoryBatch) -> dict[str, Any]:
        _, aux = model.loss(params, key, rows, batch)
        *others, drawn = dynamics.features(aux.posterior)
        noise = dynamics.noise(jax.random.fold_in(key, 1), rows, batch.reward.shape[1:])
        redrawn = dynamics.redraw(aux.posterior, aux.prior_stats, noise)
        mean = expected(aux.posterior_stats, drawn)
        deter = jnp.concatenate(others, -1) if others else jnp.zeros((*drawn.shape[:2], 0))
        before = flat(expected(aux.prior_stats, dynamics.features(redrawn)[-1]))
        features = {"tokens": flat(aux.tokens), "deter": deter, "stoch": flat(mean)}
        features |= {"state": jnp.concatenate([deter, flat(mean)], -1), "prior": jnp.concatenate([deter, before], -1)}
        rolled = jax.tree.map(lambda x: jnp.roll(x, 1, 0), aux.posterior)
        states = {
            "posterior": aux.posterior,
            "prior": redrawn,
            "permuted": dynamics.exchange(aux.posterior, rolled),
            "deterministic": dynamics.exchange(aux.posterior, jax.tree.map(jnp.zeros_like, aux.posterior)),
            "latent": dynamics.exchange(rolled, aux.posterior),
        }
        outputs = {name: model.decode(params, dynamics.features(state)) for name, state in states.items()}
        reward, _ = model.predict(params, dynamics.features(aux.posterior))
        return {
            "features": features,
            "posterior": aux.posterior_stats,
            "prior": aux.prior_stats,
            "errors": {name: square_errors(subject, output, batch) for name, output in outputs.items()},
            "decoded": numbers(subject, outputs["posterior"]),
            "reward": reward,
        }

    return see


def number_names(subject: Subject) -> list[str]:
    """Observations of numbers that the model decodes, in the order of their declaration."""
    leaves = subject.spec.observation.items()
    return [name for name, leaf in leaves if not leaf.image and not leaf.discrete and name != SIMULATOR]


def image_names(subject: Subject) -> list[str]:
    return [name for name, leaf in subject.spec.observation.items() if leaf.image]


def numbers(subject: Subject, decoded: ArrayDict) -> jax.Array | None:
    """All decoded numbers side by side [N, T, D] in the environment's units; None where there are none."""
    parts = [decoded[name] for name in number_names(subject) if name in decoded]
    if not parts:
        return None
    flat = jnp.concatenate([jnp.asarray(x).reshape(*x.shape[:2], -1) for x in parts], -1)
    return symexp(flat) if subject.symlog else flat


def shown_numbers(subject: Subject, observation: ArrayDict) -> np.ndarray:
    """What ``numbers`` should be, [N, T, D]."""
    parts = [np.asarray(observation[name], np.float32) for name in number_names(subject)]
    return np.concatenate([x.reshape(*x.shape[:2], -1) for x in parts], -1)


def square_errors(subject: Subject, decoded: ArrayDict, batch: TrajectoryBatch) -> dict[str, jax.Array]:
    """Mean square of each decoded observation, [N, T]: numbers in the environment's units, images in [0, 1]."""
    found = {}
    for name, leaf in subject.spec.observation.items():
        if name not in decoded or leaf.discrete:
            continue
        target, output = jnp.asarray(batch.observation[name], jnp.float32), decoded[name]
        if leaf.image:
            target = target / 255
        elif subject.symlog:
            output = symexp(output)
        found[name] = jnp.square(output - target).reshape(*target.shape[:2], -1).mean(-1)
    return found
