"""What is looked at while a run learns: metrics, scores in fresh environments, predictions of the model."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from dreamer_jax.analysis.predictions import Drawn, Reports
from dreamer_jax.config.schema import Config, ConfigError
from dreamer_jax.devices.acting import Act
from dreamer_jax.envs.preview import Preview
from dreamer_jax.envs.vector import VectorEnvs
from dreamer_jax.envs.wrappers import EnvironmentFailed
from dreamer_jax.interfaces import Agent
from dreamer_jax.processes.group import ProcessGroup
from dreamer_jax.replay.episodes import Episodes
from dreamer_jax.runs.metrics import MetricBuffer, RunLog
from dreamer_jax.runs.progress import Progress
from dreamer_jax.training.evaluate import evaluate, evaluation_envs
from dreamer_jax.types import Array, TrainState

Counters = dict[str, int]
T = TypeVar("T")


class Learnt(Protocol):
    """What is asked of what learns."""

    @property
    def metrics(self) -> MetricBuffer: ...
    @property
    def grad_steps(self) -> int: ...
    @property
    def params(self) -> Any: ...
    @property
    def state(self) -> TrainState: ...


class Windows(Drawn, Protocol):
    """What is asked of replay."""

    @property
    def windows(self) -> int: ...
    @property
    def episodes(self) -> Episodes | None: ...


class Observer:
    """Looks, and writes down what it finds, with the counters of then."""

    def __init__(
        self,
        config: Config,
        agent: Agent,
        act: Act,
        found: Preview,
        learner: Learnt,
        replay: Windows,
        log: RunLog,
        progress: Progress,
        counters: Counters,
        root: Array,
        run_dir: Path,
        group: ProcessGroup,
    ) -> None:
        self._config, self._agent, self._learner, self._replay = config, agent, learner, replay
        self._log, self._progress = log, progress
        self._act, self._group, self._compiled = act, group, set[str]()
        self._envs: VectorEnvs | None = None
        self._reports = Reports(config, agent, found.spec, root, run_dir / "reports")
        self._last_counters = counters
        self._found = found
        self._few = ""  # what has been said of episodes that are drawn from
        self.start()

    def open_envs(self) -> None:
        """Those for evaluations, before the first step: a simulator may allow one instance only, or have no room."""
        config, note, frames = self._config, self._progress.note, self._last_counters["env_frames"]
        every, episodes = config.train.eval_frames, config.train.eval_episodes
        if not every or config.train.frames // every == frames // every:
            return
        try:
            self._envs = evaluation_envs(config.env, episodes, config.seed, note, self._found)
        except (ConfigError, EnvironmentFailed) as error:
            note(f"no evaluations (train.eval_frames), no environment opens beside those of training: {error}")

    def start(self) -> None:
        """Rates count from here on."""
        self._last = time.monotonic()

    def look(self, before: int, counters: Counters) -> None:
        """Do what is due, ``before`` frames having been collected when it was last asked."""
        self._evaluate_if_due(before, counters)
        self._report_if_due(before, counters)
        if time.monotonic() - self._last >= self._config.train.log_seconds:
            self.write_metrics(counters)

    def write_metrics(self, counters: Counters) -> None:
        """A line of what updates gave since the last one."""
        now, train = time.monotonic(), self._config.train
        records_per_update = train.batch_size * train.batch_length
        passed = max(now - self._last, 1e-9)
        values = {f"train/{name}": value for name, value in self._learner.metrics.take().items()}
        done = {name: counters[name] - self._last_counters[name] for name in counters}
        values |= {
            "fps/policy": done["env_frames"] / passed,
            "fps/train": done["grad_steps"] * records_per_update / passed,
            "updates_per_second": done["grad_steps"] / passed,
            "replay/windows": self._replay.windows * self._group.process_count,
            "replay/ratio": counters["grad_steps"] * records_per_update / max(1, counters["agent_steps"]),
        }
        if episodes := self._replay.episodes:
            values["replay/drawn_episodes"] = episodes.long / max(1, episodes.ended)
            if counters["grad_steps"] and not self._few:
                self._few = episodes.few()
                if self._few:
                    self._progress.note(self._few)
        self._log(counters, values)
        self._last, self._last_counters = now, counters

    def _evaluate_if_due(self, before: int, counters: Counters) -> None:
        every, frames = self._config.train.eval_frames, counters["env_frames"]
        if self._envs is None or frames // every == before // every:
            return
        self._progress.state("evaluating …")
        look = partial(
            evaluate,
            self._agent,
            self._act_and_say_so,
            self._learner.params,
            self._envs,
            episodes=self._config.train.eval_episodes,
            seed=self._config.seed,
        )
        scores = self._compiling("evaluation", look)
        self._log(counters, {"eval/score": float(np.mean(scores)), "eval/episodes": len(scores)})
        self._progress.state("")

    def close(self) -> None:
        """Close the environments for evaluation."""
        if self._envs is not None:
            self._envs.close()

    def _compiling(self, what: str, look: Callable[[], T]) -> T:
        """The first time there is something to compile."""
        if what in self._compiled:
            return look()
        self._compiled.add(what)
        return self._group.primary_first(look)

    def _act_and_say_so(self, *args: Any) -> Any:
        self._group.beat()
        return self._act(*args)

    def _report_if_due(self, before: int, counters: Counters) -> None:
        every, frames = self._config.train.report_frames, counters["env_frames"]
        if not every or frames // every == before // every or not self._learner.grad_steps:
            return
        self._progress.state("looking at what the model predicts …")
        found = self._compiling("report", partial(self._reports, self._learner.state, self._replay, frames))
        if found is not None:
            metrics, pictures, warning = found
            self._log(counters, metrics)
            self._log.pictures(counters, pictures)
            if warning:
                self._progress.note(warning)
        self._progress.state("")
