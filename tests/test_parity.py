"""A whole recorded training of the reference: forward pass, gradients, three updates, acting."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
RECORDING = ROOT / "tests" / "fixtures" / "train-proprio_rc1.npz"


@pytest.fixture(scope="module")
def parity():
    spec = importlib.util.spec_from_file_location("parity", ROOT / "benchmarks" / "parity.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recording(parity):
    return parity.read(str(RECORDING))


@pytest.fixture(scope="module")
def found(parity, recording):
    return parity.ours(recording)


def outputs(recording):
    return [name for name in recording.arrays if name.split("/")[0] not in ("init", "batch", "carry", "noise")]


def test_every_recorded_quantity_agrees(parity, recording, found):
    rows = [parity.row(name, recording.arrays[name], found.get(name)) for name in outputs(recording)]
    assert len(rows) > 800
    assert not [row for row in rows if not row.passed]


def test_one_changed_element_fails(parity, recording, found):
    for name in outputs(recording):
        changed = recording.arrays[name].astype(np.float64)
        if not changed.any():
            continue
        largest = np.unravel_index(np.abs(changed).argmax(), changed.shape)
        changed[largest] += 2e-5 if "/state/" in name or "/update/" in name else 0.01 * changed[largest]
        assert not parity.row(name, changed, found[name]).passed, name


def test_other_files_are_refused(parity, tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, x=np.zeros(3))
    for wrong in (path, tmp_path / "none.npz"):
        with pytest.raises(parity.ConfigError, match="not a recording"):
            parity.read(str(wrong))
