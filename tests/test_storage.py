"""The files of a ring: where records lie in them, what the kernel is told, and what memory they take."""

import gc
import json
import mmap
import re
import tracemalloc
from collections import Counter
from itertools import chain, pairwise
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.replay import Replay, storage
from dreamer_jax.replay.storage import Layout, Store, runs
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import TimeStep

FIELDS = {"observation/x": ArraySpec((3,), "float32"), "latents/deter": ArraySpec((700,), "bfloat16")}
LINUX = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="asks the kernel of Linux")


@given(st.integers(1, 20), st.integers(1, 4), st.integers(1, 8), st.integers(0, 50))
def test_every_record_has_its_cell_and_a_stream_lies_together(rows, num_envs, block, start):
    layout = Layout(rows, num_envs, FIELDS, block)
    row = np.arange(start, start + rows)
    cells = layout.cells(np.arange(num_envs)[:, None], row)
    assert len(np.unique(cells)) == cells.size
    assert cells.min() >= 0 and cells.max() < layout.blocks * num_envs * block
    assert (layout.cells(0, row + rows) == cells[0]).all()
    for stream in cells:
        within = (row % rows)[1:] % block != 0  # the next record of the same block
        assert (np.diff(stream)[within] == 1).all()
    assert layout.total_bytes == layout.blocks * num_envs * block * (12 + 1400)


@given(st.lists(st.integers(0, 9)))
def test_runs_are_numbers_that_follow_upon_each_other(numbers):
    cells = np.array(numbers, np.int64)
    pieces = [cells[start:stop].tolist() for start, stop in runs(cells)]
    assert list(chain(*pieces)) == numbers
    assert all(piece == list(range(piece[0], piece[0] + len(piece))) for piece in pieces)
    assert all(left[-1] + 1 != right[0] for left, right in pairwise(pieces))


class Asked(list):
    """Stands for a mapping, and keeps what the kernel was told to read."""

    def madvise(self, option, start, length):
        assert option == mmap.MADV_WILLNEED and start % mmap.PAGESIZE == 0
        self.append((start, start + length))


@pytest.mark.parametrize("names", [[], ["latents/deter"]])
def test_what_is_expected_is_read_and_little_else(tmp_path, names):
    store = Store.create(tmp_path, Layout(64, 4, FIELDS, 16))
    store._maps = {name: Asked() for name in FIELDS}
    cells = np.array([0, 1, 2, 40, 41, 255])
    store.expect(cells, names)
    for name, field in FIELDS.items():
        asked, size = store._maps[name], field.nbytes
        if names and name not in names:
            assert not asked
            continue
        assert len(asked) == 3
        wanted = {byte for cell in cells.tolist() for byte in (cell * size, (cell + 1) * size - 1)}
        assert all(any(start <= byte < stop for start, stop in asked) for byte in wanted)
        assert sum(stop - start for start, stop in asked) < len(cells) * size + 3 * mmap.PAGESIZE


def test_rows_about_to_be_replaced_are_expected_a_block_ahead(tmp_path):
    store, told = Store.create(tmp_path, Layout(10, 2, FIELDS, 4)), []
    store.expect = lambda cells: told.append((cells[0], cells[-1]))
    for slot in range(10):
        store.expect_next_block(slot)
    assert told == [(8, 15), (16, 23), (0, 7)]


def test_only_a_ring_that_has_wrapped_expects_rows(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(Store, "expect_next_block", lambda store, slot: told.append(slot))
    filled(tmp_path, 2, 10)
    assert told == [0, 1]


SPEC = EnvSpec({"x": ArraySpec((1,), "float32")}, {"a": ArraySpec((1,), "float32")})
LATENTS = {"deter": ArraySpec((8,), "bfloat16"), "stoch": ArraySpec((4,), "uint8")}
LENGTH, BATCH = 3, 4


def filled(directory, num_envs, rows):
    """A full ring after a checkpoint, with everything that can be done to one done once."""
    ring = dict(num_envs=num_envs, capacity=rows * num_envs, batch_length=LENGTH, online=True, seed=0)
    replay = Replay(directory, SPEC, LATENTS, **ring)
    flags, numbers = np.zeros(num_envs, bool), np.zeros((num_envs, 1), np.float32)
    latents = {"deter": np.zeros((num_envs, 8), ml_dtypes.bfloat16), "stoch": np.zeros((num_envs, 4), np.uint8)}
    record = TimeStep({"x": numbers}, numbers[:, 0], flags, flags, flags), {"a": numbers}, latents
    for row in range(rows + 2):
        if row == rows - 1:
            replay.snapshot(1)
        replay.append(*record)
    _, index = replay.sample(BATCH, 0)
    replay.write_back(index, {name: np.zeros((BATCH, LENGTH, *x.shape[1:]), x.dtype) for name, x in latents.items()})
    return replay


def test_memory_is_a_bit_for_each_record_and_row(tmp_path):
    held, counts, num_envs = [], (2000, 2_000_000), 500
    filled(tmp_path / "first", num_envs, 10).close()  # what Python and numpy keep for themselves
    for records in counts:
        gc.collect()
        tracemalloc.start()
        replay = filled(tmp_path / str(records), num_envs, records // num_envs)
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        replay.close()
    bits = (counts[1] - counts[0]) * (1 + 1 / num_envs)
    assert held[1] - held[0] == pytest.approx(bits / 8, abs=20_000)


def anonymous():
    """Bytes of this process that are of no file."""
    (kilobytes,) = re.findall(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(kilobytes)


@LINUX
def test_what_is_stored_is_memory_of_files_alone(tmp_path):
    filled(tmp_path / "first", 500, 10).close()
    gc.collect()
    before = anonymous()
    replay = filled(tmp_path / "ring", 500, 4000)
    assert replay.capacity == 2_000_000
    assert storage.allocated_bytes(tmp_path / "ring", replay._store.layout) > 60e6
    assert anonymous() - before < 6e6


@LINUX
def test_a_page_fault_brings_no_neighbours(tmp_path):
    """Larger pieces of the page cache would be written to the disk whole for each record that changes in them."""
    replay = filled(tmp_path, 2, 10)
    mappings = re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())
    mine = [text for text in mappings if str(tmp_path) in text]
    assert len(mine) == len(replay.fields) == 10
    assert all(" rr" in text.split("VmFlags:")[1] for text in mine)


def test_a_ring_of_an_older_version_is_refused(tmp_path):
    Store.create(tmp_path, Layout(4, 2, FIELDS))
    path = tmp_path / "layout.json"
    old = {name: value for name, value in json.loads(path.read_text()).items() if name != "crc32"}
    path.write_text(json.dumps(old | {"format": 1}))
    with pytest.raises(ConfigError, match=r"layout\.json: replay of format 1, this version reads format 2"):
        Layout.read(tmp_path)


def test_the_blocks_of_a_ring_stay_as_they_are(tmp_path, monkeypatch):
    made = Layout(7, 2, FIELDS, 3)
    Store.create(tmp_path, made)
    monkeypatch.setattr(storage, "BLOCK", 5)
    assert Layout.read(tmp_path) == made != Layout(7, 2, FIELDS)
    assert made.difference(Layout(7, 2, FIELDS)) == ""
    sizes = Counter(path.stat().st_size for path in tmp_path.glob("*.bin"))
    assert sizes == Counter([9 * 2 * 12, 9 * 2 * 1400])
