"""Records line up, episodes are seeded one by one, and a saved state brings back the last records."""

import logging
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from dreamer_jax.config.schema import ConfigError, EnvConfig
from dreamer_jax.envs.preview import processes_are_faster
from dreamer_jax.envs.vector import make_envs
from dreamer_jax.envs.wrappers import SIGNALS, EnvironmentFailed, open_stream

OWN = """
import os
import gymnasium, numpy as np
from gymnasium import spaces

class Chain(gymnasium.Env):
    \"\"\"Observes its last action, the time and a random number; reward is the time; ends at 3.

    Terminates if the random number of the reset was above one half, else is cut off.
    \"\"\"
    observation_space = spaces.Dict({"act": spaces.Box(-9, 9, (1,)), "time": spaces.Discrete(9),
                                     "luck": spaces.Box(0, 1, (1,))})
    action_space = spaces.Box(-2, 2, (1,))
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.luck = 0, self.np_random.random()
        return self.see(np.zeros(1)), {}
    def step(self, action):
        assert self.time < 3, "stepped after the end"
        self.time += 1
        return self.see(action), self.time, *self.end(), {}
    def see(self, action):
        return {"act": np.float32(action), "time": self.time, "luck": np.float32([self.luck])}
    def end(self):
        return self.time == 3 and self.luck > 0.5, self.time == 3 and self.luck <= 0.5

class Failing(Chain):
    def step(self, action):
        if action[0] > 1.5: raise ValueError("100% wrong\\nand more")
        if action[0] < -1.5: os._exit(7)
        return super().step(action)

class Logged(Chain):
    log_names = ("clock", "twice")
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], {"log": {"clock": 0, "twice": 0}}
    def step(self, action):
        return *super().step(action)[:4], {"log": {"clock": self.time, "twice": 2 * self.time}}

class Drifting(Chain):
    count = 0
    def see(self, action):
        Drifting.count += 1
        return super().see(action) | {"luck": np.float32([Drifting.count / 1000])}
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "chain_world.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def config(task, **changes):
    return EnvConfig(task, **({"vectorization": "sync"} | changes))


def actions(spec, envs, steps, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            name: rng.integers(part.classes, size=(envs, *part.shape))
            if part.discrete
            else rng.uniform(-1, 1, (envs, *part.shape)).astype(np.float32)
            for name, part in spec.action.items()
        }
        for _ in range(steps)
    ]


def arrays(record):
    return {name: getattr(record, name) for name in SIGNALS} | record.observation


def assert_same(first, second):
    first, second = arrays(first), arrays(second)
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def play(envs, steps, seed=0):
    sent = actions(envs.spec, envs.num_envs, steps, seed)
    return sent, [envs.reset()] + [envs.step(action) for action in sent]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_records_line_up(own, kind):
    envs = make_envs(config("chain_world:Chain", vectorization=kind), seed=0, num_envs=2)
    assert envs.vectorization == kind
    sent, records = play(envs, 40)
    # The same in the other kind, and a state saved by one goes on in the other.
    other = {"sync": "async", "async": "sync"}[kind] if kind == "async" else "sync"
    state = envs.state()
    again = make_envs(config("chain_world:Chain", vectorization=other), seed=0, num_envs=2, state=state)
    assert_same(again.reset(), records[-1])
    for action in actions(envs.spec, 2, 9, seed=1):
        assert_same(again.step(action), envs.step(action))
    envs.close()
    again.close()
    ends = set()
    for index in range(2):
        for step, record in enumerate(records):
            flags = [bool(getattr(record, name)[index]) for name in ("is_first", "is_last", "is_terminal")]
            time_ = int(record.observation["time"][index])
            assert flags[0] == (time_ == 0) == (step % 4 == 0)  # a reset record of its own
            assert flags[1] == (time_ == 3)  # which does not replace the terminal observation
            assert flags[2] == (time_ == 3 and record.observation["luck"][index, 0] > 0.5)  # time-outs are no deaths
            assert record.reward[index] == time_  # the reward arrives with its observation
            # The action that led to it, clipped and rescaled; the action after the end is ignored.
            led = 0 if time_ == 0 else 2 * sent[step - 1]["action"][index, 0]
            assert record.observation["act"][index, 0] == np.float32(led)
            ends.add((flags[1], flags[2]))
    assert ends == {(False, False), (True, False), (True, True)}


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_types_and_ownership(own, vectorization):
    envs = make_envs(config("chain_world:Chain", vectorization=vectorization), seed=0, num_envs=2)
    first = envs.reset()
    kept = {name: array.copy() for name, array in arrays(first).items()}
    second = envs.step({"action": np.full((2, 1), 5.0, np.float32)})
    assert second.observation["act"].tolist() == [[2.0], [2.0]]  # clipped before it is rescaled
    for name, array in arrays(first).items():
        np.testing.assert_array_equal(array, kept[name])
        assert array.flags.owndata and array.flags.writeable
    assert {name: (array.shape, str(array.dtype)) for name, array in arrays(first).items()} == {
        "act": ((2, 1), "float32"),
        "luck": ((2, 1), "float32"),
        "time": ((2,), "int32"),
        "reward": ((2,), "float32"),
        "is_first": ((2,), "bool"),
        "is_last": ((2,), "bool"),
        "is_terminal": ((2,), "bool"),
    }
    envs.close()


def test_what_is_said_for_the_log_is_ones_own(own):
    envs, logs = make_envs(config("chain_world:Logged"), seed=0, num_envs=2), []
    envs.reset()
    for _ in range(3):
        envs.step({"action": np.zeros((2, 1), np.float32)})
        logs.append(envs.log)
    assert [{name: values.tolist() for name, values in log.items()} for log in logs] == [
        {"clock": [time] * 2, "twice": [2 * time] * 2} for time in (1, 2, 3)
    ]


def test_repeated_actions_sum_rewards_and_stop_at_the_end(own):
    envs = make_envs(config("chain_world:Chain", action_repeat=2), seed=0, num_envs=1)
    _, records = play(envs, 3)
    assert [float(record.reward[0]) for record in records] == [0, 1 + 2, 3, 0]
    assert [int(record.observation["time"][0]) for record in records] == [0, 2, 3, 0]
    assert [bool(record.is_last[0]) for record in records] == [False, False, True, False]


def test_time_limit_counts_actions_and_is_not_terminal():
    envs = make_envs(config("gym/CartPole-v1", time_limit=3, action_repeat=2), seed=0, num_envs=1)
    records = [envs.reset()] + [envs.step({"action": np.array([k % 2])}) for k in range(8)]
    assert [bool(record.is_last[0]) for record in records] == [False, False, False, True] * 2 + [False]
    assert not any(record.is_terminal[0] for record in records)


def test_seeds_separate_runs_purposes_environments_and_episodes():
    def luck(seed=0, purpose=0, index=0, episodes=2):
        stream = open_stream(config("gym/CartPole-v1"), seed=seed, purpose=purpose, index=index)
        return [tuple(stream.reset()[0]["observation"]) for _ in range(episodes)]

    assert luck() == luck()
    assert len({*luck(), *luck(seed=1), *luck(purpose=1), *luck(index=1)}) == 8
    envs = make_envs(config("gym/CartPole-v1"), seed=0, num_envs=2)
    assert [tuple(row) for row in envs.reset().observation["observation"]] == [luck()[0], luck(index=1)[0]]
    # Later episodes don't depend on how long the earlier ones took.
    long = make_envs(config("gym/CartPole-v1"), seed=0, num_envs=2)
    play(long, 5)
    assert_same(long.reset(), envs.reset())


@pytest.mark.parametrize(
    ("task", "steps", "limit"),
    [("probe/memory", 11, 0), ("gym/CartPole-v1", 60, 0), ("dmc/cheetah_run", 30, 0), ("dmc/hopper_hop", 17, 10)],
)
def test_a_saved_state_brings_back_the_last_records(task, steps, limit, caplog):
    settings = config(task, time_limit=limit)
    envs = make_envs(settings, seed=3, num_envs=2)
    _, records = play(envs, steps)
    state = envs.state()
    assert all(isinstance(array, np.ndarray) and array.dtype != object for array in state.values())
    again = make_envs(settings, seed=3, num_envs=2, state=state)
    assert_same(again.reset(), records[-1])
    for action in actions(envs.spec, 2, steps, seed=9):
        assert_same(again.step(action), envs.step(action))
    for name, array in envs.state().items():
        np.testing.assert_array_equal(array, again.state()[name])
    assert not caplog.records


@pytest.mark.parametrize("steps", range(6))
def test_a_state_saved_at_any_record_of_an_episode(own, steps):
    """Includes right after the first record, after the last one, and after the reset that follows."""
    envs = make_envs(config("chain_world:Chain"), seed=0, num_envs=2)
    _, records = play(envs, steps)
    assert bool(records[-1].is_last[0]) == (steps == 3)
    again = make_envs(config("chain_world:Chain"), seed=0, num_envs=2, state=envs.state())
    assert_same(again.reset(), records[-1])
    for action in actions(envs.spec, 2, 6, seed=1):
        assert_same(again.step(action), envs.step(action))
    assert_same(again.reset(), envs.reset())


def test_a_world_that_does_not_repeat_itself_begins_anew(own, caplog):
    envs = make_envs(config("chain_world:Drifting"), seed=0, num_envs=2)
    play(envs, 6)
    state = envs.state()
    with caplog.at_level(logging.WARNING):
        again = make_envs(config("chain_world:Drifting"), seed=0, num_envs=2, state=state)
        record = again.reset()
    assert len(caplog.records) == 1 and "environments 0, 1" in caplog.text
    assert record.is_first.all() and (record.reward == 0).all()
    assert (again.state()["episode"] == state["episode"] + 1).all() and not again.state()["length"].any()
    assert not again.step({"action": np.zeros((2, 1))}).is_first.any()


def test_only_the_environment_that_changed_begins_anew(own, caplog):
    envs = make_envs(config("chain_world:Chain"), seed=0, num_envs=2)
    _, records = play(envs, 6)
    state = envs.state()
    state["record/observation/luck"][1] = 0.123
    again = make_envs(config("chain_world:Chain"), seed=0, num_envs=2, state=state)
    record = again.reset()
    assert record.is_first.tolist() == [False, True] and "environments 1 did" in caplog.text
    np.testing.assert_array_equal(record.observation["luck"][0], records[-1].observation["luck"][0])
    after = again.step({"action": np.zeros((2, 1))})
    assert after.observation["time"].tolist() == [3, 1]


def test_a_state_of_other_environments_is_refused():
    envs = make_envs(config("probe/memory"), seed=0, num_envs=2)
    with pytest.raises(RuntimeError, match="reset"):
        envs.state()
    envs.reset()
    with pytest.raises(ConfigError, match="got 3, but the saved environments are 2"):
        make_envs(config("probe/memory"), seed=0, num_envs=3, state=envs.state())
    with pytest.raises(ConfigError, match="its action action is"):
        make_envs(config("probe/echo"), seed=0, num_envs=2, state=envs.state())


def test_a_failing_environment_is_named(own):
    envs = make_envs(config("chain_world:Failing"), seed=0, num_envs=2)
    envs.reset()
    with pytest.raises(EnvironmentFailed, match=r"^environment 1 \(chain_world:Failing\): step\(\) failed.*100% wrong"):
        envs.step({"action": np.array([[0.0], [1.0]])})


def test_a_process_fails_clearly_and_leaves_interrupts_alone(own):
    settings = config("chain_world:Failing", vectorization="async")
    envs = make_envs(settings, seed=0, num_envs=2)
    envs.reset()
    workers = list(envs._envs.processes)
    for worker in workers:
        os.kill(worker.pid, signal.SIGINT)
    time.sleep(0.1)
    envs.step({"action": np.zeros((2, 1))})  # as if nothing had happened
    with pytest.raises(EnvironmentFailed, match=r"^environment 1 .*ValueError: 100% wrong and more") as caught:
        envs.step({"action": np.array([[0.0], [1.0]])})
    assert "\n" not in str(caught.value)
    assert "Traceback" in caught.value.__notes__[0]
    envs.close()
    assert not any(worker.is_alive() for worker in workers)
    envs = make_envs(settings, seed=0, num_envs=2)
    envs.reset()
    workers = list(envs._envs.processes)
    with pytest.raises(EnvironmentFailed, match=r"^environment 0: its process ended with code 7"):
        envs.step({"action": np.array([[-1.0], [0.0]])})
    envs.close()
    assert not any(worker.is_alive() for worker in workers) and not multiprocessing.active_children()


def test_auto_prefers_one_process_for_quick_environments():
    assert make_envs(config("probe/echo", vectorization="auto"), seed=0, num_envs=2).vectorization == "sync"
    assert not processes_are_faster(20e-6, num_envs=16, cores=16)
    assert not processes_are_faster(1e-3, num_envs=16, cores=2)
    assert processes_are_faster(1e-3, num_envs=16, cores=16)
    assert not processes_are_faster(1e-3, num_envs=1, cores=16)


@pytest.mark.parametrize(("task", "error"), [("World", "NotImplementedError"), ("Unseen", "SystemExit: no display")])
def test_what_draws_nothing_says_so(task, error):
    envs = make_envs(EnvConfig(f"worlds:{task}", vectorization="sync"), seed=0, num_envs=1, render=True)
    envs.reset()
    with pytest.raises(ConfigError, match=f"--video: 'worlds:{task}' can't be drawn, render.. failed with {error}"):
        envs.render()
    envs.close()


def test_a_gymnasium_environment_that_was_not_asked_beforehand_draws_nothing():
    envs = make_envs(EnvConfig("gym/CartPole-v1", vectorization="sync"), seed=0, num_envs=1)
    envs.reset()
    with pytest.raises(ConfigError, match="draws no pictures"):
        envs.render()
    envs.close()
