"""Updates of several runs in one program give the numbers that each run's own update gives."""

import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import KEY, MIXED, many_devices, random_batch
from test_data_parallel import CONFIG, SURE, UPDATES, assert_close, follow, named
from trainer import make_toy, tiny_run

from dreamer_jax.agent import make_agent
from dreamer_jax.config.loading import load, replace
from dreamer_jax.config.named import PRESETS
from dreamer_jax.config.schema import ConfigError, flatten
from dreamer_jax.config.sweep import SHARED
from dreamer_jax.devices import memory
from dreamer_jax.devices.data_parallel import Updates
from dreamer_jax.devices.vmapped import member_updates
from dreamer_jax.processes.lockstep import Lockstep
from dreamer_jax.profiling.speed import SPECS, random_windows
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.training.preflight import example_batch

NUMBERS = ((4e-5, 0.1), (1e-4, 0.1), (4e-5, 0.5), (2e-4, 0.3))
CONFIGS = [replace(CONFIG, {"optimizer.learning_rate": rate, "kl.rep": rep}) for rate, rep in NUMBERS]
TRIALS = {"four": (4, 2)}
"""Members and devices."""

ALL = """
import sys
import numpy as np
import test_vmapped
for trial, (members, devices) in test_vmapped.TRIALS.items():
    for index, found in enumerate(test_vmapped.learn(members, devices)):
        np.savez(f"{sys.argv[1]}/{trial}{index}.npz", **found)
for index, found in enumerate(test_vmapped.learn_alone()):
    np.savez(f"{sys.argv[1]}/alone{index}.npz", **found)
np.savez(f"{sys.argv[1]}/start0.npz", **test_vmapped.compile_all())
"""


def keys():
    return list(jax.random.split(KEY, len(CONFIGS)))


def learn_alone():
    return [
        follow(Updates(make_agent(config, MIXED), 1), config, key, 10 * index)
        for index, (config, key) in enumerate(zip(CONFIGS, keys(), strict=True))
    ]


def learn(members, devices):
    """What each of so many members found, each in a thread; and how often an update was traced."""
    traced, found = [], [None] * members

    def agent_of(numbers):
        traced.append(sorted(numbers))
        return make_agent(replace(CONFIG, numbers), MIXED)

    updates = member_updates(CONFIGS[:members], agent_of, Lockstep(["x"] * members), devices)

    def run(index):
        found[index] = follow(updates[index], CONFIGS[index], keys()[index], 10 * index)

    in_threads(run, members)
    assert all(names == ["kl.rep", "optimizer.learning_rate"] for names in traced)
    state = jax.tree.leaves(updates[-1].place(tiny_state()))[0]
    where = {"device": next(iter(state.devices())).id, "traced": len(traced)}
    return [{**mine, **{name: np.array(value) for name, value in where.items()}} for mine in found]


def in_threads(run, count):
    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]


def compile_all():
    """How often an update is traced as four runs start on two devices."""
    config, spec = tiny_run(), EnvSpec({"eye": ArraySpec((3,), "float32")}, {"arm": ArraySpec((2,), "float32")})
    agent, traced = make_toy(config, spec), []
    updates = member_updates([config] * 4, lambda numbers: traced.append(numbers) or agent, Lockstep("abcd"), 2)
    batch = jax.tree.map(lambda x: x[None], example_batch(config, spec, agent.latent_spec, 2))

    def run(index):
        mine = updates[index]
        mine.compile(mine.place(agent.init(KEY)), KEY, mine.put(batch))

    in_threads(run, 4)
    return {"traced": np.array(len(traced))}


def tiny_state():
    return make_agent(CONFIG, MIXED).init(KEY)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """By name of a trial, or ``alone``, what each member found."""
    path = tmp_path_factory.mktemp("members")
    subprocess.run([sys.executable, "-c", ALL, str(path)], env=many_devices(2), check=True)
    counts = {**{trial: members for trial, (members, _) in TRIALS.items()}, "alone": len(CONFIGS), "start": 1}
    return {name: [dict(np.load(path / f"{name}{i}.npz")) for i in range(count)] for name, count in counts.items()}


trials = pytest.mark.parametrize("trial", TRIALS)


@trials
def test_a_first_update_is_that_of_each_alone(learnt, trial):
    for mine, alone in zip(learnt[trial], learnt["alone"], strict=False):
        metrics = [f"0/{name}" for name in alone["metrics"]]
        assert len(metrics) > 30
        assert_close({name: mine[name] for name in metrics}, named(alone, *metrics), rtol=1e-5, atol=1e-5)
        assert_close(named(mine, "0/moments"), named(alone, "0/moments"), rtol=1e-5, atol=0)
        assert_close(named(mine, "0/latents"), named(alone, "0/latents"), rtol=0, atol=1e-2)  # bfloat16
        assert_close(named(mine, "grads"), named(alone, "grads"), rtol=0, atol=1e-4)  # found: 5e-5


@trials
def test_parameters_after_a_step_where_its_sign_is_sure(learnt, trial):
    for (rate, _), mine, alone in zip(NUMBERS, learnt[trial], learnt["alone"], strict=False):
        shares = []
        for name, value in named(alone, "params").items():
            size = np.abs(alone[name.replace("params", "grads")])
            sure = size > SURE * size.max()
            shares.append(sure.mean())
            np.testing.assert_allclose(mine[name][sure], value[sure], rtol=1e-6, atol=rate / 100, err_msg=name)
        assert np.mean(shares) > 0.9


@trials
def test_updates_that_follow(learnt, trial):
    starts = [f"{call}/{kind}" for call in range(1, len(UPDATES)) for kind in ("loss", "moments", "opt/grad_norm")]
    for mine, alone in zip(learnt[trial], learnt["alone"], strict=False):
        assert mine["step"] == alone["step"] == sum(UPDATES)
        assert_close(named(mine, *starts), named(alone, *starts), rtol=2e-3, atol=2e-4)


@trials
def test_members_differ(learnt, trial):
    assert len({found["1/loss/total"].tobytes() for found in learnt[trial]}) == len(learnt[trial])


@trials
def test_one_trace_for_all_and_old_states_are_given_away(learnt, trial):
    members, devices = TRIALS[trial]
    assert len(learnt[trial]) == members
    for mine in learnt[trial]:
        assert mine["traced"] == 2  # batches of one and of two updates
        assert mine["device"] == devices - 1
        assert all(mine[f"{call}/given_away"].all() for call in range(len(UPDATES)))


def test_a_start_traces_once_for_all_devices(learnt):
    assert learnt["start"][0]["traced"] == 1


@pytest.mark.parametrize("preset", PRESETS)
def test_every_number_that_is_on_can_be_one_of_a_trace(preset):
    config = replace(load(preset=preset), {"train.batch_size": 2, "train.batch_length": 4})
    values = {name: value for name, value in flatten(config).items() if name in SHARED - {"seed"}}
    # What is off can be on elsewhere.
    others = ("loss.replay_value", "optimizer.agc", "optimizer.clip", "optimizer.weight_decay")
    others += ("optimizer.actor_learning_rate", "optimizer.critic_learning_rate", "optimizer.actor_critic_eps")
    config = replace(config, {name: 0.03 for name in (*others, "optimizer.actor_critic_clip") if not values[name]})
    on = [name for name in values if flatten(config)[name]]
    assert len(on) > 20
    spec = SPECS["vision"]
    agent = make_agent(config, spec)
    batch = random_windows(spec, agent.latent_spec, 2, 4)

    def update(numbers, state):
        return make_agent(replace(config, numbers), spec).update(state, KEY, batch)

    state = jax.eval_shape(agent.init, KEY)
    numbers = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in on}
    assert jax.eval_shape(update, numbers, state) == jax.eval_shape(agent.update, state, KEY, batch)


class Program:
    def memory_analysis(self):
        return type("Sizes", (), dict(output_size_in_bytes=5e9, temp_size_in_bytes=8e9, alias_size_in_bytes=3e9))


def test_what_does_not_fit_is_refused_with_both_numbers(monkeypatch):
    device = jax.devices()[0]
    assert 1e6 < memory.free_bytes(device) < 1e14
    monkeypatch.setattr(memory, "free_bytes", lambda _: 4e9)
    with pytest.raises(ConfigError) as error:
        memory.check_fits(Program(), device, 8)
    assert str(error.value) == (
        "--together: updates of 8 runs in one program need 10 GB, cpu has 4 GB free; "
        "with --together 3 at most 3 at a time learn together"
    )
    monkeypatch.setattr(memory, "free_bytes", lambda _: 10e9)
    memory.check_fits(Program(), device, 8)


def test_the_real_program_is_asked(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda _: 1000)
    config = CONFIG
    (mine,) = member_updates([config], lambda _: make_agent(config, MIXED), Lockstep(["x"]), 1)
    batch = mine.put(jax.tree.map(lambda x: np.stack([x]), random_batch(MIXED, config)))
    with pytest.raises(ConfigError, match=r"need [0-9.]+ GB, cpu has 1e-06 GB free"):
        mine.compile(mine.place(tiny_state()), KEY, batch)
