"""A run whose steps are all on the device; the host looks in between, writes down what it finds, and saves.

As ``loop.Run``, of which it has the methods that others call. Between two looks lie as many steps as take about a
second, and never more than up to the next evaluation, report or checkpoint that is due by frames.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.config.schema import Config, ConfigError
from dreamer_jax.devices.compilation_cache import collect_as_usual
from dreamer_jax.devices.programs import Programs
from dreamer_jax.envs.preview import Preview
from dreamer_jax.envs.wrappers import EnvironmentFailed
from dreamer_jax.interfaces.environment import Environment
from dreamer_jax.ops.train_ratio import least_windows
from dreamer_jax.processes.group import ProcessGroup
from dreamer_jax.processes.shards import Arrays, below
from dreamer_jax.profiling.trace import Profile
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.facts import describe
from dreamer_jax.runs.loggers import Logger
from dreamer_jax.runs.metrics import EpisodeStats, MetricBuffer, RunLog
from dreamer_jax.runs.progress import Progress
from dreamer_jax.training.device_calls import MOST, Calls
from dreamer_jax.training.interrupt import Interrupt
from dreamer_jax.training.learner import NotFinite, dump
from dreamer_jax.training.loop import newest_in_common
from dreamer_jax.training.observer import Observer
from dreamer_jax.training.one_program import Training, make_keys
from dreamer_jax.training.preflight import introduction
from dreamer_jax.training.schedule import begin_after, forecast
from dreamer_jax.types import TimeStep, TrainState, TrajectoryBatch

SECONDS = 1.0
"""What a call is to take; a signal waits as long."""
REPORT = 3
"""Of the run's keys, for reports."""


class OnDeviceRun:
    """All that lives as long as such a run."""

    profile: Profile
    stop: int | None = None
    episodes = None
    """That few are long enough is not counted here."""

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        env: Environment,
        found_env: Preview,
        programs: Programs,
        capacity: int,
        loggers: Sequence[str | Logger],
        checkpoints: Checkpoints,
        progress: Progress,
        state: TrainState | None,
        group: ProcessGroup,
        opened: ExitStack,
    ) -> None:
        agent, acts, calls, self._given = programs
        self._calls: Calls = calls
        self.config, self.spec, self.agent, self.group = config, env.spec, agent, group
        self.checkpoints, self.progress, self._failures = checkpoints, progress, run_dir / "failures"
        self._keys = jax.jit(make_keys)(np.uint32(config.seed % 2**32))
        self.newest = newest_in_common(group.all_gather(checkpoints.steps()))
        if self.newest is None:
            checkpoints.drop_after(None)
        facts = {} if self.newest is None else checkpoints.facts(self.newest)
        self._rows = _ring_rows(facts, capacity // config.env.num_envs, config.env.num_envs)
        self._program = self._calls.program(config, agent, env, self._rows)
        progress.state("initialising …")
        self.stats, self.metrics = EpisodeStats(config.env.num_envs), MetricBuffer()
        if self.newest is None:
            begin, given = jax.jit(self._program.init), () if state is None else (state,)
            self._training, self._counters = group.primary_first(lambda: begin(self._keys, *given))
        else:
            self._restore(self.newest)
        placed = self._program.place((self._training, self._counters, self._keys))
        self._training, self._counters, self._keys = placed
        self._read_counters()
        self.expected = forecast(config, self._rows * config.env.num_envs, found_env.time_limit)
        identity = dict(method=config.preset, task=config.env.task)
        resume = {**facts, **self.counters()} if facts else None
        self.log = RunLog(run_dir, **identity, seed=config.seed, loggers=loggers, resume=resume)
        opened.callback(self.log.close)
        observed = self, self, self.log, progress, self.counters()
        act, root = acts[config.policy.evaluate], self._keys[REPORT]
        self.observer = Observer(config, agent, act, found_env, *observed, root, run_dir, group)
        opened.callback(self.observer.close)
        self._samples = jax.jit(self._program.replay.sample, static_argnums=2, static_argnames=("online", "held_out"))
        self._saved, self._saved_frames = time.monotonic(), self.counters()["env_frames"]
        self._steps = 1  # of the next call, unless something is due before
        parameters = sum(x.size for x in jax.tree.leaves(self.params))
        for line in introduction(config, parameters, "on the device", self._calls.where, self.counters()):
            progress.note(line)

    # What the observer looks at.

    @property
    def state(self) -> TrainState:
        return self._training.state

    @property
    def params(self) -> Any:
        return self._training.state.params

    @property
    def learner(self) -> OnDeviceRun:
        return self

    @property
    def windows(self) -> int:
        """Different windows that can be sampled now."""
        return int(self._program.replay.windows(self._training.ring))

    def sample(
        self, batch_size: int, counter: int, *, online: bool = True, held_out: bool = False
    ) -> tuple[TrajectoryBatch, np.ndarray]:
        """Windows to look at, by ``counter``; the queue is left alone.

        Raises:
          ValueError: there is no such window yet.
        """
        key = jax.random.fold_in(self._keys[REPORT], counter)
        _, batch, index, enough = self._samples(self._training.ring, key, batch_size, online=False, held_out=held_out)
        if not enough:
            raise ValueError(f"no window {'in' if held_out else 'outside'} held-out episodes")
        batch, index = jax.device_get((batch, index))
        return batch, index

    def counters(self) -> dict[str, int]:
        """As ``loop.Run.counters``."""
        frames = self._agent_steps * self.config.env.action_repeat
        return {"agent_steps": self._agent_steps, "env_frames": frames, "grad_steps": self.grad_steps}

    def _read_counters(self) -> None:
        done = jax.device_get(self._counters)
        self._agent_steps, self.grad_steps, self.started_at = map(
            int, (done.agent_steps, done.grad_steps, done.started_at)
        )

    # The run.

    def prepare(self) -> None:
        """Compile, and say in words what the settings come to."""
        config, note = self.config, self.progress.note
        if self._is_complete():
            note(f"complete: {config.train.frames:,} frames were asked for")
            return
        self.observer.open_envs()
        self.progress.state("compiling everything as one program …")
        self._calls.compile(self._program, self._rows, self._training, self._counters, self._keys, np.int32(0))
        for line in self.expected.notes:
            note(line)
        collect_as_usual()
        self.progress.state("")
        self._saved = time.monotonic()
        self.observer.start()

    def _is_complete(self) -> bool:
        return self.counters()["env_frames"] >= self.config.train.frames

    def loop(self, interrupt: Interrupt) -> None:
        """Calls, and looks between them, until all frames are collected or a signal comes.

        Raises:
          NotFinite: a loss is not finite; the batch has been written to the failures folder.
          EnvironmentFailed: an environment gave numbers that are not finite.
        """
        while True:
            save, steps = self._confer(interrupt)
            if self._is_complete() or self.stop is not None:
                break
            if save:
                self.save()
            before, begun = self.counters(), time.monotonic()
            self._training, self._counters, found = self._calls(self._training, self._counters, self._keys, steps)
            self._look_at(found, steps, before)
            took = max(time.monotonic() - begun, 1e-6)
            began = self.started_at >= 0 and before["grad_steps"] == 0
            # Updates take longer than anything else: nobody knows how long before the first.
            self._steps = 1 if began else int(np.clip(steps * SECONDS / took, 1, min(2 * steps, MOST)))
            if self.grad_steps > before["grad_steps"]:
                self.profile.dispatched(self._counters)
            self.progress.update(self.counters(), self.stats.recent(), self._waiting())
            self.observer.look(before["env_frames"], self.counters())
        self.observer.write_metrics(self.counters())
        self.save(wait=True)

    def _confer(self, interrupt: Interrupt) -> tuple[bool, int]:
        """With all that go in step: whether to save now, and how many steps to make."""
        message = {"stop": interrupt.number, "save": self._save_is_due(), "steps": self._next_steps()}
        gathered = self.group.all_gather(message)
        self.stop = next((each["stop"] for each in gathered if each["stop"] is not None), None)
        return gathered[0]["save"], gathered[0]["steps"]

    def _next_steps(self) -> int:
        """Up to where something is due, or updates may begin."""
        train, num_envs, frames = self.config.train, self.config.env.num_envs, self.counters()["env_frames"]
        together = num_envs * self.config.env.action_repeat
        ends = [train.frames]
        for every in (train.save_frames, train.eval_frames, train.report_frames):
            ends += [(frames // every + 1) * every] if every else []
        steps = min(-(-(end - frames) // together) for end in ends)
        if self.started_at < 0 and train.train_ratio:
            steps = min(steps, max(1, (begin_after(self.config) - self._agent_steps) // num_envs))
        return min(steps, self._steps)

    def _look_at(self, found: Any, steps: int, before: dict[str, int]) -> None:
        """Write down the episodes that have ended, and take the metrics."""
        failure, found = found.failure, jax.device_get(found.replace(failure=None))
        self._read_counters()
        num_envs, repeat = self.config.env.num_envs, self.config.env.action_repeat
        if failure.step >= 0:
            names = [name for name, finite in failure.finite.items() if not finite]
            raise NotFinite(dump(self._failures, int(failure.step), names, jax.device_get(failure.batch)))
        if found.lacking:
            raise ConfigError(
                "replay.validation_fraction: no window lies outside of held-out episodes; set it lower, or "
                "replay.capacity higher"
            )
        if not found.finite[:steps].all():
            index = int(np.argmin(found.finite[:steps].all(0)))
            raise EnvironmentFailed(
                f"environment {index} ({self.config.env.task}): step() gave a number that is not finite"
            )
        for row in range(steps):
            flags = found.is_first[row], found.is_last[row], found.is_last[row]
            log = {name: values[row] for name, values in found.log.items()}
            ended = self.stats.update(TimeStep({}, found.reward[row], *flags), log)
            records = before["agent_steps"] + (row + 1) * num_envs
            self.log.episodes({"agent_steps": records, "env_frames": records * repeat}, ended)
        count = self.grad_steps - before["grad_steps"]
        if count:
            # Each update weighs the same, however many there were in a call.
            self.metrics.add({name: np.full(count, value / count) for name, value in found.metrics.items()})

    def _waiting(self) -> str:
        train = self.config.train
        if self.started_at >= 0 or not train.train_ratio:
            return ""
        if self._agent_steps < train.prefill:
            return f"{self._agent_steps:,} of {train.prefill:,} agent steps of random actions (train.prefill)"
        windows = self.windows
        if self.config.replay.sampling == "episodes" and not windows:
            return f"no ended episode of {train.batch_length} records or more is whole in replay"
        return f"{windows:,} of {least_windows(train):,} windows in replay (train.start_windows)"

    def missing(self) -> str:
        """Why no update has been made, where some were expected; else nothing."""
        return "" if self.grad_steps or not self.expected.updates else self._waiting()

    # Saving.

    def save(self, *, wait: bool = False) -> None:
        """Begin a checkpoint of this moment; ``wait`` until it is complete."""
        self.checkpoints.completed(wait=True)
        if self.newest != self._agent_steps:
            training = self._training
            rest = training.streams, training.timestep, training.ring.replace(fields={}), self._counters
            groups = {
                "device": {str(index): _plain(leaf) for index, leaf in enumerate(jax.tree.leaves(rest))},
                "ring": {
                    name: np.asarray(field[: self._used()]).view(jnp.dtype(self._program.replay.fields[name].dtype))
                    for name, field in training.ring.fields.items()
                },
                "stats": self.stats.state(),
            }
            arrays = {f"{group}/{name}": x for group, values in groups.items() for name, x in values.items()}
            facts: dict[str, Any] = {**self.counters(), **self.log.state(), "ring_rows": self._rows}
            facts |= {**describe(self.config, self.spec, self._given), "together": list(self.group.names)}
            self.checkpoints.save(self._agent_steps, training.state, training.policy, arrays, facts)
            self.newest = self._agent_steps
        self._saved, self._saved_frames = time.monotonic(), self.counters()["env_frames"]
        if wait:
            self.checkpoints.completed(wait=True)

    def _used(self) -> int:
        """Rows of the ring that have ever been written."""
        return min(self._rows, max(1, self._agent_steps // self.config.env.num_envs))

    def _save_is_due(self) -> bool:
        train, frames = self.config.train, self.counters()["env_frames"]
        by_time = train.save_minutes and time.monotonic() - self._saved >= 60 * train.save_minutes
        by_frames = train.save_frames and frames // train.save_frames > self._saved_frames // train.save_frames
        return bool(by_time or by_frames)

    def _restore(self, step: int) -> None:
        shapes, counters = jax.eval_shape(self._program.init, self._keys)
        state, policy, arrays, _ = self.checkpoints.restore(step, shapes.state, shapes.policy)
        self.checkpoints.drop_after(step)
        self.stats.load(below(arrays, "stats"))
        rest = shapes.streams, shapes.timestep, shapes.ring.replace(fields={}), counters
        streams, timestep, ring, self._counters = _like(rest, below(arrays, "device"))
        saved = below(arrays, "ring")
        fields = {
            name: jnp.zeros(shape.shape, shape.dtype).at[: len(saved[name])].set(saved[name].view(shape.dtype))
            for name, shape in shapes.ring.fields.items()
        }
        state, policy = jax.tree.map(jnp.asarray, (state, policy))
        self._training = Training(state, policy, streams, timestep, ring.replace(fields=fields))


def _ring_rows(facts: dict[str, Any], wanted: int, num_envs: int) -> int:
    """As is wanted, but a ring that has wrapped keeps its size, and none gets smaller."""
    before = int(facts.get("ring_rows", 0))
    wrapped = before and int(facts["agent_steps"]) // num_envs > before
    return before if wrapped else max(before, wanted)


def _plain(leaf: jax.Array) -> np.ndarray:
    """An array as files know it: random keys as their words."""
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


def _like(shapes: Any, arrays: Arrays) -> Any:
    """The tree whose leaves were saved by their numbers.

    Raises:
      ConfigError: those were of another environment.
    """
    leaves, structure = jax.tree.flatten(shapes)
    found = []
    for index, shape in enumerate(leaves):
        is_key = jnp.issubdtype(shape.dtype, jax.dtypes.prng_key)
        leaf = jnp.asarray(arrays[str(index)]) if str(index) in arrays else jnp.zeros((0,))
        leaf = jax.random.wrap_key_data(leaf) if is_key and leaf.size else leaf
        if leaf.shape != shape.shape or leaf.dtype != shape.dtype:
            raise ConfigError("env.task: the environment's state has other shapes than when the run was saved")
        found.append(leaf)
    return jax.tree.unflatten(structure, found)
