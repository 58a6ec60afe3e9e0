"""Learning from recorded episodes alone: what learns and what stays, held-out windows, the best, resuming."""

import json
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from agents import KEY, assert_trees_equal, quick_jit, quickly, tiny, tiny_config

from dreamer_jax.agent import make_agent
from dreamer_jax.cli import main
from dreamer_jax.config.checks import check, frozen_parts, parts
from dreamer_jax.config.loading import difference, replace
from dreamer_jax.config.loading import load as load_config
from dreamer_jax.config.schema import Config, ConfigError
from dreamer_jax.datasets.collect import collect
from dreamer_jax.datasets.sources import open_sources
from dreamer_jax.envs import wrappers
from dreamer_jax.optim import freeze, make_optimizer
from dreamer_jax.runs.checkpoint import read_replays
from dreamer_jax.runs.load import load
from dreamer_jax.runs.metrics import read_jsonl
from dreamer_jax.training.interrupt import Stopped
from dreamer_jax.training.offline import of_data
from dreamer_jax.training.train import train

QUIET = {"train.log_seconds": 1e9, "train.save_minutes": 0.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, seed in (("a", 0), ("b", 1)):
        config = replace(load_config(overrides=[("env.task", "probe/action_reward")]), {"seed": seed})
        collect(config, folder / name, policy="random", noise=0.0, episodes=40)
    return folder


def settings(data, **changes):
    """Of a tiny run that learns from 440 records."""
    named = {name.replace("__", "."): value for name, value in changes.items()}
    base = {"offline.data": str(data / "a"), "train.batch_size": 4}
    base |= {"replay.validation_fraction": 0.2, "train.batch_length": 5, "offline.only": "world_model"}
    base |= {"offline.updates": 8, "offline.look_updates": 4, "offline.look_batches": 2, "optimizer.warmup": 0}
    return check(replace(tiny_config(), base | QUIET | named))


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    """A run whose world model has learnt."""
    run_dir = tmp_path_factory.mktemp("model") / "run"
    learn(settings(data), run_dir)
    return run_dir


def learn(config, run_dir):
    with quickly():
        return jax.device_get(train(config, run_dir, loggers=()))


def assert_others(mine, theirs):
    assert any((x != y).any() for x, y in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True))


# What learns.


def test_frozen_parts_stay_and_count_in_no_norm():
    params = {
        "model": {"rssm": {"w": jnp.ones(3)}, "encoder": {"w": jnp.ones(2)}},
        "actor": jnp.ones(4),
        "critic": jnp.ones(2),
    }
    grads = jax.tree.map(lambda x: 100 * jnp.arange(1.0, len(x) + 1), params)
    # So large an eps that the size of a gradient matters, and with it what a norm is clipped to.
    changes = {"optimizer.clip": 1.0, "optimizer.weight_decay": 0.1, "optimizer.warmup": 0}
    config = replace(tiny_config(), changes | {"optimizer.eps": 1.0, "optimizer.agc": 0.0}).optimizer
    whole = make_optimizer(config)
    held = freeze(whole, ("rssm", "critic"))
    assert freeze(whole, ()) is whole
    updates, state = held.update(grads, held.init(params), params)
    after = optax.apply_updates(params, updates)
    for where in (lambda x: x["model"]["rssm"]["w"], lambda x: x["critic"]):
        np.testing.assert_array_equal(where(after), where(params))
    alone = {"model": {"encoder": params["model"]["encoder"]}, "actor": params["actor"]}
    theirs = {"model": {"encoder": grads["model"]["encoder"]}, "actor": grads["actor"]}
    expected, _ = whole.update(theirs, whole.init(alone), alone)
    np.testing.assert_array_equal(updates["model"]["encoder"]["w"], expected["model"]["encoder"]["w"])
    np.testing.assert_array_equal(updates["actor"], expected["actor"])
    assert jax.tree.structure(state) == jax.tree.structure(whole.init(params))


ALONE = dict(behavior__replay_value_grad=False)  # else values that are learnt train the model, too


@pytest.mark.parametrize("order", ["joint", "model_first"])
def test_a_world_model_alone_learns_as_it_does_beside_a_behavior(order):
    both = tiny(**ALONE, optimizer__order=order, optimizer__warmup=0)
    alone = tiny(**ALONE, optimizer__order=order, optimizer__warmup=0, offline__data="d", offline__only="world_model")
    (joint, _, _), (mine, metrics, latents) = (
        quick_jit(each.agent.update)(each.state, KEY, each.batch) for each in (both, alone)
    )
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), mine.params["model"], joint.params["model"]
    )
    for name in ("actor", "critic"):
        assert_trees_equal(mine.params[name], alone.state.params[name])
    assert_trees_equal(mine.moments, alone.state.moments)
    assert not {"loss/policy", "loss/value", "loss/repval"} & metrics.keys() and latents
    assert "loss/rew" in metrics


def test_a_behavior_alone_learns_as_it_does_beside_a_model():
    both = tiny(**ALONE, optimizer__warmup=0)
    alone = tiny(**ALONE, optimizer__warmup=0, offline__data="d", offline__only="behavior", train__start="run")
    (joint, _, _), (mine, _, _) = (quick_jit(each.agent.update)(each.state, KEY, each.batch) for each in (both, alone))
    assert_trees_equal(mine.params["model"], alone.state.params["model"])
    for name in ("actor", "critic"):
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), mine.params[name], joint.params[name]
        )
        assert_others(mine.params[name], both.state.params[name])


def test_parts_are_those_of_the_parameters():
    for changes in (
        {},
        {"representation__kind": "redundancy"},
        {"cont__label": "none"},
        {"loss__balance": "learned"},
        {"behavior__method": "planner", "loss__replay_value": 0.0},
    ):
        config = tiny_config(**changes)
        params = jax.eval_shape(make_agent(config, tiny().spec).init, KEY).params
        assert set(parts(config)) == {*params["model"], *params} - {"model"}
    config = tiny_config(offline__data="d", offline__only="world_model", train__freeze="encoder")
    assert frozen_parts(config) == ("encoder", "actor", "critic")


# Runs.


def test_a_run_needs_no_environment_and_is_a_run(data, tmp_path, monkeypatch, capsys):
    def none(*args, **kwargs):
        raise AssertionError("an environment was opened")

    monkeypatch.setattr(wrappers, "open_stream", none)
    both = f"{data / 'a'},{data / 'b'}"
    state = learn(settings(data, offline__data=both), tmp_path / "run")
    assert int(state.step) == 8
    said = capsys.readouterr().err
    assert f"{data / 'b'}: 40 episodes, 440 records of probe/action_reward" in said and "8/8 updates" in said
    ring = read_replays(tmp_path / "run")[0]
    assert ring.capacity == 880
    held = ring.column("held_out", 0, ring.rows)
    assert 0.1 < held.mean() < 0.25
    given = [x for source in open_sources(both) for x in source.episodes()]
    for name in ("observation/observation", "action/action", "reward", "is_last"):
        np.testing.assert_array_equal(ring.column(name, 0, ring.rows), np.concatenate([x[name] for x in given]))
    lines = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    looks = [line for line in lines if "held_out/loss/total" in line]
    assert [line["grad_steps"] for line in looks] == [4, 8]
    assert "held_out/openloop_error/observation/1" in looks[0]
    assert looks[1]["held_out/loss/total"] < looks[0]["held_out/loss/total"]
    _, loaded = load(tmp_path / "run")
    assert_trees_equal(jax.device_get(loaded.params), state.params)
    with quickly():
        assert main(["dream", str(tmp_path / "run"), "--length", "4", "--output", str(tmp_path / "d")]) == 0
    assert main(["export", str(tmp_path / "run"), "--output", str(tmp_path / "e")]) == 0
    assert len(list((tmp_path / "e").iterdir())) == 80


@pytest.mark.parametrize("first", [3, pytest.param(6, marks=pytest.mark.slow)])
def test_a_run_that_is_gone_on_with_is_the_same(data, tmp_path, first):
    """Bit for bit, stopped between looks and with the best parameters remembered."""
    changes = dict(offline__patience=5, optimizer__learning_rate=1e-3)
    learn(settings(data, **changes, offline__updates=8), tmp_path / "whole")
    mine = tmp_path / "mine"
    shutil.copytree(data, mine)
    learn(settings(mine, **changes | dict(offline__patience=0), offline__updates=first), tmp_path / "parts")
    shutil.rmtree(mine)  # the run has a copy
    learn(settings(mine, **changes, offline__updates=8), tmp_path / "parts")
    one, two = (load(tmp_path / name)[1] for name in ("whole", "parts"))
    if first == 3:  # before the first look, else a best one has not been remembered
        assert_trees_equal(one, two)
    scores = [
        [line["held_out/loss/total"] for line in read_jsonl(tmp_path / name / "metrics.jsonl") if "held_out/kl" in line]
        for name in ("whole", "parts")
    ]
    assert scores[0] == scores[1] and len(scores[0]) == 2
    assert_trees_equal(one.opt_state, two.opt_state)


def test_a_signal_loses_no_best_parameters(data, tmp_path):
    """A step size that destroys the model: those of the first look are the best, and it comes after that."""
    changes = dict(optimizer__learning_rate=0.3, offline__look_updates=2, offline__updates=8, offline__patience=9)
    whole = learn(settings(data, **changes), tmp_path / "whole")

    sent = []

    def stop(counters, metrics):
        if counters["grad_steps"] == 4 and not sent:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped), quickly():
        train(settings(data, **changes), tmp_path / "parts", loggers=[stop])
    assert int(load(tmp_path / "parts")[1].step) == 4
    assert_trees_equal(learn(settings(data, **changes), tmp_path / "parts"), whole)
    lines = read_jsonl(tmp_path / "whole" / "metrics.jsonl")
    losses = [line["held_out/loss/total"] for line in lines if "held_out/loss/total" in line]
    assert np.argmin(losses) < 2 and len(losses) == 4


def test_it_ends_where_nothing_gets_better_with_the_best(data, tmp_path, capsys):
    """A step size that destroys the model: the first look is the best one."""
    changes = dict(optimizer__learning_rate=0.3, offline__look_updates=2, offline__updates=40)
    best = learn(settings(data, **changes | dict(offline__updates=2)), tmp_path / "two")
    state = learn(settings(data, **changes, offline__patience=2), tmp_path / "run")
    lines = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    losses = [line["held_out/loss/total"] for line in lines if "held_out/loss/total" in line]
    best_look = int(np.argmin(losses))
    assert len(losses) == best_look + 3 and int(state.step) == 2 * len(losses)
    said = capsys.readouterr().err
    assert f"was {min(losses):.4g} after {2 * (best_look + 1)}, whose parameters are kept" in said.replace("\n", " ")
    if best_look == 0:
        assert_trees_equal(state.params, best.params)
    assert_trees_equal(jax.device_get(load(tmp_path / "run")[1].params), state.params)
    learn(settings(data, **changes, offline__patience=2), tmp_path / "run")
    assert f"complete: {2 * len(losses)} updates have been made" in capsys.readouterr().err


def test_data_of_a_run_are_its_whole_episodes(data, tmp_path):
    config = replace(tiny_config(), {"env.task": "probe/action_reward", "env.num_envs": 2, "train.frames": 150} | QUIET)
    config = replace(config, {"replay.capacity": 90, "train.train_ratio": 0.0, "train.batch_length": 5})
    learn(config, tmp_path / "run")
    (source,) = open_sources(str(tmp_path / "run"))
    episodes = list(source.episodes())
    assert source.lengths == tuple(len(x["reward"]) for x in episodes)
    assert all(x["is_first"][0] and not x["is_first"][1:].any() for x in episodes)
    # 45 of 75 rows are kept of each stream: the first whole episode begins at row 33, the last one goes on.
    assert source.lengths == (11, 11, 11, 9) * 2
    with pytest.raises(ConfigError, match="has other observations or actions than"):
        other = replace(load_config(overrides=[("env.task", "probe/memory")]), {"env.num_envs": 1})
        collect(other, tmp_path / "other", policy="random", noise=0.0, episodes=3)
        open_sources(f"{data / 'a'},{tmp_path / 'other'}")


# Beginning with another run's parameters.


def test_a_run_begins_with_anothers_parameters(data, model, tmp_path, capsys):
    known = jax.device_get(load(model)[1].params["model"])
    still = settings(data, train__start=str(model), train__freeze="encoder,rssm", offline__only="all")
    state = learn(still, tmp_path / "whole")
    said = " ".join(capsys.readouterr().err.split())
    assert f"begins with cont, decoder, encoder, reward, rssm of {model} after 8 updates; new: actor, critic" in said
    for name in ("encoder", "rssm"):
        assert_trees_equal(state.params["model"][name], known[name])
    for name in ("decoder", "reward"):
        assert_others(state.params["model"][name], known[name])
    # Some of it, in an agent that has a part of its own and lacks one.
    start = dict(train__start=str(model), train__start_parts="encoder,rssm", offline__updates=1)
    some = settings(data, **start, optimizer__learning_rate=0.0, representation__kind="contrastive", seed=3)
    state = learn(some, tmp_path / "some")
    for name in ("encoder", "rssm"):
        assert_trees_equal(state.params["model"][name], known[name])
    said = " ".join(capsys.readouterr().err.split())
    assert "begins with encoder, rssm of" in said and "new: actor, cont, critic, projector, reward" in said
    assert "not used: decoder" in said


@pytest.mark.parametrize(
    "changes, why",
    [
        (dict(rssm__deter=18), "train.start: cont/.* has shape .* set the same widths and environment, or name other"),
        (
            dict(train__start_parts="encoder,balance"),
            "train.start_parts: got 'balance', this agent's parts are encoder",
        ),
        (dict(train__start="nowhere"), "train.start: .*/nowhere: no config.yaml there; is it the directory of a run?"),
        (
            dict(representation__kind="redundancy", train__start_parts="projector"),
            "train.start_parts: got projector, the parts of .* are actor, cont, critic, decoder",
        ),
    ],
)
def test_what_can_not_be_begun_with(data, model, tmp_path, changes, why):
    with pytest.raises(ConfigError, match=why):
        learn(settings(data, **{"train__start": str(model)} | changes), tmp_path / "run")
    assert not list(tmp_path.iterdir())


# The command line.


@pytest.mark.parametrize(
    "words, why",
    [
        (["--only", "world_model"], "--offline.only: world_model is learnt from offline.data, which is not set"),
        (["--data", "a", "--only", "behavior"], "actor and critic learn in a finished world model; set train.start"),
        (["--data", "a", "--only", "model"], "--offline.only: got 'model', expected one of all, world_model, behavior"),
        (["--data", "a", "--only", "behavior", "--from", "b", "--preset", "planet"], "learns no behavior"),
        (
            ["--data", "a", "--freeze", "encoders"],
            "--train.freeze: got 'encoders', this agent's parts are encoder, rssm",
        ),
        (["--data", "a", "--only", "world_model", "--freeze", "encoder,rssm,decoder,reward,cont"], "nothing to learn"),
        (["--data", "a", "--offline.patience", "2", "--replay.validation_fraction", "0"], "needs held-out windows"),
        (["--data", "nix"], "offline.data: nix: no dataset, run or exported episodes there"),
        (
            ["--data", "a", "--train.batch_length", "100"],
            "440 records, of which replay.validation_fraction 0.1 holds out",
        ),
        (
            ["--data", "a", "--replay.capacity", "300", "--train.batch_length", "5"],
            "replay.capacity: room for 300 records, offline.data has 440",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(data, monkeypatch, capsys, words, why):
    monkeypatch.chdir(data)
    assert main(["train", "--size", "1m", *words]) == 2
    said = capsys.readouterr().err
    assert why in said and said.count("\n") == 1
    assert not (data / "runs").exists()


def test_flags_and_files(data, tmp_path, capsys):
    """A file made for training in an environment goes with data; the run is named for what it learns from."""
    (tmp_path / "x.yaml").write_text("env: {num_envs: 4, task: dmc/walker_walk}\nreplay: {online: true}\n")
    words = [
        "train",
        "--config",
        str(tmp_path / "x.yaml"),
        "--data",
        str(data / "a"),
        str(data / "b"),
        "--seeds",
        "0,1",
    ]
    assert main([*words, "--print"]) == 0
    first, _ = capsys.readouterr().out.splitlines()
    assert f"--offline.data={data / 'a'},{data / 'b'}" in first and "--run-dir=runs/a-b-all-dreamer_v3-1m-0" in first
    config = load_config(files=[tmp_path / "x.yaml"], overrides=[("offline.data", "a")])
    assert config.replay.validation_fraction == 0.1
    made, _ = of_data(
        settings(data, env__num_envs=4, env__task="dmc/walker_walk", replay__online=True), tmp_path / "run"
    )
    assert (made.env.num_envs, made.env.task, made.replay.online) == (1, "probe/action_reward", False)
    config = load_config(overrides=[("offline.data", "a"), ("replay.validation_fraction", "0.3")])
    assert config.replay.validation_fraction == 0.3


def test_seeds_from_the_command_line(data, tmp_path, capsys):
    """One after another; the environment in their settings is that of the data; a second start finds them complete."""
    words = ["train", "--data", str(data / "a"), "--only", "world_model", "--seeds", "0,1", "--run-dir", str(tmp_path)]
    sizes = others_than_default(settings(data), "rssm", "train")
    words += [f"--{name}={value}" for name, value in sizes.items()] + ["--offline.updates=1", "--logger=none"]
    for _ in range(2):
        with quickly():
            assert main(words) == 0
    assert "complete: 1 updates have been made" in capsys.readouterr().err
    for run_dir in tmp_path.iterdir():
        facts = json.loads((run_dir / "checkpoints" / "1" / "facts" / "metadata").read_text())["facts"]
        assert facts["settings"]["env.task"] == "probe/action_reward"
        with quickly():
            assert main(["evaluate", str(run_dir), "--episodes", "1"]) == 0
        assert "probe/action_reward after 1 updates" in capsys.readouterr().out


def others_than_default(config, *groups):
    """Settings of some groups that are not those of the defaults."""
    found = difference(config, Config())
    return {name: str(mine).lower() for name, mine, _ in found if name.startswith(groups)}
