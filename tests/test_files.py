"""Arrays that anyone may have sent are read, or refused in one line, whatever the file holds."""

import io
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamer_jax.files import read_npz, replace_file

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b/c": np.zeros((0, 2), np.int8), "d": np.bool_(True)}


def saved(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


WHOLE = saved(**ARRAYS)


def npy():
    file = io.BytesIO()
    np.save(file, np.ones(3))
    return file.getvalue()


def test_what_was_saved_comes_back(tmp_path):
    (tmp_path / "x.npz").write_bytes(WHOLE)
    found = read_npz(tmp_path / "x.npz")
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


@pytest.mark.parametrize("content", [b"", b"x", npy(), saved(a=np.array([None])), WHOLE[:100], b"\x80\x04N."])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ValueError, match="^.+$"):
        read_npz(tmp_path / "x.npz")


def test_a_reason_is_one_line(monkeypatch):
    def load(*_, **__):
        raise RuntimeError("this\nand that")

    monkeypatch.setattr(np, "load", load)
    with pytest.raises(ValueError, match="^this$"):
        read_npz("x.npz")


def test_places_that_are_no_files_are_refused(tmp_path):
    for place in (tmp_path, tmp_path / "absent", tmp_path / "x.npz" / "below"):
        with pytest.raises(ValueError, match="^.+$"):
            read_npz(place)


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=4), st.integers(0, len(WHOLE)))
def test_damaged_files_are_read_or_refused(tmp_path_factory, changes, length):
    content = bytearray(WHOLE)
    for at, byte in changes:
        content[at] = byte
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(content[:length])
    try:
        assert isinstance(read_npz(path), dict)
    except ValueError as error:
        assert str(error) and "\n" not in str(error)


def test_a_link_and_a_device_stay_what_they_are(tmp_path):
    (tmp_path / "link").symlink_to("file")
    replace_file(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "text"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    replace_file(tmp_path / "pipe", "text")
    assert os.read(reader, 10) == b"text" and (tmp_path / "pipe").is_fifo()
    os.close(reader)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "pipe"]
