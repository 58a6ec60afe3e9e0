"""Any change of a file or of sealed text is found, and text of an older version is still read."""

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamer_jax.checksums import file_checksum, seal, unseal

DATA = {"rows": 7, "names": ["ä", "b"], "number": 0.1, "fields": {"x": {"shape": [2, 3], "classes": None}}}


def test_sealed_data_comes_back():
    assert unseal(seal(DATA)) == DATA
    assert unseal(json.dumps(DATA)) == DATA  # of an older version
    with pytest.raises(ValueError, match="not a JSON object"):
        unseal("[1]")


@given(st.integers(0, len(seal(DATA).encode()) - 1), st.integers(0, 7))
def test_a_flipped_bit_changes_nothing_or_is_found(at, bit):
    text = bytearray(seal(DATA).encode())
    text[at] ^= 1 << bit
    try:
        found = unseal(bytes(text))
    except ValueError:
        return
    found = {name: value for name, value in found.items() if name in DATA}  # the name of the checksum itself
    assert found == DATA


@pytest.mark.parametrize("size", [0, 5, 1 << 20, (1 << 20) + 3, None])
def test_checksum_of_a_file_or_of_its_beginning(tmp_path, size):
    path, data = tmp_path / "file", bytes(range(256)) * (1 << 13)
    path.write_bytes(data)
    assert file_checksum(path, size) == (len(data[:size]), zlib.crc32(data[:size]))
    assert file_checksum(path, len(data) + 9) == (len(data), zlib.crc32(data))
