"""What is the same for every method: tasks, frames, evaluations, and the file that a finished run leaves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dreamer_jax.config.schema import ConfigError, EnvConfig
from dreamer_jax.evaluation.play import MakeActor
from dreamer_jax.evaluation.recordings import Recording
from dreamer_jax.evaluation.subject import Subject
from dreamer_jax.files import replace_file

RANDOM, PREDICTION = "random", "prediction"
"""Not methods, but what all are measured by: uniform actions; what can be predicted from frozen features."""
WORLD_MODELS = {"dreamer_v3": "DreamerV3", "planet": "PlaNet"}
MODEL_FREE = {"sac": "SAC", "tqc": "TQC", "crossq": "CrossQ", "ppo": "PPO"}
CLONES = {"bc_5": 5, "bc_25": 25, "bc_100": 100}
"""Demonstrations of each."""
LEARNERS = WORLD_MODELS | MODEL_FREE
"""Those that act for themselves while they learn."""
NAMES = LEARNERS | {name: f"BC, {count} episodes" for name, count in CLONES.items()} | {RANDOM: "random actions"}
METHODS = [*LEARNERS, *CLONES]


class Task(NamedTuple):
    """``other`` has the same body with another task, observations and actions alike; nothing where there is none."""

    name: str
    other: str = ""


@dataclass(frozen=True)
class Protocol:
    """``frames`` are those of the environment, action repeat included, everywhere."""

    tasks: Mapping[str, Task]
    action_repeat: int
    frames: int
    evaluated: tuple[int, ...]  # frames after which the policy plays
    budgets: tuple[int, ...]  # those of them that tables show
    goal: float  # the return whose frames are counted
    episodes: int  # of each evaluation
    shifts: Mapping[str, int]  # severities by name
    recorded: int  # episodes of each kind that features are judged on
    horizons: tuple[int, ...]  # records ahead
    starts: int  # of predictions
    clone_updates: int
    demonstrations: int  # most episodes that a clone sees

    def env(self, task: str) -> EnvConfig:
        """The environment of ``task``, as suites name it."""
        return EnvConfig(task=task, action_repeat=self.action_repeat, num_envs=4)

    def facts(self) -> dict[str, Any]:
        """What runs must share to be compared, as JSON has it."""
        return json.loads(json.dumps({name: x for name, x in asdict(self).items() if name not in ("tasks", "budgets")}))


PROTOCOL = Protocol(
    tasks={
        "cartpole_swingup": Task("dmc/cartpole_swingup", "dmc/cartpole_balance"),
        "finger_spin": Task("dmc/finger_spin"),
        "reacher_easy": Task("dmc/reacher_easy", "dmc/reacher_hard"),
        "walker_walk": Task("dmc/walker_walk", "dmc/walker_stand"),
    },
    action_repeat=4,
    frames=100_000,
    evaluated=(5_000, 10_000, 25_000, 50_000, 75_000, 100_000),
    budgets=(10_000, 25_000, 50_000, 100_000),
    goal=500,
    episodes=10,
    shifts={"strength": 2, "observation_noise": 2},
    recorded=8,
    horizons=(1, 5, 15),
    starts=100,
    clone_updates=3000,
    demonstrations=max(CLONES.values()),
)

EVALUATION_SEED, RECORDING_SEED, DEMONSTRATION_SEED = 10_000, 20_000, 30_000
"""To which the seed of a run is added; its training has the seed itself."""


class Learnt(NamedTuple):
    """``curve`` are policies by the frames they have learnt from; ``costs`` and ``settings`` are for the record."""

    curve: Sequence[tuple[int, MakeActor]]
    costs: dict[str, float]
    settings: dict[str, Any]


class Frozen(NamedTuple):
    """A finished agent: its greedy policy, its features [N, T, F] of recordings, and its world model if it has one."""

    actor: MakeActor
    features: Callable[[Sequence[Recording]], np.ndarray]
    subject: Subject | None = None


class Place(NamedTuple):
    """Where agents lie, and where results."""

    runs: Path
    results: Path

    def agent(self, task: str, method: str, seed: int) -> Path:
        return self.runs / f"{task}-{method}-{seed}"

    def result(self, task: str, method: str, seed: int) -> Path:
        return self.results / f"{task}-{method}-{seed}.json"


def read(protocol: Protocol, path: Path) -> dict[str, Any]:
    """A finished run's file.

    Raises:
      ConfigError: it can't be read, or was made otherwise than ``protocol`` says.
    """
    try:
        found = json.loads(path.read_text())
        made = found["protocol"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: no result of this comparison ({type(error).__name__}); move it away") from error
    if made != (facts := protocol.facts()):
        name = next(name for name in {**facts, **made} if facts.get(name) != made.get(name))
        raise ConfigError(
            f"{path}: {name} was {made.get(name)!r} and is {facts.get(name)!r} now, so that it can't be compared; "
            "move it away"
        )
    return found


def write(protocol: Protocol, path: Path, found: dict[str, Any]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps({**found, "protocol": protocol.facts()}, indent=1) + "\n")
