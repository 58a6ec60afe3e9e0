"""Environments of pure functions as streams of records: whatever suites do at the ends of episodes."""

import functools
import types
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import quickly

from dreamer_jax import load_config
from dreamer_jax.config.schema import ConfigError, EnvConfig
from dreamer_jax.envs import probes
from dreamer_jax.envs.check import check_env
from dreamer_jax.envs.pure import gymnax, host, suites
from dreamer_jax.envs.pure import probes as pure_probes
from dreamer_jax.envs.pure.streams import advance, begin, make_streams
from dreamer_jax.envs.suites import make_env
from dreamer_jax.envs.vector import make_envs
from dreamer_jax.envs.wrappers import Stream, episode_seed
from dreamer_jax.interfaces.environment import Environment, Transition
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.terminal import render

SPEC = EnvSpec({"count": ArraySpec((2,), "float32")}, {"action": ArraySpec((), "int32", 2)})


def counting(time_limit=5):
    """Shows how many steps there were and a number of the episode; action 1 ends it."""

    def reset(key):
        state = {"count": 0, "mark": jax.random.uniform(key)}
        return state, {"count": jnp.stack([0.0, state["mark"]])}

    def step(key, state, action):
        state = state | {"count": state["count"] + 1}
        seen = {"count": jnp.stack([state["count"].astype(float), state["mark"]])}
        return state, Transition(seen, 1.0, action["action"] == 1, False, {"twice": 2 * state["count"]})

    return Environment(SPEC, reset, step, time_limit, ("twice",))


def logs_two(key, state, action):
    return state, Transition({"count": jnp.zeros(2)}, 0, False, False, {"twice": jnp.zeros(2)})


@quickly()
def play(streams, actions):
    """Records [steps + 1, E] of the actions [steps, E]."""

    def one(state, action):
        state, record = streams.step(state, {"action": action})
        return state, record

    def all_of_them(key, actions):
        state, first = streams.begin(key)
        _, others = jax.lax.scan(one, state, actions)
        return jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), first, others)

    return jax.device_get(jax.jit(all_of_them)(jax.random.key(0), jnp.asarray(actions)))


def test_ends_are_kept_and_a_separate_record_begins_each_episode():
    actions = np.zeros((14, 3), np.int32)
    actions[2, 0] = actions[4, 2] = 1
    records = play(make_streams(counting(), EnvConfig(), 3), actions)
    count, mark = np.moveaxis(records.observation["count"], -1, 0)
    assert count.T.tolist() == [
        [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4],  # the observation of the end is there: 3, not the next 0
        [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0, 1, 2],
        [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0, 1, 2],
    ]
    first, ended = count == 0, np.zeros_like(count, bool)
    ended[3, 0] = ended[5, 2] = True  # the second of them in the step of the time limit
    assert (records.is_first == first).all() and (records.is_last == (ended | (count == 5))).all()
    assert (records.is_terminal == ended).all()  # a time limit is no termination
    assert (records.reward == ~first).all()
    number = first.cumsum(0) - 1
    for row, env in np.ndindex(count.shape):  # what an episode is depends on its key and number, and on nothing else
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), env), number[row, env])
        assert not first[row, env] or mark[row, env] == jax.random.uniform(jax.random.fold_in(key, 0))
        assert first[row, env] or mark[row, env] == mark[row - 1, env]
    assert len(np.unique(mark)) == first.sum()  # no episode begins as another one did


def test_settings_of_time():
    actions = np.zeros((8, 1), np.int32)
    actions[4] = 1
    config = EnvConfig(action_repeat=2, time_limit=3, timeouts_terminate=True)
    records = play(make_streams(counting(7), config, 1), actions)
    assert records.observation["count"][:, 0, 0].tolist() == [0, 2, 4, 6, 0, 1, 0, 2, 4]
    assert records.reward[:, 0].tolist() == [0, 2, 2, 2, 0, 1, 0, 2, 2]
    assert np.flatnonzero(records.is_last).tolist() == np.flatnonzero(records.is_terminal).tolist() == [3, 5]


def test_actions_reach_an_environment_inside_their_bounds():
    moved = Environment(
        EnvSpec({"place": ArraySpec((2,), "float32")}, {"action": ArraySpec((2,), "float32")}),
        lambda key: (jnp.zeros(2), {"place": jnp.zeros(2)}),
        lambda key, place, action: (place, Transition({"place": action["action"]}, 0.0, False, False)),
        9,
    )
    records = play(make_streams(moved, EnvConfig(), 1), np.array([[[5.0, -0.5]], [[-3.0, 1.0]]], np.float32))
    assert records.observation["place"][:, 0].tolist() == [[0, 0], [1, -0.5], [-1, 1]]


class Replayed:
    """Gives a probe the draws that its pure twin had."""

    def __init__(self, observations):
        self.seen = iter(observations)

    def integers(self, _):
        return int(next(self.seen)[0] > 0)

    def uniform(self, low, high):
        return next(self.seen)[0]


@pytest.mark.parametrize("name", probes.PROBES)
@quickly()
def test_pure_probes_are_the_probes(name):
    env, probe = pure_probes.make(name), probes.PROBES[name]
    probe.action.seed(1)
    one, (episode, observation) = jax.jit(functools.partial(advance, env)), begin(env, jax.random.key(3))
    seen, actions, found = [observation["observation"]], [], None
    while found is None or not (found.terminated or found.truncated):
        actions.append(probe.action.sample())
        episode, found = one(episode, {"action": jnp.asarray(actions[-1])})
        seen.append(found.observation["observation"])
        actions[-1] = actions[-1], float(found.reward), bool(found.terminated)
    twin = probe.episode(Replayed(np.asarray(seen)))
    answer = next(twin)
    assert np.float32(answer[0]).tolist() == np.asarray(seen[0]).tolist()
    for (action, reward, terminated), observation in zip(actions, seen[1:], strict=True):
        answer = twin.send(action)
        assert np.float32(answer[0]).tolist() == observation.tolist()
        assert np.float32(answer[1]) == pytest.approx(reward, abs=1e-7) and (answer[2] == "terminated") == terminated
    assert answer[2] in ("terminated", "truncated")


def test_on_the_host_it_is_the_same_environment():
    """Record by record, through everything that is between a policy and an environment there."""
    env = counting()
    stream = Stream(host.PureEnv(env), EnvConfig(), seed=3, purpose=0, index=1)
    assert stream.env_spec == env.spec and stream.time_limit == 5
    records = [stream.reset()[0]] + [stream.step({"action": np.int32(0)})[0] for _ in range(7)]
    for row, number in ((0, 0), (6, 1)):
        _, observation = begin(env, jax.random.key(episode_seed(3, 0, 1, number)))
        assert records[row]["count"].tolist() == observation["count"].tolist() and records[row]["is_first"]
    assert [int(record["count"][0]) for record in records] == [0, 1, 2, 3, 4, 5, 0, 1]
    assert [bool(record["is_last"]) for record in records] == [False] * 5 + [True] + [False] * 2
    assert not any(record["is_terminal"] for record in records)
    assert stream.log_names == ("twice",)
    assert [float(record["log"][0]) for record in records] == [0, 2, 4, 6, 8, 10, 0, 2]


OWN = """
import jax, jax.numpy as jnp
from dreamer_jax.interfaces.environment import Environment, Transition
from dreamer_jax.specs import ArraySpec, EnvSpec

SPEC = EnvSpec({"place": ArraySpec((2,), "float32")}, {"action": ArraySpec((2,), "float32")})

def reset(key):
    place = jax.random.uniform(key, (2,))
    return place, {"place": place}

def step(key, place, action):
    place = place + 0.1 * action["action"]
    return place, Transition({"place": place}, -jnp.abs(place).sum(), jnp.abs(place).max() > 1.5, False)

def make(): return Environment(SPEC, reset, step, 20)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "pure_world.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_one_of_ones_own(own):
    config = load_config(overrides=[("env.task", "pure_world:make")])
    text = render(check_env(config, 60))
    assert "no problems found" in text and "by a time limit" in text and "note:" not in text
    assert suites.find("pure_world:make").time_limit == 20
    envs = make_envs(replace(config.env, num_envs=2, vectorization="sync"), seed=0)
    assert envs.reset().observation["place"].shape == (2, 2)
    envs.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(reset=lambda key: (0, {"count": jnp.zeros(3)})), "of reset() has shape (3,), its spec says (2,)"),
        (dict(reset=lambda key: (jnp.zeros(2), {"count": jnp.zeros(2)})), "its functions can't be traced"),
        (dict(reset=lambda key: (0, {"other": jnp.zeros(2)})), "KeyError"),
        (
            dict(step=lambda key, state, _: (0.5, Transition({"count": jnp.zeros(2)}, 0, False, False, {"twice": 0}))),
            "other shapes",
        ),
        (dict(log_names=("once",)), "KeyError"),
        (dict(step=logs_two), "must log a single number as 'twice', not (2,)"),
        (dict(spec=EnvSpec(SPEC.observation, {"push": SPEC.action["action"]})), "named 'push', not 'action'"),
        (dict(spec=EnvSpec({"reward": ArraySpec((2,), "float32")}, SPEC.action)), "the name is reserved"),
    ],
)
def test_what_does_not_keep_its_word_is_refused(change, words):
    with pytest.raises(ConfigError, match="env.task: 'own:make'") as error:
        suites.checked("own:make", counting()._replace(**change))
    assert words in str(error.value)


def test_names_and_packages(monkeypatch):
    with pytest.raises(ConfigError, match=r"needs a package: pip install 'dreamer-jax\[craftax\]'"):
        monkeypatch.setitem(__import__("sys").modules, "craftax", None)
        make_env(EnvConfig("craftax/Craftax-Symbolic-v1"))


@quickly()
def test_gymnax_keeps_its_ends_apart():
    pytest.importorskip("gymnax")
    task = "gymnax/CartPole-v1"
    env = suites.find(task)
    balance = make_streams(env._replace(time_limit=20), EnvConfig(task), 8)

    def act(before, _):
        state, record = before
        angle, speed = record.observation["observation"][:, 2], record.observation["observation"][:, 3]
        push = jnp.where(jnp.arange(8) < 4, angle + speed > 0, 1).astype(jnp.int32)  # half of them keep the pole up
        after = balance.step(state, {"action": push})
        return after, after[1]

    records = jax.device_get(
        jax.jit(lambda key: jax.lax.scan(act, balance.begin(key), length=50)[1])(jax.random.key(0))
    )
    assert records.is_last[19, :4].all() and not records.is_terminal[:, :4].any()
    assert records.is_terminal[:, 4:].any(0).all() and (records.is_terminal[:, 4:] == records.is_last[:, 4:]).all()
    assert (records.is_first[1:] == records.is_last[:-1]).all()
    end = records.observation["observation"][records.is_terminal]
    assert ((np.abs(end[:, 2]) > 0.2094) | (np.abs(end[:, 0]) > 2.4)).all()  # it has fallen, and is not the next start
    begins = records.observation["observation"][records.is_first]
    assert len(np.unique(begins, axis=0)) == len(begins) and (np.abs(begins) <= 0.05).all()
    late = env.reset(jax.random.key(0))[0].replace(time=env.time_limit - 1)
    found = env.step(jax.random.key(1), late, {"action": jnp.int32(0)})[1]
    assert found.truncated and not found.terminated  # its own time limit is none either
    assert suites.find("gymnax/Pendulum-v1").spec.action == {"action": ArraySpec((1,), "float32")}
    with pytest.raises(ConfigError, match="did you mean gymnax/CartPole-v1"):
        make_env(EnvConfig("gymnax/CartPol-v1"))


def test_a_gymnax_without_separate_time_limits_is_refused(monkeypatch):
    gym = pytest.importorskip("gymnax")
    old = types.SimpleNamespace(observation_space=None)
    monkeypatch.setattr(gym, "make", lambda name: (old, None))
    with pytest.raises(ConfigError, match="needs a newer package"):
        gymnax.make("CartPole-v1")


def played(task, num_envs, limit, steps, force):
    """Records [steps, E] with the actions ``force`` at a time limit of ours."""
    env = suites.find(task)
    streams = make_streams(env._replace(time_limit=limit), EnvConfig(task), num_envs)

    def act(before, key):
        noise = jax.random.uniform(key, (num_envs, *env.spec.action["action"].shape), minval=-1, maxval=1)
        after = streams.step(before[0], {"action": noise if force is None else jnp.full_like(noise, force)})
        return after, after[1]

    run = jax.jit(lambda key: jax.lax.scan(act, streams.begin(key), jax.random.split(key, steps))[1])
    return env, jax.device_get(run(jax.random.key(0)))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["brax/inverted_pendulum", "playground/CartpoleBalance"])
@quickly()
def test_simulators_keep_their_ends_apart(task):
    """A time limit is no termination, what falls is one, and episodes begin in other states each time."""
    pytest.importorskip({"brax": "brax", "playground": "mujoco_playground"}[task.partition("/")[0]])
    env, records = played(task, 2, limit=12, steps=40, force=None)
    seen = next(iter(records.observation.values()))
    assert (records.is_first[1:] == records.is_last[:-1]).all() and records.is_last[11].any()
    if task.startswith("playground"):
        assert not records.is_terminal.any() and env.time_limit == 1000
    else:
        _, pushed = played(task, 2, limit=1000, steps=60, force=1.0)
        ends = pushed.observation["observation"][pushed.is_terminal]
        assert len(ends) and (np.abs(ends[:, 1]) > 0.2).all()  # it has fallen, and is not the next start
        assert (pushed.is_terminal == pushed.is_last).all()
    begins = seen[records.is_first]
    assert len(begins) >= 4 and len(np.unique(begins, axis=0)) == len(begins)


@pytest.mark.slow
@quickly()
def test_craftax_ends_by_death_alone():
    pytest.importorskip("craftax")
    env = suites.find("craftax/Craftax-Classic-Symbolic-v1")
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    step, action = jax.jit(env.step), {"action": jnp.int32(0)}
    ends = {}
    for name, change in {
        "neither": {},
        "death": {"player_health": state.player_health * 0},
        "late": {"timestep": state.timestep * 0 + env.time_limit - 1},
    }.items():
        found = step(jax.random.key(1), state.replace(**change), action)[1]
        ends[name] = bool(found.terminated), bool(found.truncated)
    assert ends == {"neither": (False, False), "death": (True, False), "late": (False, True)}
    assert len(found.log) == 22 and not any(found.log.values())
    one = state.replace(achievements=state.achievements.at[3].set(True))
    assert sum(map(float, step(jax.random.key(1), one, action)[1].log.values())) == 1
