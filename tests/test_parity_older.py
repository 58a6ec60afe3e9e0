"""Recordings of DreamerV3's code of June 2023 and July 2024: whole training steps."""

import csv
import re
from pathlib import Path

import numpy as np
import parity.comparison
import parity.older
import parity.training
import pytest
from agents import quickly

from dreamer_jax.config.schema import ConfigError

ROOT = Path(__file__).parent.parent
FIXTURES = [
    ROOT / "tests" / "fixtures" / f"train-{name}.npz" for name in ("2023_proprio_continuous_noise", "2024_proprio_rc1")
]


@pytest.fixture(scope="module", params=FIXTURES, ids=lambda path: path.stem)
def training(request):
    """A recording and what we find for it, by programs that are compiled quickly."""
    arrays, meta = parity.comparison.read(str(request.param))
    with quickly():
        recording = parity.older.read(arrays, meta)
        return meta, recording, parity.training.ours(recording)


def test_every_quantity_agrees(training):
    meta, recording, found = training
    rows = parity.comparison.training_rows(recording, found)
    assert len(rows) > 800 and meta["revision"] in recording.config.preset
    assert {row.status for row in rows} == {"pass"}, [row for row in rows if row.status != "pass"]
    assert not [row for row in rows if row.note]  # elements that may have either sign


def test_nothing_that_is_recorded_is_left_out(training):
    _, recording, found = training
    names = [row.name for row in parity.comparison.training_rows(recording, found)]
    inputs = re.compile(r"(init|batch|carry|noise)/")
    assert names == [name for name in recording.arrays if not inputs.match(name)]
    kinds = {"/".join(name.split("/")[:3:2]) if name.startswith("warm") else name.split("/")[0] for name in names}
    assert kinds >= {"fwd", "grad", "gradnorm", "policy", "warm0/metrics", "warm0/update", "warm0/state"}


def test_one_changed_element_fails(training):
    _, recording, found = training
    for name, value in recording.arrays.items():
        if name.split("/")[0] in ("init", "batch", "carry", "noise") or not value.any():
            continue
        changed = value.astype(np.float64)
        largest = np.unravel_index(np.abs(changed).argmax(), changed.shape)
        # A metric's own size may be far below that of what it is a number of, a state's change is a step.
        source = parity.training.terms(name.split("/", 3)[-1], found) if "/metrics/" in name else 0
        changed[largest] += 2e-5 if "/state/" in name else 0.01 * max(abs(changed[largest]), source)
        arrays = recording.arrays | {name: changed}
        (row,) = parity.comparison.training_rows(recording._replace(arrays=arrays), found, only=name)
        assert row.status == "FAIL", row


def test_the_certificate_in_docs_covers_the_fixtures(training):
    meta, recording, found = training
    rows = list(csv.DictReader((ROOT / "docs" / "parity.csv").open()))
    there = {row["name"] for row in rows if row["recording"].startswith(f"train-{meta['revision']}_")}
    assert {row.name for row in parity.comparison.training_rows(recording, found)} <= there


def test_what_no_preset_computes_is_refused():
    arrays, meta = parity.comparison.read(str(FIXTURES[1]))
    other = meta["agent_config"] | {"ac_grads": "all"}
    with pytest.raises(ValueError, match="ac_grads"):
        parity.older.read(arrays, meta | {"agent_config": other})
    less = {name: value for name, value in arrays.items() if name != "init/con/h0/bias"}
    with pytest.raises(ValueError, match="params/model/cont/mlp/hidden_0/dense/bias"):
        parity.older.read(less, meta)
    strange = arrays | {"init/novelty/kernel": np.zeros((2, 2), np.float32)}
    with pytest.raises(ValueError, match="novelty/kernel"):
        parity.older.read(strange, meta)


def test_a_file_of_another_revision_is_refused(tmp_path):
    path = tmp_path / "train.npz"
    np.savez(path, meta=np.array(['{"agent_config": {}, "revision": "2025", "obs_space": {}, "act_space": {}}']))
    with pytest.raises(ConfigError, match="not a recording of training .*2025"):
        parity.comparison.compare(str(path))
