"""Judging a run's world model: recordings and windows, the simulator as oracle, controls, reports, commands."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainer import tiny_run

from dreamer_jax.cli import main
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.evaluation import (
    controls,
    decisions,
    judge,
    open_loop,
    oracle,
    play,
    profiles,
    recordings,
    run,
    score_card,
)
from dreamer_jax.evaluation import features as seen_by
from dreamer_jax.evaluation import ladder as ladders
from dreamer_jax.evaluation import transfer as transfers
from dreamer_jax.evaluation.forecasts import forecasts
from dreamer_jax.evaluation.simulator import Simulator
from dreamer_jax.evaluation.subject import of_run, untrained
from dreamer_jax.runs.facts import steps
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.training.train import train

SMALL = profiles.Profile(
    episodes=12,
    image_episodes=12,
    samples=2,
    starts=12,
    image_starts=4,
    contexts=(3,),
    states=6,
    severities=(),
    shifted_episodes=2,
    value_records=20,
    value_states=4,
    ranked=3,
)
RECORDS = 60
"""Of an episode: with fewer an MLP does not find even the targets themselves, and the controls say so."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny agent of cartpole_balance with two checkpoints, short episodes, and the smallest profile for it."""
    patch = pytest.MonkeyPatch()
    patch.setitem(profiles.PROFILES, "quick", SMALL)
    patch.setattr(judge, "EPISODE_RECORDS", RECORDS)
    patch.setattr(run, "EPISODE_RECORDS", RECORDS)
    folder = tmp_path_factory.mktemp("judged") / "run"
    for frames in (240, 480):
        config = tiny_run(
            env__task="dmc/cartpole_balance",
            env__action_repeat=4,
            env__time_limit=100,
            train__frames=frames,
            train__keep_checkpoints=5,
        )
        train(config, folder, loggers=[])
    yield folder
    patch.undo()


@pytest.fixture(scope="module")
def judged(place):
    subject, config = of_run(place)
    shown = judge.reference_recordings(subject, config, SMALL.episodes, seed=0)
    return SimpleNamespace(subject=subject, config=config, recordings=shown)


@pytest.fixture(scope="module")
def report(place):
    return run.evaluate_run(place)


def test_recordings_are_what_the_environment_shows(judged):
    for one in judged.recordings:
        assert one.length == RECORDS + 1
        shown = [one.columns[f"observation/{name}"] for name in judged.subject.spec.observation]
        flat = np.concatenate([x.reshape(one.length, -1) for x in shown], 1)
        np.testing.assert_allclose(one.targets["observation"], flat, atol=1e-6)
        assert one.targets["angles"].shape == (one.length, 3)  # where the cart is, and the pole's sine and cosine
        np.testing.assert_allclose(np.square(one.targets["angles"][:, 1:]).sum(1), 1)


def test_windows_are_cut_where_they_say(judged):
    windows = recordings.cut(judged.recordings, judged.subject.spec, context=3, horizon=5, count=20, seed=1)
    assert len(windows.start) == 20 and len(set(windows.episode)) == len(judged.recordings)
    for row, (episode, start) in enumerate(zip(windows.episode, windows.start, strict=True)):
        columns = judged.recordings[episode].columns
        np.testing.assert_array_equal(windows.seen.reward[row], columns["reward"][start - 2 : start + 1])
        np.testing.assert_array_equal(windows.ahead.reward[row], columns["reward"][start + 1 : start + 6])
        np.testing.assert_array_equal(
            windows.ahead.prev_action["action"][row], columns["action/action"][start : start + 5]
        )
    with pytest.raises(ValueError, match="no episode has 3 records and 80 more"):
        recordings.cut(judged.recordings, judged.subject.spec, context=3, horizon=80, count=2, seed=1)


def test_short_episodes_are_padded_by_their_last_record(judged):
    first, second = judged.recordings[:2]
    short = first._replace(columns={name: x[:4] for name, x in first.columns.items()})
    batch, real = recordings.as_batch([short, second], judged.subject.spec)
    assert real.sum(1).tolist() == [4, second.length]
    np.testing.assert_array_equal(batch.reward[0, 3:], short.columns["reward"][3])
    assert not batch.prev_action["action"][:, 0].any()


def test_observing_in_chunks_is_observing_at_once(judged, monkeypatch):
    spoken = []
    for rows in (64, 5):
        monkeypatch.setattr(seen_by, "ROWS", rows)
        spoken.append(seen_by.observe(judged.subject, judged.recordings, seed=0))
    for name in ("tokens", "deter"):  # latents are drawn by row within a chunk
        np.testing.assert_allclose(
            spoken[0].features[name][:5, :2], spoken[1].features[name][:5, :2], rtol=1e-4, atol=1e-5
        )
    assert {name: x.shape[:2] for name, x in spoken[1].features.items()} == {
        name: (len(judged.recordings), RECORDS + 1) for name in ("tokens", "deter", "stoch", "state", "prior")
    }


numbers = st.floats(1e-15, 1e15) | st.floats(-1e15, -1e-15) | st.just(0.0)


@given(st.lists(numbers, min_size=1, max_size=5))
def test_words_hold_a_double_exactly(values):
    state = np.array(values)
    np.testing.assert_array_equal(oracle.from_words(oracle.to_words(state)), state)


def test_the_simulator_is_a_perfect_model(judged):
    simulator = Simulator(judged.config.env)
    try:
        known = oracle.with_simulator(judged.recordings)
        perfect = oracle.oracle(simulator)
        split = judge.split_episodes([one.source for one in known])
        some = dict(contexts=(1,), horizon=15, starts=6, samples=1, seed=0)
        section = forecasts(perfect, known, split, **some)[0]["1"]
        assert max(section["numbers"]["nmse"]) < 1e-10 and max(section["reward"]["mse"]) < 1e-10
        assert min(section["numbers"]["skill"]) > 1 - 1e-6
        effects = decisions.counterfactual(
            perfect, known, simulator, horizons=[5], count=4, context=1, samples=1, seed=0
        )
        assert effects["r2"][0] == pytest.approx(1, abs=1e-6)
    finally:
        simulator.close()


def test_other_actions_lead_elsewhere(judged):
    windows = recordings.cut(judged.recordings, judged.subject.spec, context=3, horizon=4, count=6, seed=1)
    own = open_loop.predict(judged.subject, windows, samples=1, seed=0)
    turned = {name: -x for name, x in windows.ahead.prev_action.items()}
    other = open_loop.predict(judged.subject, windows, samples=1, seed=0, actions=turned)
    assert np.abs(own.numbers - other.numbers).max() > 1e-4
    again = open_loop.predict(judged.subject, windows, samples=1, seed=0)
    np.testing.assert_array_equal(own.numbers, again.numbers)


def test_a_report_has_every_section(report):
    assert {"fidelity", "information", "forecast", "imagined", "latents", "counterfactual", "returns"} <= report.keys()
    assert {"value", "ranking", "overfitting"} <= report.keys()
    value, order = report["value"], report["ranking"]
    assert value["from"] == "states" and value["states"] == 4 and value["records"] == 20
    assert {"bias", "explained_variance", "spearman"} <= value["ci95"].keys()
    assert order["states"] == 3 and {"policy", "policy, noise 0.3", "random"} <= order["policies"].keys()
    assert any(name.startswith("checkpoint") for name in order["policies"])
    assert {"observation", "angles", "velocities"} <= report["fidelity"].keys()
    state = report["fidelity"]["observation"]["state"]
    assert state.keys() == {"ridge", "mlp"} and state["ridge"]["ceiling"] > 0.999
    assert report["forecast"]["3"]["numbers"]["horizons"] == [1, 2, 5, 10, 15, 25, 50]
    assert {
        "oracle, linear",
        "noise",
        "simulator: forecast error",
        "untrained counterfactual, lower end of the interval",
    } <= report["controls"].keys()
    assert report["meta"]["checkpoint"] > 0 and len(report["data"]["hash"]) == 64


@pytest.mark.slow
def test_the_same_seed_gives_the_same_report(place, report):
    assert json.dumps(run.evaluate_run(place), allow_nan=False) == json.dumps(report, allow_nan=False)


@pytest.mark.slow
def test_a_control_that_fails_voids_what_rests_on_it(place, monkeypatch, capsys):
    real = controls.statistical_controls
    failing = controls.at_most("broken", 2.0, 1.0, ("forecast", "latents"), "nothing")
    monkeypatch.setattr(controls, "statistical_controls", lambda seed: [*real(seed), failing])
    assert main(["evaluate-model", str(place), "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found["forecast"] == found["latents"] == {"void": ["broken"]}
    assert "void" not in found["fidelity"] and not found["controls"]["broken"]["passed"]
    page = (place / "model_report" / "index.html").read_text()
    assert "broken" in page and "failed" in page


def test_a_model_that_sees_the_future_without_learning_is_caught(judged):
    """The untrained control: whoever leaks the truth into predictions has skill without training."""
    section = {"3": {"numbers": {"nmse": [0.1], "nmse_mean": [1.0], "nmse_persistence": [0.5]}}}
    leaked = controls.untrained_controls(section, {"low": [0.4]})
    assert [one.passed for one in leaked] == [False, False]
    honest = {"3": {"numbers": {"nmse": [1.2], "nmse_mean": [1.0], "nmse_persistence": [0.9]}}}
    assert all(one.passed for one in controls.untrained_controls(honest, {"low": [-0.1]}))


def test_the_page_needs_nothing_else(report, tmp_path):
    facts, page, *pictures = score_card.write(report, tmp_path / "card")
    assert json.loads(facts.read_text()) == report
    text = page.read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', text) and "http" not in text and "<script" not in text
    assert {path.name for path in pictures} == {"forecast.png", "fidelity.png", "returns.png"}
    assert text.count("<img") == 3 and all(path.stat().st_size > 5000 for path in pictures)


@pytest.mark.slow
def test_a_ladder_is_of_the_same_episodes(place, tmp_path):
    found = ladders.ladder(place, tmp_path / "ladder", profile="quick", seed=0, data=None)
    assert [rung["step"] for rung in found["rungs"]] == [0, *(step for step in steps(place) if step)]
    assert len({rung["report"]["data"]["hash"] for rung in found["rungs"]}) == 1
    assert (tmp_path / "ladder" / "ladder.png").exists() and (tmp_path / "ladder" / "000000000" / "index.html").exists()
    facts = json.loads((tmp_path / "ladder" / "ladder.json").read_text())
    assert facts["steps"] == [0, *(step for step in steps(place) if step)]
    assert facts["controls"].keys() == {f"longer training improves: {name}" for name in ladders.MUST_FALL}
    assert "<img" in (tmp_path / "ladder" / "index.html").read_text()
    gains = [rung["report"]["fidelity"]["observation"]["state"]["ridge"]["gain"] for rung in found["rungs"]]
    assert gains[0] == 0 and gains[-1] != 0


def test_a_dataset_has_no_simulator(place, tmp_path, monkeypatch):
    data = str(tmp_path / "data")
    collected = ["collect", "--env.task", "dmc/cartpole_balance", "--env.action_repeat", "4", "--out", data]
    assert main([*collected, "--episodes", "10", "--env.time_limit", "30"]) == 0
    found = run.evaluate_run(place, data=data)
    assert found["data"]["sources"] == {data: 10}
    assert "forecast" in found and not {"counterfactual", "returns", "robustness"} & found.keys()
    assert found["value"] == {"left_out": "episodes of a dataset are not those of its policy"}
    assert found["ranking"] == {"left_out": "with a dataset there is nothing to act in"}
    assert "nothing to act in" in score_card.as_page(found, [])
    monkeypatch.setitem(profiles.PROFILES, "quick", SMALL._replace(episodes=6))
    with pytest.raises(ConfigError, match="episodes: got 6 of 1 sources; a judgement takes 10 of one or more"):
        run.evaluate_run(place, data=data)
    other = tmp_path / "other"
    assert main(["collect", "--env.task", "probe/echo", "--out", str(other), "--episodes", "3"]) == 0
    with pytest.raises(ConfigError, match=r"--data: .*other observations or actions"):
        run.evaluate_run(place, data=str(other))


def test_what_is_refused(place, tmp_path, capsys):
    lonely = tmp_path / "lonely"
    train(tiny_run(), lonely, loggers=[])
    for step in steps(lonely)[:-1]:
        (lonely / "checkpoints" / str(step)).rename(tmp_path / str(step))
    assert main(["evaluate-model", str(lonely), "--ladder"]) == 2
    assert "train with --train.keep_checkpoints" in capsys.readouterr().err
    words = ["transfer", "--from", str(place), "--to", "dmc/cartpole_swingup", "--out", str(tmp_path / "out")]
    assert main([*words, "--arms", "half"]) == 2
    assert "--arms: got half, allowed: scratch, frozen, model, everything" in capsys.readouterr().err
    assert main(["transfer", "--from", str(place), "--to", "dmc/walker_walk", "--out", str(tmp_path / "out")]) == 2
    assert "other observations than the run's" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_json_has_no_number_that_is_none():
    value = {"a": [float("nan"), np.float32(1), (np.int64(2), float("inf"))]}
    assert judge.finite(value) == {"a": [None, 1.0, [2, None]]}


def test_images_are_narrowed_for_probes():
    from dreamer_jax.evaluation.fidelity import WIDEST, _narrow

    wide = np.random.default_rng(0).normal(size=(50, WIDEST + 10)).astype(np.float32)
    assert _narrow(wide).shape == (50, WIDEST) and _narrow(wide[:, :7]) is not None
    ratio = np.linalg.norm(_narrow(wide), axis=1) / np.linalg.norm(wide, axis=1)
    np.testing.assert_allclose(ratio, 1, atol=0.1)  # Johnson and Lindenstrauss 1984


@pytest.mark.slow
def test_transfer_is_gone_on_with(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(transfers, "SHOT_UPDATES", 20)
    monkeypatch.setattr(transfers, "HELD_OUT", 2)
    out = tmp_path / "out"
    words = ["transfer", "--from", str(place), "--to", "dmc/cartpole_swingup", "--out", str(out), "--frames", "840"]
    words += ["--shots", "0", "1", "--episodes", "2", "--json", "--arms", "scratch", "frozen"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["arms"].keys() == {"scratch", "frozen"} and found["reward"].keys() == {"0", "1"}
    assert (out / "transfer.json").exists() and (out / "transfer.png").exists()
    mine, theirs = of_run(out / "frozen-0")[0], of_run(place)[0]
    for part in ("encoder", "rssm", "decoder"):
        for one, other in zip(
            *(map(np.asarray, jax_leaves(x.params["model"][part])) for x in (mine, theirs)), strict=True
        ):
            np.testing.assert_array_equal(one, other)
    assert any(
        (np.asarray(a) != np.asarray(b)).any()
        for a, b in zip(
            jax_leaves(mine.params["model"]["reward"]), jax_leaves(theirs.params["model"]["reward"]), strict=True
        )
    )
    times = {path: path.stat().st_mtime_ns for path in out.glob("*/checkpoints/*")}
    assert main(words) == 0 and json.loads(capsys.readouterr().out)["arms"] == found["arms"]
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/checkpoints/*")} == times


def jax_leaves(tree):
    import jax

    return jax.tree.leaves(tree)


def test_targets_leave_out_what_nobody_can_see():
    env = play.open_env(tiny_run(env__task="dmc/walker_walk").env)
    try:
        suite = play.control_suite(env)
        env.reset(seed=0)
        found = play.targets(suite)
        assert found["angles"].shape == (1 + 2 * 7,)  # rootz, and sine and cosine of rooty and six hinges
        before = found["angles"].copy()
        suite.physics.named.data.qpos["rootx"] += 3
        np.testing.assert_array_equal(play.targets(suite)["angles"], before)
    finally:
        env.close()


def test_specs_with_images_keep_numbers_apart():
    spec = EnvSpec({"image": ArraySpec((16, 16, 3), "uint8"), "speed": ArraySpec((2,), "float32")}, {})
    columns = {
        "observation/image": np.zeros((3, 16, 16, 3), np.uint8),
        "observation/speed": np.ones((3, 2), np.float32),
    }
    shown = recordings.shown(spec, columns | {"reward": np.zeros(3, np.float32)})
    assert shown["observation"].shape == (3, 2) and shown["reward"].shape == (3, 1)


def test_an_untrained_subject_has_other_parameters(judged):
    blank = untrained(judged.subject, 0)
    assert any(
        (np.asarray(a) != np.asarray(b)).any()
        for a, b in zip(jax_leaves(blank.params), jax_leaves(judged.subject.params), strict=True)
    )
    assert Path(judged.subject.name).name == "run" and blank.name == "untrained"
