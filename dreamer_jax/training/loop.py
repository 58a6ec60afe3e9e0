"""The training loop: act, remember, learn, and write down what happens."""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np

from dreamer_jax.agent import make_agent
from dreamer_jax.config.benchmarks import BENCHMARKS
from dreamer_jax.config.presets import size_settings
from dreamer_jax.config.schema import Config, ConfigError, flatten
from dreamer_jax.envs.vector import VectorEnvs, make_envs
from dreamer_jax.interfaces import Agent
from dreamer_jax.replay.host import Replay
from dreamer_jax.replay.storage import clear
from dreamer_jax.specs import EnvSpec
from dreamer_jax.training.acting import make_act
from dreamer_jax.training.checkpoint import Checkpoints
from dreamer_jax.training.evaluate import evaluate
from dreamer_jax.training.interrupt import Interrupt, Stopped
from dreamer_jax.training.learner import Learner, part
from dreamer_jax.training.loggers import Logger, check_loggers
from dreamer_jax.training.metrics import EpisodeStats, RunLog
from dreamer_jax.training.parallel import AXIS, check_devices
from dreamer_jax.training.predictions import Reports
from dreamer_jax.training.preflight import env_spec, example_batch, in_words, ring_plan
from dreamer_jax.training.profiling import Profile
from dreamer_jax.training.progress import Progress
from dreamer_jax.training.run_directory import check_run, open_run
from dreamer_jax.types import Array, TrainState

INIT, UPDATE, ACT, REPORT = range(4)
"""What the keys folded from the run's seed are for."""


def train(
    config: Config,
    run_dir: str | Path,
    *,
    agent: Agent | None = None,
    loggers: Sequence[str | Logger] = ("tensorboard",),
    stream: TextIO | None = None,
    profile: bool = False,
) -> TrainState:
    """Train until ``config.train.frames`` frames are collected; go on where ``run_dir`` left off.

    Args:
      agent: instead of the one that ``config`` describes.
      loggers: names or callables ``(counters, metrics)``, besides the JSON lines.
      stream: where progress is shown, else stderr.
      profile: write a profiler trace of a few updates into ``run_dir/profile``.

    Raises:
      ConfigError: the run can't be started as asked.
      NotFinite: a loss became NaN or infinite.
      EnvironmentFailed: an environment raised an error.
      Stopped: a signal came; a checkpoint has been saved.
    """
    run_dir, progress = Path(run_dir), Progress(config.train.frames, stream=stream)
    with (
        Interrupt() as interrupt,
        _open(config, run_dir, agent, loggers, progress) as run,
        Profile(run_dir / "profile" if profile else None, progress.note) as run.profile,
    ):
        run.prepare()
        run.loop(interrupt)
    if interrupt.number is not None:
        raise Stopped(interrupt.number)
    return run.learner.state


def begin(config: Config, run_dir: str | Path, state: TrainState) -> None:
    """Make ``run_dir`` a run that starts from ``state`` and has done nothing yet; ``train`` goes on with it.

    It appears there whole or not at all, so that no run can begin from other parameters unnoticed.

    Raises:
      ConfigError: something is there already, or it can't be started as asked.
    """
    run_dir = Path(run_dir)
    if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
        raise ConfigError(f"{run_dir}: something is there already; choose another directory")
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=run_dir.parent, prefix=f".{run_dir.name}-") as scratch:
        place = Path(scratch, "run")
        with _open(config, place, None, (), Progress(config.train.frames, stream=io.StringIO()), state):
            pass
        os.replace(place, run_dir)


@contextmanager
def _open(
    config: Config,
    run_dir: Path,
    agent: Agent | None,
    loggers: Sequence[str | Logger],
    progress: Progress,
    state: TrainState | None = None,
) -> Iterator[_Run]:
    """A run with its first checkpoint, or where ``run_dir`` left off; ``state`` is what a new one starts from."""
    # Whatever can be refused is refused before anything is written.
    check_loggers(loggers)
    check_devices(config.train.devices)
    changes = check_run(run_dir, config)
    spec = env_spec(config)
    agent = agent or make_agent(config, spec, axis_name=AXIS if config.train.devices > 1 else None)
    size = ring_plan(config, run_dir, spec, agent)
    lock = open_run(run_dir, config, spec)
    checkpoints = Checkpoints(run_dir, keep=config.train.keep_checkpoints)
    run = None
    try:
        progress.note(f"run directory: {run_dir}")
        progress.note(size.line)
        run = _Run(config, run_dir, spec, agent, size.records, loggers, checkpoints, progress, state)
        for change in changes:
            progress.note(f"changed since the run began: {change}")
        if checkpoints.latest() is None:
            # From here on there always is a complete checkpoint, and every record comes after one.
            run.save(wait=True)
        yield run
    finally:
        if run is not None:
            run.close()
        progress.close()
        checkpoints.close()
        lock.close()


@jax.jit
def _keys(seed: Array) -> list[Array]:
    """A key for each purpose, in one program instead of several small ones."""
    return [jax.random.fold_in(jax.random.key(seed), purpose) for purpose in (INIT, UPDATE, ACT, REPORT)]


class _Run:
    """All that lives as long as a run; ``loop`` is the algorithm, the rest sets it up and saves it."""

    profile: Profile

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        spec: EnvSpec,
        agent: Agent,
        capacity: int,
        loggers: Sequence[str | Logger],
        checkpoints: Checkpoints,
        progress: Progress,
        state: TrainState | None,
    ) -> None:
        self.config, self.run_dir, self.agent, self.spec = config, run_dir, agent, spec
        self.checkpoints, self.progress = checkpoints, progress
        num_envs = config.env.num_envs
        self.keys = _keys(np.uint32(config.seed % 2**32))
        latest = checkpoints.latest()

        arrays: dict[str, np.ndarray] = {}
        facts: dict[str, Any] = {"agent_steps": 0, "seconds": 0.0}
        init = jax.jit(self.agent.init)
        shapes = init.eval_shape(self.keys[INIT])
        if latest is None:
            progress.state("initialising …")
            state = init(self.keys[INIT]) if state is None else state
            self.carry = jax.jit(self.agent.reset, static_argnums=1)(state.params, num_envs)
        else:
            carry = jax.eval_shape(lambda params: self.agent.reset(params, num_envs), shapes.params)
            state, self.carry, arrays, facts = checkpoints.restore(latest, shapes, carry)
        self.agent_steps = int(facts["agent_steps"])

        self.replay = self._open_replay(spec, capacity, part(arrays, "replay"), latest)
        self.learner = Learner(config, self.agent, self.replay, state, self.keys[UPDATE], run_dir / "failures")
        self.stats = EpisodeStats(num_envs)
        self.envs: VectorEnvs = make_envs(config.env, seed=config.seed, state=part(arrays, "envs") or None)
        self.timestep = self.envs.reset()
        if arrays:
            self.stats.load(part(arrays, "stats"))
            self.learner.restore(part(arrays, "learner"))
        resume = {**self.counters(), "seconds": facts["seconds"]} if arrays else None
        identity = dict(method=config.preset, task=config.env.task)
        self.log = RunLog(run_dir, **identity, seed=config.seed, loggers=loggers, resume=resume)
        self.act, self.act_at_random = make_act(self.agent, "train"), make_act(self.agent, "random")
        self.act_in_evaluation = make_act(self.agent, config.policy.evaluate)
        self.reports = Reports(config, self.agent, spec, self.keys[REPORT], run_dir / "reports")
        self._introduce(resumed=latest is not None)
        self._logged = self._saved = time.monotonic()
        self._logged_steps = self.counters()

    def counters(self) -> dict[str, int]:
        """Records so far, the frames they stand for, and updates."""
        return {
            "agent_steps": self.agent_steps,
            "env_frames": self.agent_steps * self.config.env.action_repeat,
            "grad_steps": self.learner.grad_steps,
        }

    def loop(self, interrupt: Interrupt) -> None:
        """Every pass begins with a time step that nobody has acted on yet: there the run can be saved."""
        config, envs = self.config, self.envs
        while True:
            # Updates that an interrupt left over; otherwise there are none.
            self.learner.catch_up(self.agent_steps, interrupt.requested, lambda results: None)
            frames = self.counters()["env_frames"]
            if frames >= config.train.frames or interrupt.requested():
                break
            if self._save_is_due():
                self.save()
            self._collect_completed()

            params = self.learner.params
            step = self.agent_steps // envs.num_envs
            act = self.act_at_random if self.agent_steps < config.train.prefill else self.act
            self.carry, chosen = act.begin(params, self.keys[ACT], step, self.carry, self.timestep)
            # The update goes behind the policy on the device, so that it runs while the host does all the rest.
            self.learner.run_ahead(self.agent_steps + envs.num_envs)
            action, latents = act.finish(chosen)
            self.replay.append(self.timestep, action, latents)
            self.agent_steps += envs.num_envs
            self.log.episodes(self.counters(), self.stats.update(self.timestep, self.envs.log))
            self.learner.catch_up(self.agent_steps, interrupt.requested, self._after_dispatch)
            self.timestep = envs.step(action)  # while the device updates

            self.progress.update(self.counters(), self.stats.recent())
            self._evaluate_if_due(frames)
            self._report_if_due(frames)
            if time.monotonic() - self._logged >= config.train.log_seconds:
                self._write_metrics()
        self.learner.check()
        self._write_metrics()
        self.save(wait=True)

    def _after_dispatch(self, results: Array) -> None:
        self.profile.dispatched(results)
        self.progress.update(self.counters(), self.stats.recent())

    def _write_metrics(self) -> None:
        now, counters = time.monotonic(), self.counters()
        passed = max(now - self._logged, 1e-9)
        values = {f"train/{name}": value for name, value in self.learner.metrics.take().items()}
        done = {name: counters[name] - self._logged_steps[name] for name in counters}
        values |= {
            "fps/policy": done["env_frames"] / passed,
            "fps/train": done["grad_steps"] * self._records_per_update / passed,
            "updates_per_second": done["grad_steps"] / passed,
            "replay/windows": self.replay.windows,
            "replay/ratio": counters["grad_steps"] * self._records_per_update / max(1, self.agent_steps),
        }
        self.log(counters, values)
        self._logged, self._logged_steps = now, counters

    @property
    def _records_per_update(self) -> int:
        return self.config.train.batch_size * self.config.train.batch_length

    def _evaluate_if_due(self, before: int) -> None:
        every, frames = self.config.train.eval_frames, self.counters()["env_frames"]
        if not every or frames // every == before // every:
            return
        self.progress.state("evaluating …")
        scores = evaluate(
            self.agent,
            self.act_in_evaluation,
            self.learner.params,
            self.config.env,
            episodes=self.config.train.eval_episodes,
            seed=self.config.seed,
        )
        self.log(self.counters(), {"eval/score": float(np.mean(scores)), "eval/episodes": len(scores)})
        self.progress.state("")

    def _report_if_due(self, before: int) -> None:
        every, frames = self.config.train.report_frames, self.counters()["env_frames"]
        if not every or frames // every == before // every or not self.learner.grad_steps:
            return
        self.progress.state("looking at what the model predicts …")
        found = self.reports(self.learner.state, self.replay, frames)
        if found is not None:
            metrics, pictures, warning = found
            self.log(self.counters(), metrics)
            self.log.pictures(self.counters(), pictures)
            if warning:
                self.progress.note(warning)
        self.progress.state("")

    # Saving and restoring.

    def save(self, *, wait: bool = False) -> None:
        """Begin a checkpoint of this moment; ``wait`` until it is complete."""
        self.learner.check()
        self._collect_completed(wait=True)
        if self.checkpoints.latest() != self.agent_steps:
            groups = {
                "replay": self.replay.snapshot(self.agent_steps),
                "envs": self.envs.state(),
                "stats": self.stats.state(),
                "learner": self.learner.saved(),
            }
            arrays = {f"{group}/{name}": x for group, values in groups.items() for name, x in values.items()}
            facts = {**self.counters(), "seconds": self.log.seconds}
            self.checkpoints.save(self.agent_steps, self.learner.state, self.carry, arrays, facts)
        self._saved, self._saved_frames = time.monotonic(), self.counters()["env_frames"]
        if wait:
            self._collect_completed(wait=True)

    def _save_is_due(self) -> bool:
        train, frames = self.config.train, self.counters()["env_frames"]
        by_time = train.save_minutes and time.monotonic() - self._saved >= 60 * train.save_minutes
        by_frames = train.save_frames and frames // train.save_frames > self._saved_frames // train.save_frames
        return bool(by_time or by_frames)

    def _collect_completed(self, *, wait: bool = False) -> None:
        done = self.checkpoints.completed(wait=wait)
        if done is not None:
            self.replay.committed(done)

    def close(self) -> None:
        """Stop the environments and finish the files."""
        self.envs.close()
        self.replay.close()
        self.log.close()

    # Setting up.

    def _open_replay(self, spec: EnvSpec, capacity: int, saved: dict[str, np.ndarray], name: int | None) -> Replay:
        config, directory = self.config, self.run_dir / "replay"
        if name is None:
            clear(directory)  # without a checkpoint it holds nothing but a start that was cut off
        replay = Replay(
            directory,
            spec,
            self.agent.latent_spec,
            num_envs=config.env.num_envs,
            capacity=capacity,
            batch_length=config.train.batch_length,
            online=config.replay.online,
            seed=config.seed,
            validation_fraction=config.replay.validation_fraction,
            sampling=config.replay.sampling,
            ends=config.replay.ends,
            recent=config.replay.recent,
            mark_first=config.replay.mark_first,
        )
        if name is not None:
            replay.restore(saved, name)
        return replay

    def _introduce(self, *, resumed: bool) -> None:
        """Say what this is."""
        config, note = self.config, self.progress.note
        parameters = sum(x.size for x in jax.tree.leaves(self.learner.params))
        device = jax.devices()[0].device_kind
        note(f"{config.preset}: {config.revision}")
        if config.benchmark != Config.benchmark:
            note(f"{config.benchmark}: {BENCHMARKS[config.benchmark].meaning} ({BENCHMARKS[config.benchmark].source})")
        named = all(flatten(config)[name] == width for name, width in size_settings(config.size).items())
        note(
            f"{config.env.task} x {config.env.num_envs} ({self.envs.vectorization}), "
            f"{f'size {config.size}' if named else 'widths of its own'}: "
            f"{parameters:,} parameters on {config.train.devices} x {device}"
        )
        if resumed:
            done = self.counters()
            note(f"resumed at {done['env_frames']:,} frames, {done['grad_steps']:,} updates")
        self._saved_frames = self.counters()["env_frames"]

    def prepare(self) -> None:
        """Compile, and say in words what the settings come to."""
        config, note = self.config, self.progress.note
        if self.counters()["env_frames"] >= config.train.frames:
            note(f"complete: {config.train.frames:,} frames were asked for")
            return
        self.progress.state("compiling update …")
        trial = self.learner.prepare(example_batch(config, self.spec, self.agent.latent_spec))
        self.progress.state("compiling policy …")
        for act in (self.act, self.act_at_random) if self.agent_steps < config.train.prefill else (self.act,):
            act(self.learner.params, self.keys[ACT], 0, self.carry, self.timestep)
        self.progress.state("measuring …")
        trial()
        start = time.perf_counter()
        trial()
        seconds = (time.perf_counter() - start) / self.learner.per_dispatch
        note(in_words(config, self.counters(), seconds))
        if config.train.devices == 1 and jax.default_backend() == "cpu" and (os.cpu_count() or 1) > 1:
            note("--train.devices 2 lets two parts of this CPU share each batch: mostly faster for small sizes")
        self.progress.state("")
        self._logged = self._saved = time.monotonic()
