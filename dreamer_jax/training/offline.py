"""Learning from records that are there already: a world model alone, a behavior in it, or both, without environment.

Such a run's replay is a copy of its data, so that the run is whole by itself: ``dream``, ``export`` and ``evaluate``
take it as any other. Its steps are updates, by which its checkpoints are numbered.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dreamer_jax.analysis.predictions import Reports
from dreamer_jax.config.schema import Config, ConfigError
from dreamer_jax.datasets.dataset import Source, append_episode
from dreamer_jax.datasets.sources import open_sources
from dreamer_jax.devices.compilation_cache import collect_as_usual
from dreamer_jax.devices.programs import Programs
from dreamer_jax.processes.group import ProcessGroup
from dreamer_jax.processes.shards import below
from dreamer_jax.profiling.trace import Profile
from dreamer_jax.replay.held_out import HeldOut
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.facts import describe, newest, steps
from dreamer_jax.runs.integrity import read_run
from dreamer_jax.runs.loggers import Logger
from dreamer_jax.runs.metrics import RunLog
from dreamer_jax.runs.progress import Progress
from dreamer_jax.runs.restore import Restore
from dreamer_jax.training.interrupt import Interrupt
from dreamer_jax.training.learner import Learner
from dreamer_jax.training.loop import INIT, REPORT, UPDATE, make_keys
from dreamer_jax.training.preflight import example_batch
from dreamer_jax.types import Array, TrainState, TrajectoryBatch

LOOK = 2**32
"""Counters of batches from here on are those of looks; updates have smaller ones."""


def of_data(config: Config, run_dir: Path) -> tuple[Config, list[Source]]:
    """What ``offline.data`` names, and the settings with its environment; without any, the settings as they are.

    All records are one stream and there from the start, so that none of them is new. A run that goes on has them, and
    asks nobody else.

    Raises:
      ConfigError: it can't be learnt from.
    """
    if not config.offline.data:
        return config, []
    if steps(run_dir):
        before, spec = read_run(run_dir)
        records = newest(run_dir)[1].get("offline", {}).get("records", 0)
        sources = [Source(str(run_dir), spec, before.env, (records,), lambda: iter(()))]
    else:
        sources = open_sources(config.offline.data)
        check_data(config, sources)
    return replace(config, env=sources[0].env, replay=replace(config.replay, online=False)), sources


def check_data(config: Config, sources: Sequence[Source]) -> None:
    """Refuse data of which no window can be drawn to learn from, or, where they are wanted, to be held out.

    Raises:
      ConfigError: with the numbers.
    """
    lengths = [length for source in sources for length in source.lengths]
    window, fraction = config.train.batch_length + 1, config.replay.validation_fraction
    held = np.zeros(0, bool)
    if fraction:
        split = HeldOut(fraction, 1, window)
        held = np.array([split.step(np.array([row == 0]))[0] for length in lengths for row in range(length)])
    most = {False: sum(lengths) if not fraction else _longest(~held), True: _longest(held)}
    for here, longest in most.items():
        if longest < window and (fraction or not here):
            what = f"replay.validation_fraction {fraction:g} holds out" if here else "there are to learn from"
            raise ConfigError(
                f"offline.data: {sum(lengths):,} records, of which {what} at most {longest:,} in a row, and a window "
                f"takes {window:,} (train.batch_length + 1); collect more, or set one of the two settings otherwise"
            )


def _longest(flags: np.ndarray) -> int:
    """Length of the longest row of true ones."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))


class OfflineRun:
    """All that lives as long as such a run; as ``Run``, of which it has the methods that others call."""

    profile: Profile
    stop: int | None = None

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        sources: Sequence[Source],
        programs: Programs,
        capacity: int,
        loggers: Sequence[str | Logger],
        checkpoints: Checkpoints,
        progress: Progress,
        state: TrainState | None,
        opened: ExitStack,
    ) -> None:
        agent, _, updates, self._given = programs
        self.config, self.spec, self.agent = config, sources[0].spec, agent
        self.checkpoints, self.progress = checkpoints, progress
        group = ProcessGroup()
        keys = updates.near(make_keys(np.uint32(config.seed % 2**32)))
        self.newest = checkpoints.latest()
        restore, init = Restore(config, run_dir, self.spec, agent, capacity, group), jax.jit(agent.init)
        if self.newest is None:
            checkpoints.drop_after(None)
            progress.state("initialising …")
            found = restore.new(init(keys[INIT]) if state is None else state)
        else:
            found = restore.checkpoint(checkpoints, self.newest, init.eval_shape(keys[INIT]), progress.note)
        self._carry, self.replay, arrays = found.carry, found.replay, found.arrays
        opened.callback(self.replay.close)
        if self.newest is None:
            progress.state("copying the data …")
            self._fill(sources)
        failures = run_dir / "failures"
        self.learner = Learner(config, agent, self.replay, found.state, keys[UPDATE], failures, group, updates)
        self.learner.started_at = 0
        self._best: list[np.ndarray] = []  # parameters
        self._best_loss, self._best_update, self._worse = np.inf, 0, 0
        if arrays:
            self.learner.restore(below(arrays, "learner"))
            best = below(arrays, "best")
            self._best = [best[str(index)] for index in range(len(best))]
            facts = found.facts["offline"]
            self._best_loss = np.inf if facts["best_loss"] is None else facts["best_loss"]
            self._best_update, self._worse = facts["best_update"], facts["worse"]
        self._held_out = config.replay.validation_fraction > 0
        self._reports = Reports(config, agent, self.spec, keys[REPORT], run_dir / "reports", unit="updates")
        self._look_key = keys[REPORT]

        @jax.jit
        def losses(state: TrainState, key: Array, batch: TrajectoryBatch) -> tuple[Any, Any]:
            total, aux = agent.loss(state.params, state, key, batch)
            return total, {name: value.mean() for name, value in aux.losses.items()}

        self._losses = losses
        identity = dict(method=config.preset, task=config.env.task)
        resume = {**found.facts, **self.counters()} if arrays else None
        self.log = RunLog(run_dir, **identity, seed=config.seed, loggers=loggers, resume=resume)
        opened.callback(self.log.close)
        self._saved = self._logged = time.monotonic()
        self._logged_at = self.learner.grad_steps
        self._introduce(sources, updates.where)

    def _fill(self, sources: Sequence[Source]) -> None:
        nothing = {
            name: np.zeros((1, *leaf.shape), jax.numpy.dtype(leaf.dtype))
            for name, leaf in self.agent.latent_spec.items()
        }
        for source in sources:
            for episode in source.episodes():
                append_episode(self.replay, self.spec, episode, nothing)

    def _introduce(self, sources: Sequence[Source], where: str) -> None:
        parameters = sum(x.size for x in jax.tree.leaves(self.learner.params))
        what = {"all": "everything", "world_model": "the world model", "behavior": "actor and critic"}
        note = self.progress.note
        note(f"{what[self.config.offline.only]} of {parameters:,} parameters on {where}")
        if self.learner.grad_steps:
            note(f"resumed at {self.learner.grad_steps:,} updates")
            return
        for source in sources:
            note(
                f"{source.name}: {len(source.lengths):,} episodes, {sum(source.lengths):,} records of {source.env.task}"
            )

    def counters(self) -> dict[str, int]:
        """Steps of such a run are updates."""
        done = self.learner.grad_steps
        return {"agent_steps": done, "env_frames": 0, "grad_steps": done}

    def prepare(self) -> None:
        """Compile."""
        if self._is_complete():
            self.progress.note(f"complete: {self.learner.grad_steps:,} updates have been made")
            return
        self.progress.state("compiling update …")
        config = self.config
        self.learner.prepare(example_batch(config, self.spec, self.agent.latent_spec, config.train.batch_size))
        collect_as_usual()
        self.progress.state("")

    def _is_complete(self) -> bool:
        enough = 0 < self.config.offline.patience <= self._worse
        return enough or self.learner.grad_steps + self.learner.per_dispatch > self.config.offline.updates

    def loop(self, interrupt: Interrupt) -> None:
        """Update, and look at held-out windows now and then, until it is done or a signal comes."""
        train, offline = self.config.train, self.config.offline
        fresh = not self._is_complete()
        while not self._is_complete() and not interrupt.requested():
            before = self.learner.grad_steps
            if not self.learner.advance(self.profile.dispatched):
                break
            done = self.learner.grad_steps
            self.progress.update(self.counters(), (self._best_loss, int(np.isfinite(self._best_loss))))
            if done // offline.look_updates > before // offline.look_updates:
                self._look()
            now = time.monotonic()
            if now - self._logged >= train.log_seconds:
                self._write_metrics()
            if not self._is_complete() and train.save_minutes and now - self._saved >= 60 * train.save_minutes:
                self.save()
        self.learner.check()
        self._write_metrics()
        if fresh and self._is_complete() and self._best:
            self._keep_best()
        self.save(wait=True)
        self.stop = interrupt.number

    def _keep_best(self) -> None:
        done, state = self.learner.grad_steps, self.learner.state
        params = jax.tree.unflatten(jax.tree.structure(state.params), self._best)
        self.learner.put(replace(state, params=params))
        self.progress.note(
            f"after {done:,} updates: the least held-out loss was {self._best_loss:.4g} after {self._best_update:,}, "
            "whose parameters are kept"
        )

    def _look(self) -> None:
        """Losses on the same windows every time, and a report."""
        self.progress.state("looking at held-out windows …" if self._held_out else "looking at the data …")
        config, state, label = self.config, self.learner.state, "held_out" if self._held_out else "replayed"
        sums: dict[str, float] = {}
        for index in range(config.offline.look_batches):
            batch, _ = self.replay.sample(config.train.batch_size, LOOK + index, online=False, held_out=self._held_out)
            key = jax.random.fold_in(self._look_key, index)
            total, losses = jax.device_get(self._losses(state, key, batch))
            for name, value in {**losses, "total": total}.items():
                sums[name] = sums.get(name, 0.0) + float(value) / config.offline.look_batches
        metrics = {f"{label}/loss/{name}": value for name, value in sums.items()}
        found = self._reports(state, self.replay, self.learner.grad_steps)
        if found is not None:
            more, pictures, warning = found
            self.log.pictures(self.counters(), pictures)
            metrics |= more
            if warning:
                self.progress.note(warning)
        self.log(self.counters(), metrics)
        self._judge(sums["total"], state)
        self.progress.state("")

    def _judge(self, loss: float, state: TrainState) -> None:
        """Remember the best parameters, and end after ``patience`` looks without better ones."""
        patience = self.config.offline.patience
        if not self._held_out or self.config.offline.only == "behavior":
            return
        if loss < self._best_loss:
            self._best_loss, self._best_update, self._worse = loss, self.learner.grad_steps, 0
            if patience:
                self._best = [np.array(x) for x in jax.tree.leaves(jax.device_get(state.params))]
            return
        self._worse += 1

    def _write_metrics(self) -> None:
        now, done = time.monotonic(), self.learner.grad_steps
        values = {f"train/{name}": value for name, value in self.learner.metrics.take().items()}
        if values:
            rate = (done - self._logged_at) / max(now - self._logged, 1e-9)
            self.log(self.counters(), values | {"updates_per_second": rate})
        self._logged, self._logged_at = now, done

    def save(self, *, wait: bool = False) -> None:
        """Begin a checkpoint of this moment; ``wait`` until it is complete."""
        self.learner.check()
        self._commit()
        done = self.learner.grad_steps
        if self.newest != done:
            groups = {
                "replay": self.replay.snapshot(done),
                "learner": self.learner.saved(),
                "best": {str(index): x for index, x in enumerate(self._best)},
            }
            arrays = {f"{group}/{name}": x for group, values in groups.items() for name, x in values.items()}
            facts: dict[str, Any] = {**self.counters(), **self.log.state()}
            facts |= describe(self.config, self.spec, self._given)
            facts["offline"] = {
                "best_loss": self._best_loss if np.isfinite(self._best_loss) else None,
                "best_update": self._best_update,
                "worse": self._worse,
                "records": self.replay.capacity,
            }
            self.checkpoints.save(done, self.learner.state, self._carry, arrays, facts)
            self.newest = done
        self._saved = time.monotonic()
        if wait:
            self._commit()

    def _commit(self) -> None:
        self.checkpoints.completed(wait=True)
        if (oldest := self.checkpoints.oldest()) is not None:
            self.replay.committed(oldest)

    def missing(self) -> str:
        """Nothing: data of which nothing can be drawn is refused."""
        return ""
