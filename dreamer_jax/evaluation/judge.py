"""A world model judged: what it is measured on, everything that is measured, and the controls."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from dreamer_jax.config.schema import Config, ConfigError
from dreamer_jax.datasets.collect import Actor, ornstein_uhlenbeck, uniform
from dreamer_jax.datasets.sources import open_sources
from dreamer_jax.evaluation import controls, decisions, policies, values
from dreamer_jax.evaluation.appearance import appearance
from dreamer_jax.evaluation.episodes import Split, split_episodes
from dreamer_jax.evaluation.features import Observed, image_names, observe
from dreamer_jax.evaluation.fidelity import Section, fidelity, imagined, information
from dreamer_jax.evaluation.forecasts import forecasts
from dreamer_jax.evaluation.latents import latents, reconstructed, reconstruction
from dreamer_jax.evaluation.oracle import oracle, with_simulator
from dreamer_jax.evaluation.overfitting import Replayed, overfitting
from dreamer_jax.evaluation.play import MakeActor, play, policy_of
from dreamer_jax.evaluation.probes import Probed
from dreamer_jax.evaluation.profiles import Profile
from dreamer_jax.evaluation.recordings import Recording, fingerprint, of_source
from dreamer_jax.evaluation.robustness import robustness
from dreamer_jax.evaluation.simulator import Simulator
from dreamer_jax.evaluation.subject import Subject, untrained
from dreamer_jax.specs import EnvSpec

EPISODE_RECORDS = 250
OU_NOISE = 0.35
ACTED = 0.3
"""Deviation of the noise beside the actions of half of the policy's episodes."""


IMAGINED, COUNTERFACTUAL, RETURNS = (1, 5, 15, 50), (5, 15), (15, 50)
"""Horizons in records."""
HORIZON = 50
POLICY = "policy"
"""The source of its episodes without noise."""


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
        POLICY: policy_of(newest, seed),
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
    newest: bool = True,
    earlier: Mapping[str, Subject] | None = None,
    known: Replayed | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Judged:
    """All sections, and the controls of each; what a control voids is blank.

    Args:
      newest: whether the policy's episodes in ``recordings`` are the subject's own.
      earlier: other checkpoints by name, whose policies are put in order with its own.
      known: episodes that it was trained on.

    Raises:
      ConfigError: the recordings are too few or too short.
    """
    profile = profile.suiting(subject)
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
    starts = profile.starts
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
    report["reconstruction"] = reconstruction(observed, split) | {"by_episode": reconstructed(observed, split)}
    report["latents"] = latents(subject, config, observed, split)
    checks = controls.statistical_controls(seed)
    checks += controls.probe_controls(recordings, split, next(iter(probes)), seed)
    without = None if blank is None else ahead(blank, contexts=profile.contexts[:1])[0]
    if known is not None:
        report["overfitting"] = overfitting(subject, known, test, starts=starts, context=profile.contexts[0], seed=seed)
    other = None
    simulated = test[0].simulator is not None
    if simulated:
        simulator = Simulator(config.env)
        try:
            some, other, more = _simulated(
                subject, blank, config, recordings, split, probes, simulator, profile, horizon, earlier, seed, note
            )
        finally:
            simulator.close()
        report |= some
        checks += more
    if subject.agent is not None:
        if "value" not in report:
            note("the critic")
            report["value"] = _value_in_episodes(subject, config, recordings, profile, newest, seed)
        if "ranking" not in report and profile.ranked:
            note("the order of policies")
            report["ranking"] = _ranking_of_episodes(subject, config, recordings, earlier, profile, horizon, seed)
    if simulated and subject.agent is not None and profile.severities:
        report["robustness"] = robustness(
            subject,
            config,
            recordings,
            probes,
            severities=profile.severities,
            episodes=profile.shifted_episodes,
            steps=EPISODE_RECORDS + 1,
            costly=profile.costly,
            seed=seed,
            note=note,
        )
    for section in ("robustness", "appearance"):
        if section in report:
            rows = [row for shift in report[section]["shifts"].values() for row in shift.values()]
            count = sum(not row["took_effect"] for row in rows)
            name = f"shifts without effect, {section}"
            checks.append(controls.at_most(name, count, 0, (section,), "every shift is there"))
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


def _simulated(
    subject: Subject,
    blank: Subject | None,
    config: Config,
    recordings: Sequence[Recording],
    split: Split,
    probes: Mapping[str, Probed],
    simulator: Simulator,
    profile: Profile,
    horizon: int,
    earlier: Mapping[str, Subject] | None,
    seed: int,
    note: Callable[[str], None],
) -> tuple[Section, Section | None, list[controls.Control]]:
    """Sections that take a simulator whose state can be set; effects of actions on an untrained model; controls."""
    found: Section = {}
    checks: list[controls.Control] = []
    test = [recordings[i] for i in split.test]
    images = bool(image_names(subject))
    some: dict[str, Any] = {"context": profile.contexts[-1], "seed": seed}
    note("decisions")
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
    found["counterfactual"] = counterfactual(subject)
    other = None if blank is None else counterfactual(blank)
    if subject.agent is not None and not _planned(config):
        found["returns"] = {}
        for length in [h for h in RETURNS if h <= horizon]:
            one = decisions.returns(
                subject, test, simulator, horizon=length, count=profile.states, samples=profile.samples, **some
            )
            found["returns"][str(length)] = one.as_section(seed)
    if subject.agent is not None and profile.value_records and not isinstance(subject.critic, str):
        note("the critic")
        many = {"most": profile.value_records, "count": profile.value_states}
        found["value"] = values.of_states(subject, subject.critic, test, simulator, **many, **some)
    if subject.agent is not None and profile.ranked and not _planned(config):
        note("the order of policies")
        found["ranking"] = policies.ranking(
            subject,
            _seeing(subject, earlier),
            test,
            simulator,
            horizon=horizon,
            count=profile.ranked,
            samples=profile.samples,
            discount=_discount(config),
            **some,
        )
    if not images:
        note("the simulator as a model")
        checks = _oracle_controls(simulator, recordings, split, counterfactual, horizon, seed)
    elif profile.drawn_again:
        found["appearance"] = appearance(
            subject,
            config,
            test,
            probes,
            simulator,
            severities=profile.look_severities,
            count=profile.drawn_again,
            costly=profile.costly,
            seed=seed,
            note=note,
        )
        unlike = found["appearance"]["drawn_again"]
        says = "a stored state looks as it was recorded"
        checks = [controls.at_most("pictures drawn again without a shift", unlike, 0, ("appearance",), says)]
    return found, other, checks


def _planned(config: Config) -> bool:
    """Whether actions are, which takes too long in imagination."""
    return config.behavior.method == "planner" or config.behavior.act == "planner"


def _discount(config: Config) -> float:
    return 1 - 1 / config.behavior.discount_horizon


def _seeing(subject: Subject, earlier: Mapping[str, Subject] | None) -> Mapping[str, Subject]:
    """Other checkpoints that can act on what is decoded."""
    return earlier if earlier and policies.sees_all(subject) else {}


def _value_in_episodes(
    subject: Subject, config: Config, recordings: Sequence[Recording], profile: Profile, newest: bool, seed: int
) -> Section:
    if isinstance(subject.critic, str):
        return {"left_out": subject.critic}
    own = [one for one in recordings if one.source == POLICY]
    if not own:
        return {"left_out": "episodes of a dataset are not those of its policy"}
    if not newest:
        actors = {POLICY: policy_of(subject, seed)}
        own = play(config.env, actors, episodes=len(own), steps=EPISODE_RECORDS + 1, seed=seed)
    return values.of_recordings(subject, subject.critic, own, profile.contexts[-1], seed)


def _ranking_of_episodes(
    subject: Subject,
    config: Config,
    recordings: Sequence[Recording],
    earlier: Mapping[str, Subject] | None,
    profile: Profile,
    horizon: int,
    seed: int,
) -> Section:
    if _planned(config):
        return {"left_out": "its actions are planned, which takes too long in imagination"}
    if all(one.source != POLICY for one in recordings):
        return {"left_out": "with a dataset there is nothing to act in"}
    return policies.ranking_of_episodes(
        subject,
        _seeing(subject, earlier),
        config.env,
        recordings,
        horizon=horizon,
        count=profile.ranked,
        steps=EPISODE_RECORDS + 1,
        samples=profile.samples,
        discount=_discount(config),
        context=profile.contexts[-1],
        seed=seed,
    )


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
        *_oracle_ranking(perfect, [known[i] for i in split.test], simulator, min(horizon, 15), seed),
    ]


def _oracle_ranking(
    perfect: Subject, test: Sequence[Recording], simulator: Simulator, horizon: int, seed: int
) -> list[controls.Control]:
    """In the simulator as a model returns are what they are, and so is the order of policies."""
    some: dict[str, Any] = {"horizon": horizon, "count": 6, "context": 1, "samples": 1, "seed": seed}
    order = policies.ranking(perfect, {}, test, simulator, discount=1.0, **some)
    pairs = [(one["imagined"], one["realised"]) for one in order["policies"].values()]
    error = max(abs(own - real) for own, real in pairs)
    real = np.sort([real for _, real in pairs])
    says = "a perfect model imagines what comes"
    found = [controls.at_most("simulator: imagined return", error, 1e-3, ("returns", "ranking"), says)]
    if np.diff(real).min() > 2e-3:  # of equal policies there is no order
        found.append(controls.at_least("simulator: ranking", order["spearman"], 1, ("ranking",), says))
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
