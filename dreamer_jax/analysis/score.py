"""Runs, and published files of runs, measured as a protocol says, and summed up over tasks and seeds."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dreamer_jax.analysis.aggregates import aggregate, performance_profile, probability_of_improvement
from dreamer_jax.analysis.compare import check_seeds
from dreamer_jax.analysis.plot import COLOURS, STYLES, Run, check_picture, load_run, open_panels, save_picture
from dreamer_jax.analysis.protocols import PROTOCOLS, Protocol, normalised
from dreamer_jax.analysis.published import ALIASES
from dreamer_jax.analysis.statistics import Interval
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.envs.crafter import crafter_score
from dreamer_jax.runs.integrity import read_run
from dreamer_jax.runs.metrics import achievements, read_jsonl
from dreamer_jax.terminal import Answer, table

MOST_BYTES = 1_000_000_000
"""Of a file of published scores once it is unpacked."""
AGGREGATES = {"iqm": "IQM", "median": "median", "mean": "mean", "optimality_gap": "optimality gap"}
Play = Callable[[Path, Protocol], list[float]]
"""Plays the evaluation episodes of a run."""


class Method(NamedTuple):
    """What one method reaches: raw scores by task and seed, and runs that have none."""

    name: str
    tasks: dict[str, dict[int, float]]
    left_out: list[str]

    def normalised(self, protocol: Protocol) -> list[np.ndarray]:
        """[seeds] of each task."""
        return [
            np.array([normalised(score, task, protocol.unit) for score in seeds.values()])
            for task, seeds in self.tasks.items()
        ]


def score(sources: Sequence[Path], protocol: str, play: Play) -> list[Method]:
    """Measure run directories and files of published runs (.json, .json.gz), grouped by method.

    Raises:
      ConfigError: a source is of another suite or can't be read, two runs of a task and method have the same seed,
        or there is nothing to measure.
    """
    one, found = PROTOCOLS[protocol], dict[str, Method]()
    seen: dict[tuple[str, str], list[tuple[Path, int]]] = {}
    for source in sources:
        if source.suffix in (".json", ".gz"):
            if one.window is None or one.unit == "Crafter score":
                raise ConfigError(f"{source}: a file of returns can't be measured so: {one.meaning}")
            measured = [(run, _in_window(run, one)) for run in read_published(source, one)]
        else:
            measured = [_measure(source, one, play)]
        for run, value in measured:
            method = found.setdefault(run.method, Method(run.method, {}, []))
            if value is None:
                method.left_out.append(f"{source}: {run.task}, seed {run.seed}, {_missing(run, one)}")
                continue
            seen.setdefault((run.method, run.task), []).append((source, run.seed))
            check_seeds(seen[run.method, run.task])
            method.tasks.setdefault(run.task, {})[run.seed] = value
    methods = [Method(m.name, dict(sorted(m.tasks.items())), m.left_out) for m in found.values() if m.tasks]
    if not methods:
        raise ConfigError(next(line for method in found.values() for line in method.left_out))
    return methods


def _missing(run: Run, protocol: Protocol) -> str:
    if protocol.frames and run.reached < protocol.frames:
        return f"is at {run.reached:,.0f} of {protocol.frames:,} frames"
    return f"ended no episode in frames {protocol.window}"


def _measure(run_dir: Path, protocol: Protocol, play: Play) -> tuple[Run, float | None]:
    run, (_, spec) = load_run(run_dir), read_run(run_dir)
    suite = run.task.partition("/")[0]
    if suite != protocol.suite:
        raise ConfigError(f"{run_dir}: is of {run.task}; the protocol is of {protocol.suite}")
    images = any(leaf.image for leaf in spec.observation.values())
    if protocol.states is not None and protocol.states == images:
        raise ConfigError(f"{run_dir}: sees {'images' if images else 'states'}; {protocol.meaning}")
    name = run.task.partition("/")[2]
    run = Run(f"{suite}/{ALIASES.get(name, name)}", run.method, run.seed, run.frames, run.scores, run.clock)
    if protocol.frames and run.reached < protocol.frames:
        return run, None
    if protocol.window is None:
        return run, float(np.mean(play(run_dir, protocol)))
    if protocol.unit == "Crafter score":
        rows = [row for row in read_jsonl(run_dir / "scores.jsonl") if row["env_frames"] <= protocol.window[1]]
        unlocked = [list(achievements(row).values()) for row in rows]
        return run, crafter_score(np.mean(unlocked, 0)) if unlocked and unlocked[0] else None
    return run, _in_window(run, protocol)


def _in_window(run: Run, protocol: Protocol) -> float | None:
    assert protocol.window is not None
    after, up_to = protocol.window
    inside = (run.frames > after) & (run.frames <= up_to)
    return float(run.scores[inside].mean()) if inside.any() else None


def read_published(path: Path, protocol: Protocol) -> list[Run]:
    """Runs of a file such as ``atari100k-dreamerv3.json.gz``: a list of objects with task, method, seed, xs and ys.

    ``xs`` are environment frames, ``ys`` returns, null where there is none.

    Raises:
      ConfigError: naming the file, if it can't be read, is no such list, or is of another suite.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as stream:
            text = stream.read(MOST_BYTES + 1)
        rows = json.loads(text) if len(text) <= MOST_BYTES else None
    except (OSError, EOFError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: can't be read as JSON ({error})") from None
    runs = []
    for number, row in enumerate(rows if isinstance(rows, list) else [None]):
        try:
            xs, ys = (np.array(row[name], np.float64) for name in ("xs", "ys"))
            task, method, seed = str(row["task"]), str(row["method"]), int(row["seed"])
            if xs.ndim != 1 or xs.shape != ys.shape:
                raise ValueError
        except (TypeError, KeyError, ValueError):
            raise ConfigError(
                f"{path}: run {number}: expected an object with task, method, seed, xs and ys of the same length"
            ) from None
        suite, _, name = task.partition("_")
        if suite != protocol.suite.removesuffix("100k"):
            raise ConfigError(f"{path}: run {number} is of {task}; the protocol is of {protocol.suite}")
        known = np.isfinite(ys) & np.isfinite(xs)
        task = f"{protocol.suite}/{ALIASES.get(name, name)}"
        runs.append(Run(task, method, seed, xs[known], ys[known], np.zeros((0, 2))))
    return runs


def as_json(methods: Sequence[Method], name: str) -> dict[str, Any]:
    """Everything, ready for JSON; the protocol's name stands beside the numbers."""
    protocol, found = PROTOCOLS[name], []
    for method in methods:
        numbers = aggregate(method.normalised(protocol))
        rows = {
            task: {
                "score": float(np.mean(list(seeds.values()))),
                "normalised": normalised(float(np.mean(list(seeds.values()))), task, protocol.unit),
                "seeds": {str(seed): value for seed, value in sorted(seeds.items())},
            }
            for task, seeds in method.tasks.items()
        }
        aggregates = {key: _json_interval(value) for key, value in numbers.items()}
        found.append({"method": method.name, "tasks": rows, "aggregates": aggregates, "left_out": method.left_out})
    answer = {"protocol": name, "meaning": protocol.meaning, "unit": protocol.unit, "methods": found}
    if len(methods) > 1:
        answer["probability_of_improvement"] = [
            {"method": a.name, "over": b.name, "tasks": len(x), **_json_interval(probability_of_improvement(x, y))}
            for a, b, x, y in _pairs(methods, protocol)
        ]
    return answer


def _json_interval(found: Interval) -> dict[str, Any]:
    return {"value": found.value, "ci95": None if math.isnan(found.low) else [found.low, found.high]}


def _pairs(
    methods: Sequence[Method], protocol: Protocol
) -> Iterable[tuple[Method, Method, list[np.ndarray], list[np.ndarray]]]:
    """Each two methods with what they have of the tasks that both have."""
    for i, a in enumerate(methods):
        for b in methods[i + 1 :]:
            both = [task for task in a.tasks if task in b.tasks]
            if both:
                parts = [Method(m.name, {task: m.tasks[task] for task in both}, []) for m in (a, b)]
                yield a, b, parts[0].normalised(protocol), parts[1].normalised(protocol)


def describe(methods: Sequence[Method], name: str) -> Answer:
    """The protocol, a table of tasks, one of what they come to, and who is better than whom."""
    protocol = PROTOCOLS[name]
    answer: Answer = [f"{name}: {protocol.meaning} ({protocol.source})"]
    tasks = sorted({task for method in methods for task in method.tasks})
    names = [method.name for method in methods]
    rows = [(task, *(_cell(method.tasks.get(task)) for method in methods)) for task in tasks]
    answer.append(table((f"task ({name})", *names), rows, right=names))
    numbers = [aggregate(method.normalised(protocol)) for method in methods]
    rows = [(label, *(_between(one[key]) for one in numbers)) for key, label in AGGREGATES.items()]
    answer += ["", f"{protocol.unit}, 95 % interval for other seeds on these tasks:"]
    answer.append(table((f"{name}", *names), rows, right=names))
    for a, b, x, y in _pairs(methods, protocol):
        chance = _between(probability_of_improvement(x, y))
        answer.append(f"a run of {a.name} is better than one of {b.name} with probability {chance}, {len(x)} tasks")
    for method in methods:
        if protocol.tasks and len(method.tasks) < protocol.tasks:
            answer.append(f"{method.name}: {len(method.tasks)} of the benchmark's {protocol.tasks} tasks")
        answer += [f"left out: {line}" for line in method.left_out]
    return answer


def _cell(seeds: dict[int, float] | None) -> str:
    if not seeds:
        return ""
    return f"{np.mean(list(seeds.values())):.1f} ({len(seeds)} seed{'s' * (len(seeds) != 1)})"


def _between(found: Interval) -> str:
    value, low, high = found
    return f"{value:.3f}" + ("" if math.isnan(low) else f" ({low:.3f} to {high:.3f})")


def draw(methods: Sequence[Method], name: str, output: str | Path) -> Path:
    """Performance profiles: the share of runs above each normalised score, with 95 % bands."""
    check_picture(output)
    protocol = PROTOCOLS[name]
    figure, (ax,) = open_panels(1)
    scores = {method.name: method.normalised(protocol) for method in methods}
    highest = max(float(np.max(task)) for tasks in scores.values() for task in tasks)
    thresholds = np.linspace(0, max(1.0, min(highest, 8.0)), 201)
    for number, (label, tasks) in enumerate(scores.items()):
        profile = performance_profile(tasks, thresholds)
        colour, style = COLOURS[number % len(COLOURS)], STYLES[number % len(STYLES)]
        ax.plot(thresholds, profile.share, style, color=colour, linewidth=2, label=label)
        ax.fill_between(thresholds, profile.low, profile.high, color=colour, alpha=0.16, linewidth=0)
    ax.set_title(name, fontsize=12, fontweight="bold")
    ax.set_xlabel(f"{protocol.unit}, threshold")
    ax.set_ylabel("share of runs above it")
    ax.set_ylim(0, 1.02)
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    return save_picture(figure, output)
