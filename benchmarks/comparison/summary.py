"""What the files of all runs that are finished come to."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from learning import interval

from comparison.protocol import (
    CLONES,
    LEARNERS,
    METHODS,
    PREDICTION,
    RANDOM,
    Place,
    Protocol,
    read,
)
from dreamer_jax.analysis.statistics import bootstrap
from dreamer_jax.evaluation.judge import finite
from dreamer_jax.evaluation.robustness import performance_ratio

LEAST_SEEDS = 3
"""With fewer an interval over seeds says nothing, and nothing is said."""

Runs = dict[str, dict[str, dict[int, dict[str, Any]]]]
"""Files by task, method and seed."""


def collect(protocol: Protocol, place: Place) -> Runs:
    """Every file that is there."""
    found: Runs = {name: {} for name in protocol.tasks}
    for path in sorted(place.results.glob("*.json")):
        one = read(protocol, path)
        if one["task"] in found:
            found[one["task"]].setdefault(one["method"], {})[one["seed"]] = one
    return found


def finals(runs: dict[int, dict[str, Any]]) -> np.ndarray:
    """Mean returns at the end, by seed."""
    return np.array([np.mean(one["curve"]["returns"][-1]) for one in runs.values()])


def at(protocol: Protocol, runs: dict[int, dict[str, Any]], frames: int) -> np.ndarray:
    """Mean returns after so many frames, by seed."""
    place = protocol.evaluated.index(frames)
    return np.array([np.mean(one["curve"]["returns"][place]) for one in runs.values()])


def area(protocol: Protocol, one: dict[str, Any]) -> float:
    """Mean return over the frames between the first and the last evaluation."""
    scores = [float(np.mean(returns)) for returns in one["curve"]["returns"]]
    x = np.array(protocol.evaluated, float)
    return float(np.trapezoid(scores, x) / (x[-1] - x[0])) if len(x) > 1 else scores[0]


def frames_to(protocol: Protocol, one: dict[str, Any]) -> float:
    """Frames until the goal, between two evaluations on a line; infinite where it is never reached."""
    scores = np.array([float(np.mean(returns)) for returns in one["curve"]["returns"]])
    reached = np.flatnonzero(scores >= protocol.goal)
    if not reached.size:
        return math.inf
    first = int(reached[0])
    if first == 0:
        return float(protocol.evaluated[0])
    low, high = protocol.evaluated[first - 1 : first + 1]
    return float(np.interp(protocol.goal, scores[first - 1 : first + 1], (low, high)))


def numbers(protocol: Protocol, found: Runs) -> dict[str, Any]:
    """Everything that the page says, ready for JSON."""
    tasks = {}
    for name, by_method in found.items():
        rows: dict[str, Any] = {}
        for method in [*METHODS, RANDOM]:
            if runs := by_method.get(method):
                rows[method] = of_method(protocol, method, runs, by_method.get(RANDOM, {}))
        if prediction := by_method.get(PREDICTION):
            for method, row in of_predictions(prediction).items():
                rows.setdefault(method, {})["prediction"] = row
        if rows:
            tasks[name] = {"methods": rows, "verdicts": verdicts(protocol, by_method)}
    overall = {}
    for method in LEARNERS:
        groups = {
            str(frames): [
                at(protocol, by_method[method], frames) for by_method in found.values() if method in by_method
            ]
            for frames in protocol.budgets
        }
        if all(groups.values()) and len(groups[str(protocol.budgets[0])]) == len(found):
            overall[method] = {frames: spread(scores) for frames, scores in groups.items()}
    return finite({"benchmark": "comparison", "protocol": protocol.facts(), "tasks": tasks, "all_tasks": overall})


def spread(scores: Any) -> dict[str, Any]:
    """Interquartile mean of seeds, and the bootstrap's 95 % interval over them, task by task."""
    value, low, high = bootstrap(scores)
    return {"iqm": value, "ci95": [low, high], "seeds": [len(x) for x in scores] if np.ndim(scores[0]) else len(scores)}


def of_method(
    protocol: Protocol, method: str, runs: dict[int, dict[str, Any]], random: dict[int, dict[str, Any]]
) -> dict[str, Any]:
    """One method on one task."""
    row: dict[str, Any] = {"seeds": len(runs), "final": spread(finals(runs))}
    if method in LEARNERS:
        row["at"] = {str(frames): spread(at(protocol, runs, frames)) for frames in protocol.budgets}
        row["area"] = spread([area(protocol, one) for one in runs.values()])
        until = np.array([frames_to(protocol, one) for one in runs.values()])
        row["frames_to_goal"] = {"median": float(np.median(until)), "reached": int(np.isfinite(until).sum())}
    if method != RANDOM:
        row["robustness"] = {shift: of_shift(runs, random, shift) for shift in protocol.shifts}
        costs = [one["costs"] for one in runs.values()]
        row["costs"] = {name: float(np.median([cost[name] for cost in costs])) for name in costs[0]}
    if all("transfer" in one for one in runs.values()):
        others = [one["transfer"] for one in runs.values()]
        row["transfer"] = {"task": others[0]["task"]} | spread([np.mean(one["returns"]) for one in others])
    if method in CLONES:
        row["demonstrators"] = sorted({one["settings"]["demonstrator"] for one in runs.values()})
        row["demonstrated"] = spread([one["settings"]["demonstrated"] for one in runs.values()])
    return row


def of_shift(runs: dict[int, dict[str, Any]], random: dict[int, dict[str, Any]], shift: str) -> dict[str, Any] | None:
    """The performance ratio over the seeds for which there is one."""
    ratios = [
        performance_ratio(
            *(
                np.array(x)
                for x in (one["shifts"][shift], one["curve"]["returns"][-1], random[seed]["curve"]["returns"][-1])
            )
        )
        for seed, one in runs.items()
        if seed in random
    ]
    known = [ratio for ratio in ratios if math.isfinite(ratio)]
    return spread(known) if known else None


def of_predictions(runs: dict[int, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By method, and by what is no method: R2, errors ahead post hoc and native."""
    found: dict[str, dict[str, Any]] = {}
    first = next(iter(runs.values()))
    for method in first["methods"]:
        rows = [one["methods"][method] for one in runs.values()]
        found[method] = {"r2": spread([row["r2"] for row in rows])}
        for kind in ("post_hoc_nmse", "native_nmse"):
            if kind in rows[0]:
                found[method][kind] = [
                    spread(list(column)) for column in zip(*(row[kind] for row in rows), strict=True)
                ]
    for name in first["baselines"]:
        columns = zip(*(one["baselines"][name] for one in runs.values()), strict=True)
        found[name] = {"baseline_nmse": [spread(list(column)) for column in columns]}
    return found


def verdicts(protocol: Protocol, by_method: dict[str, dict[int, dict[str, Any]]]) -> dict[str, Any]:
    """By budget: who is ahead of whom, where the interval of the difference of means over seeds leaves out 0."""
    able = [method for method in LEARNERS if len(by_method.get(method, {})) >= LEAST_SEEDS]
    found: dict[str, Any] = {}
    for frames in protocol.budgets:
        scores = {method: at(protocol, by_method[method], frames) for method in able}
        ahead: dict[str, list[str]] = {method: [] for method in able}
        for one, other in itertools.combinations(able, 2):
            low, high = interval(scores[one], scores[other], 0.95)
            if low > 0 or high < 0:
                better, worse = (one, other) if low > 0 else (other, one)
                ahead[better].append(worse)
        found[str(frames)] = ahead
    return found
