"""A trained agent in someone else's program acts as it would have in training."""

import io
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from trainer import flags, make_toy, tiny_run, trainer

import dreamer_jax
from dreamer_jax.config.loading import replace
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.devices.acting import make_act
from dreamer_jax.processes.shards import below
from dreamer_jax.replay.storage import Layout, file_name, numpy_dtype
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.integrity import read_run
from dreamer_jax.training.loop import ACT
from dreamer_jax.training.preflight import env_spec
from dreamer_jax.types import TimeStep

FRAMES, E = 100, 2


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run, and a copy of it that went one step further."""
    folder = tmp_path_factory.mktemp("load")
    run, longer = folder / "run", folder / "longer"
    with trainer() as process:
        config = tiny_run(train__frames=FRAMES)
        assert process.run(flags(config, run), folder / "log", toy=False) == 0, (folder / "log").read_text()
        shutil.copytree(run, longer)
        config = tiny_run(train__frames=FRAMES + E)
        assert process.run(flags(config, longer), folder / "log", toy=False) == 0, (folder / "log").read_text()
    return run, longer


def moment(run, agent, state):
    """What training stood at: carry and time step."""
    carry = jax.eval_shape(lambda: agent.reset(state.params, E))
    checkpoints = Checkpoints(run)
    _, carry, arrays, facts = checkpoints.restore(FRAMES, jax.eval_shape(lambda: state), carry)
    checkpoints.close()
    assert facts["agent_steps"] == FRAMES
    record = below(arrays, "envs/record")
    names = ("reward", "is_first", "is_last", "is_terminal")
    return carry, TimeStep(below(record, "observation"), **{name: record[name] for name in names})


def stored(run, row):
    """What replay holds of one row."""
    layout, found = Layout.read(run / "replay"), {}
    for name, field in layout.fields.items():
        values = np.fromfile(run / "replay" / file_name(name), numpy_dtype(field.dtype))
        found[name] = values.reshape(-1, *field.shape)[layout.cells(np.arange(E), row)]
    return found


def test_it_acts_as_in_training(runs):
    run, longer = runs
    agent, state = dreamer_jax.load(run)
    assert int(state.step) > 20
    carry, timestep = moment(run, agent, state)
    root, step = jax.random.fold_in(jax.random.key(0), ACT), FRAMES // E

    policy = jax.jit(agent.policy, static_argnums=4)
    _, action, latents = policy(state.params, jax.random.fold_in(root, step), carry, timestep, "train")
    _, as_in_training, kept = make_act(agent, "train")(state.params, root, step, carry, timestep)
    recorded = stored(longer, step)
    assert recorded["observation/observation"].tobytes() == timestep.observation["observation"].tobytes()
    for mine, theirs, record in (
        (action["action"], as_in_training["action"], recorded["action/action"]),
        (latents["deter"], kept["deter"], recorded["latents/deter"]),
        (latents["stoch"], kept["stoch"], recorded["latents/stoch"]),
    ):
        mine, theirs = np.asarray(mine), np.asarray(theirs)
        assert mine.dtype == theirs.dtype == record.dtype
        assert mine.tobytes() == theirs.tobytes() == record.tobytes()
    # Another key, another action: the comparison says something.
    _, other, _ = policy(state.params, root, carry, timestep, "train")
    assert np.asarray(other["action"]).tobytes() != np.asarray(action["action"]).tobytes()


def test_it_begins_anywhere_and_mode_is_greedy(runs):
    agent, state = dreamer_jax.load(runs[0])
    policy = jax.jit(agent.policy, static_argnums=4)
    carry, timestep = moment(runs[0], agent, state)
    first = agent.reset(state.params, 3)
    three = TimeStep({"observation": np.zeros((3, 1), np.float32)}, np.zeros(3, np.float32), *[np.ones(3, bool)] * 3)
    later, action, _ = policy(state.params, jax.random.key(1), first, three, "mode")
    assert action["action"].shape == (3, 1)
    assert jax.tree.structure(later) == jax.tree.structure(first)

    spread = {}
    for mode in ("mode", "sample"):
        seen = {}
        for number in range(150):
            after, action, _ = policy(state.params, jax.random.key(number), carry, timestep, mode)
            for env in range(E):  # the latent is drawn in any mode; given it, the greedy action is fixed
                latent = env, np.asarray(after.latent.stoch)[env].tobytes()
                seen.setdefault(latent, []).append(np.asarray(action["action"])[env].tobytes())
        repeated = [actions for actions in seen.values() if len(actions) > 2]
        assert len(repeated) > 5
        spread[mode] = [len(set(actions)) / len(actions) for actions in repeated]
        assert mode == "sample" or all(len(set(actions)) == 1 for actions in repeated)
    assert np.mean(spread["sample"]) > 0.9


def test_other_settings_that_leave_the_parameters_alone(runs):
    """A planner in the model of an actor-critic: the same train state, of which it uses a part."""
    run = runs[0]
    agent, state = dreamer_jax.load(run)
    plan = [("behavior.method", "planner"), ("planner.horizon", "2"), ("planner.candidates", "4")]
    planner, same = dreamer_jax.load(run, overrides=[*plan, ("planner.elites", "2"), ("planner.iterations", "1")])
    jax.tree.map(np.testing.assert_array_equal, same, state)
    carry, timestep = moment(run, agent, state)
    root = jax.random.key(0)
    (_, ours, kept), (_, theirs, _) = (
        jax.jit(one.policy)(state.params, root, carry, timestep) for one in (planner, agent)
    )
    assert ours["action"].shape == theirs["action"].shape and (ours["action"] != theirs["action"]).all()
    assert kept.keys() == planner.latent_spec.keys()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            [("behavior.entropy", "0"), ("rssm.hidden", "24")],
            "--rssm.hidden: got 24, but the parameters of .* learnt with",
        ),
        ([("optimizer.kind", "adam"), ("seed", "3")], "--optimizer.kind: got adam, but the parameters of "),
        ([("preset", "planet")], "--preset: got planet, a run has settings already; name single ones"),
        ([("rssm.hiden", "24")], "--rssm.hiden: unknown field; did you mean 'rssm.hidden'"),
        ([("planner.elites", "0")], "--planner.elites: got 0, must be at least 1"),
    ],
)
def test_settings_that_parameters_are_not_for(runs, overrides, words):
    with pytest.raises(ConfigError, match=words) as caught:
        dreamer_jax.load(runs[0], overrides=overrides)
    assert "\n" not in str(caught.value)


def test_what_is_not_there(runs, tmp_path):
    with pytest.raises(ConfigError, match="no complete checkpoint 7"):
        dreamer_jax.load(runs[0], 7)
    with pytest.raises(ConfigError, match="is it the directory of a run"):
        dreamer_jax.load(tmp_path)
    _, start = dreamer_jax.load(runs[0], 0)
    assert int(start.step) == 0


def test_a_run_of_an_agent_that_was_passed_needs_it_again(tmp_path):
    """The settings describe another one, which may well have the same parameters."""
    config, run_dir = tiny_run(train__frames=20, env__task="probe/echo"), tmp_path / "run"
    agent = make_toy(config, env_spec(config))
    options = {"loggers": (), "stream": io.StringIO()}
    dreamer_jax.train(config, run_dir, agent=agent, **options)
    with pytest.raises(ConfigError, match=r"passed to train\(agent=...\).*pass it again"):
        dreamer_jax.load(run_dir)
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    longer = replace(config, {"train.frames": 40})
    with pytest.raises(ConfigError, match="pass it again"):
        dreamer_jax.train(longer, run_dir, **options)
    assert before == {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    found, state = dreamer_jax.load(run_dir, agent=agent)
    assert found is agent and len(jax.tree.leaves(state)) > 3
    dreamer_jax.train(longer, run_dir, agent=agent, **options)
    with pytest.raises(ConfigError, match="its own"):
        dreamer_jax.load(run_dir, agent=agent, overrides=[("planner.horizon", "3")])


def test_a_run_of_the_settings_goes_on_with_no_other_agent(runs):
    config = read_run(runs[0])[0]
    with pytest.raises(ConfigError, match="may be another"):
        dreamer_jax.train(config, runs[0], agent=make_toy(config, env_spec(config)), stream=io.StringIO())


def test_it_says_nothing(runs):
    program = f"import dreamer_jax; dreamer_jax.load({str(runs[0])!r}); dreamer_jax.load({str(runs[0])!r}, 0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""
