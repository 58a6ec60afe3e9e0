"""The page and its figure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from family import table

from comparison.protocol import (
    CLONES,
    LEARNERS,
    METHODS,
    MODEL_FREE,
    NAMES,
    RANDOM,
    WORLD_MODELS,
    Place,
    Protocol,
)
from comparison.summary import LEAST_SEEDS, Runs, at, collect, finals, numbers
from dreamer_jax.analysis.plot import finish_panel, open_panels, save_picture
from dreamer_jax.analysis.statistics import Interval, bootstrap
from dreamer_jax.files import replace_file

PUBLISHED = Path(__file__).with_name("published.json")
BLANK = ""


def sentence(ahead: dict[str, list[str]]) -> str:
    """Such as: behind nobody: SAC, TQC; PPO is behind SAC."""
    if len(ahead) < 2:
        return f"fewer than {LEAST_SEEDS} seeds of two methods so far: nothing can be said"
    behind = {method: [other for other in ahead if method in ahead[other]] for method in ahead}
    leaders = listed(method for method, others in behind.items() if not others)
    if not any(behind.values()):
        return f"no two of {leaders} can be told apart"
    rest = [f"{NAMES[method]} is behind {listed(others)}" for method, others in behind.items() if others]
    return "; ".join([f"behind nobody: **{leaders}**", *rest])


def listed(methods: Iterable[str]) -> str:
    return ", ".join(NAMES[method] for method in methods)


def groups(ahead: dict[str, list[str]]) -> str:
    """Which kinds are behind nobody."""
    beaten = {method for others in ahead.values() for method in others}
    kinds = []
    for name, kind in (("a world model", WORLD_MODELS), ("end-to-end RL", MODEL_FREE)):
        if any(method in ahead and method not in beaten for method in kind):
            kinds.append(name)
    return " and ".join(kinds)


def cell(one: dict[str, Any] | None, form: str = ".0f") -> str:
    """``845 (812 to 860)``; nothing where nothing is known."""
    if not one or one.get("iqm") is None:
        return BLANK
    low, high = one["ci95"]
    return f"{one['iqm']:{form}}" + ("" if low is None else f" ({low:{form}} to {high:{form}})")


def count(x: float | None) -> str:
    return BLANK if x is None else f"{x:,.0f}"


PAGE = """# World model, end-to-end RL or imitation?

The comparison that the field argues about, on tasks of DeepMind Control from states: world models (ours: DreamerV3,
PlaNet), end-to-end reinforcement learning (SAC, TQC, CrossQ, PPO of sbx-rl with the library's defaults, but for two
layers of 256 units everywhere and batches of 64), and behaviour cloning. Written by
`python benchmarks/comparison --runs runs/comparison --report docs/results/comparison`, not by hand, from the file that
each run leaves in the folder `comparison/runs` beside this page.

{state}

**What is the same for all.** Our own environments with an action every {repeat} frames, states as they come; the seed
of a run is that of its environments and of everything it draws. Frames are those of the environment, action repeat
included. After {evaluated} of them the greedy policy plays {episodes} episodes that
begin alike for every method (seeds from 10,000 on, never those of training). Widths and rates were made for
cartpole_balance, which is no task here, or are a library's defaults: nothing was tuned on these tasks. All of it is
small, so that one CPU core suffices: DreamerV3 makes an update of 8 x 16 records for 4 actions, a thirty-second of its
published train ratio, and SAC, TQC and CrossQ one of 64 records for each action, ten at a time. This says how methods
compare at this size, not what each can reach.

**What a number is.** The interquartile mean over seeds, and in brackets the 95 % bootstrap interval over seeds. *Area*
is the mean return between the first and the last evaluation, *frames to {goal}* the median over seeds, between two
evaluations on a line. Somebody is *ahead* where the 95 % interval of the difference of means over seeds leaves out 0:
with so many comparisons about one in twenty is found so by chance. A blank is what does not apply or is not known yet,
never 0.

![Return against frames, a panel for each task]({picture})

## Who wins where

{winners}

## Returns

{returns}

## Demonstrations

Behaviour cloning has no frames of its own. Its cost is what its demonstrations cost: the training of the best agent of
the same seed, and the episodes that this one shows. The first column of frames is that training, the second the
demonstrations.

{clones}

## Robustness

What is left of the return, less that of random actions, under a shift of severity 2: weaker motors (`strength`, x 0.75)
and noise on what is seen (`observation_noise`, 0.1 deviations). Blank where the agent is not surely better than random
actions. A ratio is of returns, so that who returns little has little to lose.

{robustness}

## What they predict

On the same recordings for all, a third each random, of correlated noise and of the demonstrator: *R2* of the
observation from frozen features by ridge regression; *post hoc* the error of linear dynamics of those features rolled
forward and decoded by that regression, fitted alike for every method; *native* the world model's own open-loop error
after 5 records. Errors are normalised by the variance (1: as good as the mean) at {horizons} records ahead. Features
are the model's state, or the last hidden layer of the actor. To reconstruct what is seen is what world models are
trained for, and no aim of the others: that they win there is by construction. *observation* are the numbers themselves
as features.

{prediction}

## Transfer

The return of the greedy policy on another task of the same body without learning; blank where there is none.

{transfer}

## Costs

Of learning alone, medians over seeds and tasks. Seconds of the clock depend on what else the machine did; seconds of
the CPU don't. Parameters are all that are learnt, slow copies apart.

{costs}

## Published curves

The dashed lines are published means of stronger and larger agents under their own protocols (other widths and action
repeats, tuned for the suite), to show what this size leaves out:

{published}
"""


def page(protocol: Protocol, known: dict[str, Any], picture: str) -> str:
    """Markdown."""
    tasks = known["tasks"]
    say = PAGE.format(
        state=state(protocol, known),
        repeat=protocol.action_repeat,
        evaluated=", ".join(f"{frames:,}" for frames in protocol.evaluated),
        episodes=protocol.episodes,
        goal=f"{protocol.goal:g}",
        picture=picture,
        winners=winners(protocol, tasks),
        returns=returns(protocol, known),
        clones=clones(tasks),
        robustness=by_task(
            tasks, [(shift, lambda row, s=shift: cell(row["robustness"][s], ".2f")) for shift in protocol.shifts]
        ),
        horizons=", ".join(map(str, protocol.horizons)),
        prediction=prediction(protocol, tasks),
        transfer=transfer(tasks),
        costs=costs(tasks),
        published=published_words(),
    )
    return "\n".join(line.rstrip() for line in say.splitlines()) + "\n"


def state(protocol: Protocol, known: dict[str, Any]) -> str:
    """How much of it there is."""
    rows = [row for task in known["tasks"].values() for method, row in task["methods"].items() if method in LEARNERS]
    if not rows:
        return "**There are no runs yet.**"
    least, most = (end(row["seeds"] for row in rows) for end in (min, max))
    verb, noun = ("is", "seed") if most == 1 else ("are", "seeds")
    seeds = f"{most} {noun}" if least == most else f"{least} to {most} {noun}"
    complete = len(rows) == len(protocol.tasks) * len(LEARNERS)
    some = (
        ""
        if complete
        else f" Of {len(protocol.tasks) * len(LEARNERS)} pairs of task and learning method {len(rows)} have runs."
    )
    return f"**So far there {verb} {seeds} of each.**{some}"


def winners(protocol: Protocol, tasks: dict[str, Any]) -> str:
    """A line for each task and budget."""
    lines = []
    for name, task in tasks.items():
        lines.append(f"- `{name}`")
        for frames in protocol.budgets:
            ahead = task["verdicts"][str(frames)]
            kinds = f" ({groups(ahead)})" if len(ahead) > 1 else ""
            lines.append(f"    - at {frames:,} frames: {sentence(ahead)}{kinds}")
    return "\n".join(lines) or "Nothing yet."


def returns(protocol: Protocol, known: dict[str, Any]) -> str:
    """A table for each task, and of all together."""
    heads = ["method", "seeds", *(f"{frames:,}" for frames in protocol.budgets), "area", f"frames to {protocol.goal:g}"]
    parts = []
    for name, task in known["tasks"].items():
        rows = []
        for method in LEARNERS:
            row = task["methods"].get(method, {})
            if "at" not in row:
                continue
            until = row["frames_to_goal"]
            reached = f"{count(until['median'])} ({until['reached']} of {row['seeds']} got there)"
            scores = [cell(row["at"][str(frames)]) for frames in protocol.budgets]
            rows.append([NAMES[method], str(row["seeds"]), *scores, cell(row["area"]), reached.strip()])
        random = cell(task["methods"].get(RANDOM, {}).get("final"))
        parts.append(f"`{name}` (random actions: {random})\n\n{table(heads, rows)}")
    rows = [
        [NAMES[m], *(cell(row[str(frames)]) for frames in protocol.budgets)] for m, row in known["all_tasks"].items()
    ]
    if rows:
        parts.append(f"All tasks\n\n{table(['method', *heads[2:-2]], rows)}")
    return "\n".join(parts)


def clones(tasks: dict[str, Any]) -> str:
    heads = ["task", "episodes", "seeds", "return", "demonstrated", "by", "frames of training", "of demonstrations"]
    rows = []
    for name, task in tasks.items():
        for method, episodes in CLONES.items():
            row = task["methods"].get(method, {})
            if "costs" in row:
                cost = row["costs"]
                frames = [count(cost["demonstrator_frames"]), count(cost["demonstration_frames"])]
                shown = [cell(row["demonstrated"]), listed(row["demonstrators"]), *frames]
                rows.append([f"`{name}`", str(episodes), str(row["seeds"]), cell(row["final"]), *shown])
    return table(heads, rows)


def by_task(tasks: dict[str, Any], columns: Sequence[tuple[str, Callable[[dict[str, Any]], str]]]) -> str:
    """A row for each method, columns within tasks."""
    heads = ["method", *(f"`{name}`, {title}" for name in tasks for title, _ in columns)]
    rows = []
    for method in METHODS:
        known = [task["methods"].get(method, {}) for task in tasks.values()]
        cells = [say(row) if "costs" in row else BLANK for row in known for _, say in columns]
        if any(cells):
            rows.append([NAMES[method], *cells])
    return table(heads, rows)


def prediction(protocol: Protocol, tasks: dict[str, Any]) -> str:
    heads = ["task", "features of", "R2 (post hoc)", "post hoc error", "native error"]
    rows = []

    def errors(found: list[dict[str, Any]] | None) -> str:
        return " / ".join(f"{one['iqm']:.2f}" if one["iqm"] < 100 else "over 100" for one in found) if found else BLANK

    for name, task in tasks.items():
        for method, row in task["methods"].items():
            if known := row.get("prediction"):
                shown = [
                    cell(known.get("r2"), ".2f"),
                    errors(known.get("post_hoc_nmse")),
                    errors(known.get("native_nmse")),
                ]
                if "baseline_nmse" in known:
                    shown = [BLANK, f"{errors(known['baseline_nmse'])} (no features)", BLANK]
                rows.append([f"`{name}`", NAMES.get(method, method), *shown])
    return table(heads, rows)


def transfer(tasks: dict[str, Any]) -> str:
    others = {name: task["methods"].get(RANDOM, {}).get("transfer", {}).get("task", "") for name, task in tasks.items()}
    heads = [
        "method",
        *(f"`{name}` to `{other.rpartition('/')[2]}`" if other else f"`{name}`" for name, other in others.items()),
    ]
    rows = []
    for method in [*METHODS, RANDOM]:
        cells = [cell(task["methods"].get(method, {}).get("transfer")) for task in tasks.values()]
        if any(cells):
            rows.append([NAMES[method], *cells])
    return table(heads, rows)


def costs(tasks: dict[str, Any]) -> str:
    heads = ["method", "seconds", "CPU seconds", "updates", "parameters"]
    rows = []
    for method in METHODS:
        known = [
            task["methods"][method]["costs"] for task in tasks.values() if "costs" in task["methods"].get(method, {})
        ]
        if known:
            kept = ("wall_s", "cpu_s", "updates", "parameters")
            rows.append([NAMES[method], *(count(float(np.median([cost[name] for cost in known]))) for name in kept)])
    return table(heads, rows)


def published_words() -> str:
    sources = json.loads(PUBLISHED.read_text())["sources"]
    return "\n".join(
        f"- {name} (`{one['file']}` of {one['repository']} at {one['commit'][:7]}, {one['licence']})"
        for name, one in sources.items()
    )


COLOURS = dict(
    zip(
        [*LEARNERS, "bc_100"],
        ("black", "tab:purple", "tab:blue", "tab:orange", "tab:green", "tab:red", "tab:brown"),
        strict=True,
    )
)


def draw(protocol: Protocol, found: Runs, path: Path) -> None:
    """Interquartile means over seeds and their intervals; the most demonstrations as a line; published means dashed."""
    figure, axes = open_panels(len(found))
    published = json.loads(PUBLISHED.read_text())["tasks"]
    for ax, (name, by_method) in zip(axes, found.items(), strict=True):
        for method in LEARNERS:
            if not (runs := by_method.get(method)):
                continue
            curve = [bootstrap(at(protocol, runs, frames)) for frames in protocol.evaluated]
            middle, low, high = (np.array([getattr(one, end) for one in curve]) for end in Interval._fields)
            style = {"color": COLOURS[method], "linewidth": 2.2 if method in WORLD_MODELS else 1.4}
            ax.plot(protocol.evaluated, middle, label=f"{NAMES[method]}, {len(runs)} seeds", **style)
            ax.fill_between(protocol.evaluated, low, high, color=COLOURS[method], alpha=0.12, linewidth=0)
        if clones := by_method.get("bc_100"):
            ax.axhline(bootstrap(finals(clones)).value, color=COLOURS["bc_100"], linestyle=":", label=NAMES["bc_100"])
        for (method, curve), marker in zip(published.get(name, {}).items(), "osD", strict=False):
            ax.plot(
                curve["frames"],
                curve["returns"],
                f"{marker}--",
                color="0.55",
                markersize=4,
                label=f"{method}, published",
            )
        finish_panel(ax, name, "environment frames", legend_size=7)
        ax.set_ylabel("episode return (greedy actions)", fontsize=11)
    save_picture(figure, path)


def report(protocol: Protocol, place: Place, stem: Path) -> None:
    """Write the page, the numbers and the figure."""
    found = collect(protocol, place)
    known = numbers(protocol, found)
    stem.parent.mkdir(parents=True, exist_ok=True)
    replace_file(stem.with_suffix(".json"), json.dumps(known, indent=1) + "\n")
    replace_file(stem.with_suffix(".md"), page(protocol, known, stem.with_suffix(".png").name))
    draw(protocol, found, stem.with_suffix(".png"))
