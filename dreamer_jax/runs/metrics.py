"""What a run measures and writes down: episodes, metrics of updates, ``metrics.jsonl`` and ``scores.jsonl``."""

from __future__ import annotations

import json
import math
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dreamer_jax.checksums import file_checksum
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.runs.loggers import COUNTERS, Logger, make_logger
from dreamer_jax.types import Array, TimeStep


class Episode(NamedTuple):
    """A finished episode; ``length`` counts the records after the first, ``log`` is what the environment says of it."""

    env: int
    score: float
    length: int
    log: Mapping[str, float] = {}


class EpisodeStats:
    """Score and length of the running episode of each environment, and the scores of the last ``window``."""

    def __init__(self, num_envs: int, window: int = 20):
        self._score = np.zeros(num_envs, np.float64)
        self._length = np.zeros(num_envs, np.int64)
        self._recent = np.full(window, np.nan)  # newest last; a fixed shape so that checkpoints restore it

    def update(self, timestep: TimeStep, log: Mapping[str, np.ndarray] | None = None) -> list[Episode]:
        """Take one record of every environment, and its numbers [E] for the log; return the episodes that it ends."""
        first = np.asarray(timestep.is_first)
        self._score = np.where(first, 0.0, self._score) + np.asarray(timestep.reward, np.float64)
        self._length = np.where(first, 0, self._length + 1)
        ended = np.flatnonzero(timestep.is_last)
        finished = [
            Episode(
                int(env),
                float(self._score[env]),
                int(self._length[env]),
                {name: float(values[env]) for name, values in (log or {}).items()},
            )
            for env in ended
        ]
        self.add_finished(finished)
        return finished

    def add_finished(self, finished: Sequence[Episode]) -> None:
        """Let ``recent`` count episodes that ended elsewhere, too."""
        for episode in finished:
            self._recent = np.append(self._recent[1:], episode.score)

    def recent(self) -> tuple[float, int]:
        """Mean score of the last episodes (NaN before the first ends), and of how many."""
        known = self._recent[~np.isnan(self._recent)]
        return (float(known.mean()) if known.size else math.nan), int(known.size)

    def state(self) -> dict[str, np.ndarray]:
        """Everything a checkpoint needs, in arrays whose shapes never change."""
        return {"score": self._score.copy(), "length": self._length.copy(), "recent": self._recent.copy()}

    def load(self, state: Mapping[str, Array]) -> None:
        """Go on from what ``state()`` returned."""
        for name, own in self.state().items():
            if np.shape(state[name]) != own.shape:
                raise ValueError(f"episode statistics: {name} has shape {np.shape(state[name])}, expected {own.shape}")
            setattr(self, f"_{name}", np.array(state[name], own.dtype))


class MetricBuffer:
    """Metrics of updates until someone wants to read them. What it is given is on the host already."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, metrics: Mapping[str, np.ndarray]) -> None:
        """Take one update's scalars, or arrays with a leading axis of K updates; keeps none of them."""
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(np.sum(value, dtype=np.float64))
            self._counts[name] = self._counts.get(name, 0) + np.size(value)

    def take(self) -> dict[str, float]:
        """Mean of each metric over all updates since it was last asked; every update weighs the same."""
        means = {name: self._sums[name] / self._counts[name] for name in sorted(self._sums)}
        self._sums, self._counts = {}, {}
        return means


class RunLog:
    """Everything a run writes about itself; itself a logger: ``log(step, metrics)``.

    ``metrics.jsonl`` has one object per call. ``scores.jsonl`` has one per finished training episode, numbered
    from 0 over all environments, with the numbers that the environment gave for the log; the means of those since
    the last call join the metrics as ``episode/score``, ``episode/length`` and so on. Achievements make a
    ``episode/crafter_score`` over all episodes since the run began.

    ``loggers`` are names (``tensorboard``, ``wandb``) or callables. ``resume`` are the counters of the checkpoint
    that the run goes on from, with what ``state`` gave it; without it the run starts anew. Lines beyond that point move
    to ``<name>.superseded.jsonl``: their episodes are about to be lived again.
    """

    def __init__(
        self,
        run_dir: str | Path,
        *,
        method: str,
        task: str,
        seed: int,
        loggers: Sequence[str | Logger] = ("tensorboard",),
        resume: Mapping[str, Any] | None = None,
    ):
        run_dir = Path(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        self._identity = {"task": task, "method": method, "seed": seed}
        first_frame = int(resume["env_frames"]) + 1 if resume else 0
        # Before any file is touched, because a missing package ends the run here.
        self._loggers = [make_logger(logger, run_dir, self._identity, first_frame) for logger in loggers]
        limit = int(resume["agent_steps"]) if resume else -1
        rewind_jsonl(run_dir / "metrics.jsonl", limit)
        kept = rewind_jsonl(run_dir / "scores.jsonl", limit)
        self._episode = max(kept, int(resume.get("episodes", 0)) if resume else 0)  # more if the file was lost
        self._achieved = [achievements(line) for line in read_jsonl(run_dir / "scores.jsonl")] if kept else []
        self._start = time.monotonic() - (_resume_seconds(run_dir, resume) if resume else 0.0)
        self._metrics, self._scores = _Lines(run_dir / "metrics.jsonl"), _Lines(run_dir / "scores.jsonl")
        self._finished: list[Episode] = []

    @property
    def seconds(self) -> float:
        """Time that the run has been at work, before it was resumed too; belongs into the checkpoint."""
        return time.monotonic() - self._start

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs; what the files hold so far is in it so that damage to that is found."""
        files = {lines.path.name: lines.state() for lines in (self._metrics, self._scores)}
        return {"seconds": self.seconds, "episodes": self._episode, "files": files}

    def episodes(self, step: Mapping[str, int], finished: Sequence[Episode]) -> None:
        """Write a line for each of the episodes that ended with the records counted in ``step``."""
        if not finished:
            return
        when = {name: int(step[name]) for name in ("agent_steps", "env_frames")}
        lines = [
            {**self._identity, "env": env, "episode": self._episode + index, **when, "score": score, "length": length}
            | dict(log)
            for index, (env, score, length, log) in enumerate(finished)
        ]
        self._scores.write(lines)
        self._episode += len(lines)
        self._finished.extend(finished)
        self._achieved.extend(achievements(line) for line in lines)

    def __call__(self, step: Mapping[str, int], metrics: Mapping[str, float]) -> None:
        counters = {name: int(step[name]) for name in COUNTERS}
        metrics = dict(metrics)
        if self._finished:
            metrics["episode/score"] = float(np.mean([episode.score for episode in self._finished]))
            metrics["episode/length"] = float(np.mean([episode.length for episode in self._finished]))
            for name in self._finished[0].log:
                metrics[f"episode/{name}"] = float(np.mean([episode.log[name] for episode in self._finished]))
            if self._achieved[0]:
                from dreamer_jax.envs.crafter import crafter_score  # late: it loads Gymnasium

                rates = np.mean([list(achieved.values()) for achieved in self._achieved], 0)
                metrics["episode/crafter_score"] = crafter_score(rates)
            self._finished.clear()
        metrics = dict(sorted(metrics.items()))
        self._metrics.write([{**counters, "seconds": round(self.seconds, 3), **metrics}])
        for logger in self._loggers:
            logger(counters, metrics)

    def pictures(self, step: Mapping[str, int], files: Mapping[str, Path]) -> None:
        """Show pictures that have been written, by name, wherever a logger can."""
        for logger in self._loggers:
            if show := getattr(logger, "picture", None):
                for name, path in files.items():
                    show({counter: int(step[counter]) for counter in COUNTERS}, name, path)

    def close(self) -> None:
        """Finish the files and the loggers."""
        self._metrics.close()
        self._scores.close()
        for logger in self._loggers:
            if hasattr(logger, "close"):
                logger.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def achievements(line: Mapping[str, Any]) -> dict[str, float]:
    """Those of Crafter in a line of scores: 1 for what the episode unlocked, 0 for what it did not."""
    return {name: value for name, value in line.items() if name.startswith("achievement_")}


def read_jsonl(path: str | Path) -> list[dict]:
    """The objects of a file of JSON lines, less a last line that a kill left torn.

    Raises:
      ConfigError: it can't be read, or another line is no object.
    """
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: can't be read ({error.strerror})") from error
    objects = []
    for number, line in enumerate(lines, start=1):
        parsed = _parse(line)
        if parsed is not None:
            objects.append(parsed)
        elif number < len(lines):
            raise ConfigError(f"{path}:{number}: damaged, not a JSON object; remove the line (train moves it aside)")
    return objects


def rewind_jsonl(path: Path, agent_steps: int) -> int:
    """Move what lies beyond ``agent_steps``, and what can't be read, to ``<name>.superseded.jsonl``.

    Returns how many lines stay.
    """
    if not path.exists():
        return 0
    text = path.read_bytes()
    keep: list[bytes] = []
    move: list[bytes] = []
    for line in text.splitlines():
        parsed = _parse(line)
        beyond = parsed is None or parsed.get("agent_steps", 0) > agent_steps
        (move if beyond else keep).append(line + b"\n")
    if move:
        # First the copy, then the cut: a kill in between repeats lines but loses none.
        with open(path.with_suffix(".superseded.jsonl"), "ab") as superseded:
            superseded.write(b"".join(move))
            superseded.flush()
            os.fsync(superseded.fileno())
    if b"".join(keep) != text:
        scratch = path.with_suffix(".jsonl.tmp")
        with open(scratch, "wb") as file:
            file.write(b"".join(keep))
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    return len(keep)


def _parse(line: bytes) -> dict | None:
    try:
        parsed = json.loads(line)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


class _Lines:
    """A file of JSON lines that grows, and a checksum of what it holds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Unbuffered: a kill tears one line at most.
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (until ``close``)
        self._bytes, self._checksum = file_checksum(path)

    def write(self, lines: Sequence[Mapping[str, object]]) -> None:
        plain = [{name: _plain(value) for name, value in line.items()} for line in lines]
        data = "".join(json.dumps(line, allow_nan=False) + "\n" for line in plain).encode()
        left = data
        while left:  # one call, unless the disk is about to be full
            left = left[self._file.write(left) :]
        self._bytes, self._checksum = self._bytes + len(data), zlib.crc32(data, self._checksum)

    def state(self) -> dict[str, int]:
        return {"bytes": self._bytes, "crc32": self._checksum}

    def close(self) -> None:
        self._file.close()


def _plain(value: Any) -> str | int | float | None:
    """A value as JSON knows it: eight digits hold any float32, and JSON has no NaN or infinity."""
    if isinstance(value, str | int):
        return value
    number = float(value)
    return float(f"{number:.8g}") if math.isfinite(number) else None


def _resume_seconds(run_dir: Path, resume: Mapping[str, Any]) -> float:
    """Those of the checkpoint, or of a last line written there later: by a start that ended before its first step."""
    path = run_dir / "metrics.jsonl"
    lines = read_jsonl(path) if path.exists() else []
    return max(float(resume.get("seconds", 0.0)), float(lines[-1]["seconds"]) if lines else 0.0)
