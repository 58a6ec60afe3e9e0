"""Any space, any misbehaviour: ``check-env`` says fine exactly where training works, and nothing is changed on the way.

Most examples train an agent whose compiled programs are the same for every space, in the real loop with real
environments, replay and checkpoints. The agent that is trained otherwise is made as well, for what it refuses.
"""

import collections
import gc
import io
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np
import pytest
from any_space import FAULTS, cases
from generated import Case, Generated, check_action, observed
from gymnasium import spaces
from hypothesis import HealthCheck, given, seed, settings
from trainer import make_toy, tiny_run

import dreamer_jax
from dreamer_jax.agent import make_agent
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.devices.acting import Act
from dreamer_jax.devices.data_parallel import Updates
from dreamer_jax.devices.programs import Programs
from dreamer_jax.envs.actions import plan_actions
from dreamer_jax.envs.check import check_env
from dreamer_jax.envs.observations import plan_observations
from dreamer_jax.envs.wrappers import EnvironmentFailed
from dreamer_jax.processes.shards import below
from dreamer_jax.replay.export import export_episodes
from dreamer_jax.runs.checkpoint import Checkpoints, open_rings
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.terminal import render
from dreamer_jax.training import train
from dreamer_jax.training.preflight import example_batch
from dreamer_jax.types import TimeStep

WIDTH = 8
DIGEST = EnvSpec({"digest": ArraySpec((WIDTH,), "float32")}, {"digest": ArraySpec((WIDTH,), "float32")})
UPDATES, STEPS, INTERRUPTED = 10, 18, 11


def settings_of(case, steps=STEPS):
    """Of a run with at least ``UPDATES`` updates in ``STEPS`` steps of all environments."""
    sizes = dict(env__num_envs=case.num_envs, replay__capacity=1000, train__frames=steps * case.num_envs)
    ratio = dict(train__batch_length=3, train__start_windows=2, train__train_ratio=6.0 / case.num_envs)
    return tiny_run(env__task="generated:Generated", train__save_minutes=60.0, **sizes, **ratio)


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
        self.agent = make_toy(tiny_run(), DIGEST)
        self.acts, self.updates = train.make_programs(self.agent, 1).acts, HostUpdates(self.agent, 1)

    def programs(self, config, agent, spec):
        make_agent(config, spec)
        return Programs(self.agent, {mode: HostAct(act, spec) for mode, act in self.acts.items()}, self.updates)


@pytest.fixture(scope="module")
def compiled():
    shared = Shared()
    gc.collect()
    gc.freeze()  # every run collects garbage, and would look through all of JAX
    yield shared
    gc.unfreeze()


@pytest.fixture
def shared(compiled, monkeypatch):
    monkeypatch.setattr(train, "_programs", compiled.programs)


def trained(case, run_dir):
    """Train, in two parts if so wanted; the line that says why that fails, or None."""
    try:
        for steps in (INTERRUPTED, STEPS) if case.resumed else (STEPS,):
            state = dreamer_jax.train(settings_of(case, steps), run_dir, loggers=(), stream=io.StringIO())
    except (ConfigError, EnvironmentFailed) as error:
        return str(error)
    assert int(state.step) >= UPDATES
    return None


def checked(case):
    """The line with which ``check-env`` refuses, or None."""
    try:
        *_, last = report = check_env(settings_of(case), 25)
    except ConfigError as error:
        return str(error)
    assert last == "no problems found" and "problem:" not in render(report)
    return None


def lived(case: Case) -> list[tuple[list, list]]:
    """What each environment emitted and received; one that was opened anew goes on with the episode it was in."""
    envs = [env for env in Generated.opened if env.emitted]
    lives = [(env.emitted, env.received) for env in envs[-case.num_envs :]]
    if not case.resumed:
        return lives
    whole = []
    for before, (emitted, received) in zip(envs, lives, strict=False):
        begin = max(row for row in range(INTERRUPTED + 1) if before.received[row] is None)
        whole.append((before.emitted[:begin] + emitted, before.received[:begin] + received))
    return whole


def stored_equals_emitted(case: Case, run_dir: Path) -> None:
    checkpoints = Checkpoints(run_dir)
    arrays, _ = checkpoints.restore_arrays(STEPS * case.num_envs)
    checkpoints.close()
    export_episodes(open_rings(run_dir, arrays, [0], 1, case.num_envs, STEPS * case.num_envs, 1), run_dir / "episodes")
    for number, (emitted, received) in enumerate(lived(case)):
        row = 0
        for file in sorted((run_dir / "episodes").glob(f"env{number:03d}-*.npz")):
            episode = dict(np.load(file))
            observations, actions = (below(episode, part) for part in ("observation", "action"))
            for step in range(len(episode["reward"])):
                observation, reward, last = emitted[row]
                expected = observed(case.observation, observation)
                assert observations.keys() == expected.keys()
                for name, array in expected.items():
                    stored = observations[name][step]
                    assert (stored.dtype, stored.shape, stored.tobytes()) == (array.dtype, array.shape, array.tobytes())
                assert episode["reward"][step] == np.float32(reward) and not episode["is_terminal"][step]
                assert (episode["is_first"][step], episode["is_last"][step]) == (received[row] is None, last)
                row += 1
                if not last and row < len(received):
                    check_action(case.action, {name: array[step] for name, array in actions.items()}, received[row])
        assert row == STEPS


def fine_exactly_where_training_works(case: Case) -> str | None:
    with TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        Generated.begin(case)
        refused = checked(case)
        Generated.begin(case)
        assert trained(case, run_dir) == refused
        if refused is None:
            stored_equals_emitted(case, run_dir)
        return refused


NUMBERS, NOTHING = spaces.Box(-1, 1, (2,)), spaces.Box(0, 1, (0,))
IMAGE = spaces.Box(0, 255, (16, 16, 3), np.uint8)
HALVES = spaces.Box(np.float32([10, -np.inf]), np.float32([np.inf, -5]))
MOST = float(np.finfo(np.float64).max)
COUNTS = spaces.MultiDiscrete([[2, 3], [1, 4]], start=[[0, 5], [-2, 1]])
EVERYTHING = spaces.Tuple(
    [IMAGE, spaces.Box(0, 1, ()), spaces.Discrete(1), spaces.Discrete(7, start=-3), spaces.MultiBinary([2, 2]), COUNTS]
)
ALL_ACTIONS = spaces.Dict({"x/y": HALVES, "": spaces.Box(0, 1, ()), "b": spaces.Tuple([spaces.Discrete(1), COUNTS])})


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (Case(spaces.Dict({"observation": spaces.Dict({"x": NUMBERS}), "x": NUMBERS}), NUMBERS), None),
        (Case(NOTHING, NUMBERS), "the observation space is empty"),
        (Case(NUMBERS, NOTHING), "the action space is empty"),
        (Case(spaces.Dict({"a": NOTHING, "b": NUMBERS}), spaces.Tuple([NOTHING, NUMBERS])), None),
        (Case(spaces.Discrete(1), spaces.Discrete(1)), None),
        (Case(NUMBERS, spaces.Box(-MOST, MOST, (2,), np.float64)), None),
        (Case(NUMBERS, HALVES), None),
        (Case(IMAGE, NUMBERS, FAULTS["in [0, 1]"]), "is float64, its space says uint8"),
        (Case(spaces.Box(-np.inf, np.inf, (2,), np.float64), NUMBERS, FAULTS["huge"]), "not a finite float32"),
        (Case(NUMBERS, NUMBERS, FAULTS["NaN"], begin=3), "is nan somewhere"),
        (Case(EVERYTHING, ALL_ACTIONS, resumed=True, num_envs=2), None),
        (Case(spaces.Box(0, 255, (20, 16, 3), np.uint8), NUMBERS), "must be multiples of 16"),
        (Case(spaces.Dict({"rew": NUMBERS}), NUMBERS), "the name is taken by a loss"),
    ],
)
def test_smallest_cases(shared, case, words):
    refused = fine_exactly_where_training_works(case)
    assert refused is None if words is None else words in refused and "\n" not in refused


def test_no_action_of_a_half_bounded_box_is_every_action(shared):
    fine_exactly_where_training_works(Case(NUMBERS, HALVES))
    ((_, received),) = lived(Case(NUMBERS, HALVES))
    above, below = np.array([action for action in received if action is not None]).T
    assert len(np.unique(above)) > 8 and 10 <= above.min() < 15 < 25 < above.max() <= 30
    assert len(np.unique(below)) > 8 and -15 <= below.min() < -12 < -8 < below.max() <= -5


def tried(count: int, chunk: int | None = None) -> collections.Counter:
    """So many cases; those of a chunk are others than those of the next."""
    found: collections.Counter = collections.Counter()

    @settings(max_examples=count, suppress_health_check=list(HealthCheck), print_blob=False, derandomize=chunk is None)
    @given(cases)
    def every(case: Case) -> None:
        refused = fine_exactly_where_training_works(case)
        found["fine" if refused is None else "refused"] += 1
        found["with a fault, fine"] += refused is None and case.fault is not None

    (every if chunk is None else seed(chunk)(every))()
    return found


def test_a_hundred(shared):
    found = tried(100)
    assert found["fine"] > 25 and found["refused"] > 25 and found["with a fault, fine"] > 5, found


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(10))
def test_ten_thousand(shared, chunk):
    found = tried(1_000, chunk)
    print(dict(found))
    assert found["fine"] > 250 and found["refused"] > 250 and found["with a fault, fine"] > 80


ONE_BY_ONE = [
    Case(spaces.Box(0, 1, ()), spaces.Box(0, 1, ())),
    Case(spaces.Discrete(1), spaces.Discrete(1)),
    Case(spaces.Discrete(300), spaces.Discrete(3, start=-1)),
    Case(spaces.MultiBinary(3), spaces.MultiBinary(3)),
    Case(COUNTS, COUNTS),
    Case(spaces.MultiDiscrete(5), spaces.MultiDiscrete([1, 1])),
    Case(IMAGE, HALVES),
    Case(spaces.Dict(dict.fromkeys("abcdefghijklmnopqrstuvwxyz", NUMBERS)), spaces.Tuple([NUMBERS] * 5)),
    Case(spaces.Dict({"": NUMBERS, "x/y": IMAGE, "..": spaces.Discrete(2), "ä b": IMAGE}), ALL_ACTIONS),
    Case(spaces.Box(-1, 1, (2, 1, 3, 2)), spaces.Box(-1, 1, (2, 3))),
    Case(spaces.Box(0, 255, (5,), np.uint8), spaces.Box(-np.inf, np.inf, (1, 1))),
    Case(EVERYTHING, ALL_ACTIONS),
]


@pytest.mark.parametrize("case", ONE_BY_ONE)
def test_the_agent_takes_every_kind(case):
    """Traced, which finds whatever does not fit together; nothing is compiled."""
    observations, actions = plan_observations(case.observation).leaves, plan_actions(case.action).leaves
    spec = EnvSpec(*({leaf.name: leaf.spec for leaf in leaves} for leaves in (observations, actions)))
    config = tiny_run()
    agent, key = make_agent(config, spec), jax.random.key(0)
    state = jax.eval_shape(agent.init, key)
    batch = example_batch(config, spec, agent.latent_spec, 2)
    after, metrics, _ = jax.eval_shape(agent.update, state, key, batch)
    assert jax.tree.map(lambda x: x.shape, after) == jax.tree.map(lambda x: x.shape, state)
    assert {f"loss/{name}" for name in spec.observation} <= metrics.keys()
    seen = TimeStep(
        {name: x[:, 0] for name, x in batch.observation.items()}, *(getattr(batch, name)[:, 0] for name in FLAGS)
    )
    carry = jax.eval_shape(lambda params: agent.reset(params, 2), state.params)
    for mode in ("train", "random", "mode"):
        _, chosen, _ = jax.eval_shape(partial(agent.policy, mode=mode), state.params, key, carry, seen)
        shapes = {name: (2, *leaf.shape) for name, leaf in spec.action.items()}
        assert {name: x.shape for name, x in chosen.items()} == shapes


@pytest.mark.slow
def test_the_agent_trains_on_everything():
    assert fine_exactly_where_training_works(Case(EVERYTHING, ALL_ACTIONS)) is None


@pytest.mark.slow
@pytest.mark.parametrize("case", ONE_BY_ONE)
def test_the_agent_trains_on_every_kind(case):
    assert fine_exactly_where_training_works(case) is None
