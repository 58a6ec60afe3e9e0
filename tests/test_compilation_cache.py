"""The second start of the same program compiles nothing, and a folder that can't be used ends no run."""

import collections
import gc
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import pytest
from trainer import flags, tiny_run

from dreamer_jax.cli import main
from dreamer_jax.devices import compilation_cache as program_cache
from dreamer_jax.devices.compilation_cache import default_folder, keep_programs

HERE = Path(__file__).parent
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
SETTINGS = [
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
]

KEY = {"stage", "convert_element_type", "_threefry_seed"}
"""What ``jax.random.key`` of a number compiles, the second one before JAX 0.9; evaluation has one."""

START = """
import gc, json, sys
import jax
programs, events = [], []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event.removeprefix("/jax/compilation_cache/")))
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **facts: programs.append(facts["fun_name"]) if event.endswith("backend_compile_duration") else None
)
from dreamer_jax.cli import main
statuses, thresholds = [], []
for arguments in json.loads(sys.argv[1]):
    statuses.append(main(arguments))
    thresholds.append(gc.get_threshold()[0])
counts = {name: events.count(name) for name in ("cache_misses", "cache_hits")}
collector = {"frozen": gc.get_freeze_count(), "thresholds": thresholds}
print(json.dumps({"statuses": statuses, "programs": programs, **collector, **counts}))
"""


def start(commands, cache_home, seed):
    """Commands in a process of their own, as if typed: what was compiled or loaded, by name, and how often."""
    environment = {name: value for name, value in os.environ.items() if name.lower() not in SETTINGS}
    environment |= {"XLA_FLAGS": QUICK, "XDG_CACHE_HOME": str(cache_home), "PYTHONHASHSEED": str(seed)}
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent)])
    command = [sys.executable, "-c", START, json.dumps(commands)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    """What two starts did, each from nothing: train, go on, evaluate. The folder of the programs is new."""
    folder, found = tmp_path_factory.mktemp("starts"), []
    (folder / "file").write_text("mine")
    changes = dict(train__eval_frames=40, train__eval_episodes=2, train__report_frames=40)
    for number in (1, 2):
        run_dir = folder / f"run{number}"
        train = flags(tiny_run(train__frames=80, **changes), run_dir)
        commands = [train, [*train, "--train.frames", "120"]]
        commands += [["evaluate", str(run_dir), "--episodes", "2", "--cache", str(folder / "file" / "below")]]
        found.append(start(commands, folder / "cache", number))
    return folder, found


def test_a_second_start_compiles_nothing(starts):
    folder, ((first, _), (second, _)) = starts
    assert first["cache_misses"] > 5 and first["statuses"] == second["statuses"] == [0, 0, 0]
    assert len(list((folder / "cache/dreamer_jax/compiled").iterdir())) == first["cache_misses"]
    assert second["cache_misses"] == 0
    # Everything was loaded: nothing was compiled past the cache either.
    assert second["cache_hits"] == len(second["programs"]) == len(first["programs"])


def test_a_start_compiles_nothing_in_small_pieces(starts):
    """Sums and copies of their own, each compiled for each shape, would add up."""
    _, ((first, _), _) = starts
    count = collections.Counter(name.removeprefix("jit(").removesuffix(")") for name in first["programs"])
    own = {"make_keys", "init", "reset", "updates", "copied", "policy", "report", "decoder_target"}
    assert own <= set(count) <= own | KEY
    assert count["init"] == count["make_keys"] == 1 and count["copied"] == count["updates"] == 2  # a run, and once more


def test_imports_are_not_collected_again_and_again(starts):
    for found, _ in starts[1]:
        assert found["frozen"] > 100_000
        assert found["thresholds"] == [700, 700, 100_000]  # training and going on collect as usual, evaluation is short


def test_what_compiling_leaves_is_let_go_of_and_later_garbage_is_found_as_usual():
    """In a process of its own: what is frozen stays so."""
    code = """
import gc, weakref
from dreamer_jax.devices.compilation_cache import collect_as_usual, collect_rarely
class Cycle: pass
usual = gc.get_threshold()
collect_rarely(); collect_rarely()
assert gc.get_threshold()[0] == 100_000
cycle = Cycle(); cycle.own = cycle; left = weakref.ref(cycle); del cycle
before, kept = gc.get_freeze_count(), [[] for _ in range(1000)]
collect_as_usual()
assert left() is None and gc.get_threshold() == usual and gc.get_freeze_count() > before
gc.set_threshold(1, 2, 3); gc.unfreeze()
collect_as_usual()  # nobody asked for less
assert gc.get_threshold() == (1, 2, 3) and gc.get_freeze_count() == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=HERE.parent)


def test_a_folder_that_cannot_be_used_ends_no_run(starts):
    folder, found = starts
    for _, printed in found:
        assert f"dreamer-jax: compiled programs are not kept in {folder}/file/below: Not a directory" in printed
    assert (folder / "file").read_text() == "mine"


@pytest.fixture
def unset(monkeypatch):
    """As if nobody had chosen anything; put back afterwards."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    for name in SETTINGS:
        monkeypatch.delenv(name.upper(), raising=False)
    jax.config.update("jax_compilation_cache_dir", None)
    yield monkeypatch
    for name, value in before.items():
        jax.config.update(name, value)


def settings():
    return [getattr(jax.config, name) for name in SETTINGS]


def test_everything_is_kept_unless_the_environment_says_otherwise(unset, tmp_path):
    assert keep_programs(tmp_path / "a" / "b") == "" and (tmp_path / "a" / "b").is_dir()
    assert settings() == [str(tmp_path / "a" / "b"), 0, -1]
    unset.setenv("JAX_COMPILATION_CACHE_DIR", "theirs")  # JAX has read it already
    assert keep_programs(tmp_path / "c") == "" and not (tmp_path / "c").exists()
    assert settings() == [str(tmp_path / "a" / "b"), 0, -1]


def test_what_cannot_be_kept_changes_nothing(unset, tmp_path):
    (tmp_path / "file").write_text("")
    before = settings()
    assert keep_programs(tmp_path / "file") == (
        f"compiled programs are not kept in {tmp_path}/file: File exists; --cache DIR names another folder"
    )
    assert "~ stands for no directory here" in keep_programs(Path("~/.cache"))
    unset.setattr(os, "access", lambda *_: False)
    assert "it is not writable" in keep_programs(tmp_path)
    assert settings() == before


def test_where_programs_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_folder() == tmp_path / ".cache/dreamer_jax/compiled"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says its specification
    assert default_folder() == tmp_path / ".cache/dreamer_jax/compiled"
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/mine")
    assert default_folder() == Path("/var/mine/dreamer_jax/compiled")


def test_commands_keep_where_they_are_told(monkeypatch, tmp_path, capsys):
    folders = []
    monkeypatch.setattr(program_cache, "keep_programs", lambda folder: folders.append(folder) or "")
    for command in ("evaluate", "dream"):
        for chosen in ([], ["--cache", "mine"], ["--cache", "none"]):
            assert main([command, str(tmp_path / "nowhere"), *chosen]) == 2
    for chosen in ([], ["--cache", "mine"], ["--cache", "none"]):
        main(["train", "--env.task", "probe/nothing", *chosen])
        main(["import-reference", "nothing.npz", "--out", str(tmp_path / "run"), *chosen])
    mine = Path("mine").absolute()  # environments may change the working directory
    assert folders == 2 * [default_folder(), mine] + 2 * [default_folder()] + 2 * [mine]
    capsys.readouterr()


def test_several_threads_may_have_compiled_at_once(monkeypatch):
    """Runs that learn together: one is still letting go when the next comes."""
    usual, meeting, failed = gc.get_threshold(), threading.Barrier(2), []
    monkeypatch.setattr(program_cache, "_usual", usual)
    monkeypatch.setattr(gc, "freeze", lambda: time.sleep(0.2))

    def run():
        meeting.wait()
        try:
            program_cache.collect_as_usual()
        except TypeError as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and gc.get_threshold() == usual
