"""Our parameters by the reference's names, and back."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from agents import KEY, MIXED, tiny_config

from dreamer_jax import cli
from dreamer_jax.agent import make_agent
from dreamer_jax.config.loading import load as load_config
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.reference import from_reference, reference_names, to_reference
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.load import load
from dreamer_jax.training.preflight import env_spec

CONFIG = tiny_config(rssm__prior_layers=2, rssm__posterior_layers=2, rssm__dynamics_layers=2)


@pytest.fixture(scope="module")
def state():
    shapes = jax.eval_shape(make_agent(CONFIG, MIXED).init, KEY)
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(tree, [rng.normal(size=x.shape).astype(x.dtype) for x in leaves])


def test_every_tensor_has_one_name(state):
    names = reference_names(CONFIG, MIXED)
    assert len(set(names.values())) == len(names)
    tensors = jax.tree.leaves((state.params, state.slow, state.moments))
    assert len(tensors) == len(names)
    assert to_reference(state, CONFIG, MIXED)["dyn/dynhid1norm/scale"].shape == (CONFIG.rssm.deter,)


def test_there_and_back(state):
    again = from_reference(to_reference(state, CONFIG, MIXED), CONFIG, MIXED)
    for part in ("params", "slow", "moments"):
        jax.tree.map(np.testing.assert_array_equal, getattr(again, part), getattr(state, part))
    assert again.step == 0


def test_slow_critic_and_range_may_be_missing(state):
    arrays = to_reference(dataclasses.replace(state, slow={}, moments={}), CONFIG, MIXED)
    again = from_reference(arrays, CONFIG, MIXED)
    jax.tree.map(np.testing.assert_array_equal, again.slow, state.params["critic"])
    assert again.moments["high"] == 0


def test_every_problem_is_named(state):
    arrays = to_reference(state, CONFIG, MIXED)
    del arrays["rew/head/logits/bias"]
    arrays["enc/cnn0/kernel"] = np.zeros(3, np.float32)
    arrays["dyn/prior0/kernel"] = arrays["dyn/prior0/kernel"].T
    arrays["slowval_count/value"] = np.int32(3)
    del arrays["slowval/head/logits/bias"]
    with pytest.raises(ConfigError) as error:
        from_reference(arrays, CONFIG, MIXED)
    problems = str(error.value).split("; ")
    assert problems == [
        "rew/head/logits/bias is missing",
        "slowval/head/logits/bias is missing",
        "enc/cnn0/kernel is not a tensor of this agent",
        "dyn/prior0/kernel has shape (10, 36), expected (36, 10)",
    ]


SETTINGS = ["--config", str(Path(__file__).parent.parent / "configs" / "debug.yaml")]
SETTINGS += ["--env.task", "probe/constant_reward", "--train.frames", "200", "--train.eval_frames", "0"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Parameters of an agent for ``SETTINGS``, as an export of the reference would hold them."""
    config = load_config(files=SETTINGS[1:2], overrides=[("env.task", "probe/constant_reward")])
    shapes = jax.eval_shape(make_agent(config, env_spec(config)).init, KEY)
    rng = np.random.default_rng(0)
    state = jax.tree.map(lambda x: (0.1 * rng.normal(size=x.shape)).astype(x.dtype), shapes)
    arrays = to_reference(state, config, env_spec(config))
    path = tmp_path_factory.mktemp("reference") / "params.npz"
    np.savez(path, **arrays)
    return path, arrays, config


def test_an_imported_run_is_a_run(exported, tmp_path, capsys):
    path, arrays, config = exported
    run = tmp_path / "run"
    assert cli.main(["import-reference", str(path), *SETTINGS, "--out", str(run)]) == 0
    _, state = load(run)
    again = to_reference(state, config, env_spec(config))
    assert again.keys() == arrays.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(again[name], value)
    assert cli.main(["evaluate", str(run), "--episodes", "2"]) == 0
    assert "10.0" in capsys.readouterr().out
    assert cli.main(["train", *SETTINGS, "--run-dir", str(run), "--logger", "none"]) == 0
    _, after = load(run)
    assert after.step > 0
    moved = to_reference(after, config, env_spec(config))["val/head/logits/kernel"]
    assert 0 < np.abs(moved - arrays["val/head/logits/kernel"]).max() < 0.01  # from there, and on


def test_a_refused_import_leaves_nothing(exported, tmp_path, capsys):
    _, arrays, _ = exported
    run = tmp_path / "run"
    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, **{name: x for name, x in arrays.items() if name != "dyn/obs0/bias"}, extra=np.zeros(2))
    assert cli.main(["import-reference", str(wrong), *SETTINGS, "--out", str(run)]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.endswith("wrong.npz: dyn/obs0/bias is missing; extra is not a tensor of this agent")
    (tmp_path / "text.npz").write_text("no numbers")
    for other in ("text.npz", "none.npz"):
        assert cli.main(["import-reference", str(tmp_path / other), *SETTINGS, "--out", str(run)]) == 2
    assert not run.exists()


def test_an_import_never_overwrites_a_run(exported, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("seed: 1\n")
    assert cli.main(["import-reference", str(exported[0]), *SETTINGS, "--out", str(run)]) == 2
    assert "something is there already" in capsys.readouterr().err
    assert [path.name for path in run.iterdir()] == ["config.yaml"]


def test_an_import_that_fails_half_way_leaves_nothing(exported, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoints, "save", full)
    assert cli.main(["import-reference", str(exported[0]), *SETTINGS, "--out", str(tmp_path / "run")]) == 2
    assert not list(tmp_path.iterdir())
