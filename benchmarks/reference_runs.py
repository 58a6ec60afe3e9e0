"""Adds runs of danijar/dreamerv3 to the recordings that ours are compared with.

    python benchmarks/reference_runs.py LOGDIR ...

A log directory is one of the reference at commit e3f0224, run under small settings; docs/reproduction.md has the
command. Returns of its training episodes (``scores.jsonl``) go to dreamer_jax/data/reference_small.json, from where
``compare --to reference_small`` and benchmarks/learning.py take them. Means of its metrics over every 250 of the first
5,000 updates (``metrics.jsonl``, if it is there) go to benchmarks/reference_metrics.json. Task, seed and settings are
those of its ``config.yaml``; a seed that is there already is replaced.

``--first-updates`` records metrics alone, of runs that log as often as they can: over ranges of 12 to 108 of the first
480 updates, into benchmarks/reference_first_updates.json.

Where all episodes have one length, those of all environments end together, and such a group is a point of the curve.
For other tasks ``--group-frames`` says how many frames a point has.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from learning import METRICS, SCORES
from learning_metrics import FIRST, means_over, read_reference, rounded
from parity import training

from dreamer_jax.config.loading import load, replace, write
from dreamer_jax.config.schema import flatten
from dreamer_jax.runs.metrics import read_jsonl

FIRST_UPDATES = METRICS.with_name("reference_first_updates.json")


def read_settings(config: dict[str, Any], preset: str, shows_images: bool = False) -> tuple[str, dict[str, Any]]:
    """The task with what is seen of it, and what differs from the preset, in our names.

    The type of numbers is left out: theirs is float32, as ours is on a CPU.
    """
    suite, _, name = config["task"].partition("_")
    env = config["env"].get(suite, {})
    images = shows_images or (env["image"] if suite == "dmc" else "size" in env)
    values = {
        "env.task": f"{suite}/{name}",
        "env.num_envs": config["run"]["envs"],
        "env.action_repeat": env.get("repeat", 1),
        "optimizer.warmup": config["agent"]["opt"]["warmup"],
        "train.train_ratio": config["run"]["train_ratio"],
        "train.batch_size": config["batch_size"],
        "train.batch_length": config["batch_length"],
        "train.start_windows": config["batch_size"] * config["batch_length"],
    }
    if images and "size" in env:
        values |= {"env.image_size": env["size"][0]} | ({"env.observation": "image"} if suite == "dmc" else {})
    if suite.startswith("atari"):
        values |= {
            "env.timeouts_terminate": True,
            "env.grey": env["gray"],
            "env.sticky": 0.25 * env["sticky"],
            "env.noops": env["noops"],
            "env.actions": {"needed": "minimal", "all": "all"}[env["actions"]],
        }
    theirs = flatten(replace(training.settings({"agent_config": config["agent"]}), values))
    task = [("env.task", values["env.task"])]
    base = flatten(load(preset, overrides=task))
    given = [(field, write(value)) for field, value in theirs.items() if value != base[field] and field != "dtype"]
    checked = flatten(load(preset, overrides=task + given))  # as numbers too: their file has some as text
    settings = {field: value for field, value in checked.items() if value != base[field]}
    return f"{suite}/{name} from {'images' if images else 'states'}", settings


def width_of_groups(frames: np.ndarray, envs: int) -> int | None:
    """Frames from one end of all environments' episodes to the next; None where they do not end together."""
    ends = frames[envs - 1 :: envs]
    if ends.size < 2 or not np.array_equal(ends, ends[0] * np.arange(1, ends.size + 1)):
        return None
    return int(ends[0])


def add(
    logdir: Path, scores: dict[str, Any], metrics: dict[str, Any], group_frames: int | None, shows_images: bool
) -> None:
    """One run, to the contents of both files."""
    written = yaml.safe_load((logdir / "config.yaml").read_text())
    place, settings = read_settings(written, scores["protocol"]["preset"], shows_images)
    episodes = [[row["step"], rounded(row["episode/score"], 6)] for row in read_jsonl(logdir / "scores.jsonl")]
    width = group_frames or width_of_groups(np.array(episodes)[:, 0], written["run"]["envs"])
    if width is None:
        raise SystemExit(f"{logdir}: episodes do not end together; say with --group-frames how wide a point is")
    entry = scores["tasks"].setdefault(place, {"group_frames": width, "settings": settings, "seeds": {}})
    if (entry["group_frames"], entry["settings"]) != (width, settings):
        raise SystemExit(
            f"{logdir}: {place} is there with groups of {entry['group_frames']} frames, {entry['settings']}"
        )
    entry["seeds"] = with_seed(entry["seeds"], written["seed"], episodes)
    if (logdir / "metrics.jsonl").exists():
        add_metrics(logdir, place, written["seed"], metrics)


def add_metrics(logdir: Path, place: str, seed: int, metrics: dict[str, Any]) -> None:
    """One run, over the ranges that the file has."""
    logged = read_reference(logdir / "metrics.jsonl")
    edges = np.array(metrics["updates"])
    means = means_over(logged, edges[logged.ends[-1] >= edges])
    values = {name: [rounded(x, 4) for x in row] for name, row in means.items()}
    metrics["tasks"][place] = with_seed(metrics["tasks"].get(place, {}), seed, values)


def record_first(logdirs: list[Path]) -> None:
    metrics = (
        json.loads(FIRST_UPDATES.read_text()) if FIRST_UPDATES.exists() else {"updates": FIRST.tolist(), "tasks": {}}
    )
    for logdir in logdirs:
        written = yaml.safe_load((logdir / "config.yaml").read_text())
        add_metrics(logdir, read_settings(written, "dreamer_v3")[0], written["seed"], metrics)
    save(FIRST_UPDATES, metrics)
    print(json.dumps({place: list(seeds) for place, seeds in metrics["tasks"].items()}))


def with_seed(seeds: dict[str, Any], seed: int, value: Any) -> dict[str, Any]:
    return dict(sorted((seeds | {str(seed): value}).items(), key=lambda item: int(item[0])))


def save(path: Path, content: dict[str, Any]) -> None:
    """JSON with a line for each task and each seed, so that a change shows what it adds."""
    path.write_text(re.sub(r' (?="\d+":|"[^"]+ from \w+":)', "\n", json.dumps(content)) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logdirs", type=Path, nargs="+", metavar="LOGDIR")
    parser.add_argument("--group-frames", type=int, help="width of a point where episodes do not end together")
    parser.add_argument("--images", action="store_true", help="a task of Gymnasium shows images, which no file says")
    parser.add_argument("--first-updates", action="store_true", help="record the metrics of the first updates alone")
    options = parser.parse_args()
    if options.first_updates:
        record_first(options.logdirs)
        return
    scores, metrics = (json.loads(path.read_text()) for path in (SCORES, METRICS))
    for logdir in options.logdirs:
        add(logdir, scores, metrics, options.group_frames, options.images)
    save(SCORES, scores)
    save(METRICS, metrics)
    print(json.dumps({place: list(entry["seeds"]) for place, entry in scores["tasks"].items()}))


if __name__ == "__main__":
    main()
