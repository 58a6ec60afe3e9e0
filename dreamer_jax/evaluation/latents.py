"""What the latents of a model are used for, and what it makes of what it has just seen."""

from __future__ import annotations

import jax
import numpy as np

from dreamer_jax.config.schema import Config
from dreamer_jax.evaluation.collapse import Errors, class_bounds, class_use, judge, latent_use
from dreamer_jax.evaluation.episodes import Split
from dreamer_jax.evaluation.features import Observed
from dreamer_jax.evaluation.fidelity import Section
from dreamer_jax.evaluation.subject import Subject


def reconstruction(observed: Observed, split: Split) -> Section:
    """Mean square errors in unseen episodes, by state and observation."""
    real = observed.real[split.test]
    return {
        state: {name: float(error[split.test][real].mean()) for name, error in errors.items()}
        for state, errors in observed.errors.items()
    }


def reconstructed(observed: Observed, split: Split) -> list[float]:
    """The mean error of each unseen episode, all observations alike."""
    errors = [error[split.test] for error in observed.errors["posterior"].values()]
    real = observed.real[split.test]
    return [float(np.mean([error[row][real[row]] for error in errors])) for row in range(len(real))] if errors else []


def latents(subject: Subject, config: Config, observed: Observed, split: Split) -> Section:
    """What the latents are used for, and whether they have collapsed."""
    real = observed.real[split.test]
    posterior, prior = (
        jax.tree.map(lambda x: x[split.test][real], stats) for stats in (observed.posterior, observed.prior)
    )
    free_nats = config.kl.free_nats
    use = latent_use(subject.model.dynamics.latent, posterior, prior, free_nats)
    errors = reconstruction(observed, split)
    found: Section = {
        "kl": use.kl,
        "kl_each": use.kl_each.tolist(),
        "below_free_nats": use.below_free_nats,
        "entropy_posterior": use.entropy_posterior,
        "entropy_prior": use.entropy_prior,
        "active": int(use.active.sum()),
        "latents": len(use.active),
        "errors": errors,
    }
    if errors["posterior"]:
        parts = (list(errors[name].values()) for name in ("posterior", "permuted", "prior", "deterministic"))
        found["verdict"] = judge(use, Errors(*map(np.array, parts)), free_nats)
    if "logits" in posterior:
        classes = class_use(posterior["logits"], config.rssm.unimix)
        found |= {"information": classes.information.tolist(), "perplexity": classes.perplexity.tolist()}
        found["bounds"] = class_bounds(posterior["logits"].shape[-1], config.rssm.unimix)._asdict()
    return found
