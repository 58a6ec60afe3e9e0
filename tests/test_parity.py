"""Recordings of the reference: single parts, and whole trainings."""

from pathlib import Path

import numpy as np
import parity
import parity_certificate
import parity_training
import parity_units
import pytest

FIXTURES = Path(__file__).parent / "fixtures"
UNITS = FIXTURES / "units.npz"
TRAINING = [FIXTURES / f"train-{name}.npz" for name in ("proprio_rc1", "proprio_continuous_noise", "mixed")]


@pytest.fixture(scope="module")
def units():
    return parity.compare(str(UNITS))


@pytest.fixture(scope="module", params=TRAINING, ids=lambda path: path.stem)
def training(request):
    """A recording and what we find for it, compiled as for users: quick programs round some metrics less well."""
    arrays, meta = parity.read(str(request.param))
    recording = parity_training.read(arrays, meta)
    return recording, parity_training.ours(recording)


def test_every_quantity_of_a_training_agrees(training):
    rows = parity.training_rows(*training)
    assert len(rows) > 800
    assert {row.status for row in rows} == {"pass"}, [row for row in rows if row.status != "pass"]
    excused = sum(int(mask.sum()) for mask in parity_training.uncertain(training[0].arrays, training[1]).values())
    assert excused < 5


def test_one_changed_element_of_a_training_fails(training):
    recording, found = training
    for name, value in recording.arrays.items():
        if name.split("/")[0] in ("init", "batch", "carry", "noise") or not value.any():
            continue
        changed = spoil(value, 2e-5 if "/state/" in name else 0)
        arrays = recording.arrays | {name: changed}
        (row,) = parity.training_rows(recording._replace(arrays=arrays), found, only=name)
        assert row.status == "FAIL", row


def test_a_missing_quantity_of_a_training_fails(training):
    recording, found = training
    (row,) = parity.training_rows(recording, {k: x for k, x in found.items() if k != "fwd/tokens"}, only="fwd/tokens")
    assert row.status == "FAIL" and row.note == "not computed"


def test_every_part_agrees(units):
    assert not [row for row in units if row.status == "FAIL"]
    assert len(units) > 700
    absent = {row.name: row.note for row in units if row.status == "absent"}
    assert all(len(note.split("; ", 1)[1]) > 20 for note in absent.values())
    assert len(absent) == 7 and not absent.keys() & {"rssm_cont", "twohot255", "encdec_both", "conv_k5_s2"}


@pytest.mark.parametrize("unit", ["twohot5", "twohot255"])
def test_a_soft_target_is_made_of_the_recorded_predictions(unit):
    """Which are rounded otherwise than ours: of five bins of up to 4.85e8 by tens."""
    arrays = {
        name.removeprefix(f"{unit}/"): x
        for name, x in parity.read(str(UNITS))[0].items()
        if name.startswith(f"{unit}/")
    }
    moved = arrays | {"pred": np.where(arrays["pred"] > 0, 0.5, 2.0).astype(np.float32) * arrays["pred"]}
    inputs = parity_units.Unit(moved)
    theirs, mine = arrays["loss_of_soft_target"], parity_units.ours(unit, inputs)["loss_of_soft_target"]
    np.testing.assert_allclose(
        parity_units.ours(unit, parity_units.Unit(arrays))["loss_of_soft_target"], theirs, rtol=parity.FORWARD
    )
    assert np.abs(mine - theirs).max() > 1e-3 * np.abs(theirs).max() and "pred" not in inputs.read


def test_one_changed_element_of_a_part_fails(units):
    with np.load(UNITS) as file:
        arrays = {name: file[name] for name in file.files}
    for row in units:
        theirs = arrays.get(row.name)
        if row.status == "absent" or not theirs.any() or row.name.endswith("grad_plain_sum"):
            continue
        change = np.abs(spoil(theirs, 2e-5 if row.name.startswith("opt/") and "/param/" in row.name else 0) - theirs)
        # Ours lies within ``absolute`` of theirs, so that it can't be within the tolerance of the changed one.
        assert change.max() > 1.011 * row.tolerance + row.absolute, row


def spoil(value, step):
    """One element changed: the largest by 1 %, or by ``step``."""
    changed = value.astype(np.float64)
    largest = np.unravel_index(np.abs(changed).argmax(), changed.shape)
    changed[largest] += step or 0.01 * changed[largest]
    return changed


def test_a_unit_that_nobody_knows_is_an_error():
    with pytest.raises(parity.ConfigError, match="novelty: not a unit"):
        parity_units.ours("novelty", parity_units.Unit({}))


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, x=np.zeros(3))
    for wrong in (path, tmp_path / "none.npz"):
        with pytest.raises(parity.ConfigError, match="not a recording"):
            parity.compare(str(wrong))


def test_the_certificate_says_what_failed_and_what_is_absent(units):
    failed = parity.Row("fwd/tokens", "FAIL", 0.5, 0.1, 1e-5, "shape (3,)")
    text = parity_certificate.markdown({"units.npz": units, "train.npz": [failed]})
    assert "| train.npz | 1 | 0 | 1 | 0 |" in text
    assert "| `fwd/tokens` | 1 | 5.0e-01 | 1.0e-01 | 1.0e-05 | FAIL (shape (3,)) |" in text
    assert "| `layernorm` |" in text and "e3f0224" in text
    quantities, both = (text.split(f"\n## {part}")[1].count("\n| `") for part in ("Every quantity", "Absent"))
    assert quantities == 1 + sum(row.status != "absent" for row in units)
    assert both == quantities + sum(row.status == "absent" for row in units)


def test_the_certificate_in_docs_covers_the_fixtures(units):
    text = (Path(__file__).parent.parent / "docs" / "parity.md").read_text()
    assert "FAIL" not in text
    for row in units:
        assert f"| `{row.name}` |" in text
    for difference in parity_certificate.DIFFERENCES:
        assert f"| {' | '.join(difference)} |" in text
