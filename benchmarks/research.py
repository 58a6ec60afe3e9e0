"""Does an option learn better than the default? Curves of several seeds on cheap tasks, with intervals and its cost.

    python benchmarks/research.py --runs runs/research --report docs/results/research

trains every run that is not complete yet, one after another, and goes on where it was stopped. Several of these may
share ``--runs``, each with other ``--seeds`` or ``--options``; ``--report`` writes a table (.md), a figure (.png) and
the numbers (.json) from all runs that are complete by then, ``--report-only`` trains none. The measure is the area
under a seed's learning curve: its mean return over bins of frames. An option is called better or worse where the 95 %
interval of the difference of means, a percentile bootstrap over seeds, leaves out 0; with so many options about one in
twenty is called so by chance. The time of an update and the memory of its program are measured here, one option after
another.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from learning import interval, p_value

from dreamer_jax.analysis.plot import bin_means, finish_panel, load_run, open_panels, save_picture
from dreamer_jax.config.loading import load
from dreamer_jax.config.schema import Config
from dreamer_jax.config.sweep import parse_seeds
from dreamer_jax.profiling.speed import machine, update_speed
from dreamer_jax.runs.facts import steps
from dreamer_jax.training.preflight import env_spec

HERE = Path(__file__).resolve().parent
Settings = dict[str, str]


class Task(NamedTuple):
    """A settings file and what is changed in it; ``bin_frames`` are those of a point of a curve."""

    config: Path
    settings: Settings
    bin_frames: int
    pictures: bool


TASKS = {
    "CartPole-v1": Task(
        HERE.parent / "configs" / "quickstart.yaml",
        {"env.task": "gym/CartPole-v1", "env.action_repeat": "1", "train.frames": "3000"},
        250,
        pictures=False,
    ),
    "catch": Task(
        HERE.parent / "configs" / "catch.yaml",
        {
            "env.task": "gym/catch:SmallCatch-v0",
            "train.batch_length": "8",
            "train.train_ratio": "16",
            "train.frames": "4000",
        },
        250,
        pictures=True,
    ),
}
DEFAULT = "default"
OPTIONS: dict[str, Settings] = {
    DEFAULT: {},
    "learned scales (HarmonyDream)": {"loss.balance": "learned"},
    "smoothed rewards (DreamSmooth)": {"replay.smoothing": "gaussian"},
    "curious replay": {"replay.sampling": "curious"},
    "redundancy reduction (R2-Dreamer)": {"representation.kind": "redundancy"},
    "contrastive (InfoNCE)": {"representation.kind": "contrastive", "representation.scale": "1"},
    "next embedding (NE-Dreamer)": {"representation.kind": "next_embedding", "representation.transformer_units": "64"},
    "random shift (DrQ)": {"encoder.shift": "3"},
}
PICTURES = {"random shift (DrQ)"}
"""Options that mean something to pictures alone."""


def options_of(task: Task) -> list[str]:
    return [name for name in OPTIONS if task.pictures or name not in PICTURES]


def settings(task: Task, option: str, seed: int) -> Settings:
    return {**task.settings, **OPTIONS[option], "seed": str(seed), "train.devices": "1"}


def run_dir(runs: Path, task: str, option: str, seed: int) -> Path:
    return runs / f"{task}-{'_'.join(option.split(' (')[0].split())}-{seed}"


def config_of(task: Task, option: str, seed: int = 0) -> Config:
    return load(files=[task.config], overrides=settings(task, option, seed).items())


def is_complete(folder: Path, config: Config) -> bool:
    """Whether the last checkpoint there has all frames."""
    return max(steps(folder), default=0) * config.env.action_repeat >= config.train.frames


def train(runs: Path, tasks: Iterable[str], options: Sequence[str], seeds: Iterable[int]) -> int:
    """Train what is not complete; the exit status of the first run that failed, else 0."""
    for seed in seeds:
        for name in tasks:
            task = TASKS[name]
            for option in options_of(task):
                folder = run_dir(runs, name, option, seed)
                if option not in options or is_complete(folder, config_of(task, option, seed)):
                    continue
                flags = [f"--{field}={text}" for field, text in settings(task, option, seed).items()]
                words = ["train", "--config", str(task.config), "--run-dir", str(folder), "--logger", "none", *flags]
                print(f"{name}, {option}, seed {seed}: {folder}", file=sys.stderr, flush=True)
                ended = subprocess.run([sys.executable, "-m", "dreamer_jax", *words])
                if ended.returncode:
                    return ended.returncode
    return 0


def curves(runs: Path, name: str, option: str, seeds: Iterable[int]) -> np.ndarray:
    """Mean score of each bin of the runs that are complete [seeds, bins]; NaN in a bin where no episode ended."""
    task, found = TASKS[name], []
    for seed in seeds:
        config, folder = config_of(task, option, seed), run_dir(runs, name, option, seed)
        if is_complete(folder, config):
            edges = np.arange(0, config.train.frames + 1, task.bin_frames)
            found.append(bin_means(load_run(folder, clock=False), edges))
    return np.array(found)


def rows_of(name: str, by_option: dict[str, np.ndarray], repeats: int) -> list[dict[str, Any]]:
    """What is known of every option on a task, the default first."""
    task = TASKS[name]
    spec = env_spec(config_of(task, DEFAULT))
    areas = {option: np.nanmean(values, 1) for option, values in by_option.items()}
    default = areas[DEFAULT]
    rows = []
    for option, area in areas.items():
        speed = update_speed(config_of(task, option), spec, repeats)
        row: dict[str, Any] = {"task": name, "option": option, "settings": OPTIONS[option]}
        row |= {"areas": [round(float(x), 2) for x in area], "mean": round(float(area.mean()), 2)}
        row |= {key: speed[key] for key in ("update_ms", "compiled_memory_mb", "parameters")}
        if option != DEFAULT and min(len(area), len(default)) > 1:
            low, high = interval(area, default, 0.95)
            row |= {
                "difference": round(float(area.mean() - default.mean()), 2),
                "ci95": [round(low, 2), round(high, 2)],
            }
            row |= {
                "p": p_value(area, default),
                "verdict": "better" if low > 0 else "worse" if high < 0 else "no difference seen",
            }
        rows.append(row)
    return rows


def as_table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    heads = "task", "option", "seeds", "area", "difference", "95 %", "p", "seen", "update, ms", "memory, MB"
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        low, high = row.get("ci95", ("", ""))
        cells = [row["task"], row["option"], len(row["areas"]), row["mean"], row.get("difference", "")]
        cells += [f"{low} to {high}" if "ci95" in row else "", row.get("p", ""), row.get("verdict", "")]
        cells += [round(row["update_ms"], 1), row["compiled_memory_mb"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


PAGE = """# Published changes, measured

Do the [options](../explanation/options.md) that others have published learn better than the default on two cheap
tasks? Written by `python benchmarks/research.py --runs runs/research --report docs/results/research`, not by hand.

*Area* is the mean return over bins of frames, of the training episodes that ended in them; *difference* that to the
default's, with a 95 % bootstrap interval over seeds. A difference is *seen* where the interval leaves out 0. Of as many
comparisons as this table has, one in twenty is seen by chance, and two small tasks say little about others. Time is the
median of one update on one CPU core, memory what its program takes beside its arguments.

- `CartPole-v1` from states: quick-start widths, 3,000 frames, 2,800 updates of 8 x 16 records; random actions have 22.
- `catch` from pictures of 32 x 32 (`catch:SmallCatch-v0`): 4,000 frames, 960 updates of 8 x 8 records; from -1 to 1,
  random actions have -0.5.

![Return against frames, the mean of the seeds of each option]({picture})

{table}
"""


def as_page(rows: Sequence[dict[str, Any]], picture: str) -> str:
    """Markdown."""
    return PAGE.format(picture=picture, table=as_table(rows))


def draw(found: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """The mean curve of each option."""
    figure, axes = open_panels(len(found))
    for ax, (name, by_option) in zip(axes, found.items(), strict=True):
        width = TASKS[name].bin_frames
        for option, values in by_option.items():
            middle = width * (np.arange(values.shape[1]) + 0.5)
            style = {"color": "black", "linewidth": 2.5} if option == DEFAULT else {"linewidth": 1.2}
            ax.plot(middle, np.nanmean(values, 0), label=f"{option}, {len(values)} seeds", **style)
        finish_panel(ax, name, "environment frames", legend_size=7)
    save_picture(figure, path)


def report(
    runs: Path, tasks: Iterable[str], options: Sequence[str], seeds: Sequence[int], stem: Path, repeats: int
) -> None:
    found: dict[str, dict[str, np.ndarray]] = {}
    for name in tasks:
        by_option = {
            option: curves(runs, name, option, seeds) for option in options_of(TASKS[name]) if option in options
        }
        known = {option: values for option, values in by_option.items() if len(values)}
        if DEFAULT in known:
            found[name] = known
    rows = [row for name, by_option in found.items() for row in rows_of(name, by_option, repeats)]
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".md").write_text(as_page(rows, stem.with_suffix(".png").name))
    stem.with_suffix(".json").write_text(
        json.dumps({"benchmark": "research", "rows": rows, **machine()}, indent=1) + "\n"
    )
    if found:
        draw(found, stem.with_suffix(".png"))
    print(as_table(rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, metavar="FOLDER", help="of all run directories")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--options", nargs="+", choices=OPTIONS, default=list(OPTIONS), metavar="OPTION")
    parser.add_argument("--seeds", type=parse_seeds, default=parse_seeds("0..4"), metavar="A..B")
    parser.add_argument("--report", type=Path, metavar="STEM", help="write STEM.md, .json and .png")
    parser.add_argument("--report-only", action="store_true", help="of the runs that are complete")
    parser.add_argument("--repeats", type=int, default=50, help="updates measured for each option (default 50)")
    options = parser.parse_args()
    status = 0 if options.report_only else train(options.runs, options.tasks, options.options, options.seeds)
    if options.report and not status:
        report(options.runs, options.tasks, options.options, options.seeds, options.report, options.repeats)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
