"""SIGINT and SIGTERM reach the run, whatever environments do with them; and what they do else to the process."""

import io
import json
import os
import re
import signal
import tempfile
from multiprocessing import forkserver
from pathlib import Path

import pytest
from test_resume import assert_same_run, complete
from trainer import MARK, make_toy, tiny_run

from dreamer_jax.cli import main
from dreamer_jax.config.loading import dump
from dreamer_jax.envs import signals
from dreamer_jax.envs.check import check_env
from dreamer_jax.envs.wrappers import EnvironmentFailed
from dreamer_jax.runs import load as loading
from dreamer_jax.training import train as training
from dreamer_jax.training.interrupt import Stopped


@pytest.fixture(autouse=True)
def _(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # worlds:...
    for module in (training, loading):
        monkeypatch.setattr(module, "make_agent", lambda config, spec, axis_name=None: make_toy(config, spec))


def train(run_dir, **changes):
    """What it said."""
    said = io.StringIO()
    training.train(tiny_run(**changes), run_dir, loggers=(), stream=said)
    return said.getvalue()


def evaluate(run_dir, capsys, status=0):
    """What that printed, and the lines on stderr."""
    assert main(["evaluate", str(run_dir), "--episodes", "3", "--json", "--cache", "none"]) == status
    said = capsys.readouterr()
    return said.out, said.err.splitlines()


@pytest.mark.parametrize("task", ["Deaf", "DeafInC", "DeafByMask", "Deadly"])
def test_handlers_of_an_environment_do_not_hold(tmp_path, task):
    before = [signal.getsignal(number) for number in signals.NUMBERS]
    with pytest.raises(Stopped) as caught:
        train(tmp_path / "run", env__task=f"worlds:{task}", env__num_envs=1, train__frames=100_000)
    assert caught.value.status == {"Deadly": 130}.get(task, 143)
    assert complete(tmp_path / "run") == [0, 43]  # 40 steps and the first records of 4 episodes, but for the last one
    assert [signal.getsignal(number) for number in signals.NUMBERS] == before
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(signals.NUMBERS)


def test_a_failure_is_saved_with_the_action_that_failed(tmp_path, monkeypatch):
    """The failing run, mended, ends as one that never failed."""
    monkeypatch.setenv(MARK, str(tmp_path / "log"))
    (tmp_path / "mended").touch()
    train(tmp_path / "reference", env__task="worlds:Mendable", train__frames=100)
    (tmp_path / "mended").unlink()
    for attempt in range(2):  # as long as it is not mended nothing changes
        with pytest.raises(
            EnvironmentFailed, match=r"^environment 1 .* failed in episode 3: ValueError: not yet mended\n"
        ):
            train(tmp_path / "run", env__task="worlds:Mendable", train__frames=100)
        assert complete(tmp_path / "run") == [0, 68], attempt  # 34 records each, of which three times 11 are behind
    (tmp_path / "mended").touch()
    train(tmp_path / "run", env__task="worlds:Mendable", train__frames=100)
    assert_same_run(tmp_path / "run", tmp_path / "reference")


def test_what_a_failed_evaluation_stops_is_saved(tmp_path, monkeypatch):
    monkeypatch.setenv(MARK, str(tmp_path / "log"))
    settings = dict(env__task="worlds:Mendable", env__num_envs=1, train__eval_frames=20)
    with pytest.raises(EnvironmentFailed, match="not yet mended"):
        train(tmp_path / "run", **settings)
    assert complete(tmp_path / "run") == [0, 20]
    assert json.loads((tmp_path / "run" / "scores.jsonl").read_text().splitlines()[-1])["agent_steps"] == 11


@pytest.mark.parametrize("task, error", [("Exits", "SystemExit"), ("Interrupts", "KeyboardInterrupt")])
def test_an_environment_that_ends_the_process_has_failed(tmp_path, capsys, task, error):
    run_dir, settings = tmp_path / "run", tmp_path / "settings.yaml"
    settings.write_text(dump(tiny_run(env__task=f"worlds:{task}")))
    command = ["train", "--config", str(settings), "--run-dir", str(run_dir), "--logger", "none", "--cache", "none"]
    assert main(command) == 2
    failed = f"(worlds:{task}): step() failed in episode"
    assert capsys.readouterr().err.splitlines()[-1] == f"dreamer-jax: environment 1 {failed} 3: {error}"
    assert complete(run_dir) == [0, 68]
    assert main(["check-env", f"worlds:{task}"]) == 2
    assert re.search(rf"{re.escape(failed)} \d: {error}$", capsys.readouterr().err)
    printed, said = evaluate(run_dir, capsys, status=2)
    assert not printed and re.fullmatch(rf"dreamer-jax: environment \d {re.escape(failed)} \d: {error}", said[-1])


def test_opening_may_end_the_process_too(capsys):
    for arguments in (["check-env", "worlds:Exiting"], ["train", "--env.task", "worlds:Exiting", "--cache", "none"]):
        assert main(arguments) == 2
        assert "dreamer-jax: env.task: 'worlds:Exiting': Exiting() failed: SystemExit\n" in capsys.readouterr().err


def test_a_person_may_end_a_command(capsys):
    """Also in the middle of an environment, which has not failed then."""
    assert main(["check-env", "worlds:Deadly"]) == 130
    assert capsys.readouterr().err == "dreamer-jax: stopped by SIGINT\n"
    assert main(["check-env", "worlds:Deaf"]) == 143


def test_evaluation_opens_before_training_or_is_done_without(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SINGLE", str(tmp_path))
    settings = dict(env__task="worlds:Single", env__num_envs=1, train__frames=60)
    said = train(tmp_path / "run", **settings, train__eval_frames=20)
    (line,) = [line for line in said.splitlines() if "evaluations" in line]
    assert line.startswith("no evaluations (train.eval_frames), no environment opens beside those of training: ")
    assert line.endswith("Address already in use")
    assert said.index(line) < said.index("an update every")  # which is said before the first step
    assert complete(tmp_path / "run") == [0, 60]
    printed, (line,) = evaluate(tmp_path / "run", capsys)
    assert line.startswith("evaluation: one environment plays all episodes, 3 together do not open: ")
    assert len(json.loads(printed)["scores"]) == 3


def test_how_often_an_environment_is_opened(tmp_path, monkeypatch, capsys):
    """As the README says; and never a second one for a look at what is open already."""
    monkeypatch.setenv("COUNTED", str(tmp_path / "counted"))
    forkserver._forkserver._stop()  # one that an earlier test has started does not know of this variable

    def counted():
        found = (tmp_path / "counted").read_text()
        (tmp_path / "counted").unlink()
        return found

    for kind in ("sync", "async"):
        settings = dict(env__task="worlds:Counted", env__num_envs=3, env__vectorization=kind, train__frames=60)
        train(tmp_path / kind, **settings, train__eval_frames=30, train__eval_episodes=2)
        found = counted()
        assert found.startswith("+-+++++") and found.count("+") == found.count("-") == 1 + 3 + 2
    evaluate(tmp_path / "sync", capsys)
    assert counted() == "+-+++---"
    check_env(tiny_run(env__task="worlds:Counted"), steps=20)
    assert counted() == "+-+-+-"


def test_the_working_directory_may_change(tmp_path, monkeypatch, capsys):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    monkeypatch.chdir(tmp_path)
    said = train(Path("run"), env__task="worlds:Wandering", train__frames=60, train__save_frames=20)
    assert f"run directory: {tmp_path / 'run'}\n" in said and os.getcwd() == str(tmp_path)
    assert complete(tmp_path / "run") == [40, 60]
    assert main(["evaluate", "run", "--episodes", "2", "--cache", "none"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "run"]
    folders = list(elsewhere.iterdir())
    assert folders and not [path for folder in folders for path in folder.iterdir()]


def test_an_environment_that_can_not_be_closed_is_a_warning(tmp_path, caplog):
    train(tmp_path / "run", env__task="worlds:Unclosable", train__frames=60)
    assert complete(tmp_path / "run") == [0, 60]
    warning = "environment {} (worlds:Unclosable): close() failed with RuntimeError: the door sticks"
    assert caplog.messages == [warning.format(index) for index in (0, 0, 1)]  # and the one that was looked at
