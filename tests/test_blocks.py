"""A byte that changes in a stored record while nobody looks is found, and no record is read before that."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_journal import ENVS, LENGTH, ROWS, make, new_latents, new_record

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.replay import blocks as blocks_module
from dreamer_jax.replay import open_read_only, storage
from dreamer_jax.replay.storage import file_name


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(storage, "BLOCK", 3)


def ring(directory, appended):
    """One with so many rows, its state at snapshot 10, and random numbers to go on with."""
    rng, replay = np.random.default_rng(0), make(directory)
    for row in range(appended):
        replay.append(*new_record(rng))
        if row > LENGTH and row % 2:
            replay.write_back(*new_latents(rng, row + 1))
        if row % 4 == 3:
            replay.snapshot(row // 4)
    return replay, replay.snapshot(10), rng


def flip(directory, field, place):
    path = directory / file_name(field)
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


def held(replay, field):
    """Bytes of a field's file that belong to records."""
    layout, spec = replay._store.layout, replay.fields[field]
    cells = np.concatenate([layout.cells(env, np.asarray(replay.rows)) for env in range(ENVS)])
    return {cell * spec.nbytes + byte for cell in cells.tolist() for byte in range(spec.nbytes)}


@settings(max_examples=60)
@given(st.integers(1, 2 * ROWS + 1), st.booleans(), st.data())
def test_a_byte_of_a_record_is_found_and_one_of_none_is_not(tmp_path_factory, appended, later, data):
    directory = tmp_path_factory.mktemp("ring")
    replay, state, rng = ring(directory, appended)
    field = data.draw(st.sampled_from(sorted(replay.fields)))
    inside = held(replay, field)
    for _ in range(2 * later):  # is undone
        replay.append(*new_record(rng))
    replay.close()
    size = (directory / file_name(field)).stat().st_size
    place = data.draw(st.integers(0, size - 1))
    flip(directory, field, place)
    again = open_read_only(directory, state, 10)
    undone = later and appended + 2 > ROWS  # what was overwritten comes from the log, whatever the file has now
    if place in inside and not undone:
        with pytest.raises(ConfigError, match=rf"{file_name(field)}: damaged: block \d+ is not what it was with check"):
            again.compare()
    elif place not in inside:
        assert again.compare()


def test_a_block_is_compared_before_it_is_used_for_the_first_time(tmp_path):
    replay, state, rng = ring(tmp_path, ROWS - 1)
    replay.close()
    flip(tmp_path, "reward", np.dtype(np.float32).itemsize * replay._store.layout.cells(0, np.array([1])).item())

    def opened():
        again = make(tmp_path)
        again.restore(state, 10)
        return again

    again = opened()
    assert again.column("reward", 0, range(3, 6)).shape == (3,)  # another block
    assert again.column("episode", 0, range(0, 6)).shape == (6,)  # another field
    with pytest.raises(ConfigError, match=r"reward\.bin: damaged: block 0"):
        again.column("reward", 1, range(0, 1))
    with pytest.raises(ConfigError, match=r"reward\.bin: damaged: block 0"):
        [again.sample(2, counter) for counter in range(9)]
    again.append(*new_record(rng))  # the last block
    with pytest.raises(ConfigError, match=r"reward\.bin: damaged: block 0"):
        again.append(*new_record(rng))  # the ring wraps: the sum of a block would be forgotten with a part of it
    again = opened()
    again.write_back(np.array([[0, 0]]), {name: x[:1] for name, x in new_latents(rng, ROWS)[1].items()})  # latents
    again.snapshot(11)
    again = opened()
    trusted = make(tmp_path)
    trusted.restore(state, 10, compared=True)
    assert trusted.sample(2, 0)[0].reward.shape == (2, LENGTH)


def test_latents_that_change_too_much_have_no_checksums(tmp_path, monkeypatch):
    replay, state, rng = ring(tmp_path, ROWS)
    names = list(replay.fields)
    latents = [names.index(name) for name in names if name.startswith("latents/")]
    assert (state["checksums"] >= 0).all()
    monkeypatch.setattr(blocks_module, "AT_ONCE", 50)  # bytes
    replay.write_back(*new_latents(rng, ROWS))
    state = replay.snapshot(11)
    unknown = state["checksums"] < 0
    assert unknown[latents].any() and not np.delete(unknown, latents, 0).any()
    replay.close()
    again = open_read_only(tmp_path, state, 11)
    assert not again.compare()  # more than 50 bytes: it would take long
    assert again.column("latents/deter", 0, again.rows).dtype == ml_dtypes.bfloat16
    monkeypatch.setattr(blocks_module, "AT_ONCE", 1 << 20)
    again = make(tmp_path)
    again.restore(state, 11)
    assert (again.snapshot(12)["checksums"] >= 0).all()


def test_only_what_changed_is_read_again(tmp_path, monkeypatch):
    replay, state, rng = ring(tmp_path, ROWS)
    read, checksum = [], blocks_module.Blocks._checksum
    monkeypatch.setattr(
        blocks_module.Blocks, "_checksum", lambda self, *where: read.append(where[1:]) or checksum(self, *where)
    )
    assert (replay.snapshot(11)["checksums"] == state["checksums"]).all() and read == []
    replay.append(*new_record(rng))  # into slot 0
    assert len(replay.snapshot(12)["checksums"]) == len(read) == len(replay.fields)
    assert {block for _, block in read} == {0}
    read.clear()
    index = np.array([[1, 2]])  # rows 3 to 5: block 1
    replay.write_back(index, {name: x[:1] for name, x in new_latents(rng, ROWS)[1].items()})
    replay.snapshot(13)
    names = list(replay.fields)
    assert sorted(read) == [(names.index(f"latents/{name}"), 1) for name in ("deter", "stoch")]


def test_a_ring_of_an_older_version_has_no_checksums(tmp_path):
    replay, state, _ = ring(tmp_path, ROWS)
    replay.close()
    flip(tmp_path, "reward", 0)
    del state["checksums"]
    again = make(tmp_path)
    again.restore(state, 10)
    assert again.compare()
    assert (again.snapshot(11)["checksums"] >= 0).all()
