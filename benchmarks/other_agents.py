"""Gathers the published scores of agents that are not of this package into its data.

    python benchmarks/other_agents.py FOLDER

``FOLDER`` has a clone of each repository of ``SOURCES``, by its name without the owner. What is read is the commit that
is checked out, which is written down beside the scores. Curves are taken at ``FRAMES``, where the file has a value
there; tables have one value a seed, at the frames that they are for. The result is dreamer_jax/data/other_agents.json,
from where ``compare --to`` and ``report --to`` take it.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import dreamer_jax
from dreamer_jax.analysis.published import ALIASES

DATA = Path(dreamer_jax.__file__).parent / "data"
FRAMES = {
    "dmc states": [50_000, *range(100_000, 1_100_000, 100_000)],
    "dmc images": [*range(100_000, 1_100_000, 100_000)],
    "atari100k images": [*range(20_000, 420_000, 20_000)],
}
"""At which scores are kept, by suite and what an agent sees."""
DMC_END, ATARI_END = 500_000, 400_000
"""Of tables that have scores at the end alone."""
MEAN_ACTION = "returns of evaluation episodes, the mean action"
LAST_EPISODES = "returns of evaluation episodes of the trained agent"
ONE = "the mean of the evaluation episodes of a seed at that number of frames"
END = "the mean of the evaluation episodes of a seed at the end of its training"
WIDTH = 10_000
"""Frames before a point in which training episodes of ours are set beside it."""


class Source(NamedTuple):
    """The scores of one agent in one repository."""

    place: str  # of FRAMES
    method: str  # as --to names it
    name: str  # of the agent, in words
    repository: str
    licence: str
    file: str  # or the folder of a file a task
    scores: str = MEAN_ACTION
    point: str = ONE
    width: int = WIDTH


SIMBA2, TDMPC2, XQC = "DAVIAN-Robotics/SimbaV2", "nicklashansen/tdmpc2", "danielpalenicek/xqc"
HARMONY, DIAMOND, SIMULUS = "thuml/HarmonyDream", "eloialonso/diamond", "leor-c/Simulus"
TRAINING, BINS = "returns of training episodes, sampled actions", "the mean of the training episodes of a bin, by seed"
SOURCES = [
    Source(
        "dmc states",
        "simbav2",
        "SimbaV2, 2 updates a decision",
        SIMBA2,
        "Apache-2.0",
        "results/baseline/simbaV2_utd2.csv",
    ),
    Source(
        "dmc states", "simba", "Simba, 2 updates a decision", SIMBA2, "Apache-2.0", "results/baseline/simba_utd2.csv"
    ),
    Source("dmc states", "bro", "BRO, 10 updates a decision", SIMBA2, "Apache-2.0", "results/baseline/bro_utd10.csv"),
    Source("dmc states", "mrq", "MR.Q", SIMBA2, "Apache-2.0", "results/baseline/mrq.csv"),
    Source("dmc states", "sac", "SAC", SIMBA2, "Apache-2.0", "results/baseline/sac.csv"),
    Source("dmc states", "xqc", "XQC", XQC, "MIT", "results/xqc.csv"),
    Source("dmc states", "tdmpc2", "TD-MPC2", TDMPC2, "MIT", "results/tdmpc2"),
    Source("dmc states", "simulus", "Simulus", SIMULUS, "GPL-3.0", "results/data/dmc/Simulus.json", LAST_EPISODES, END),
    Source("dmc images", "xqc", "XQC", XQC, "MIT", "results/xqc_visual.csv"),
    Source("dmc images", "tdmpc2", "TD-MPC2", TDMPC2, "MIT", "results/tdmpc2-pixels"),
    Source(
        "atari100k images",
        "harmonydream",
        "HarmonyDream on DreamerV3 of 2023",
        HARMONY,
        "MIT",
        "dreamerv3-jax/scores/harmony.json",
        TRAINING,
        BINS,
        20_000,
    ),
    Source("atari100k images", "diamond", "DIAMOND", DIAMOND, "MIT", "results/data/DIAMOND.json", LAST_EPISODES, END),
    Source(
        "atari100k images",
        "simulus",
        "Simulus",
        SIMULUS,
        "GPL-3.0",
        "results/data/atari/Simulus.json",
        LAST_EPISODES,
        END,
    ),
]


def git(clone: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(clone), *arguments], check=True, capture_output=True, text=True).stdout


def task_name(name: str) -> str:
    """``Walker-walk``, ``KungFuMaster`` or ``cup-catch`` as ours."""
    name = re.sub(r"(?<=\w)(?=[A-Z])", "_", name).replace("-", "_").lower()
    name = {"cup_catch": "ball_in_cup_catch"}.get(name, name)
    return ALIASES.get(name, name)


def points(clone: Path, source: Source) -> Iterator[tuple[str, str, float, float]]:
    """Task, seed, frames and score of everything in a file or a folder."""
    path = source.file
    if path.endswith(".csv"):
        for row in csv.DictReader(io.StringIO(git(clone, "show", f"HEAD:{path}"))):
            if row["metric"] == "avg_return":
                yield row["env_name"], row["seed"], float(row["env_step"]), float(row["value"])
    elif path.endswith(".json"):
        scores: dict[str, Any] = json.loads(git(clone, "show", f"HEAD:{path}"))
        end = DMC_END if source.place == "dmc states" else ATARI_END
        steps = scores.get("steps", [end])
        for task, seeds in scores.get("score", scores).items():
            for seed, values in enumerate(seeds):
                for frames, value in zip(steps, np.atleast_1d(values), strict=True):
                    yield task, str(seed), frames, float(value)
    else:
        for file in git(clone, "ls-tree", "--name-only", "HEAD", f"{path}/").split():
            for row in csv.DictReader(io.StringIO(git(clone, "show", f"HEAD:{file}"))):
                if "reward" in row:  # tasks of other suites have rates of success
                    yield Path(file).stem, row["seed"], float(row["step"]), float(row["reward"])


def gather(clone: Path, source: Source, tasks: set[str]) -> dict[str, Any]:
    """The entry of one agent: tasks that we have, at the frames of ``FRAMES``."""
    found: dict[str, dict[int, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    kept = {frames: index for index, frames in enumerate(FRAMES[source.place])}
    for task, seed, frames, value in points(clone, source):
        if (name := task_name(task)) in tasks and frames in kept:
            found[name][kept[int(frames)]][seed] = value
    return {
        "name": source.name,
        "source": f"{source.repository} at commit {git(clone, 'rev-parse', 'HEAD')[:7]}, {source.file}",
        "licence": source.licence,
        "scores": source.scores,
        "point": source.point,
        "width": source.width,
        "tasks": {name: curve(found[name], len(kept)) for name in sorted(found)},
    }


def curve(at: dict[int, dict[str, float]], frames: int) -> dict[str, Any]:
    """Mean and standard deviation (of a whole population) over seeds, null where there is no value."""
    values = [list(at[index].values()) if index in at else [] for index in range(frames)]
    return {
        "mean": [round(float(np.mean(each)), 1) if each else None for each in values],
        "std": [round(float(np.std(each)), 1) if each else None for each in values],
        "seeds": max(map(len, values)),
    }


def our_tasks(place: str) -> set[str]:
    suite, _, _ = place.partition(" ")
    if suite == "dmc":
        from dm_control import suite as control

        return {f"{domain}_{task}" for domain, task in control.ALL_TASKS}
    return set(json.loads((DATA / "atari_scores.json").read_text())["games"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    places = {place: {"frames": frames, "methods": {}} for place, frames in FRAMES.items()}
    for source in SOURCES:
        clone = folder / source.repository.partition("/")[2]
        entry = gather(clone, source, our_tasks(source.place))
        places[source.place]["methods"][source.method] = entry
        print(f"{source.place}: {source.method}, {len(entry['tasks'])} tasks")
    text = json.dumps(places, separators=(",", ":")).replace('"},', '"},\n').replace('},"', '},\n"')
    (DATA / "other_agents.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
