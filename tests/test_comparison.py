"""benchmarks/comparison: what all methods share, each method in a tiny world, and what the report says of them."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from comparison import adapter, behavior_cloning, prediction, report, run, schedule, summary, world_model
from comparison.__main__ import main
from comparison.protocol import (
    LEARNERS,
    METHODS,
    MODEL_FREE,
    PREDICTION,
    PROTOCOL,
    RANDOM,
    Frozen,
    Place,
    Task,
    read,
    write,
)

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.datasets.collect import uniform
from dreamer_jax.envs.wrappers import Stream, open_env, open_stream
from dreamer_jax.specs import ArraySpec, EnvSpec

TINY = replace(
    PROTOCOL,
    tasks={"target": Task("probe/continuous_target", "probe/continuous_target")},
    action_repeat=1,
    frames=40,
    evaluated=(20, 40),
    budgets=(20, 40),
    goal=4.0,
    episodes=3,
    shifts={"action_delay": 2},
    recorded=5,
    horizons=(1, 2),
    starts=6,
    clone_updates=50,
)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "runs", tmp_path / "out" / "runs")


def oracle(spec, num_envs, rng):
    """Acts as the probe wants it."""
    (seen,), (motor,) = spec.observation, spec.action
    return lambda timestep: {motor: np.asarray(timestep.observation[seen], np.float32)}


def test_a_flat_environment_is_the_stream_to_the_last_bit():
    config = TINY.env("dmc/cartpole_swingup")
    env = adapter.Flat(open_stream(config, seed=3, purpose=0, index=0))
    stream = open_stream(config, seed=3, purpose=0, index=0)
    first, record = env.reset()[0], stream.reset()[0]
    rng, names = np.random.default_rng(0), list(stream.env_spec.observation)
    for _ in range(4):
        assert np.array_equal(first, np.concatenate([record[name].ravel() for name in names]))
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        first, reward, terminated, truncated, _ = env.step(action)
        record = stream.step({"action": action})[0]
        assert reward == float(record["reward"]) and not terminated and not truncated
    env.close(), stream.close()


def test_ends_of_a_flat_environment():
    flags = []
    for task in ("probe/continuous_target", "probe/echo"):  # one terminates, one is cut off
        env = adapter.Flat(open_stream(TINY.env(task), seed=0, purpose=0, index=0))
        env.reset()
        while not any(ends := env.step(env.action_space.sample())[2:4]):
            pass
        flags.append(ends)
        assert env.reset()[0].shape == env.observation_space.shape
    assert flags == [(True, False), (False, True)]


def test_motors_undoes_side_by_side_and_choices_are_refused():
    spec = EnvSpec({"x": ArraySpec((2,), "float32")}, {"b": ArraySpec((2,), "float32"), "a": ArraySpec((), "float32")})
    parts = adapter.motors(spec, np.arange(6.0).reshape(2, 3))
    assert parts["b"].tolist() == [[0, 1], [3, 4]] and parts["a"].tolist() == [2, 5]
    with pytest.raises(ValueError, match="a: images or choices"):
        adapter.spaces_of(EnvSpec(spec.observation, {"a": ArraySpec((), "int32", 3)}))


def test_episodes_begin_alike_for_every_policy_and_never_as_in_training():
    env, starts = TINY.env("probe/continuous_target"), []

    def watching(spec, num_envs, rng):
        def act(timestep):
            if np.all(timestep.is_first):
                starts.append(timestep.observation["observation"].ravel().tolist())
            return oracle(spec, num_envs, rng)(timestep)

        return act

    assert min(run.episodes(TINY, 0, env, oracle)) > 9.99
    run.episodes(TINY, 0, env, watching)
    run.episodes(TINY, 0, env, lambda *given: watching(*given), lambda: run.shifted(env, "action_delay", 2, seed=0))
    run.episodes(TINY, 1, env, watching)
    assert starts[0] == starts[1] != starts[2] and len(starts[0]) == TINY.episodes
    stream = Stream(open_env(env), env, seed=0, purpose=0, index=0)
    assert float(stream.reset()[0]["observation"][0]) not in starts[0]
    stream.close()


def test_a_shift_reaches_the_policy(place):
    found = run.perform(TINY, place, "target", RANDOM, 0)
    assert read(TINY, place.result("target", RANDOM, 0))["curve"] == found["curve"]
    env = TINY.env("probe/continuous_target")
    late = run.episodes(TINY, 0, env, oracle, lambda: run.shifted(env, "action_delay", 2, seed=0))
    assert max(late) < 9 and found["transfer"]["returns"] == found["curve"]["returns"][0]
    assert found["std"]["observation"][0] == pytest.approx(1 / 3**0.5, abs=0.1)


def test_a_clone_does_what_it_was_shown(place):
    learnt = behavior_cloning.learn(
        replace(TINY, clone_updates=150),
        "bc_5",
        "probe/continuous_target",
        0,
        place.agent("target", "bc_5", 0),
        "sac",
        oracle,
    )
    env = TINY.env("probe/continuous_target")
    returns = run.episodes(TINY, 0, env, learnt.curve[-1][1])
    assert min(returns) > 9  # random actions have 3.3
    assert learnt.costs["demonstration_frames"] == 5 * 10 and learnt.settings["demonstrator"] == "sac"
    frozen = behavior_cloning.open_agent(TINY, "probe/continuous_target", place.agent("target", "bc_5", 0))
    assert run.episodes(TINY, 0, env, frozen.actor) == returns


def test_fewer_demonstrations_are_among_more():
    few, many = (
        [
            one.columns["observation/observation"].tolist()
            for one in behavior_cloning.demonstrations(TINY, "probe/continuous_target", 1, n, oracle)
        ]
        for n in (3, 6)
    )
    assert many[:3] == few and len(many) == 6 and many[3:] != few


def test_features_are_judged_alike_and_noise_knows_nothing():
    env, rng = TINY.env("probe/echo"), np.random.default_rng(0)  # what is seen is the action before

    def itself(recordings):
        return np.stack([one.targets["observation"] for one in recordings])

    def noise(recordings):
        return rng.normal(size=(len(recordings), recordings[0].length, 5))

    agents = {"sac": Frozen(uniform, itself), "ppo": Frozen(uniform, noise)}
    found = prediction.predictions(TINY, env, agents, uniform, 0)
    methods = found["methods"]
    assert methods["sac"] == methods["observation"] and methods["sac"]["r2"] > 0.999
    assert max(methods["sac"]["post_hoc_nmse"]) < 1e-3  # its dynamics are linear in the action
    assert methods["ppo"]["r2"] < 0.2 and min(methods["ppo"]["post_hoc_nmse"]) > 0.5
    assert "native_nmse" not in methods["sac"] and min(found["baselines"]["persistence"]) > 0.5


def test_settings_of_our_agents_are_those_of_the_protocol():
    for method in ("dreamer_v3", "planet"):
        config = world_model.config_of(PROTOCOL, method, "dmc/walker_walk", 3)
        assert (config.env.task, config.env.action_repeat, config.train.frames, config.seed) == (
            "dmc/walker_walk",
            4,
            100_000,
            3,
        )
        assert all(frames % config.train.save_frames == 0 for frames in PROTOCOL.evaluated)


def test_what_is_missing_is_done_in_order_and_failures_stop_what_needs_them(place, tmp_path):
    done, said = [], []

    def start(job, log):
        done.append(job)
        if job.method != "tqc":
            write(TINY, place.result(*job), made(job.method, job.seed))
        code = "import sys; print('comparison: no luck'); sys.exit(2)" if job.method == "tqc" else ""
        return subprocess.Popen([sys.executable, "-c", code], stdout=log)

    every = schedule.jobs(["target"], METHODS, [0, 1])
    assert [job.method for job in every] == [RANDOM, *METHODS, PREDICTION] * 2
    failed = schedule.work(TINY, place, every, together=2, start=start, say=said.append, pause=0.01)
    assert failed == 2 * (1 + 4)  # TQC, the three clones and the predictions of both seeds
    assert done[0].method == RANDOM and sum("no luck" in line for line in said) == 2
    assert any("it needs tqc" in line for line in said)
    done.clear()
    schedule.work(
        TINY, place, schedule.jobs(["target"], ["sac"], [0]), together=1, start=start, say=said.append, pause=0.01
    )
    assert done == []


def test_results_of_another_protocol_are_refused(place):
    path = place.result("target", "sac", 0)
    write(TINY, path, made("sac", 0))
    with pytest.raises(ConfigError, match="frames was 40 and is 50 now"):
        read(replace(TINY, frames=50), path)
    path.write_text("{}")
    with pytest.raises(ConfigError, match="no result of this comparison"):
        schedule.open_jobs(TINY, place, [schedule.Job("target", "sac", 0)])


def made(method, seed, at=None):
    """A file as a run leaves it."""
    level = {"dreamer_v3": 6.0, "sac": 8.0, "planet": 6.0}.get(method, 3.0) if at is None else at
    scores = [[level / 2 + 0.1 * seed] * 3, [level + 0.1 * seed] * 3]
    found = {"task": "target", "method": method, "seed": seed, "seconds": 1.0, "settings": {}}
    if method == PREDICTION:
        rows = {name: {"r2": 0.5, "post_hoc_nmse": [0.1, 0.2]} for name in ["observation", *METHODS]}
        rows["dreamer_v3"]["native_nmse"] = [0.05, 0.07]
        return found | {"methods": rows, "baselines": {"mean": [1.0, 1.0], "persistence": [0.4, 0.9]}}
    found["curve"] = {"frames": [20, 40], "returns": scores if method in LEARNERS else scores[1:]}
    found["costs"] = {"wall_s": 2.0, "cpu_s": 1.0, "updates": 5, "parameters": 7} if method != RANDOM else {}
    if method.startswith("bc"):
        found["costs"] |= {"demonstrator_frames": 40, "demonstration_frames": 50}
        found["settings"] = {"demonstrator": "sac", "demonstrated": 8.0}
    found["shifts"] = {"action_delay": [level - 1] * 3}
    found["transfer"] = {"task": "probe/continuous_target", "returns": [level] * 3}
    return found


def test_the_report_says_who_is_ahead_and_leaves_blank_what_is_not_known(place, tmp_path):
    stem = tmp_path / "out"
    for seed in range(3):
        for method in [RANDOM, *METHODS, PREDICTION]:
            write(TINY, place.result("target", method, seed), made(method, seed))
    report.report(TINY, place, stem)
    page, known = stem.with_suffix(".md").read_text(), json.loads(stem.with_suffix(".json").read_text())
    assert "**So far there are 3 seeds of each.**" in page and stem.with_suffix(".png").stat().st_size > 1000
    assert "at 40 frames: behind nobody: **SAC**; DreamerV3 is behind SAC; PlaNet is behind SAC; TQC is behind" in page
    row = known["tasks"]["target"]["methods"]["sac"]
    assert row["final"]["iqm"] == pytest.approx(8.1) and row["area"]["iqm"] == pytest.approx(6.1)
    assert row["frames_to_goal"] == {"median": 20.0, "reached": 3}
    assert row["robustness"]["action_delay"]["iqm"] == pytest.approx((7 - 3.1) / (8.1 - 3.1), abs=0.02)
    assert known["tasks"]["target"]["methods"]["ppo"]["frames_to_goal"]["median"] is None
    assert known["tasks"]["target"]["methods"]["ppo"]["robustness"]["action_delay"] is None  # no better than random
    assert known["tasks"]["target"]["methods"]["dreamer_v3"]["frames_to_goal"]["median"] == 26.0
    (native,) = [line for line in page.splitlines() if line.startswith("| `target` | DreamerV3")]
    assert native.endswith("| 0.10 / 0.20 | 0.05 / 0.07 |")
    (post_hoc,) = [line for line in page.splitlines() if line.startswith("| `target` | SAC")]
    assert post_hoc.endswith("| 0.10 / 0.20 |  |")


def test_fewer_than_three_seeds_say_nothing(place, tmp_path):
    for seed in range(2):
        for method in LEARNERS:
            write(TINY, place.result("target", method, seed), made(method, seed))
    report.report(TINY, place, tmp_path / "out")
    page = (tmp_path / "out.md").read_text()
    assert page.count("nothing can be said") == len(TINY.budgets) and "behind nobody" not in page


def test_what_is_missing_or_wrong_is_one_line(tmp_path, capsys, monkeypatch):
    words = ["--runs", str(tmp_path / "runs"), "--report", str(tmp_path / "out")]
    monkeypatch.setitem(sys.modules, "sbx", None)
    assert main([*words, "--methods", "sac"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "dreamer-jax[baselines]" in error and "sac, tqc, crossq, ppo" in error
    assert main([*words, "--together", "0"]) == 2 and main([*words, "--seeds", "x"]) == 2
    assert not (tmp_path / "out.md").exists()
    assert main([*words, "--report-only"]) == 0 and "There are no runs yet" in (tmp_path / "out.md").read_text()


def test_the_page_is_of_the_runs_that_are_there(tmp_path):
    docs = Path(__file__).parents[1] / "docs" / "results"
    known = summary.numbers(PROTOCOL, summary.collect(PROTOCOL, Place(tmp_path, docs / "comparison" / "runs")))
    assert known == json.loads((docs / "comparison.json").read_text())
    assert report.page(PROTOCOL, known, "comparison.png") == (docs / "comparison.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("method", MODEL_FREE)
def test_methods_of_the_library_learn_here_and_come_back(place, method):
    pytest.importorskip("sbx")
    protocol = replace(TINY, frames=240, evaluated=(120, 240), budgets=(120, 240))
    run.perform(protocol, place, "target", RANDOM, 0)
    found = run.perform(protocol, place, "target", method, 0)
    assert found["curve"]["frames"] == [120, 240] and found["costs"]["parameters"] > 100_000
    frozen = run.open_agent(protocol, place, "target", method, 0)
    env = protocol.env("probe/continuous_target")
    assert run.episodes(protocol, 0, env, frozen.actor) == pytest.approx(found["curve"]["returns"][-1], abs=1e-3)
    recordings = behavior_cloning.demonstrations(protocol, env.task, 0, 3, oracle)
    features = frozen.features(recordings)
    assert features.shape == (3, recordings[0].length, 256) and features.std() > 0
    if method != "ppo":  # whose first update comes later
        assert found["costs"]["updates"] == 130 and found["curve"]["returns"][0] != found["curve"]["returns"][1]


@pytest.mark.slow
def test_our_agents_learn_here_and_come_back(place, monkeypatch):
    tiny = {"train.start_windows": 8, "train.batch_length": 4, "train.batch_size": 2, "behavior.imagination_length": 3}
    file, changes = world_model.SETTINGS["dreamer_v3"]
    monkeypatch.setitem(world_model.SETTINGS, "dreamer_v3", (file, {**changes, **tiny}))
    run.perform(TINY, place, "target", RANDOM, 0)
    found = run.perform(TINY, place, "target", "dreamer_v3", 0)
    assert found["curve"]["frames"] == [20, 40] and found["costs"]["updates"] > 0
    frozen = run.open_agent(TINY, place, "target", "dreamer_v3", 0)
    env = TINY.env("probe/continuous_target")
    assert run.episodes(TINY, 0, env, frozen.actor) == pytest.approx(found["curve"]["returns"][-1], abs=1e-3)
    found = prediction.predictions(TINY, env, {"dreamer_v3": frozen}, frozen.actor, 0)
    assert len(found["methods"]["dreamer_v3"]["native_nmse"]) == 2 and found["methods"]["dreamer_v3"]["features"] == 256
