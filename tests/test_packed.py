"""A run as one file: what is loaded from it, what its card says, and what damaged or foreign files lead to."""

import json
import zipfile

import jax
import numpy as np
import pytest
from agents import assert_trees_equal
from trainer import tiny_run

import dreamer_jax
from dreamer_jax.agent import make_agent
from dreamer_jax.cli import main
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.training.preflight import env_spec
from dreamer_jax.training.train import begin


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One with ten episodes, whose optimiser and return statistics are not the first ones."""
    run_dir, config = tmp_path_factory.mktemp("pack") / "run", tiny_run()
    state = jax.jit(make_agent(config, env_spec(config)).init)(jax.random.key(3))
    begin(config, run_dir, jax.tree.map(lambda x: x + 1, state))
    line = {"task": config.env.task, "method": config.preset, "seed": 0}
    rows = [{**line, "env_frames": 20 * number, "score": float(number)} for number in range(1, 11)]
    (run_dir / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run_dir


@pytest.fixture(scope="module")
def packed(run):
    out = run.parent / "run.zip"
    assert main(["pack", str(run), "--out", str(out), "--licence", "CC0"]) == 0
    return out


def test_what_is_loaded_is_the_runs(run, packed):
    agent, state = dreamer_jax.load(packed)
    _, expected = dreamer_jax.load(run)
    for name in ("step", "params", "slow", "moments"):
        assert_trees_equal(getattr(state, name), getattr(expected, name))
    assert_trees_equal(state.opt_state, agent.init(jax.random.key(0)).opt_state)
    other, _ = dreamer_jax.load(packed, overrides=[("behavior.imagination_length", "3")])
    assert other is not agent
    with pytest.raises(ConfigError, match=r"run.zip: has one state of its own agent"):
        dreamer_jax.load(packed, 0)


def test_the_card(packed, run, capsys):
    with zipfile.ZipFile(packed) as file:
        card = json.loads(file.read("card.json"))
        text = file.read("card.md").decode()
    assert card["licence"] == "CC0" and card["task"] == "probe/continuous_target" and card["frames"] == 200
    assert card["score"]["value"] == 10  # of the one episode that ended after 180 frames
    assert "- licence: CC0" in text and "mean return of" in text
    assert main(["pack", str(run), "--out", str(packed)]) == 2
    assert "run.zip exists already" in capsys.readouterr().err


def rebuilt(packed, out, **changed):
    """A copy with other members; None leaves one out."""
    with zipfile.ZipFile(packed) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            content = changed.get(name.replace(".", "_"), old.read(name))
            if content is not None:
                new.writestr(name, content)
    return out


def test_files_of_others(packed, tmp_path):
    class Bad:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    np.savez(tmp_path / "bad.npz", allow_pickle=True, x=np.array([Bad()], object))
    with np.load(_arrays(packed, tmp_path)) as file:
        arrays = dict(file)
    first = next(iter(arrays))
    np.savez(tmp_path / "shape.npz", **{**arrays, first: np.zeros(7, arrays[first].dtype)})
    np.savez(tmp_path / "type.npz", **{**arrays, first: arrays[first].astype(np.float64)})
    for number, (changes, why) in enumerate(
        [
            (dict(arrays_npz=(tmp_path / "bad.npz").read_bytes()), "no packed run, or damaged"),
            (dict(arrays_npz=(tmp_path / "shape.npz").read_bytes()), "is missing, or of another agent"),
            (dict(arrays_npz=(tmp_path / "type.npz").read_bytes()), "is missing, or of another agent"),
            (dict(arrays_npz=None), "arrays.npz missing"),
            (dict(config_yaml=b"env: {task: probe/none}\nnonsense: 1\n"), "nonsense"),
            (dict(env_json=b"{}"), "env.json: damaged"),
        ]
    ):
        with pytest.raises(ConfigError, match=why):
            dreamer_jax.load(rebuilt(packed, tmp_path / f"{number}.zip", **changes))
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(ConfigError, match=r"text.zip: no packed run, or damaged"):
        dreamer_jax.load(tmp_path / "text.zip")


def _arrays(packed, folder):
    with zipfile.ZipFile(packed) as file:
        return file.extract("arrays.npz", folder)


def test_no_damage_is_a_traceback(packed, tmp_path, monkeypatch):
    """Bits, lengths and order changed anywhere: a message, or the parameters as they were."""
    content, rng = packed.read_bytes(), np.random.default_rng(0)
    monkeypatch.setattr(jax, "jit", lambda function: function)
    good = dreamer_jax.load(packed)[1].params
    for trial in range(60):
        damaged, place = bytearray(content), int(rng.integers(len(content)))
        match trial % 3:
            case 0:
                damaged[place] ^= 1 << int(rng.integers(8))
            case 1:
                del damaged[place:]
            case _:
                damaged[place:place] = rng.bytes(9)
        (tmp_path / "x.zip").write_bytes(damaged)
        try:
            state = dreamer_jax.load(tmp_path / "x.zip")[1]
        except ConfigError:
            continue
        assert_trees_equal(state.params, good)
