"""A checkpoint is there whole or not at all, any damage to it is found, and an earlier one is there to go back to."""

import errno
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.facts import place
from dreamer_jax.types import TrainState

CARRY = {"latent": np.arange(6.0, dtype=np.float32).reshape(2, 3)}


def state(step):
    rng = np.random.default_rng(step)
    params = {"model": rng.normal(size=(200, 7)).astype(np.float32), "actor": rng.normal(size=3).astype(np.float32)}
    return TrainState(np.int32(step), params, params["actor"], (np.ones(2, np.float32),), {"low": np.float32(step)})


def arrays(step):
    return {"a/b": np.full(5, step), "empty": np.zeros((0, 3), np.uint8)}


def write(run_dir, *steps, keep=2):
    checkpoints = Checkpoints(run_dir, keep=keep)
    for step in steps:
        checkpoints.save(step, state(step), CARRY, arrays(step), {"agent_steps": step})
        assert checkpoints.completed(wait=True) == step
        assert checkpoints.completed() is None
    checkpoints.close()


def read(run_dir, step):
    checkpoints = Checkpoints(run_dir)
    try:
        return checkpoints.restore(step, state(0), CARRY)
    finally:
        checkpoints.close()


def assert_is(found, step):
    mine, carry, named, facts = found
    jax.tree.map(np.testing.assert_array_equal, mine, state(step))
    np.testing.assert_array_equal(carry["latent"], CARRY["latent"])
    assert named.keys() == arrays(0).keys() and facts == {"agent_steps": step}
    for name, value in arrays(step).items():
        assert named[name].tobytes() == value.tobytes() and named[name].shape == value.shape


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("two")
    write(run_dir, 4, 8, 12)
    return run_dir


def test_the_newest_are_kept(two):
    checkpoints = Checkpoints(two)
    assert checkpoints.steps() == [8, 12] and checkpoints.latest() == 12
    assert Checkpoints(two, keep=2).oldest() == 8 and Checkpoints(two, keep=1).oldest() == 12
    for step in (8, 12):
        assert_is(read(two, step), step)
        assert checkpoints.facts(step) == {"agent_steps": step}


def test_a_bit_of_any_file_is_found_and_the_other_checkpoint_named(two, tmp_path):
    rng, folder = np.random.default_rng(0), place(two, 12)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert len(files) > 20
    for name in files:
        run_dir = tmp_path / "run"
        shutil.rmtree(run_dir, ignore_errors=True)
        shutil.copytree(two, run_dir)
        path = place(run_dir, 12) / name
        data = bytearray(path.read_bytes())
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path.write_bytes(data)
        with pytest.raises(ConfigError) as error:
            read(run_dir, 12)
        assert str(error.value).startswith(f"{path}: damaged (")
        assert "; checkpoint 8 can be read: --checkpoint 8 where a command has it, or move che" in str(error.value)
        assert_is(read(run_dir, 8), 8)
    shutil.rmtree(place(run_dir, 8))
    with pytest.raises(ConfigError, match="; no other checkpoint can be read; plot and compare do without"):
        read(run_dir, 12)


def test_one_item_does_without_the_others(two, tmp_path):
    shutil.copytree(two, tmp_path / "run")
    for name in ("arrays", "carry"):
        shutil.rmtree(place(tmp_path / "run", 12) / name)
    checkpoints = Checkpoints(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, checkpoints.restore_state(12, state(0)), state(12))
    with pytest.raises(ConfigError, match=r"12/arrays/\S+: missing, though checksums.json knows it"):
        checkpoints.restore_arrays(12)


def test_checkpoints_of_older_versions_can_be_read(tmp_path):
    """They had no checksums, and Orbax gave them their names."""
    manager = ocp.CheckpointManager(tmp_path / "checkpoints", item_names=("train_state", "carry", "arrays", "facts"))
    items = {
        "train_state": ocp.args.StandardSave(jax.tree.map(np.asarray, state(3))),
        "carry": ocp.args.StandardSave(CARRY),
        "arrays": ocp.args.StandardSave({"a/b": arrays(3)["a/b"]}),
        "facts": ocp.args.JsonSave({"facts": {"agent_steps": 3}, "empty": {"empty": [[0, 3], "uint8"]}}),
    }
    manager.save(3, args=ocp.args.Composite(**items))
    manager.close()
    assert_is(read(tmp_path, 3), 3)
    write(tmp_path, 5)
    assert Checkpoints(tmp_path).steps() == [3, 5]
    for path in (place(tmp_path, 3) / "carry").glob("**/manifest.ocdbt"):
        path.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"3/carry: damaged, or of another agent .*; checkpoint 5 can be read"):
        read(tmp_path, 3)


def test_an_old_one_that_cannot_be_removed_is_no_failure(tmp_path, monkeypatch, caplog):
    write(tmp_path, 4)

    def refuse(folder, **_):
        raise PermissionError(errno.EACCES, "Permission denied", "d")

    monkeypatch.setattr("dreamer_jax.runs.checkpoint.shutil.rmtree", refuse)
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step in (8, 12):
        checkpoints.save(step, state(step), CARRY, arrays(step), {"agent_steps": step})
        assert checkpoints.completed(wait=True) == step
    checkpoints.close()
    assert checkpoints.steps() == [12]
    assert ["4.dropped" in caplog.messages[0], "8.dropped" in caplog.messages[1]] == [True, True]
    assert all("can't be removed (Permission denied)" in line for line in caplog.messages)


def test_what_could_not_be_written_is_not_there(two, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    shutil.copytree(two, run_dir)
    (run_dir / "checkpoints" / "16.tmp").mkdir()  # a kill cut it off
    (run_dir / "checkpoints" / "4.dropped.tmp").mkdir()
    checkpoints = Checkpoints(run_dir, keep=1)
    assert checkpoints.steps() == [8, 12] and len(list((run_dir / "checkpoints").iterdir())) == 4

    def full(folder, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    monkeypatch.setattr("dreamer_jax.runs.checkpoint.write_facts", full)
    checkpoints.save(16, state(16), CARRY, arrays(16), {})
    with pytest.raises(OSError, match="No space left"):
        checkpoints.completed(wait=True)
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == ["12", "8"]
    monkeypatch.undo()
    checkpoints.save(16, state(16), CARRY, arrays(16), {"agent_steps": 16})
    assert checkpoints.completed(wait=True) == 16 and checkpoints.steps() == [16]
    checkpoints.drop_after(12)
    assert checkpoints.steps() == [] and not list((run_dir / "checkpoints").iterdir())
    checkpoints.close()
