"""A world model judged: what it is measured on, everything that is measured, and the controls."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from dreamer_jax.config.schema import Config, ConfigError
from dreamer_jax.datasets.collect import Actor, ornstein_uhlenbeck, uniform
from dreamer_jax.datasets.sources import open_sources
from dreamer_jax.evaluation import controls, decisions
from dreamer_jax.evaluation.collapse import Errors, class_bounds, class_use, latent_use
from dreamer_jax.evaluation.collapse import judge as judge_latents
from dreamer_jax.evaluation.episodes import Split, split_episodes
from dreamer_jax.evaluation.features import Observed, observe
from dreamer_jax.evaluation.fidelity import Section, fidelity, imagined, information
from dreamer_jax.evaluation.forecasts import forecasts
from dreamer_jax.evaluation.oracle import oracle, with_simulator
from dreamer_jax.evaluation.play import MakeActor, play, policy_of
from dreamer_jax.evaluation.recordings import Recording, fingerprint, of_source
from dreamer_jax.evaluation.robustness import robustness
from dreamer_jax.evaluation.simulator import Simulator
from dreamer_jax.evaluation.subject import Subject, untrained
from dreamer_jax.specs import EnvSpec

EPISODE_RECORDS = 250
OU_NOISE = 0.35
ACTED = 0.3
"""Deviation of the noise beside the actions of half of the policy's episodes."""


class Profile(NamedTuple):
    """How much is measured."""

    episodes: int  # in all, a quarter of them by the policy, a quarter with noise, the others random
    image_episodes: int
    samples: int
    starts: int
    image_starts: int
    contexts: tuple[int, ...]
    states: int  # for counterfactual actions and returns
    severities: tuple[int, ...]
    shifted_episodes: int


PROFILES = {
    "quick": Profile(24, 12, 8, 100, 60, (5,), 50, (2,), 3),
    "standard": Profile(60, 24, 16, 300, 200, (5, 25), 100, (1, 2, 3), 10),
    "full": Profile(120, 60, 16, 600, 300, (5, 25), 200, (1, 2, 3), 20),
}
IMAGINED, COUNTERFACTUAL, RETURNS = (1, 5, 15, 50), (5, 15), (15, 50)
"""Horizons in records."""
HORIZON = 50


class Judged(NamedTuple):
    report: dict[str, Any]
    recordings: list[Recording]
    observed: Observed
    split: Split


def reference_recordings(newest: Subject, config: Config, episodes: int, seed: int) -> list[Recording]:
    """Episodes that every checkpoint of a run is judged on: random, correlated noise, and its newest policy.

    Half of the policy's have noise beside its actions, so that they are more than one way through the task.
    """

    def correlated(spec: EnvSpec, count: int, rng: np.random.Generator) -> Actor:
        return ornstein_uhlenbeck(spec, count, rng, OU_NOISE)

    actors: dict[str, MakeActor] = {
        "random": uniform,
        "correlated noise": correlated,
        "policy": policy_of(newest, seed),
        "policy with noise": policy_of(newest, seed, ACTED),
    }
    each = max(3, episodes // len(actors))
    return play(config.env, actors, episodes=each, steps=EPISODE_RECORDS + 1, seed=seed)


def judge(
    subject: Subject,
    config: Config,
    recordings: list[Recording],
    profile: Profile,
    *,
    seed: int,
    note: Callable[[str], None] = lambda text: None,
) -> Judged:
    """All sections but those of robustness, and the controls of each; what a control voids is blank.

    Raises:
      ConfigError: the recordings are too few or too short.
    """
    images = any(leaf.image for leaf in subject.spec.observation.values())
    split = split_episodes([one.source for one in recordings], seed)
    if min(len(split.validation), len(split.test)) < 2:  # what is controlled with other episodes needs some
        sources = len({one.source for one in recordings})
        raise ConfigError(f"episodes: got {len(recordings)} of {sources} sources; a judgement takes 10 of one or more")
    test = [recordings[i] for i in split.test]
    context, enough = max(profile.contexts), sorted(one.length for one in test)[-min(3, len(test))]
    horizon = min(HORIZON, enough - context - 1)
    if horizon < 1:
        raise ConfigError(
            f"episodes: got {enough} records in the third longest; predictions take {context + 2} or more"
        )
    starts = profile.image_starts if images else profile.starts
    note("features and reconstructions")
    observed = observe(subject, recordings, seed)
    blank = None if subject.agent is None else untrained(subject, seed)
    floor = None if blank is None else observe(blank, recordings, seed)
    note("probes")
    report: dict[str, Any] = {}
    report["fidelity"], probes = fidelity(observed, floor, recordings, split, seed)
    report["information"] = information(probes, observed, recordings, split, seed)
    note("predictions")
    ahead = partial(
        forecasts,
        recordings=recordings,
        split=split,
        horizon=horizon,
        starts=starts,
        samples=profile.samples,
        seed=seed,
    )
    report["forecast"], made = ahead(subject, contexts=profile.contexts)
    windows, prediction = made[profile.contexts[-1]]
    report["imagined"] = imagined(probes, prediction, windows, test, IMAGINED, seed)
    report["reconstruction"] = reconstruction(observed, split)
    report["latents"] = latents(subject, config, observed, split)
    checks = controls.statistical_controls(seed)
    for target in probes:
        checks += controls.probe_controls(recordings, split, target, seed)
        break
    without = None if blank is None else ahead(blank, contexts=profile.contexts[:1])[0]
    other = None
    if test[0].simulator is not None:
        note("decisions")
        simulator = Simulator(config.env)
        try:
            counterfactual = partial(
                decisions.counterfactual,
                recordings=test,
                simulator=simulator,
                horizons=[h for h in COUNTERFACTUAL if h <= horizon],
                count=profile.states,
                context=profile.contexts[0],
                samples=profile.samples,
                seed=seed,
            )
            report["counterfactual"] = counterfactual(subject)
            if blank is not None:
                other = counterfactual(blank)
            if subject.agent is not None and config.behavior.method != "planner" and config.behavior.act == "policy":
                report["returns"] = _returns(subject, test, simulator, profile, horizon, seed)
            if not images:
                note("the simulator as a model")
                checks += _oracle_controls(simulator, recordings, split, counterfactual, horizon, seed)
        finally:
            simulator.close()
    if test[0].simulator is not None and subject.agent is not None and profile.severities:
        report["robustness"] = robustness(
            subject,
            config,
            recordings,
            probes,
            severities=profile.severities,
            episodes=profile.shifted_episodes,
            steps=EPISODE_RECORDS + 1,
            seed=seed,
            note=note,
        )
        rows = [row for shift in report["robustness"]["shifts"].values() for row in shift.values()]
        without_effect = sum(not row["took_effect"] for row in rows)
        checks.append(
            controls.at_most("shifts without effect", without_effect, 0, ("robustness",), "every shift is there")
        )
    if without is not None:
        checks += controls.untrained_controls(without, other)
    report["controls"] = {one.name: one.as_section() for one in checks}
    report["data"] = {
        "episodes": len(recordings),
        "records": sum(one.length for one in recordings),
        "sources": {
            name: sum(one.source == name for one in recordings) for name in sorted({o.source for o in recordings})
        },
        "hash": fingerprint(recordings),
        "split": {name: getattr(split, name).tolist() for name in Split._fields},
    }
    for section in sorted({name for one in checks if not one.passed for name in one.void} & report.keys()):
        report[section] = {"void": [one.name for one in checks if not one.passed and section in one.void]}
    return Judged(finite(report), recordings, observed, split)


def _returns(
    subject: Subject, test: Sequence[Recording], simulator: Simulator, profile: Profile, horizon: int, seed: int
) -> Section:
    found: Section = {}
    for length in [h for h in RETURNS if h <= horizon]:
        one = decisions.returns(
            subject,
            test,
            simulator,
            horizon=length,
            count=profile.states,
            context=profile.contexts[-1],
            samples=profile.samples,
            seed=seed,
        )
        found[str(length)] = one.as_section() | {"imagined": one.imagined.tolist(), "realised": one.realised.tolist()}
    return found


def _oracle_controls(
    simulator: Simulator,
    recordings: Sequence[Recording],
    split: Split,
    counterfactual: Callable[..., Section],
    horizon: int,
    seed: int,
) -> list[controls.Control]:
    """The simulator in the place of the model must come out perfect, or the judgement is wrong."""
    known = with_simulator(list(recordings))
    perfect = oracle(simulator)
    some = {"contexts": (1,), "horizon": min(horizon, 15), "starts": 10, "samples": 1, "seed": seed}
    section = forecasts(perfect, known, split, **some)[0]["1"]  # type: ignore[arg-type]
    effects = counterfactual(perfect, recordings=[known[i] for i in split.test], count=10, samples=1, context=1)
    says = "a perfect model is found to be perfect"
    return [
        controls.at_most("simulator: forecast error", max(section["numbers"]["nmse"]), 1e-10, ("forecast",), says),
        controls.at_most("simulator: reward error", max(section["reward"]["mse"]), 1e-10, ("forecast",), says),
        controls.at_least("simulator: counterfactual", min(effects["r2"]), 1 - 1e-6, ("counterfactual",), says),
    ]


def reconstruction(observed: Observed, split: Split) -> Section:
    """Mean square errors in unseen episodes, by state and observation."""
    real = observed.real[split.test]
    return {
        state: {name: float(error[split.test][real].mean()) for name, error in errors.items()}
        for state, errors in observed.errors.items()
    }


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
        found["verdict"] = judge_latents(use, Errors(*map(np.array, parts)), free_nats)
    if "logits" in posterior:
        classes = class_use(posterior["logits"], config.rssm.unimix)
        found |= {"information": classes.information.tolist(), "perplexity": classes.perplexity.tolist()}
        found["bounds"] = class_bounds(posterior["logits"].shape[-1], config.rssm.unimix)._asdict()
    return found


def finite(value: Any) -> Any:
    """The same for JSON: what is not a number is None, arrays are lists."""
    if isinstance(value, Mapping):
        return {str(name): finite(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [finite(x) for x in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def data_recordings(text: str, subject: Subject, episodes: int) -> list[Recording]:
    """Episodes of datasets, of which nothing can be simulated.

    Raises:
      ConfigError: they can't be read, or are of another environment.
    """
    found: list[Recording] = []
    for source in open_sources(text):
        if source.spec != subject.spec:
            raise ConfigError(f"--data: {source.name} has other observations or actions than {subject.name}")
        found += of_source(source, episodes, EPISODE_RECORDS + 1)
    return found
