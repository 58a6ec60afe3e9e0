"""Numbers that were promised beside those that came: values, returns, the order of policies, effects of actions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from dreamer_jax.evaluation.forecast_scores import normalise, skill
from dreamer_jax.evaluation.intervals import Intervals, bootstrap_rows
from dreamer_jax.types import Array


class Agreement(NamedTuple):
    """Of N pairs."""

    bias: float  # above 0: more was promised than came
    rmse: float
    explained_variance: float  # 1 - Var(error) / Var(what came); blind to bias
    correlation: float
    spearman: float  # of the order alone


def agreement(predicted: Array, realised: Array) -> Agreement:
    """Of numbers [N]; what needs them to differ is NaN where they don't."""
    predicted, realised = (np.asarray(x, np.float64) for x in (predicted, realised))
    error = predicted - realised
    varies = np.ptp(realised) > 0
    return Agreement(
        bias=float(error.mean()),
        rmse=float(np.sqrt(np.square(error).mean())),
        explained_variance=float(1 - error.var() / realised.var()) if varies else float("nan"),
        correlation=correlation(predicted, realised),
        spearman=spearman(predicted, realised),
    )


def sure_agreement(predicted: Array, realised: Array, episode: np.ndarray, seed: int = 0) -> dict[str, object]:
    """As ``agreement``, for JSON: each number, and under ``ci95`` its interval over episodes."""
    value, low, high = bootstrap_rows(
        lambda *pair: np.array(agreement(*pair)), predicted, realised, episode=episode, seed=seed
    )
    found: dict[str, object] = dict(zip(Agreement._fields, value.tolist(), strict=True))
    ends = zip(Agreement._fields, low.tolist(), high.tolist(), strict=True)
    return found | {"ci95": {name: [*pair] for name, *pair in ends}}


def correlation(x: Array, y: Array) -> float:
    """Pearson's; NaN where either side is always the same."""
    if not all(np.size(side) and np.ptp(side) > 0 for side in (x, y)):
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def spearman(x: Array, y: Array) -> float:
    """Pearson's of the ranks; equal numbers share the mean of theirs."""
    return correlation(rankdata(x), rankdata(y))


def counterfactual_r2(
    predicted: tuple[Array, Array],
    realised: tuple[Array, Array],
    variance: Array,
    *,
    start: np.ndarray | None = None,
    seed: int = 0,
) -> Intervals:
    """``1 - sum |predicted difference - true difference|^2 / sum |true difference|^2`` by horizon [H].

    The difference is what one sequence of actions does rather than another from the same state: each side
    is a pair of [N, H, D]. A model without use for actions predicts no difference and has 0, however good its
    forecasts are.

    Args:
      variance: [D] in training, by which the squares are divided.
      start: [N], the episode of each state, for the intervals; every state by itself without it.
    """
    guess, truth = (np.asarray(one, np.float64) - np.asarray(other, np.float64) for one, other in (predicted, realised))
    start = np.arange(len(truth)) if start is None else start
    errors = (normalise(np.square(x), variance) for x in (guess - truth, truth))
    return skill(*errors, episode=start, seed=seed)
