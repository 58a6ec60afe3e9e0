"""The training loop with settings of older algorithms: prefill, bursts, no latents in replay, evaluation."""

import io
import json

import jax
import numpy as np
import pytest
from test_resume import assert_same_run
from trainer import make_toy, tiny_run

from dreamer_jax.analysis.predictions import dream_run
from dreamer_jax.cli import main
from dreamer_jax.config.loading import replace
from dreamer_jax.distributions import uniform_actions
from dreamer_jax.replay import Replay, export_episodes
from dreamer_jax.runs import restore
from dreamer_jax.runs.checkpoint import read_replays
from dreamer_jax.runs.integrity import read_run
from dreamer_jax.runs.metrics import read_jsonl
from dreamer_jax.training.loop import ACT
from dreamer_jax.training.preflight import env_spec
from dreamer_jax.training.schedule import forecast, in_words
from dreamer_jax.training.train import train

E, PREFILL, FRAMES = 2, 50, 120
SETTINGS = {
    **{"replay.sampling": "episodes", "replay.online": False, "replay.context": False, "replay.mark_first": True},
    **{"replay.ends": "prioritized", "replay.recent": 0.5, "replay.capacity": 1000, "train.prefill": PREFILL},
    **{"train.pretrain": 3, "train.update_every": 20, "train.start_windows": 1, "train.report_frames": 110},
    **{"env.task": "probe/continuous_target", "policy.evaluate": "mode", "train.eval_frames": 100},
}


def run_to(frames, run_dir, **changes):
    config = replace(tiny_run(), SETTINGS | {"train.frames": frames} | changes)
    train(config, run_dir, loggers=(), stream=io.StringIO())
    return run_dir


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_to(FRAMES, tmp_path_factory.mktemp("loop") / "run")


def test_actions_are_uniform_until_the_prefill_ends(run):
    (replay,), spec = read_replays(run), read_run(run)[1]
    stored = np.stack([replay.column("action/action", env, replay.rows) for env in range(E)], 1)
    assert len(stored) == FRAMES // E
    root = jax.random.fold_in(jax.random.key(0), ACT)

    @jax.jit
    def at_random(step):
        _, key = jax.random.split(jax.random.fold_in(root, step))
        return uniform_actions(key, np.arange(E), spec.action)["action"]

    same = [np.array_equal(at_random(np.uint32(row)), actions) for row, actions in enumerate(stored)]
    assert same == [row < PREFILL // E for row in range(len(stored))]


def test_the_schedule_in_words(run):
    config, (replay,) = read_run(run)[0], read_replays(run)
    words = in_words(config, forecast(config, replay.capacity, 0), {"grad_steps": 30}, update_seconds=20.0)
    assert words.startswith("50 agent steps of random actions, then 10 updates every 20 agent steps (20 frames); 120 ")
    assert "120 agent steps and at most 33 updates of 2 x 4 records" in words and words.endswith(
        "1 minutes of updates are left"
    )


def test_updates_begin_after_the_prefill_and_come_in_bursts(run):
    steps = [(line["agent_steps"], line["grad_steps"]) for line in read_jsonl(run / "metrics.jsonl")]
    assert {updates for step, updates in steps if step < PREFILL} == {0}
    # 4 records of 8 a step: 20 steps are due 10 updates.
    assert dict(steps)[PREFILL] == 3 and dict(steps)[PREFILL + 18] == 3 and dict(steps)[PREFILL + 20] == 13
    assert steps[-1] == (FRAMES, 3 + 30)


@pytest.mark.parametrize("stop", [50, *(pytest.param(stop, marks=pytest.mark.slow) for stop in (12, 80))])
def test_stopped_in_prefill_or_later_it_goes_on_as_if_never_stopped(run, tmp_path, stop):
    run_to(stop, tmp_path / "run")
    run_to(FRAMES, tmp_path / "run")
    assert_same_run(tmp_path / "run", run)


def test_without_latents_replay_reports_dreams_and_exports(run, tmp_path):
    (replay,) = read_replays(run)
    assert not [name for name in replay.fields if name.startswith("latents")]
    assert any("replayed/kl" in line for line in read_jsonl(run / "metrics.jsonl")) and list(
        (run / "reports").iterdir()
    )
    metrics, drawn = dream_run(run, tmp_path / "dreams", context=3, length=5)
    assert np.isfinite(metrics["kl"]) and drawn["signals"].exists()
    count = export_episodes([replay], tmp_path / "episodes")
    files = [np.load(path) for path in (tmp_path / "episodes").iterdir()]
    assert count == len(files) == E * -(-FRAMES // E // 11)
    assert sum(len(data["reward"]) for data in files) == FRAMES


@pytest.mark.parametrize("flags, mode", [([], "mode"), (["--mode", "sample"], "sample")])
def test_evaluate_acts_as_the_run_says_unless_told_otherwise(run, capsys, flags, mode):
    assert main(["evaluate", str(run), "--episodes", "2", "--json", "--cache", "none", *flags]) == 0
    assert json.loads(capsys.readouterr().out)["mode"] == mode


def test_replay_draws_as_the_settings_say(tmp_path, monkeypatch):
    given = {}

    class Spy(Replay):
        def __init__(self, *args, **options):
            given.update(options)
            super().__init__(*args, **options)

    monkeypatch.setattr(restore, "Replay", Spy)
    config = replace(tiny_run(), SETTINGS | {"train.frames": 4, "train.prefill": 0})
    agent = make_toy(config, env_spec(config))
    train(config, tmp_path / "run", agent=agent, loggers=(), stream=io.StringIO())
    for name in ("online", "sampling", "ends", "recent", "mark_first"):
        assert given[name] == SETTINGS[f"replay.{name}"]


@pytest.mark.parametrize("prefill", [0, 4])
@pytest.mark.parametrize("evaluate", ["sample", "mode"])
def test_policies_that_are_compiled(tmp_path, evaluate, prefill):
    config = tiny_run(train__frames=40, train__eval_frames=20, train__prefill=prefill, policy__evaluate=evaluate)
    toy, modes = make_toy(config, env_spec(config)), []

    def policy(params, key, carry, timestep, mode="sample", env_offset=0):
        modes.append((mode, len(timestep.reward)))
        return toy.policy(params, key, carry, timestep, mode)

    train(config, tmp_path / "run", agent=toy._replace(policy=policy), loggers=(), stream=io.StringIO())
    assert sorted(modes) == sorted([("train", E), (evaluate, 10), *[("random", E)] * bool(prefill)])
