"""Does what was learnt for one task help with another? Zero-shot, few-shot, frozen and whole, against from scratch."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from dreamer_jax.analysis.plot import Run, bin_means, draw_runs, load_run
from dreamer_jax.analysis.statistics import summary
from dreamer_jax.config.checks import check
from dreamer_jax.config.loading import replace
from dreamer_jax.config.schema import Config, ConfigError
from dreamer_jax.datasets.collect import collect
from dreamer_jax.datasets.dataset import env_facts, write_dataset
from dreamer_jax.datasets.sources import open_sources
from dreamer_jax.devices.acting import make_act
from dreamer_jax.evaluation.features import observe
from dreamer_jax.evaluation.recordings import of_source
from dreamer_jax.evaluation.subject import of_run
from dreamer_jax.files import replace_file
from dreamer_jax.runs.facts import steps
from dreamer_jax.runs.integrity import read_run
from dreamer_jax.runs.load import load
from dreamer_jax.terminal import Answer, table
from dreamer_jax.training.evaluate import check_environment, evaluate, evaluation_envs
from dreamer_jax.training.train import train
from dreamer_jax.types import Mode

MODEL = "encoder,rssm,decoder"
ARMS: dict[str, dict[str, Any]] = {
    "scratch": {"train.start": ""},
    "frozen": {"train.start_parts": MODEL, "train.freeze": MODEL},
    "model": {"train.start_parts": MODEL},
    "everything": {"train.start_parts": "all"},
}
"""What each arm begins with: nothing of the source, its model (frozen or not), or all of it."""
SHOTS = (0, 1, 5, 10, 25)
"""Episodes of the new task from which its reward is learnt."""
SHOT_UPDATES = 500
HELD_OUT = 10
"""Other episodes in which a learnt reward is tried."""
BINS = 10
"""Of frames, for training returns."""


def transfer(
    source: Path,
    task: str,
    out: Path,
    *,
    frames: int,
    arms: Sequence[str],
    shots: Sequence[int],
    seeds: Sequence[int],
    episodes: int,
    note: Callable[[str], None],
    stream: TextIO | None = None,
) -> dict[str, Any]:
    """Everything that is not in ``out`` yet; what is there already is gone on with.

    Returns:
      ``transfer.json``: returns of the source's own policy and of random actions in the new task, R2 of rewards learnt
      from few episodes, and of each arm its training returns, their area, what the end reaches, and when.

    Raises:
      ConfigError: there is no such run or task, or its observations or actions are others than the run's.
    """
    config, spec = read_run(source)
    target = replace(config, {"env.task": task, "train.frames": frames, "train.start": str(source.absolute())})
    check_environment(target, spec, [("env.task", task)])
    found: dict[str, Any] = {"source": str(source), "from": config.env.task, "to": task, "frames": frames}
    note("the source's policy in the new task")
    found["zero_shot"] = {
        "policy": summary(_scores(source, target, "sample", episodes)),
        "random": summary(_scores(source, target, "random", episodes)),
    }
    found["reward"] = few_shots(source, target, out, shots, note) if shots else {}
    found["arms"] = {}
    runs: list[Run] = []
    for arm in arms:
        folders = []
        for seed in seeds:
            folder = out / f"{arm}-{seed}"
            arm_config = replace(
                target, {"seed": seed, **ARMS[arm]} | ({"train.start": ""} if arm == "scratch" else {})
            )
            if max(steps(folder), default=0) * target.env.action_repeat < frames:
                note(f"{arm}, seed {seed}: {folder}")
                train(check(arm_config), folder, loggers=(), stream=stream)
            folders.append(folder)
        learnt = [dataclasses.replace(run, method=arm) for run in map(_finished, folders) if run is not None]
        runs += learnt
        found["arms"][arm] = _learning(learnt, target) | {
            "final": summary([_scores(folder, target, "sample", episodes) for folder in folders])
        }
    baseline = found["arms"].get("scratch", {}).get("final", {}).get("mean")
    for arm in found["arms"].values():
        arm["frames_to_80_percent_of_scratch"] = None if baseline is None else _reached(arm, 0.8 * baseline)
    out.mkdir(parents=True, exist_ok=True)
    if runs:
        found["picture"] = str(draw_runs(runs, out / "transfer.png", bins=20))
    replace_file(out / "transfer.json", json.dumps(found, indent=1).encode())
    return found


def _scores(run_dir: Path, config: Config, mode: Mode, episodes: int) -> list[float]:
    """Returns of a run's agent in the environment of ``config``."""
    agent, state = load(run_dir)
    envs = evaluation_envs(config.env, episodes, config.seed, lambda text: None)
    with closing(envs):
        return evaluate(agent, make_act(agent, mode), state.params, envs, episodes=episodes, seed=config.seed)


def few_shots(
    source: Path, target: Config, out: Path, shots: Sequence[int], note: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """R2 of the reward in held-out episodes, by the head of the source (0) or one that few episodes have taught.

    Every other episode is played by the source's policy, the others at random.
    """
    players = {"random": "random", "policy": str(source.absolute())}
    played: dict[str, list[Path]] = {}
    for part, count, seed in (("train", max(shots), 1), ("test", HELD_OUT, 2)):
        for name, who in players.items():
            folder = out / f"{part}-{name}"
            if not folder.exists() and count:
                note(f"{count} episodes: {folder}")
                collect(replace(target, {"seed": seed}), folder, policy=who, noise=0.0, episodes=-(-count // 2))
            played.setdefault(part, []).append(folder)
    found = {}
    for count in shots:
        folder = out / f"reward-{count}" if count else source
        if count and not steps(folder):
            note(f"a reward from {count} episodes: {folder}")
            records = _write_first(played["train"], count, out / f"shots-{count}")
            settings = {
                "offline.data": str(out / f"shots-{count}"),
                "offline.only": "world_model",
                "offline.updates": SHOT_UPDATES,
                "replay.validation_fraction": 0.0,
                "replay.capacity": max(records, target.replay.capacity),
                "train.start_parts": f"{MODEL},cont",
                "train.freeze": f"{MODEL},cont",
            }
            train(check(replace(target, settings)), folder, loggers=(), stream=io.StringIO())
        found[str(count)] = {"r2": reward_r2(folder, played["test"])}
    return found


def _write_first(datasets: Sequence[Path], count: int, folder: Path) -> int:
    """A dataset of ``count`` episodes, one from each of the others in turn; how many records they are."""
    if not folder.exists():
        sources = open_sources(",".join(map(str, datasets)))
        facts = {"task": sources[0].env.task, "env": env_facts(sources[0].env)}
        with write_dataset(folder, sources[0].spec, facts) as writer:
            in_turn = itertools.chain.from_iterable(zip(*(source.episodes() for source in sources), strict=True))
            for episode in itertools.islice(in_turn, count):
                writer.append(episode)
    return sum(open_sources(str(folder))[0].lengths)


def _finished(folder: Path) -> Run | None:
    """A run's training episodes; None before the first has ended."""
    try:
        return load_run(folder, clock=False)
    except ConfigError:
        return None


def _learning(runs: Sequence[Run], config: Config) -> dict[str, Any]:
    """Training returns by frames; of no finished episode nothing."""
    edges = np.linspace(0, config.train.frames, BINS + 1)
    curves = np.array([bin_means(run, edges) for run in runs]).reshape(len(runs), BINS)
    known = ~np.isnan(curves)
    sums, counts = np.where(known, curves, 0).sum(0), known.sum(0)
    curve = [float(x / n) if n else None for x, n in zip(sums, counts, strict=True)]
    areas = [float(np.nanmean(row)) for row in curves if not np.isnan(row).all()]
    return {"frames": edges[1:].tolist(), "curve": curve, "area": summary(areas) if areas else None}


def _reached(arm: dict[str, Any], score: float) -> float | None:
    """Frames at the end of the first bin whose returns are as high."""
    pairs = zip(arm["frames"], arm["curve"], strict=True)
    return next((frames for frames, mean in pairs if mean is not None and mean >= score), None)


def reward_r2(run_dir: Path, datasets: Sequence[Path]) -> float:
    """``1 - SSE / SST`` of expected rewards, over all records of some datasets but the first of each episode."""
    subject, _ = of_run(run_dir)
    sources = open_sources(",".join(map(str, datasets)))
    recordings = [one for source in sources for one in of_source(source, len(source.lengths), max(source.lengths))]
    seen = observe(subject, recordings, seed=0)
    pairs = [(seen.reward[i, 1 : one.length], one.columns["reward"][1:]) for i, one in enumerate(recordings)]
    guess, truth = (np.concatenate(each).astype(np.float64) for each in zip(*pairs, strict=True))
    return float(1 - np.square(guess - truth).sum() / np.square(truth - truth.mean()).sum())


def describe(found: dict[str, Any]) -> Answer:
    """For a terminal."""
    zero = found["zero_shot"]
    head = f"{found['from']} to {found['to']}: the source's policy reaches {zero['policy']['mean']:.1f} there without "
    head += f"learning, random actions {zero['random']['mean']:.1f}"
    rewards = [(episodes, f"{one['r2']:.3f}") for episodes, one in found["reward"].items()]
    rows = []
    for arm, one in found["arms"].items():
        low, high = one["final"]["mean_ci95"] or (float("nan"),) * 2
        reached, first = one["frames_to_80_percent_of_scratch"], next((x for x in one["curve"] if x is not None), None)
        rows.append(
            (
                arm,
                "–" if first is None else f"{first:.1f}",
                f"{one['area']['mean']:.1f}" if one["area"] else "–",
                f"{one['final']['mean']:.1f} ({low:.1f} to {high:.1f})",
                "–" if reached is None else f"{reached:,.0f}",
            )
        )
    heads = ("begins with", "first returns", "mean return", "at the end (95 %)", "frames to 80 % of scratch")
    tables = [table(("episodes for the reward", "R2"), rewards, right=("R2",))] if rewards else []
    return [head, *tables, *([table(heads, rows, right=heads[1:])] if rows else [])]
