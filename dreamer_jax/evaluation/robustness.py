"""What is left of a policy and its model where the world looks, moves or is sensed otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from dreamer_jax.config.schema import Config
from dreamer_jax.datasets.collect import uniform
from dreamer_jax.envs.shifts.effects import effects, in_order
from dreamer_jax.envs.shifts.opening import not_applicable, shifted
from dreamer_jax.envs.shifts.table import SHIFTS
from dreamer_jax.envs.wrappers import open_env
from dreamer_jax.evaluation.episodes import Records
from dreamer_jax.evaluation.features import number_names, observe, shown_numbers
from dreamer_jax.evaluation.fidelity import Section, records_of
from dreamer_jax.evaluation.open_loop import predict
from dreamer_jax.evaluation.play import play, policy_of
from dreamer_jax.evaluation.probes import Probed, score
from dreamer_jax.evaluation.recordings import Recording, cut
from dreamer_jax.evaluation.subject import Subject

AHEAD = (5, 15)
"""Steps after which errors are compared."""
CONTEXT = 5
STATES = 40
"""From which the effect of a shift of physics is measured."""


def robustness(
    subject: Subject,
    config: Config,
    recordings: Sequence[Recording],
    probes: dict[str, Probed],
    *,
    severities: Sequence[int],
    episodes: int,
    steps: int,
    costly: bool,
    seed: int,
    note: Callable[[str], None],
) -> Section:
    """Every shift that the task can have: returns of the policy under it, and what its model makes of those episodes.

    Returns are those of the first ``steps`` records. ``latent_drop`` is what linear probes of the clean state lose of
    their R2, ``forecast_ratio`` the error ahead over that without a shift.
    """
    std, policy = _deviations(subject, recordings), policy_of(subject, seed)

    def cell(name: str, severity: int, random: bool = False) -> list[Recording]:
        actor = uniform if random else policy
        opened = partial(shifted, config.env, name, severity, seed=seed, std=std)
        return play(config.env, {"policy": actor}, episodes=episodes, steps=steps, seed=seed, opened=opened)

    refused = not_applicable(config.env)
    names = [name for name, shift in SHIFTS.items() if name not in refused and (costly or not shift.costly)]
    states, actions = some_states(config, recordings, seed)
    some = names[0]
    clean, random = cell(some, 0), cell(some, 0, random=True)
    base, floor = _returns(clean), _returns(random)
    own = _model(subject, clean, probes, seed)
    found: Section = {
        "clean": {"return": float(base.mean()), "random": float(floor.mean()), **own},
        "not applicable": refused,
        "shifts": {},
    }
    for name in names:
        note(f"shift: {name}")
        known = effects(config.env, name, seed=seed, states=states, actions=actions, severities=severities, std=std)
        if SHIFTS[name].kind == "dynamics" and not any(took.size for took in known):  # such as friction without contact
            found["not applicable"][name] = "it moves nothing from the states that were met"
            continue
        ordered = SHIFTS[name].kind != "dynamics" or in_order(known)
        for severity, took in zip(severities, known, strict=True):
            shown = cell(name, severity)
            scores = _returns(shown)
            row: Section = {
                "kind": SHIFTS[name].kind,
                "effect": took.size,
                "unit": took.unit,
                "took_effect": took.holds and ordered,
            }
            row["return"] = float(scores.mean())
            theirs = _model(subject, shown, probes, seed)
            row |= {"performance_ratio": performance_ratio(scores, base, floor)}
            row["latent_drop"] = own["r2"] - theirs["r2"]
            row["forecast_ratio"] = theirs["error"] / own["error"] if own["error"] > 0 else float("nan")
            found["shifts"].setdefault(name, {})[str(severity)] = row
    return found


def performance_ratio(shifted: np.ndarray, clean: np.ndarray, random: np.ndarray) -> float:
    """``(R_shift - R_random) / (R_clean - R_random)`` of the returns of episodes [E] each.

    NaN where the policy is not better than random actions by two standard errors.
    """
    better = clean.mean() - random.mean()
    if not better > 2 * np.sqrt(clean.var(ddof=1) / len(clean) + random.var(ddof=1) / len(random)):
        return float("nan")
    return float((shifted.mean() - random.mean()) / better)


def some_states(config: Config, recordings: Sequence[Recording], seed: int) -> tuple[np.ndarray, list[Any]]:
    """Simulator states that were met, and an action of the environment's own for each."""
    met = np.concatenate([one.simulator[:-1] for one in recordings if one.simulator is not None])
    rng = np.random.default_rng([seed, 2])
    env = open_env(config.env)
    try:
        env.action_space.seed(seed)
        actions = [env.action_space.sample() for _ in range(STATES)]
    finally:
        env.close()
    return met[np.sort(rng.choice(len(met), STATES, replace=False))], actions


def _returns(recordings: Sequence[Recording]) -> np.ndarray:
    return np.array([one.columns["reward"].sum() for one in recordings], np.float64)


def _deviations(subject: Subject, recordings: Sequence[Recording]) -> dict[str, np.ndarray]:
    """Of each number that is shown, by name."""
    return {
        name: np.concatenate([one.columns[f"observation/{name}"] for one in recordings]).std(0)
        for name in number_names(subject)
    }


def _model(subject: Subject, recordings: Sequence[Recording], probes: dict[str, Probed], seed: int) -> dict[str, float]:
    """Mean R2 of clean probes, and the error ahead over what changes in these episodes."""
    observed = observe(subject, recordings, seed)
    r2 = []
    for target, probed in probes.items():
        if target == "reward":
            continue
        rows: Records = records_of(observed.features["state"], recordings, target)
        r2.append(score(probed.probe, rows, seed=seed, resamples=1).mean.value)
    windows = cut(recordings, subject.spec, context=CONTEXT, horizon=max(AHEAD), count=60, seed=seed)
    prediction = predict(subject, windows, samples=4, seed=seed, frames=AHEAD)
    if prediction.numbers is not None:
        truth = shown_numbers(subject, windows.ahead.observation)
        spread = truth.var((0, 1))
        error = np.square(prediction.numbers.mean(0) - truth)[:, np.array(AHEAD) - 1].mean((0, 1))
        ahead = float((error[spread > 1e-6] / spread[spread > 1e-6]).mean())
    else:
        errors = [
            np.square(images[1] - windows.ahead.observation[name][:, np.array(AHEAD) - 1] / 255).mean()
            for name, images in prediction.images.items()
        ]
        ahead = float(np.mean(errors)) if errors else float("nan")
    return {"r2": float(np.mean(r2)) if r2 else float("nan"), "error": ahead}
