"""Do the latents say anything? What posteriors tell, the bounds of that, and whether the decoder misses it."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from dreamer_jax import distributions
from dreamer_jax.analysis.predictions import COLLAPSED
from dreamer_jax.interfaces import Latent
from dreamer_jax.types import Array, Stats

Verdict = Literal["collapsed", "predictable", "used"]


class LatentUse(NamedTuple):
    """Of S latents over all records of test data, in nats. KL is raw: losses are clipped, which hides it."""

    kl: float  # of all latents together, mean of the records
    kl_each: np.ndarray  # [S]
    below_free_nats: float  # share of the records
    entropy_posterior: float  # of one latent, mean of all
    entropy_prior: float
    active: np.ndarray  # [S] bool, as the kind of latents tells

    @property
    def active_share(self) -> float:
        return float(self.active.mean())


class ClassUse(NamedTuple):
    """Of categorical latents, [S] each."""

    information: np.ndarray  # H(mean of q) - mean of H(q): what a latent tells about which record it is
    perplexity: np.ndarray  # exp H(mean of q): how many classes are in use


class Bounds(NamedTuple):
    """What entropy and KL of one categorical latent can be, in nats."""

    least_entropy: float  # of a class for sure
    most_entropy: float  # of all classes alike
    kl_to_uniform: float  # of a class for sure, to all alike
    kl_to_other: float  # of a class for sure, to another one for sure: no KL is higher


class Errors(NamedTuple):
    """Errors of reconstruction, of each observation or of one: [...] each."""

    posterior: Array
    permuted: Array  # with latents of another record
    prior: Array  # with latents predicted a step ahead
    deterministic: Array  # without latents


def latent_use(latent: Latent, posterior: Stats, prior: Stats, free_nats: float) -> LatentUse:
    """Of parameters of the distributions with any leading axes."""
    each = np.asarray(latent.divergence(posterior, prior), np.float64)
    each = each.reshape(-1, each.shape[-1])
    latents = each.shape[-1]
    return LatentUse(
        kl=float(each.sum(-1).mean()),
        kl_each=each.mean(0),
        below_free_nats=float((each.sum(-1) < free_nats).mean()),
        entropy_posterior=float(jnp.mean(latent.entropy(posterior))) / latents,
        entropy_prior=float(jnp.mean(latent.entropy(prior))) / latents,
        active=np.asarray(latent.active(posterior)),
    )


def class_use(logits: Array, unimix: float) -> ClassUse:
    """Of posteriors [..., S, K]."""
    posterior = distributions.categorical(jnp.asarray(logits), unimix)
    probs = posterior.distribution.probs
    mean = distributions.OneHot(probs=probs.reshape(-1, *probs.shape[-2:]).mean(0))
    return ClassUse(np.asarray(distributions.information(posterior)), np.exp(np.asarray(mean.entropy())))


def class_bounds(classes: int, unimix: float) -> Bounds:
    """With ``unimix`` of uniform a class for sure has ``p = 1 - u + u / K``, and each other one ``q = u / K``."""
    rest = unimix / classes
    sure = 1 - unimix + rest
    least = -sure * math.log(sure) - ((classes - 1) * rest * math.log(rest) if rest else 0)
    most = math.log(classes)
    apart = (sure - rest) * math.log(sure / rest) if rest else math.inf
    return Bounds(least, most, most - least, apart)


def judge(use: LatentUse, errors: Errors, free_nats: float) -> Verdict:
    """``collapsed`` if few latents are active and no error grows without them by more than a hundredth.

    A low KL alone is no collapse: a world that can be predicted leaves nothing to say (``predictable``: the mean is
    below free nats).
    """
    share, growth = COLLAPSED
    base = np.maximum(np.asarray(errors.posterior, np.float64), 1e-12)
    missed = any((np.asarray(other) / base - 1 >= growth).any() for other in errors[1:])
    if use.active_share < share and not missed:
        return "collapsed"
    return "predictable" if use.kl < free_nats else "used"
