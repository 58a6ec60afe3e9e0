"""Any command line and any settings file: status 0, or one line and status 2, and then nothing was written.

Whatever takes long is cut off where validation ends (``Validated``).
"""

import contextlib
import io
import shutil
from itertools import chain, cycle, islice
from pathlib import Path

import jax
import pytest
from hostile import (
    COMMANDS,
    FILES,
    HOSTILE,
    OF_KIND,
    PLACES,
    SPECIAL,
    command_lines,
    is_path,
    many,
    positional,
)
from hypothesis import event, given
from trainer import flags, make_toy, tiny_run

from dreamer_jax import doctor
from dreamer_jax.analysis import predictions
from dreamer_jax.cli import launch, main
from dreamer_jax.config.loading import load
from dreamer_jax.config.schema import FIELDS, flatten
from dreamer_jax.datasets import collect
from dreamer_jax.devices import compilation_cache
from dreamer_jax.profiling import bench
from dreamer_jax.reporting import dashboard
from dreamer_jax.runs import load as loading
from dreamer_jax.training import evaluate, multi_run, plan, train


class Validated(BaseException):
    """A command has found nothing to complain of; what would follow takes long."""


@pytest.fixture(scope="module")
def run_dir(process, tmp_path_factory):
    """Of a run of the toy."""
    place = tmp_path_factory.mktemp("lines") / "run"
    assert process.run(flags(tiny_run(train__frames=40, train__report_frames=0), place), place.with_suffix(".log")) == 0
    return place


@pytest.fixture(scope="module")
def cut_off():
    """Commands end where the long part begins."""

    def validated(*args, **options):
        raise Validated

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))  # worlds:...
        patch.setattr(train, "open_run", validated)
        patch.setattr(train, "make_agent", make_toy)
        patch.setattr(loading, "make_agent", make_toy)
        patch.setattr(multi_run, "train_together", validated)
        patch.setattr(collect, "_play", validated)
        patch.setattr(evaluate, "evaluate", validated)
        patch.setattr(evaluate, "film_episode", validated)
        patch.setattr(predictions, "split_window", validated)
        patch.setattr(bench, "update_speed", validated)
        patch.setattr(plan, "_measure", validated)
        patch.setattr(launch, "launch", validated)
        patch.setattr(doctor, "examine", validated)
        patch.setattr(dashboard.Dashboard, "serve_forever", validated)
        patch.setattr(jax.distributed, "initialize", lambda *args, **options: validated())
        patch.setattr(compilation_cache, "collect_rarely", lambda: None)
        yield


@pytest.fixture(scope="module")
def place(run_dir, cut_off, tmp_path_factory):
    """Makes a folder with a few things in it, for each example anew."""
    parent = tmp_path_factory.mktemp("places")

    def fresh(file, with_run):
        folder = parent / "here"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "empty").mkdir(parents=True)
        (folder / "x.yaml").write_bytes(file)
        (folder / "file").write_text("mine")
        (folder / "loop").symlink_to("loop")
        if with_run:
            shutil.copytree(run_dir, folder / "run")
        return folder

    return fresh


def tree(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def outcome(arguments, folder):
    """Status, stdout and stderr of a command in ``folder``; the status is None if it was cut off."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HOME", str(folder))
            try:
                status = main(arguments)
            except SystemExit as ended:
                status = ended.code
            except Validated:
                status = None
        out.flush()
        err.flush()
    return status, out.buffer.getvalue().decode(errors="surrogateescape"), err.buffer.getvalue().decode()


def check_line(place, arguments, file):
    folder = place(file, any("run" in word.split("/") for word in arguments))
    before = tree(folder)
    status, out, err = outcome(arguments, folder)
    assert "Traceback" not in err
    if status == 2:
        assert err.startswith("dreamer-jax: ") and err.count("\n") == 1 and err.endswith("\n"), err
        assert out == "" and len(err) < 10_000
        assert tree(folder) == before
    else:
        assert status in (0, None), err
    assert not (folder / "pwned").exists() and not (folder / "~").exists()
    assert all(Path(device).is_char_device() for device in ("/dev/null", "/dev/full")), arguments
    if status == 0 and arguments[0] == "config" and not {"--help", "--diff"} & {*arguments}:
        (folder / "again.yaml").write_text(out, encoding="utf-8", newline="")
        assert outcome(["config", "--config", "again.yaml"], folder)[:2] == (0, out)
        for name, value in flatten(load(files=[folder / "again.yaml"])).items():
            _, _, low, high = FIELDS[name]
            assert not isinstance(value, int | float) or isinstance(value, bool) or low <= value <= high, (name, value)
    return status


@pytest.mark.parametrize("kind", OF_KIND)
def test_every_hostile_word_as_a_value_of_every_kind(place, kind):
    for word in chain(*HOSTILE):
        check_line(place, ["config", f"--{OF_KIND[kind][-1]}={word}"], b"")


@pytest.mark.parametrize("flag", ["preset", "config", "size"])
def test_dashes_are_no_value_of_a_flag_of_argparse(place, flag):
    assert check_line(place, ["config", f"--{flag}=--"], b"") == 2


def test_hostile_places_for_every_path(place):
    """In place of the run directory or a file of a command that is otherwise as it should be, two for each."""
    words = cycle(PLACES)
    for name, command in COMMANDS.items():
        arguments = {action.dest: "run" if action.type else "probe/echo" for action in positional(command)}
        for action in (action for action in command._actions if action.dest == "config" or is_path(action)):
            for word in islice(words, 2):
                flag = [*action.option_strings[-1:], word]
                given = arguments if flag[1:] else arguments | {action.dest: word}
                check_line(place, [name, *given.values(), *(flag if flag[1:] else [])], b"")


def test_a_file_without_end_is_no_settings_file(place):
    assert check_line(place, ["config", "--config", "/dev/full"], b"") == 2  # which zeros come out of
    assert check_line(place, ["config", "--config", "x.yaml"], b"# " + b"a" * 2**21) == 2


def test_every_special_file(place):
    for file in SPECIAL:
        check_line(place, ["config", "--config", "x.yaml"], file)


def any_line(place, arguments, file):
    status = check_line(place, arguments, file)
    event(f"{arguments[0] if arguments and arguments[0] in COMMANDS else 'no command'}: {status}")


CASES = given(arguments=command_lines(), file=FILES)


@CASES
@many(100)
def test_any_command_line(place, arguments, file):
    any_line(place, arguments, file)


@pytest.mark.slow
@CASES
@many(10_000)
def test_many_command_lines(place, arguments, file):
    any_line(place, arguments, file)
