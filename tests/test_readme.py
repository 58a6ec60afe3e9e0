"""What the README shows is run as it stands there, only smaller."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dreamer_jax.cli.parser import make_parser
from dreamer_jax.cli.settings import pairs, settings
from dreamer_jax.config.presets import PRESETS, SIZES
from dreamer_jax.config.schema import FIELDS

ROOT = Path(__file__).parent.parent
TEXT = re.sub(r"<!--.*?-->", "", (ROOT / "README.md").read_text(), flags=re.DOTALL)
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
PROSE = re.sub(r"^```.*?^```$", "", TEXT, flags=re.DOTALL | re.MULTILINE)
ENVIRONMENT, USE, LOOP = [body for language, body in BLOCKS if language == "python"]
COMMANDS = [
    shlex.split(line, comments=True)
    for language, body in BLOCKS
    if language == "bash"
    for line in body.splitlines()
    if line.startswith("dreamer-jax")
]
SMALL = ["--config", str(ROOT / "configs" / "debug.yaml"), "--train.frames", "400", "--logger", "none"]
SMALL += ["--train.eval_frames", "0", "--train.save_frames", "0"]


def run(arguments, directory):
    """A process in ``directory``, as a reader would start it; compiled quickly, because speed does not matter."""
    flags = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def command(arguments, directory):
    return run(["-m", "dreamer_jax", *arguments], directory)


def named(name):
    """The arguments of every command of that name."""
    return [words[1:] for words in COMMANDS if words[1] == name]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory in which the README's own environment was written down and trained on."""
    directory = tmp_path_factory.mktemp("readme")
    (directory / "point.py").write_text(ENVIRONMENT)
    (train,) = [words for words in named("train") if "point:Point" in words]
    command([*train, *SMALL], directory)
    return directory


def lines(code):
    return sum(bool(line.strip()) for line in code.splitlines())


def test_the_examples_are_as_short_as_they_claim():
    assert lines(ENVIRONMENT) <= 15 and lines(USE) <= 5 and lines(LOOP) <= 25
    assert max(map(len, (ENVIRONMENT + USE + LOOP).splitlines())) <= 120


def test_own_environment(place):
    (check,) = [words for words in named("check-env") if "point:Point" in words]
    assert "no problems found" in command(check, place)
    assert len((place / "runs/point/scores.jsonl").read_text().splitlines()) >= 4


def test_using_a_trained_agent(place):
    ending = "\nprint(action['action'].shape, action['action'].dtype, carry.latent.deter.shape)"
    assert run(["-c", USE + ending], place) == "(1, 1) float32 (1, 64)\n"


def test_own_training_loop(tmp_path):
    code = LOOP
    for shown, small in {
        "configs/quickstart.yaml": str(ROOT / "configs" / "debug.yaml"),
        "range(10_000)": "range(60)",
        "windows >= 128": "windows >= 20",
    }.items():
        assert code.count(shown) == 1
        code = code.replace(shown, small)
    *scores, end = run(["-c", f"{code}\nprint(int(state.step), replay.rows.stop)"], tmp_path).splitlines()
    assert end == "25 60"  # a window takes 17 records: the 20th is there with the 36th record
    assert scores and all(re.fullmatch(r"step \d+ score \d+\.0", line) for line in scores)


def test_evaluating_plotting_and_exporting(place):
    (evaluate,), (plot,), (export,) = named("evaluate"), named("plot"), named("export")
    for words in (evaluate, plot, export):
        words[words.index("runs/walker")] = "runs/point"
    evaluate[evaluate.index("--episodes") + 1] = "2"
    del evaluate[evaluate.index("--video") :]  # it has no render()
    assert "point:Point after" in command(evaluate, place)
    command(plot, place)
    assert (place / plot[plot.index("--output") + 1]).stat().st_size > 1000
    assert "episodes in episodes" in command(export, place)
    assert list((place / "episodes").glob("*.npz"))


def test_check_env_and_config(tmp_path):
    for words in named("check-env"):
        if "point:Point" not in words:
            assert "no problems found" in command(words, tmp_path)
    for words in named("config"):
        assert "train_ratio: 512" in command(words, tmp_path)


@pytest.mark.parametrize("words", named("train") + named("config"), ids=" ".join)
def test_settings_of_commands_exist(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    options, rest = make_parser().parse_known_args(words)
    settings(options, pairs(rest))


def test_every_command_is_shown_and_every_shown_one_exists():
    (commands,) = [action for action in make_parser()._actions if action.dest == "command"]
    assert {words[1] for words in COMMANDS} == set(commands.choices)
    quoted = re.findall(r"`dreamer-jax ([\w-]+)", PROSE)
    assert set(quoted) <= set(commands.choices)


def test_settings_presets_and_sizes_exist():
    for quoted in re.findall(r"`(--[^`]*)`", PROSE):
        name = quoted.split()[0].removeprefix("--")
        assert name in FIELDS or any(f"--{name}" in words for words in map(_flags, _subparsers())), quoted
    sections = {name.partition(".")[0] for name in FIELDS if "." in name}
    for name in re.findall(r"`(\w+\.\w+)`", PROSE):
        section, _, field = name.partition(".")
        assert name in FIELDS or section not in sections or field == "json", name
    assert all(f"`{name}`" in PROSE for name in PRESETS) and all(re.search(rf"\b{size}\b", PROSE) for size in SIZES)


def _subparsers():
    (commands,) = [action for action in make_parser()._actions if action.dest == "command"]
    return commands.choices.values()


def _flags(parser):
    return [flag for action in parser._actions for flag in action.option_strings]


def test_every_path_exists():
    paths = re.findall(r"`((?:dreamer_jax|configs|scripts|tests|benchmarks|docs)/[\w./-]*)`", PROSE)
    paths += re.findall(r"\]\(([\w./-]+)\)", PROSE)
    shell = [word for language, body in BLOCKS if language == "bash" for word in shlex.split(body, comments=True)]
    paths += [word for word in shell if word.startswith(("scripts/", "configs/"))]
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_map_of_the_code_is_complete():
    (text,) = [body for language, body in BLOCKS if language == "text"]
    found, folders = set(), []
    for line in text.splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders = [*folders[:depth], name]
        path = "".join(folders)
        assert (ROOT / path).exists(), path
        found.add(path)
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "dreamer_jax").rglob("*.py")}
    assert {path for path in modules if not path.endswith(("__init__.py", "__main__.py"))} <= found
