"""What must come out of a judgement whatever the model is; where it does not, the numbers that rest on it are void."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dreamer_jax.evaluation.calibration import fair_crps, spread_skill
from dreamer_jax.evaluation.episodes import Split
from dreamer_jax.evaluation.fidelity import Section, records_of
from dreamer_jax.evaluation.information import gaussian_pair, ksg
from dreamer_jax.evaluation.mlp_probe import fit_mlp
from dreamer_jax.evaluation.probes import Fit, fit_ridge, probe_features
from dreamer_jax.evaluation.recordings import Recording

NOISE_WIDTH = 64
MLP_LIMIT = 0.95
"""What an MLP finds of the targets themselves: 0.989 of 4,000 records, 0.975 of 400 to 700."""


class Control(NamedTuple):
    """One number that is known beforehand; ``void`` are the sections that are blank where it is wrong."""

    name: str
    value: float
    limit: str  # in words
    passed: bool
    void: tuple[str, ...]
    says: str  # what it guards against

    def as_section(self) -> Section:
        return {"value": self.value, "limit": self.limit, "passed": self.passed, "void": self.void, "says": self.says}


def at_least(name: str, value: float, limit: float, void: Sequence[str], says: str) -> Control:
    return Control(name, float(value), f">= {limit:g}", bool(value >= limit), tuple(void), says)


def at_most(name: str, value: float, limit: float, void: Sequence[str], says: str) -> Control:
    return Control(name, float(value), f"<= {limit:g}", bool(value <= limit), tuple(void), says)


def near(name: str, value: float, truth: float, tolerance: float, void: Sequence[str], says: str) -> Control:
    return Control(
        name, float(value), f"{truth:g} +- {tolerance:g}", bool(abs(value - truth) <= tolerance), tuple(void), says
    )


def probe_controls(recordings: Sequence[Recording], split: Split, target: str, seed: int) -> list[Control]:
    """Of the probes: the target itself and noise as features."""
    rng, longest = np.random.default_rng(seed), max(one.length for one in recordings)
    own = np.stack([np.pad(one.targets[target], ((0, longest - one.length), (0, 0)), "edge") for one in recordings])
    noise = rng.normal(size=(len(recordings), longest, NOISE_WIDTH))

    def r2(features: np.ndarray, fit: Fit = fit_ridge) -> float:
        return probe_features(records_of(features, recordings, target), split, fit, seed=seed).score.mean.value

    void = ("fidelity", "imagined", "information")
    return [
        at_least("oracle, linear", r2(own), 0.999, void, "a probe finds what is there"),
        at_least("oracle, MLP", r2(own, fit_mlp), MLP_LIMIT, void, "a probe finds what is there"),
        at_most("noise", r2(noise), 0.02, void, "and not what isn't"),
    ]


def statistical_controls(seed: int) -> list[Control]:
    """Of information and calibration, on numbers whose values are known."""
    rng = np.random.default_rng(seed)
    truth = 0.5108  # of a correlation of 0.8
    nats = float(np.mean([ksg(*gaussian_pair(truth, 2000, rng)) for _ in range(4)]))
    ensemble, came = rng.normal(size=(16, 20_000)), rng.normal(size=20_000)
    return [
        near(
            "information of a Gaussian pair", nats, truth, 0.05, ("information",), "neighbours estimate what is known"
        ),
        near(
            "CRPS of a perfect ensemble",
            float(fair_crps(ensemble, came).mean()),
            0.5642,
            0.02,
            ("forecast",),
            "sigma / sqrt(pi)",
        ),
        near(
            "its spread over its error",
            float(spread_skill(ensemble[:, :, None], came[:, None])[0]),
            1.0,
            0.03,
            ("forecast",),
            "calibrated is 1",
        ),
    ]


def untrained_controls(untrained: Section, counterfactual: Section | None) -> list[Control]:
    """Untrained networks must not forecast: their error is that of the better of the mean and the last record."""
    found = []
    for context, section in untrained.items():
        if "numbers" in section:
            numbers = section["numbers"]
            trivial = np.minimum(numbers["nmse_mean"], numbers["nmse_persistence"])
            ratio = float(np.min(np.array(numbers["nmse"]) / trivial))
            found.append(
                at_least(
                    f"untrained forecast, {context} seen", ratio, 0.95, ("forecast",), "skill is learnt, not leaked"
                )
            )
        else:
            for name, image in section.get("images", {}).items():
                found.append(
                    at_most(
                        f"untrained forecast of {name}, {context} seen",
                        max(image["skill"]),
                        0.05,
                        ("forecast",),
                        "skill is learnt, not leaked",
                    )
                )
    if counterfactual is not None:
        found.append(
            at_most(
                "untrained counterfactual, lower end of the interval",
                max(counterfactual["low"]),
                0.05,
                ("counterfactual",),
                "effects of actions are learnt",
            )
        )
    return found
