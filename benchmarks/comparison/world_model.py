"""Our agents: their settings here, and what a run of theirs leaves."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from comparison.protocol import Frozen, Learnt, Protocol
from dreamer_jax.config.loading import dump, load, replace
from dreamer_jax.config.schema import Config
from dreamer_jax.datasets.collect import of_agent
from dreamer_jax.devices.acting import Act, make_act
from dreamer_jax.evaluation.features import observe
from dreamer_jax.evaluation.play import MakeActor
from dreamer_jax.evaluation.recordings import Recording
from dreamer_jax.evaluation.subject import of_run
from dreamer_jax.interfaces import Agent
from dreamer_jax.runs.facts import steps
from dreamer_jax.runs.load import load as load_run
from dreamer_jax.training.train import train
from dreamer_jax.types import Params

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SETTINGS: dict[str, tuple[Path, dict[str, object]]] = {
    "dreamer_v3": (CONFIGS / "quickstart.yaml", {"train.train_ratio": 32.0}),
    "planet": (
        CONFIGS / "planet_cartpole.yaml",
        {"train.train_ratio": 200.0, "planner.candidates": 100, "planner.elites": 10, "planner.iterations": 4},
    ),
}
"""Made for cartpole_balance, which is no task here, with fewer updates and a smaller search, so that nights suffice."""


def config_of(protocol: Protocol, method: str, task: str, seed: int) -> Config:
    """Everything that a run is made of."""
    file, changes = SETTINGS[method]
    kept = {"train.save_minutes": 0.0, "train.save_frames": min(protocol.evaluated), "train.report_frames": 0}
    kept |= {"train.keep_checkpoints": 10_000, "train.frames": protocol.frames, "train.devices": 1, "seed": seed}
    env = {f"env.{name}": getattr(protocol.env(task), name) for name in ("task", "action_repeat", "num_envs")}
    return replace(load(files=[file]), {**env, **kept, **changes})


def learn(protocol: Protocol, method: str, task: str, seed: int, folder: Path) -> Learnt:
    """Train from the start, and open the checkpoints at the evaluations' frames."""
    shutil.rmtree(folder, ignore_errors=True)
    config = config_of(protocol, method, task, seed)
    wall, cpu = time.perf_counter(), time.process_time()
    state = train(config, folder, loggers=())
    costs = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    costs |= {"updates": int(state.step), "parameters": sum(x.size for x in jax.tree.leaves(state.params))}
    known, repeat = steps(folder), config.env.action_repeat
    policy, curve = None, []
    for frames in protocol.evaluated:
        step = next(step for step in known if step * repeat >= frames)
        agent, state = load_run(folder, step)
        policy = policy or _policy(agent)
        curve.append((step * repeat, _actor(policy, state.params)))
    return Learnt(curve, costs, {"config": dump(config)})


def open_agent(folder: Path) -> Frozen:
    """A finished run, whose features are the expected states of its model."""
    subject, config = of_run(folder)
    assert subject.agent is not None

    def features(recordings: Sequence[Recording]) -> np.ndarray:
        return observe(subject, recordings, config.seed).features["state"]

    return Frozen(_actor(_policy(subject.agent), subject.params), features, subject)


Policy = tuple[Act, object]


def _policy(agent: Agent) -> Policy:
    """Greedy, compiled once for all parameters."""
    return make_act(agent, "mode"), jax.jit(agent.reset, static_argnums=1)


def _actor(policy: Policy, params: Params) -> MakeActor:
    return lambda spec, num_envs, rng: of_agent(*policy, params, spec, num_envs, rng, seed=0, noise=0.0)
