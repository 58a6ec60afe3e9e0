"""The commands: what they write, and that every mistake is one line with status 2 and changes nothing."""

import ctypes
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event
from trainer import flags, make_toy, tiny_run

from dreamer_jax.cli import main
from dreamer_jax.cli.output import answers_alone
from dreamer_jax.cli.parser import make_parser
from dreamer_jax.cli.settings import pairs
from dreamer_jax.config.loading import load as load_config
from dreamer_jax.config.loading import replace
from dreamer_jax.config.schema import FIELDS, Config, ConfigError
from dreamer_jax.devices.compilation_cache import default_folder
from dreamer_jax.replay.storage import Layout, file_name
from dreamer_jax.runs.load import load
from dreamer_jax.runs.metrics import read_jsonl
from dreamer_jax.training.preflight import env_spec
from dreamer_jax.training.train import train

CONFIGS = Path(__file__).parents[1] / "configs"
COMMANDS = "train import-reference evaluate plot compare check-env collect export dream bench config".split()
HEAVY = (
    "jax flax optax orbax distrax gymnasium dm_control mujoco tensorflow_probability matplotlib rich tensorboardX"
).split()


@pytest.fixture(autouse=True)
def _(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # worlds:...


def files(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def refusal(capsys, *arguments):
    """The one line with which a command refuses."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as error:  # argparse's way
        status = error.code
    printed = capsys.readouterr()
    assert (status, printed.out) == (2, "")
    assert printed.err.startswith("dreamer-jax: ") and printed.err.count("\n") == 1 and printed.err.endswith("\n")
    return printed.err.removeprefix("dreamer-jax: ").rstrip()


REFUSED = [
    ("--env.num_env 4", "--env.num_env: unknown flag; did you mean --env.num_envs?"),
    ("--num-envs 4", "--num-envs: unknown flag; did you mean --env.num_envs?"),
    ("--task probe/echo", "--task: unknown flag; did you mean --env.task?"),
    ("--logdir=runs", "--logdir: unknown flag; did you mean --run-dir?"),
    ("--outdir runs", "--outdir: unknown flag; did you mean --run-dir?"),
    ("--configs dmc", "--configs: unknown flag; did you mean --config?"),
    ("--run.steps 1e6", "--run.steps: unknown flag; did you mean --train.frames?"),
    ("--run.train_ratio 1", "--run.train_ratio: unknown flag; did you mean --train.train_ratio?"),
    ("--qqqqqqq 1", "--qqqqqqq: unknown field; sections are behavior, cont"),
    ("--run-dir ~nobody-of-that-name/run", "~nobody-of-that-name is nobody's home directory here"),
    ("--config ~nobody-of-that-name/x.yaml", "~nobody-of-that-name is nobody's home directory here"),
    ("--two\nletters 1", "--two\\nletters: unknown field; sections are behavior"),
    ("--env.task \udc80", r"--env.task: got '\udc80', expected text"),
    ("--env.num_envs four", "--env.num_envs: got 'four', expected a whole number"),
    ("--env.num_envs 0", "--env.num_envs: got 0, must be at least 1"),
    ("--train.frames", "--train.frames: expected a value"),
    ("fast", "fast: expected a flag"),
    ("--preset dreamer_v9", "got 'dreamer_v9', expected one of dreamer_v1"),
    ("--seed one", "--seed: got 'one', expected a whole number"),
    ("--config nowhere.yaml", "nowhere.yaml: no such file"),
    ("--logger paper", "invalid choice: 'paper'"),
    ("--logger wandb", "pip install 'dreamer-jax[wandb]'"),
    ("--env.task dmc/walker_wak", "no such task; did you mean dmc/walker_walk"),
    ("--env.task gym/CartPole-v99", "CartPole-v99"),
    ("--env.task walker_walk", "did you mean dmc/walker_walk?"),
    ("--env.task dnc/walker_walk", "unknown suite 'dnc'; did you mean dmc/walker_walk?"),
    ("--env.task atari/pnog", "no such task; did you mean atari/pong"),
    ("--env.grey true", "env.grey: got True"),
    ("--env.task no_such_module:World", "no_such_module"),
    ("--env.task worlds:Nothing", "Nothing"),
    ("--env.task worlds:Picture --decoder.blocks 3", "decoder.blocks: got 3, for images it must divide"),
    ("--env.task probe/echo --replay.capacity 1e15 --train.frames 1e15", "free there; set replay.capacity or"),
    ("--env.task probe/echo --replay.capacity 100", "replay.capacity: room for 6 records of each of 16 environments"),
    ("--env.task probe/echo --train.devices 2", "train.devices: got 2, JAX finds 1"),
]


@pytest.mark.parametrize("mistake, words", REFUSED, ids=[mistake for mistake, _ in REFUSED])
def test_a_mistake_is_one_line_and_writes_nothing(tmp_path, monkeypatch, capsys, mistake, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it was not installed
    arguments = mistake.split(" ")
    if "--env.task" not in arguments:
        arguments += ["--env.task", "probe/echo"]
    assert words in refusal(capsys, "train", *arguments)
    if "--run-dir" not in arguments:
        assert words in refusal(capsys, "train", *arguments, "--run-dir", "below/run")
    assert not files(tmp_path)


def test_a_run_directory_that_cannot_be_used(tmp_path, capsys):
    train = ["train", "--env.task", "probe/echo", "--run-dir"]
    (tmp_path / "file").write_text("mine")
    assert "can't be" in refusal(capsys, *train, tmp_path / "file")
    assert "can't be" in refusal(capsys, *train, tmp_path / "file" / "run")
    assert re.search("can't be written|0 B free there", refusal(capsys, *train, "/proc/run"))  # a disk of no size
    assert "not empty and not a run; choose another directory" in refusal(capsys, *train, tmp_path)

    run_dir = tmp_path / "run"
    run_dir.mkdir()
    main(["config", "--env.task", "probe/echo", "--seed", "3"])
    (run_dir / "config.yaml").write_text(capsys.readouterr().out)
    before = files(tmp_path)
    line = refusal(capsys, *train, run_dir, "--train.train_ratio", "7", "--train.frames", "9")
    for words in (f"{run_dir}/config.yaml: a run with other settings", "seed is 3 there and 0 here", "choose another"):
        assert words in line
    assert "train.train_ratio is 1024.0 there and 7.0 here" in line
    assert "frames" not in line
    # Fields that may change, but not so: nothing is taken over.
    too_much = ["--seed", "3", "--train.devices", "2"]
    assert "JAX finds 1" in refusal(capsys, *train, run_dir, *too_much)
    (run_dir / "config.yaml").write_text("seeed: 1\n")
    assert "config.yaml:1: seeed: unknown field; did you mean 'seed'?" in refusal(capsys, *train, run_dir)
    (run_dir / "config.yaml").write_bytes(before[run_dir / "config.yaml"])
    assert files(tmp_path) == before


def test_config_prints_in_what_presets_differ(capsys):
    assert main(["config", "--preset", "dreamer_v1", "--diff", "dreamer_v2", "--rssm.deter", "7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [re.split("  +", line) for line in lines]
    assert rows[:2] == [
        ["setting", "here", "dreamer_v2", "meaning"],
        ["preset", "dreamer_v1", "dreamer_v2", FIELDS["preset"].meaning],
    ]
    assert ["kl.dyn", "1.0", "0.8", FIELDS["kl.dyn"].meaning] in rows and len(rows) > 40
    assert len({line.index(row[3]) for line, row in zip(lines, rows, strict=True)}) == 1
    assert not any("rssm.deter" in line for line in lines)  # set by hand on both sides
    assert main(["config", "--preset", "planet", "--diff", "planet"]) == 0 and capsys.readouterr().out == ""
    assert "--diff: got 'v9', expected one of dreamer_v1" in refusal(capsys, "config", "--diff", "v9")


def test_an_environment_of_another_shape(tmp_path, capsys, monkeypatch):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    main(["config", "--env.task", "probe/echo"])
    (run_dir / "config.yaml").write_text(capsys.readouterr().out)
    (run_dir / "env.json").write_text(json.dumps({"spec": {"observation": {}, "action": {}}}))
    before = files(tmp_path)
    line = refusal(capsys, "train", "--env.task", "probe/echo", "--run-dir", run_dir, "--train.frames", "10")
    assert "env.json: env.task has other observations or actions than when the run began" in line
    assert {path: text for path, text in files(tmp_path).items() if path.name != "lock"} == before


@pytest.mark.parametrize("command", ["evaluate", "plot", "export", "dream"])
def test_what_is_no_run(tmp_path, capsys, command):
    (tmp_path / "empty").mkdir()
    before = files(tmp_path)
    for place in (tmp_path / "empty", tmp_path / "nowhere"):
        output = ["--output", tmp_path / "result"] if command != "evaluate" else []
        assert str(place) in refusal(capsys, command, place, *output)
    assert files(tmp_path) == before


def test_other_mistakes(tmp_path, capsys):
    assert "invalid choice: 'tran'" in refusal(capsys, "tran")
    assert "required: COMMAND" in refusal(capsys)
    assert "--epsodes: unknown flag; did you mean --episodes?" in refusal(
        capsys, "evaluate", tmp_path, "--epsodes", "3"
    )
    assert "--num-envs: unknown flag; there are --cache, " in refusal(capsys, "evaluate", tmp_path, "--num-envs", "3")
    assert "more: expected a flag" in refusal(capsys, "evaluate", tmp_path, "more")
    whole = "expected a whole number from"
    assert f"got '0', {whole} 1" in refusal(capsys, "evaluate", tmp_path, "--episodes", "0")
    assert f"got '-1', {whole} 0" in refusal(capsys, "evaluate", tmp_path, "--seed", "-1")
    assert f"got '1e30', {whole} 0" in refusal(capsys, "evaluate", tmp_path, "--checkpoint", "1e30")
    assert "expected numbers above 0" in refusal(capsys, "plot", tmp_path, "--minutes", "2,-1")
    assert "expected numbers above 0" in refusal(capsys, "plot", tmp_path, "--minutes", "2,inf")
    assert "no such task" in refusal(capsys, "check-env", "probe/nothing")
    assert "step() failed" in refusal(capsys, "check-env", "worlds:Raising", "--steps", "60")
    assert "unknown field" in refusal(capsys, "config", "--nothing", "1")
    assert "--size: got '3m', expected one of own, 1m" in refusal(capsys, "bench", "--size", "3m")
    assert "invalid choice: 'sound'" in refusal(capsys, "bench", "--observation", "proprio", "sound")
    assert "--train.batch_size: got 0, must be at least 1" in refusal(capsys, "bench", "--batch-size", "0")


def test_home_directories_in_every_path(tmp_path, monkeypatch, process, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.yaml").write_text("seed: 7\n")
    assert main(["config", "--config", "~/x.yaml"]) == 0
    assert "seed: 7 " in capsys.readouterr().out
    assert main(["train", "--config", "~/x.yaml", "--run-dir", "~/run", "--print"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert f"--run-dir={tmp_path}/run" in line
    assert "~nobody-at-all is nobody's" in refusal(capsys, "evaluate", "~nobody-at-all/run")
    for command in (
        ["evaluate", "~/none"],
        ["plot", "~/none"],
        ["compare", "~/none"],
        ["export", "~/none"],
        ["dream", "~/none"],
        ["import-reference", "~/none", "--out", "~/out"],
    ):
        assert str(tmp_path / "none") in refusal(capsys, *command)
    monkeypatch.setenv("XDG_CACHE_HOME", "~/cache")
    assert default_folder() == tmp_path / "cache" / "dreamer_jax" / "compiled"
    with pytest.raises(ConfigError, match=f"^{tmp_path}/none: no config.yaml there"):
        load("~/none")
    monkeypatch.chdir(tmp_path)
    state = train(
        tiny_run(train__frames=4),
        "~/here",
        agent=make_toy(tiny_run(), env_spec(tiny_run())),
        loggers=(),
        stream=io.StringIO(),
    )
    assert int(state.step) == 0 and (tmp_path / "here" / "config.yaml").exists() and not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    "task, word", [("gym/CartPole-v1", "state"), ("worlds:World", "state"), ("dmc/walker_walk", "image")]
)
def test_a_preset_goes_with_a_task_of_another_suite(task, word, tmp_path, capsys):
    command = ["--preset", "dreamer_v2", "--env.task", task]
    assert main(["config", *command]) == 0
    assert f"\n  observation: {word} " in capsys.readouterr().out
    if word == "state":
        assert main(["check-env", task, "--preset", "dreamer_v2", "--steps", "20"]) == 0
        assert "no problems found" in capsys.readouterr().out
        # By hand it is a mistake.
        assert "env.observation: got 'image'" in refusal(capsys, "train", *command, "--env.observation", "image")
        (tmp_path / "x.yaml").write_text("env: {observation: image}\n")
        assert "env.observation: got 'image'" in refusal(capsys, "train", *command, "--config", tmp_path / "x.yaml")


TOY = """
from trainer import make_toy
from dreamer_jax.__main__ import run
from dreamer_jax.runs import load as loading
loading.make_agent = make_toy
run()
"""


def test_under_json_stdout_is_ours_alone(process, tmp_path):
    """From Python and from C, here and in workers, and when all is over."""
    run_dir, log = tmp_path / "run", tmp_path / "log"
    settings = dict(env__task="worlds:Talkative", env__vectorization="async", train__frames=20)
    assert process.run(flags(tiny_run(**settings), run_dir), log) == 0
    command = [sys.executable, "-c", TOY, "evaluate", run_dir, "--episodes", "2", "--json"]
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n"] == 2 and done.stdout.count("\n") == 1
    for text in ("a world is born", "in C", "a step", "another way", "a world is forgotten"):
        assert text in done.stderr


def test_stdout_is_as_it_was_after_json(capfd):
    with answers_alone() as answers:
        print("a library")
        os.write(1, b"another\n")
        ctypes.CDLL(None).puts(b"in C")
        print("ours", file=answers)
    print("what comes then")
    printed = capfd.readouterr()
    assert printed.out == "ours\nwhat comes then\n"
    assert sorted(printed.err.splitlines()) == ["a library", "another", "in C"]


@pytest.mark.parametrize(
    "stdout, status, line",
    [
        ("/dev/full", 2, "dreamer-jax: No space left on device\n"),
        ("closed", 0, ""),
        ("nobody reads", 141, ""),
    ],
)
def test_stdout_that_cannot_be_written(stdout, status, line):
    command = [sys.executable, "-m", "dreamer_jax", "config"]
    if stdout == "closed":
        done = subprocess.run(["sh", "-c", f"{shlex.join(command)} >&-"], stderr=subprocess.PIPE, text=True)
    elif stdout == "nobody reads":
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
        os.close(writer)
    else:
        with open(stdout, "w") as file:
            done = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (status, line)


SHORT = dict(replay__sampling="episodes", replay__online=False, replay__capacity=2000, train__batch_length=20)


def test_a_run_that_learns_nothing_says_so_and_is_no_success(process, tmp_path):
    run_dir, log = tmp_path / "run", tmp_path / "log"
    command = flags(tiny_run(env__task="worlds:World", **SHORT), run_dir)
    assert process.run(command, log) == 2
    lines = log.read_text().splitlines()
    none = "none of 20 ended episodes has 20 records, the longest has 11"
    assert lines[-1] == f"dreamer-jax: {run_dir}: no update was made: {none}"
    assert lines[-2].startswith("240/240 frames (100 %) | ") and f"no updates yet: {none}" in lines[-2]
    assert [line for line in lines if line.startswith("windows of 20 records (train.batch_length) come from ended")]
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == ["0", "240"]
    assert len(read_jsonl(run_dir / "scores.jsonl")) == 20
    # It goes on, for ever so long.
    assert process.run([*command, "--train.frames", "400"], log) == 2
    assert "resumed at 240 frames" in log.read_text() and "none of 36 ended" in log.read_text().splitlines()[-1]


def test_a_run_that_learns_from_few_episodes_says_so(process, tmp_path):
    log = tmp_path / "log"
    assert (
        process.run(flags(tiny_run(env__task="worlds:RarelyLong", **SHORT, train__frames=600), tmp_path / "run"), log)
        == 0
    )
    few = "replay.sampling episodes: all updates draw from 2 of 20 ended episodes; the others have less than 20 records"
    assert log.read_text().count(f"\n{few} (train.batch_length)\n") == 1
    assert re.search(r"\n\d+ of at most 56 updates were made, they began after 106 agent steps\n", log.read_text())
    assert read_jsonl(tmp_path / "run" / "metrics.jsonl")[-1]["replay/drawn_episodes"] == 2 / 50


def test_runs_that_learn_together_and_nothing(process, tmp_path):
    log, parent = tmp_path / "log", tmp_path / "all"
    command = flags(tiny_run(env__task="worlds:World", **SHORT), parent)
    assert process.run([*command, "--seeds", "0..1"], log) == 2
    lines = [line for line in log.read_text().splitlines() if line.startswith("dreamer-jax: ")]
    each = [f"{parent}/worlds-World-dreamer_v3-1m-{seed}" for seed in (0, 1)]
    why = "no update was made: none of 20 ended episodes has 20 records, the longest has 11"
    assert lines[1:] == [
        f"dreamer-jax: {'; '.join(f'{run_dir}: {why}' for run_dir in each)}",
        f"dreamer-jax: 2 of 2 runs failed, the others are complete: {', '.join(each)}",
    ]
    for run_dir in each:
        assert sorted(path.name for path in (Path(run_dir) / "checkpoints").iterdir()) == ["0", "240"]


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_an_environment_that_fails(tmp_path, process, vectorization):
    run_dir, log = tmp_path / "run", tmp_path / "log"
    config = tiny_run(env__task="worlds:Raising", env__vectorization=vectorization, train__save_frames=40)
    assert process.run(flags(config, run_dir), log) == 2
    assert [line for line in log.read_text().splitlines() if line.startswith("dreamer-jax")] == [
        "dreamer-jax: environment 1 (worlds:Raising): step() failed in episode 3: ValueError: the arm came off"
    ]
    assert "Traceback" not in log.read_text()
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == [
        "40",
        "68",
    ]  # the second of the moment before


def test_a_loss_that_is_not_finite(tmp_path, process):
    run_dir, log = tmp_path / "run", tmp_path / "log"
    config = tiny_run(env__task="worlds:Overflowing", train__save_frames=40, decoder__symlog=False)
    command = flags(config, run_dir)
    assert process.run(command, log) == 2
    (failure,) = (run_dir / "failures").iterdir()
    number = int(failure.stem.removeprefix("update_"))
    line = log.read_text().splitlines()[-1]
    assert line == (
        f"dreamer-jax: update {number}: loss/total is NaN or infinite; the batch is in {failure}, "
        "its values were finite"
    )
    assert "Traceback" not in log.read_text()
    batch = np.load(failure)
    assert np.abs(batch["observation/observation"]).max() > 1e25
    shapes = {name: batch[name].shape for name in batch}
    assert shapes == {
        "observation/observation": (2, 4, 2),
        "prev_action/action": (2, 4, 1),
        **dict.fromkeys(["reward", "is_first", "is_last", "is_terminal"], (2, 4)),
        "context/deter": (2, 5),
        "context/stoch": (2, 2),
    }
    # The last good checkpoint stays, and from there it goes the same way.
    names = sorted(path.name for path in (run_dir / "checkpoints").iterdir())
    assert names == ["0", "40"]
    failure.unlink()
    assert process.run(command, log) == 2
    assert "resumed at 40 frames" in log.read_text()
    assert log.read_text().splitlines()[-1] == line
    assert np.load(failure)["observation/observation"].tobytes() == batch["observation/observation"].tobytes()


def test_help_fits_a_screen_and_loads_nothing(capsys):
    for command in ([], *([name] for name in COMMANDS)):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--help"])
        lines = capsys.readouterr().out.splitlines()
        assert ended.value.code == 0 and 5 <= len(lines) <= 56, command
    script = f"""
import contextlib, io, sys
from dreamer_jax.cli import main
for command in [[], *([name] for name in {COMMANDS})]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main([*command, "--help"])
with contextlib.redirect_stdout(io.StringIO()) as text:
    main(["config"])
assert "train_ratio" in text.getvalue()
print([name for name in {HEAVY} if name in sys.modules])
"""
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "[]\n"


def test_version_and_module(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    version = capsys.readouterr().out
    command = [sys.executable, "-m", "dreamer_jax", "--version"]
    assert version == subprocess.check_output(command, text=True) != ""


@pytest.mark.parametrize("name", ["", *sorted(path.name for path in CONFIGS.glob("*.yaml"))])
def test_config_feeds_back(tmp_path, capsys, name):
    chosen = ["--config", str(CONFIGS / name)] if name else []
    assert main(["config", *chosen, "--env.num_envs", "3", "--seed", "5"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "all.yaml").write_text(text)
    assert main(["config", "--config", str(tmp_path / "all.yaml")]) == 0
    assert capsys.readouterr().out == text
    again = load_config(files=[tmp_path / "all.yaml"])
    assert again == replace(load_config(files=chosen[1:]), {"env.num_envs": 3, "seed": 5})
    assert name or replace(again, {"env.num_envs": Config().env.num_envs, "seed": 0}) == load_config()


def test_check_env(capsys):
    assert main(["check-env", "probe/memory", "--steps", "60"]) == 0
    assert "no problems found" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["check-env", "T"], ["evaluate", "T"], ["import-reference", "T", "--out", "O"]])
def test_a_setting_may_stand_anywhere(words):
    setting, expected = ["--env.num_envs", "-3", "--env.grey=true"], ["--env.num_envs=-3", "--env.grey=true"]
    for place in (1, 2, len(words)):
        options, rest = make_parser().parse_known_args([*words[:place], *setting, *words[place:]])
        taken = [str(vars(options).get(name)) for name in ("task", "run_dir", "params")]
        assert "T" in {Path(word).name for word in taken}
        assert rest == expected
    assert pairs(rest) == [("env.num_envs", "-3"), ("env.grey", "true")]


def test_check_env_takes_the_task_of_the_settings(capsys):
    assert main(["check-env", "--env.task", "probe/memory", "--steps", "60"]) == 0
    assert "probe/memory: 60 random actions" in capsys.readouterr().out


# The whole pipeline, once.


@pytest.fixture(scope="module")
def run(process, tmp_path_factory):
    folder = tmp_path_factory.mktemp("debug")
    command = ["train", "--config", str(CONFIGS / "debug.yaml"), "--run-dir", str(folder / "run")]
    status = process.run([*command, "--train.frames", "1000"], folder / "log", toy=False)
    assert status == 0, (folder / "log").read_text()
    return folder / "run"


def test_what_a_run_writes(run):
    names = {path.name for path in run.iterdir() if "tfevents" not in path.name}
    assert names == {"config.yaml", "env.json", "lock", "metrics.jsonl", "scores.jsonl", "checkpoints", "replay"} | {
        "reports"
    }
    assert {path.name for path in (run / "reports").iterdir()} == {"000000500-signals.png", "000001000-signals.png"}
    assert load_config(files=[run / "config.yaml"]).train.frames == 1000
    facts = json.loads((run / "env.json").read_text())
    assert facts.keys() == {"versions", "device", "backend", "cores", "spec"}
    assert {"python", "jax", "dreamer-jax", "mujoco"} <= facts["versions"].keys()
    assert facts["spec"].keys() == {"observation", "action"}

    scores = read_jsonl(run / "scores.jsonl")
    fields = "task method seed env episode agent_steps env_frames score length".split()
    assert scores and all(list(line) == fields for line in scores)
    assert {line["length"] for line in scores} == {100}
    assert len(scores) == 2 * (500 // 101)

    lines = read_jsonl(run / "metrics.jsonl")
    seen = {name for line in lines for name in line}
    assert {
        "agent_steps", "env_frames", "grad_steps", "seconds", "episode/score", "episode/length", "eval/score",
        "eval/episodes", "fps/policy", "fps/train", "updates_per_second", "replay/ratio", "replay/windows",
        "train/loss/rew", "train/loss/con", "train/loss/dyn", "train/loss/rep", "train/loss/policy",
        "train/loss/value", "train/loss/repval", "train/loss/total", "train/kl", "train/opt/grad_norm",
        "held_out/kl", "held_out/active_latents", "held_out/elbo", "held_out/openloop_error/position/5",
    } <= seen  # fmt: skip
    assert all(isinstance(value, int | float) for line in lines for value in line.values())
    last = lines[-1]
    assert (last["agent_steps"], last["env_frames"]) == (1000, 1000)
    # 16 windows of 17 records in each of 2 environments, then an update every 4 steps.
    assert last["grad_steps"] == 1 + (1000 - 48) // 4
    assert last["replay/ratio"] == pytest.approx(last["grad_steps"] * 64 / 1000)
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)


def test_tensorboard_has_the_metrics(run):
    (path,) = run.glob("events.out.tfevents*")
    data, values = path.read_bytes(), {}  # all values by name and frame: the last step has two lines
    while data:
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        for value in event.summary.value:
            values.setdefault((value.tag, event.step), []).append(value.simple_value)
        data = data[16 + length :]
    for line in read_jsonl(run / "metrics.jsonl"):
        for name in ("train/loss/total", "episode/score", "eval/score"):
            if name in line:
                assert np.isclose(line[name], values[name, line["env_frames"]], rtol=1e-6).any()
    assert ("counters/grad_steps", 1000) in values


def test_evaluate(run, capsys):
    before = files(run)
    assert main(["evaluate", str(run), "--episodes", "3", "--mode", "mode", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["task"] == "dmc/cartpole_balance" and result["checkpoint"] == result["frames"] == 1000
    assert len(result["scores"]) == result["n"] == 3 and result["mode"] == "mode"
    assert result["mean"] == pytest.approx(np.mean(result["scores"]))
    assert all(0 < score <= 100 for score in result["scores"])
    assert files(run) == before
    line = refusal(capsys, "evaluate", run, "--checkpoint", "7")
    assert line == f"{run}: no complete checkpoint 7"


def test_evaluate_with_other_settings(run, capsys):
    before = files(run)
    assert main(["evaluate", str(run), "--episodes", "1", "--env.time_limit", "20", "--policy.evaluate", "mode"]) == 0
    out = capsys.readouterr().out
    assert "greedy actions" in out and float(re.search(r"mean\s+([\d.]+)", out)[1]) <= 20
    small = [
        "--planner.candidates",
        "4",
        "--planner.elites",
        "2",
        "--planner.iterations",
        "1",
        "--planner.horizon",
        "2",
    ]
    planner = ["--behavior.method", "planner", *small, "--env.time_limit", "10"]
    assert main(["evaluate", str(run), "--episodes", "1", *planner]) == 0
    assert "planned (cem) actions" in capsys.readouterr().out
    line = refusal(capsys, "evaluate", run, "--env.observation", "image")
    assert line == "--env.observation image: the environment then has other observations than the run's"
    line = refusal(capsys, "evaluate", run, "--env.time_limit", "20", "--rssm.hidden", "32")
    assert line.startswith("--rssm.hidden: got 32, but the parameters of ") and "were learnt with 16" in line
    assert refusal(capsys, "evaluate", run, "--size", "12m").startswith("--size: got 12m, a run has settings already")
    assert refusal(capsys, "evaluate", run, "--epsodes", "3").startswith(
        "--epsodes: unknown flag; did you mean --episodes?"
    )
    assert files(run) == before


def test_a_film_of_an_agent_that_sees_states(run, tmp_path, capsys):
    film = tmp_path / "films" / "agent.gif"
    assert main(["evaluate", str(run), "--episodes", "1", "--video", str(film)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(film)
    with Image.open(film) as image:
        assert image.n_frames == 101 and image.size == (192, 192 + 14)
        first = np.asarray(image.convert("RGB"), int)
        image.seek(60)
        moved = np.abs(np.asarray(image.convert("RGB"), int) - first)[:192].max(-1) > 30
    assert 20 < moved.sum() < 10_000  # the cart and the pole, not the room
    assert "expected a file that ends in .gif" in refusal(capsys, "evaluate", run, "--video", tmp_path / "agent.mp4")


def test_dream_of_states(run, tmp_path, capsys):
    before = files(run)
    command = ["dream", run, "--output", tmp_path, "--context", "3", "--length", "16"]
    assert main([str(word) for word in command]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("KL ") and "of 4 latents active" in lines[0]
    assert lines[1].split() == "prediction records ahead error of repeating of the mean".split()
    assert lines[2].split()[:2] == ["position", "1"] and lines[-1] == str(tmp_path / "recorded-signals.png")
    assert files(run) == before
    assert "recorded-signals.png: exists already" in refusal(capsys, *command)
    for length, words in ((600, "windows of 603 records and one before, but its replay holds 500"),
                          (450, "no window of 453 records in the held-out episodes")):  # fmt: skip
        assert words in refusal(capsys, *command, "--length", length, "--actions", "policy")


def test_plot(run, tmp_path, capsys):
    output = tmp_path / "figures" / "returns.png"
    assert main(["plot", str(run), "--output", str(output)]) == 0
    assert output.read_bytes().startswith(b"\x89PNG")


def test_export(run, tmp_path, capsys):
    assert main(["export", str(run), "--output", str(tmp_path / "episodes")]) == 0
    layout = Layout.read(run / "replay")
    stored, cells = {}, layout.cells(np.arange(layout.num_envs), np.arange(layout.rows)[:, None])
    for name, field in layout.fields.items():
        if not name.startswith("latents/"):
            values = np.fromfile(run / "replay" / file_name(name), field.dtype)
            stored[name] = values.reshape(-1, *field.shape)[cells]
    paths = sorted((tmp_path / "episodes").iterdir())
    assert f"{len(paths)} episodes in" in capsys.readouterr().out
    records = 0
    for path in paths:
        episode = np.load(path)
        env = int(episode["env"])
        rows = np.flatnonzero(stored["episode"][:, env] == episode["episode"])
        records += len(rows)
        assert episode["is_first"].tolist() == [True] + [False] * (len(rows) - 1)
        for name in stored.keys() - {"episode", "episode_step"}:
            np.testing.assert_array_equal(episode[name], stored[name][rows, env], err_msg=name)
    assert records == 1000
    assert "exists already" in refusal(capsys, "export", run, "--output", tmp_path / "episodes")


def test_checkpoints_of_a_run(run, capsys):
    _, state = load(run)
    assert int(state.step) == read_jsonl(run / "metrics.jsonl")[-1]["grad_steps"]
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert names == {"0", "1000"}
    _, start = load(run, 0)
    assert int(start.step) == 0
