"""Any space, any misbehaviour: ``check-env`` says fine exactly where training works, and nothing is changed on the way.

Most examples train an agent whose compiled programs are the same for every space, in the real loop with real
environments, replay and checkpoints. The agent that is trained otherwise is made as well, for what it refuses.
"""

import collections
import io
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from generated import Case, Generated, cases, check_action, observed
from hypothesis import HealthCheck, given, settings
from trainer import make_toy, tiny_run

import dreamer_jax
from dreamer_jax.agent import make_agent
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.envs.check import check_env
from dreamer_jax.envs.wrappers import EnvironmentFailed
from dreamer_jax.replay.export import export_episodes
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.training import train
from dreamer_jax.training.acting import Act
from dreamer_jax.training.checkpoint import read_replays
from dreamer_jax.training.parallel import Updates
from dreamer_jax.training.programs import Programs
from dreamer_jax.types import TimeStep

WIDTH = 8
DIGEST = EnvSpec({"digest": ArraySpec((WIDTH,), "float32")}, {"digest": ArraySpec((WIDTH,), "float32")})
UPDATES = 10


def settings_of(num_envs, **changes):
    """Of a run with ``UPDATES`` updates in a few steps."""
    few = dict(train__batch_length=3, train__start_windows=2, train__train_ratio=6.0 / num_envs * 2)
    small = dict(replay__capacity=1000, env__num_envs=num_envs, train__save_minutes=60.0)
    return tiny_run(env__task="generated:Generated", **few, **small, **({"train__frames": 18 * num_envs} | changes))


def digest(arrays, axes):
    """[..., WIDTH] numbers in [-1, 1] from all that is in arrays [..., any shape]; NaN if one of them is not finite."""
    total = 0.0
    for name in sorted(arrays):
        rows = np.asarray(arrays[name], np.float64)
        rows = rows.reshape(*rows.shape[:axes], -1)
        total = total + np.sin(rows % 1000 @ np.sin(1.0 + np.arange(rows.shape[-1] * WIDTH)).reshape(-1, WIDTH))
    return {"digest": np.float32(np.sin(total))}


class HostAct:
    """Acting for ``spec`` with programs for ``DIGEST``."""

    def __init__(self, act: Act, spec: EnvSpec) -> None:
        self._act, self._spec = act, spec

    def begin(self, params, root, step, carry, timestep, first=0):
        small = TimeStep(digest(timestep.observation, 1), *(getattr(timestep, name) for name in FLAGS))
        return self._act.begin(params, root, step, carry, small, first)

    def finish(self, chosen):
        action, latents = self._act.finish(chosen)
        return {name: self._expand(action["digest"], leaf) for name, leaf in self._spec.action.items()}, latents

    def __call__(self, *inputs):
        carry, chosen = self.begin(*inputs)
        return carry, *self.finish(chosen)

    def _expand(self, numbers, leaf):
        rows = np.stack([np.resize(row, leaf.shape) for row in numbers])
        if leaf.discrete:
            return np.minimum(np.abs(rows) * leaf.classes, leaf.classes - 1).astype(np.int32)
        return np.float32(1.3 * rows)  # at times beyond [-1, 1], as a normal distribution is


FLAGS = "reward", "is_first", "is_last", "is_terminal"


class HostUpdates(Updates):
    """Updates from batches of any space with one program."""

    _compiled = False

    def put(self, batches):
        change = {name: digest(getattr(batches, name), 3) for name in ("observation", "prev_action")}
        return super().put(batches.replace(**change))

    def compile(self, *inputs):
        if not self._compiled:
            super().compile(*inputs)
            self._compiled = True


class Shared:
    """What is compiled once."""

    def __init__(self) -> None:
        self.agent = make_toy(settings_of(1), DIGEST)
        self.acts, self.updates = train.make_programs(self.agent, 1).acts, HostUpdates(self.agent, 1)

    def programs(self, config, agent, spec):
        make_agent(config, spec)
        return Programs(self.agent, {mode: HostAct(act, spec) for mode, act in self.acts.items()}, self.updates)


@pytest.fixture(scope="module")
def shared():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_programs", Shared().programs)
        yield


def trained(config, run_dir):
    """Train; the line that says why not, or None."""
    try:
        state = dreamer_jax.train(config, run_dir, loggers=(), stream=io.StringIO())
    except (ConfigError, EnvironmentFailed) as error:
        return str(error)
    assert int(state.step) >= UPDATES
    return None


def checked(config):
    """The line with which ``check-env`` refuses, or None."""
    try:
        report = check_env(config, 25)
    except ConfigError as error:
        return str(error)
    assert report.endswith("\nno problems found") and "problem:" not in report
    return None


def stored_equals_emitted(case: Case, run_dir: Path) -> None:
    export_episodes(read_replays(run_dir), run_dir / "episodes")
    files = sorted((run_dir / "episodes").iterdir())
    envs = [env for env in Generated.opened if env.emitted][-case.num_envs :]
    for number, env in enumerate(envs):
        episodes = [dict(np.load(file)) for file in files if file.name.startswith(f"env{number:03d}-")]
        count = sum(len(episode["reward"]) for episode in episodes)
        assert count >= 15
        row = 0
        for episode in episodes:
            observations, actions = (
                {name.removeprefix(part): array for name, array in episode.items() if name.startswith(part)}
                for part in ("observation/", "action/")
            )
            for step in range(len(episode["reward"])):
                observation, reward, first, last = env.emitted[row]
                expected = observed(case.observation, observation)
                assert observations.keys() == expected.keys()
                for name, array in expected.items():
                    stored = observations[name][step]
                    assert stored.dtype == array.dtype and stored.shape == array.shape
                    assert stored.tobytes() == array.tobytes(), name
                signals = [episode[name][step] for name in ("reward", "is_first", "is_last")]
                assert signals == [np.float32(reward), first, last] and episode["is_terminal"][step] == False  # noqa: E712
                row += 1
                if not last and row < len(env.received):
                    check_action(case.action, {name: array[step] for name, array in actions.items()}, env.received[row])


def fine_exactly_where_training_works(case: Case) -> str | None:
    config = settings_of(case.num_envs)
    with TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        Generated.begin(case)
        refused = checked(config)
        Generated.begin(case)
        assert trained(config, run_dir) == refused
        if refused is None:
            stored_equals_emitted(case, run_dir)
        return refused


def tried(count: int) -> collections.Counter:
    found: collections.Counter = collections.Counter()

    @settings(max_examples=count, suppress_health_check=list(HealthCheck), print_blob=False)
    @given(cases)
    def every(case: Case) -> None:
        refused = fine_exactly_where_training_works(case)
        found["fine" if refused is None else "refused"] += 1
        found["with a fault, fine"] += refused is None and case.fault is not None

    every()
    return found


def test_three_hundred(shared):
    found = tried(300)
    assert found["fine"] > 75 and found["refused"] > 75 and found["with a fault, fine"] > 25, found


@pytest.mark.slow
def test_ten_thousand(shared):
    print(tried(10_000))
