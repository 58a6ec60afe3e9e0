"""The training loop: act, remember, learn, and write down what happens."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dreamer_jax.config.schema import Config
from dreamer_jax.devices.compilation_cache import collect_as_usual
from dreamer_jax.devices.programs import Programs
from dreamer_jax.envs.preview import Preview
from dreamer_jax.envs.vector import VectorEnvs, make_envs
from dreamer_jax.envs.wrappers import EnvironmentFailed
from dreamer_jax.ops.train_ratio import in_prefill
from dreamer_jax.processes.group import ParametersDiffer, ProcessGroup
from dreamer_jax.processes.lockstep import BrokenRendezvous
from dreamer_jax.processes.shards import below, gather
from dreamer_jax.profiling.trace import Profile
from dreamer_jax.replay.reshard import delete_other_rings
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.facts import describe
from dreamer_jax.runs.loggers import Logger
from dreamer_jax.runs.metrics import Episode, EpisodeStats, RunLog
from dreamer_jax.runs.progress import Progress
from dreamer_jax.runs.restore import Restore, join_carries, to_arrays
from dreamer_jax.training.interrupt import Interrupt
from dreamer_jax.training.learner import Learner
from dreamer_jax.training.observer import Observer
from dreamer_jax.training.preflight import example_batch, introduction
from dreamer_jax.training.schedule import forecast, in_words
from dreamer_jax.types import Array, Mode, TrainState

INIT, UPDATE, ACT, REPORT = range(4)
"""What the keys folded from the run's seed are for."""


@jax.jit
def make_keys(seed: Array) -> list[Array]:
    """A key for each purpose, in one program instead of several small ones."""
    return [jax.random.fold_in(jax.random.key(seed), purpose) for purpose in (INIT, UPDATE, ACT, REPORT)]


class Run:
    """All that lives as long as a run; ``loop`` is the algorithm, the rest sets it up and saves it.

    What is open is to be closed with ``opened``, also where this fails halfway.
    """

    profile: Profile

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        found_env: Preview,
        programs: Programs,
        capacity: int,
        loggers: Sequence[str | Logger],
        checkpoints: Checkpoints | None,
        progress: Progress,
        state: TrainState | None,
        group: ProcessGroup,
        opened: ExitStack,
    ) -> None:
        agent, self.acts, updates, self._given = programs
        spec = self.spec = found_env.spec
        self.config, self.run_dir, self.agent = config, run_dir, agent
        self.checkpoints, self.progress, self.group = checkpoints, progress, group
        self.keys = updates.near(make_keys(np.uint32(config.seed % 2**32)))
        self.stop: int | None = None  # number of the signal that asked one of the processes to
        self._failure: EnvironmentFailed | None = None
        self.newest = newest_in_common(group.all_gather(checkpoints.steps() if checkpoints else None))
        self._begun = self.newest
        local = group.local_range(config.env.num_envs)

        init = jax.jit(self.agent.init)
        restore = Restore(config, run_dir, spec, agent, capacity, group)
        if self.newest is None:
            if checkpoints is not None:
                checkpoints.drop_after(None)
            progress.state("initialising …")
            found = restore.new(group.primary_first(lambda: init(self.keys[INIT])) if state is None else state)
        else:
            reader = checkpoints or Checkpoints(run_dir)
            shapes = init.eval_shape(self.keys[INIT])
            step = self.newest
            found = group.all_succeed(lambda: restore.checkpoint(reader, step, shapes, progress.note))
            if reader is not checkpoints:
                reader.close()
        self._oldest = self._committed = checkpoints.oldest() if checkpoints else None  # that are kept, here and by all
        self.carry, arrays, self.replay = updates.near(found.carry), found.arrays, found.replay
        opened.callback(self.replay.close)
        self.agent_steps = int(found.facts["agent_steps"])
        failures = run_dir / "failures" / (f"process{group.process_index}" if group.process_index else "")
        self.learner = Learner(config, agent, self.replay, found.state, self.keys[UPDATE], failures, group, updates)
        self.expected = forecast(config, self.replay.capacity * group.process_count, found_env.time_limit)
        self.stats = EpisodeStats(len(local))
        saved_envs = below(arrays, "envs") or None
        self.envs: VectorEnvs = make_envs(
            config.env, seed=config.seed, num_envs=len(local), first=local.start, state=saved_envs, found=found_env
        )
        opened.callback(self.envs.close)
        self.timestep = self.envs.reset()
        if arrays:
            self.stats.load(below(arrays, "stats"))
            self.learner.restore(below(arrays, "learner"))
        self.first = local.start
        self._ended: list[Episode] = []  # and not told yet
        self._saved, self._saved_frames = time.monotonic(), self.counters()["env_frames"]
        self.log: RunLog | None = None
        if group.is_primary:
            resume = {**found.facts, **self.counters()} if arrays else None
            identity = dict(method=config.preset, task=config.env.task)
            self.log = RunLog(run_dir, **identity, seed=config.seed, loggers=loggers, resume=resume)
            opened.callback(self.log.close)
            observed = self.learner, self.replay, self.log, progress, self.counters()
            act = self.acts[config.policy.evaluate]
            self.observer = Observer(config, agent, act, found_env, *observed, self.keys[REPORT], run_dir, group)
            opened.callback(self.observer.close)
        parameters = sum(x.size for x in jax.tree.leaves(self.learner.params))
        for line in introduction(config, parameters, self.envs.vectorization, updates.where, self.counters()):
            progress.note(line)

    def counters(self) -> dict[str, int]:
        """Records so far, the frames they stand for, and updates; of all processes together."""
        return {
            "agent_steps": self.agent_steps,
            "env_frames": self.agent_steps * self.config.env.action_repeat,
            "grad_steps": self.learner.grad_steps,
        }

    def loop(self, interrupt: Interrupt) -> None:
        """Every pass begins with a time step that nobody has acted on yet: there the run can be saved.

        Or with one that is still to come, because an environment has failed: then the action that it failed to take
        is saved, and taken again when the run goes on.

        Raises:
          EnvironmentFailed: one of them did, here or in a process that shares the run; it has been saved.
          BrokenRendezvous: it was another run's.
        """
        config, num_envs = self.config, self.config.env.num_envs

        def stopped() -> bool:  # with others only what all have heard of counts
            return self.stop is not None or (self.group.members == 1 and interrupt.requested())

        while True:
            save, failures = self._confer(interrupt)
            # Updates that an interrupt left over; otherwise there are none.
            self.learner.catch_up(self.agent_steps, stopped, lambda results: None)
            frames = self.counters()["env_frames"]
            if frames >= config.train.frames or self.stop is not None or failures:
                break
            if save:
                self.save()

            params = self.learner.params
            step = self.agent_steps // num_envs
            act = self.acts["random" if in_prefill(config.train, self.agent_steps) else "train"]
            self.carry, chosen = act.begin(params, self.keys[ACT], step, self.carry, self.timestep, self.first)
            # The update goes behind the policy on the device, so that it runs while the host does all the rest.
            self.learner.dispatch_early(self.agent_steps + num_envs)
            action, latents = act.finish(chosen)
            self.replay.append(self.timestep, action, latents)
            self.agent_steps += num_envs
            self._ended = self.stats.update(self.timestep, self.envs.log)
            self.learner.catch_up(self.agent_steps, stopped, self._after_dispatch)
            with self._failing_later():
                self.timestep = self.envs.step(action)  # while the device updates

            self._show()
            if self.log is not None:
                with self._failing_later():
                    self.observer.look(frames, self.counters())
        self.learner.check()
        if self.log is not None:
            self.observer.write_metrics(self.counters())
        self.save(wait=True)
        # What is asked to stop may lose its simulators, too: the same signal goes to all processes of a group.
        if failures and self.stop is None and not interrupt.requested():
            if self._failure is None:
                raise (
                    BrokenRendezvous
                    if self.group.separate_runs
                    else EnvironmentFailed(f"in another process: {failures[0]}")
                )
            raise self._failure
        done, most = self.learner.grad_steps, self.expected.updates
        if self.stop is None and 0 < done < most:
            began = self.learner.started_at
            self.progress.note(
                f"{done:,} of at most {most:,} updates were made, they began after {began:,} agent steps"
            )

    @contextmanager
    def _failing_later(self) -> Iterator[None]:
        """An environment's failure ends the run, but not before it is saved."""
        try:
            yield
        except EnvironmentFailed as error:
            self._failure = self._failure or error

    def _after_dispatch(self, results: Array) -> None:
        self.profile.dispatched(results)
        self._show()

    def _show(self) -> None:
        self.progress.update(self.counters(), self.stats.recent(), self.learner.waiting(self.agent_steps))

    def missing(self) -> str:
        """Why no update has been made, where some were expected; else nothing."""
        if self.learner.grad_steps or not self.expected.updates:
            return ""
        return self.learner.waiting(self.agent_steps) or "another run or process has not had enough in replay"

    def _confer(self, interrupt: Interrupt) -> tuple[bool, list[str]]:
        """Exchange messages with all processes: whether to save now, and which environments have failed."""
        self.group.beat()
        message = {
            "stop": interrupt.number,
            "failure": None if self._failure is None else str(self._failure),
            "save": self._save_is_due(),
            "complete": self._completed(),
            "ended": [[self.first + env, *rest] for env, *rest in self._ended],
        }
        gathered = self.group.all_gather(message)
        self.stop = next((each["stop"] for each in gathered if each["stop"] is not None), None)
        self._commit([each["complete"] for each in gathered])
        if self.log is not None:
            others = [] if self.group.separate_runs else gathered[1:]
            theirs = [Episode(*episode) for each in others for episode in each["ended"]]
            self.stats.add_finished(theirs)
            self.log.episodes(self.counters(), self._ended + theirs)
        self._ended = []
        return gathered[0]["save"], [each["failure"] for each in gathered if each["failure"] is not None]

    # Saving.

    def save(self, *, wait: bool = False) -> None:
        """Begin a checkpoint of this moment; ``wait`` until it is complete.

        Raises:
          ParametersDiffer: the processes have come to different ones.
        """
        self.learner.check()
        self._collect_completed()
        if self.newest != self.agent_steps:
            groups = {
                "replay": self.replay.snapshot(
                    self.agent_steps, sync=self.group.process_count > 1
                ),  # a machine may be lost
                "envs": self.envs.state(),
                "stats": self.stats.state(),
                "learner": self.learner.saved(),
            }
            arrays = {f"{group}/{name}": x for group, values in groups.items() for name, x in values.items()}
            state, carry = self.learner.state, self.carry
            if self.group.process_count > 1:
                state = jax.device_get(state)
                local = {"arrays": arrays, "carry": to_arrays(carry), "checksum": _checksum(state)}
                gathered = self.group.all_gather(local)
                for index, each in enumerate(gathered):
                    if each["checksum"] != gathered[0]["checksum"]:
                        raise ParametersDiffer(
                            f"process {index} has come to other parameters than process 0; not saved"
                        )
                if self.group.is_primary:
                    arrays = gather([each["arrays"] for each in gathered], self.config.env.num_envs)
                    carry = join_carries(carry, [each["carry"] for each in gathered])
            if self.checkpoints is not None and self.log is not None:
                facts: dict[str, Any] = {**self.counters(), **self.log.state()}
                facts |= describe(self.config, self.spec, self._given)
                facts |= {"processes": self.group.process_count, "together": list(self.group.names)}
                self.checkpoints.save(self.agent_steps, state, carry, arrays, facts)
            self.newest = self.agent_steps
        self._saved, self._saved_frames = time.monotonic(), self.counters()["env_frames"]
        if wait:
            self._collect_completed()

    def _save_is_due(self) -> bool:
        train, frames = self.config.train, self.counters()["env_frames"]
        by_time = train.save_minutes and time.monotonic() - self._saved >= 60 * train.save_minutes
        by_frames = train.save_frames and frames // train.save_frames > self._saved_frames // train.save_frames
        return bool(by_time or by_frames)

    def _collect_completed(self) -> None:
        """Wait until the checkpoint that is being written is complete."""
        self._commit(self.group.all_gather(self._completed(wait=True)))

    def _completed(self, *, wait: bool = False) -> int | None:
        """The oldest complete checkpoint that this one keeps, if it writes any."""
        if self.checkpoints is not None and self.checkpoints.completed(wait=wait) is not None:
            self._oldest = self.checkpoints.oldest()
        return self._oldest

    def _commit(self, gathered: list[int | None]) -> None:
        """Give up the way back to checkpoints that nobody keeps any more."""
        oldest = min((step for step in gathered if step is not None), default=None)
        if oldest is None or oldest == self._committed:
            return
        self._committed = oldest
        self.replay.committed(oldest)
        if self.group.is_primary and oldest > (
            -1 if self._begun is None else self._begun
        ):  # which may need other rings
            delete_other_rings(self.run_dir, self.group.process_count)

    # Setting up.

    def prepare(self) -> None:
        """Compile, and say in words what the settings come to."""
        config, note = self.config, self.progress.note
        if self.counters()["env_frames"] >= config.train.frames:
            note(f"complete: {config.train.frames:,} frames were asked for")
            return
        if self.log is not None:
            self.observer.open_envs()
        rows = len(self.group.local_range(config.train.batch_size))
        self.progress.state("compiling update …")
        trial = self.learner.prepare(example_batch(config, self.spec, self.agent.latent_spec, rows))
        self.progress.state("compiling policy …")
        modes: list[Mode] = ["train", "random"] if in_prefill(config.train, self.agent_steps) else ["train"]
        for mode in modes:
            inputs = self.learner.params, self.keys[ACT], 0, self.carry, self.timestep
            self.group.primary_first(partial(self.acts[mode], *inputs))
        self.progress.state("measuring …")
        self.group.all_gather(None)  # programs find each other within 30 seconds, or fail; compiling may differ by more
        trial()
        start = time.perf_counter()
        trial()
        seconds = self.group.all_gather((time.perf_counter() - start) / self.learner.per_dispatch)[0]
        for line in self.expected.notes:
            note(line)
        if config.train.train_ratio:
            note(in_words(config, self.expected, self.counters(), seconds))
        single = self.group.members == jax.device_count() == 1
        if single and jax.default_backend() == "cpu" and (os.cpu_count() or 1) > 1:
            note("--train.devices 2 lets two parts of this CPU share each batch: mostly faster for small sizes")
        collect_as_usual()
        self.progress.state("")
        self._saved = time.monotonic()
        if self.log is not None:
            self.observer.start()


def newest_in_common(gathered: Sequence[Sequence[int] | None]) -> int | None:
    """The newest checkpoint that all have who have any to write."""
    common = set.intersection(*(set(steps) for steps in gathered if steps is not None))
    return max(common, default=None)


def _checksum(state: TrainState) -> int:
    """Tells states apart that differ in a bit."""
    checksum = 0
    for leaf in jax.tree.leaves(state):
        checksum = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), checksum)
    return checksum
