"""Recordings of the reference: single parts, and whole trainings."""

import csv
from pathlib import Path

import jax
import numpy as np
import parity.certificate
import parity.comparison
import parity.training
import parity.units
import pytest

from dreamer_jax.config.loading import replace

FIXTURES = Path(__file__).parent / "fixtures"
UNITS = FIXTURES / "units.npz"
TRAINING = [FIXTURES / f"train-{name}.npz" for name in ("proprio_rc1", "proprio_continuous_noise", "mixed")]


@pytest.fixture(scope="module")
def units():
    return parity.comparison.compare(str(UNITS))


@pytest.fixture(scope="module", params=TRAINING, ids=lambda path: path.stem)
def training(request):
    """A recording and what we find for it, compiled as for users: quick programs round some metrics less well."""
    arrays, meta = parity.comparison.read(str(request.param))
    recording = parity.training.read(arrays, meta)
    return recording, parity.training.ours(recording)


def test_every_quantity_of_a_training_agrees(training):
    rows = parity.comparison.training_rows(*training)
    assert len(rows) > 800
    assert {row.status for row in rows} == {"pass"}, [row for row in rows if row.status != "pass"]
    excused = sum(int(mask.sum()) for mask in parity.training.uncertain(training[0].arrays, training[1]).values())
    assert excused < 5


def test_one_changed_element_of_a_training_fails(training):
    recording, found = training
    for name, value in recording.arrays.items():
        if name.split("/")[0] in ("init", "batch", "carry", "noise") or not value.any():
            continue
        changed = spoil(value, 2e-5 if "/state/" in name else 0)
        arrays = recording.arrays | {name: changed}
        (row,) = parity.comparison.training_rows(recording._replace(arrays=arrays), found, only=name)
        assert row.status == "FAIL", row


def test_a_residue_of_rounding_is_held_still(training):
    """Where nothing is recorded and we have something; all else follows its gradient."""
    recording, _ = training
    tensors = recording.code.tensors
    init = recording.code.state(parity.training.part(recording.arrays, "init")).params
    recorded = parity.training.part(recording.arrays, "grad")
    residue = jax.tree.map(lambda x: np.full_like(x, 1e-9), init)
    moving = parity.training.moving(recording, parity.training.Seen(None, {}, residue))
    config = replace(recording.config, {"optimizer.warmup": 0})
    optimizer = parity.training.still(moving, config.optimizer)
    step, _ = jax.jit(optimizer.update)(residue, optimizer.init(init), init)
    for name, moved in tensors({"params": step}).items():
        np.testing.assert_array_equal(moved != 0, recorded[name] != 0, name)
    nothing = parity.training.Seen(None, {}, jax.tree.map(np.zeros_like, init))
    assert all(x.all() for x in jax.tree.leaves(parity.training.moving(recording, nothing)))


def test_a_missing_quantity_of_a_training_fails(training):
    recording, found = training
    lacking = {name: x for name, x in found.items() if name != "fwd/tokens"}
    (row,) = parity.comparison.training_rows(recording, lacking, only="fwd/tokens")
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
        for name, x in parity.comparison.read(str(UNITS))[0].items()
        if name.startswith(f"{unit}/")
    }
    moved = arrays | {"pred": np.where(arrays["pred"] > 0, 0.5, 2.0).astype(np.float32) * arrays["pred"]}
    inputs = parity.units.Unit(moved)
    theirs, mine = arrays["loss_of_soft_target"], parity.units.ours(unit, inputs)["loss_of_soft_target"]
    np.testing.assert_allclose(
        parity.units.ours(unit, parity.units.Unit(arrays))["loss_of_soft_target"],
        theirs,
        rtol=parity.comparison.FORWARD,
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
    with pytest.raises(parity.comparison.ConfigError, match="novelty: not a unit"):
        parity.units.ours("novelty", parity.units.Unit({}))


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, x=np.zeros(3))
    for wrong in (path, tmp_path / "none.npz"):
        with pytest.raises(parity.comparison.ConfigError, match="not a recording"):
            parity.comparison.compare(str(wrong))


def test_the_certificate_says_what_failed_and_what_is_absent(units):
    failed = parity.comparison.Row("fwd/tokens", "FAIL", 0.5, 0.1, 1e-5, "shape (3,)")
    results = {"units-0.npz": units, "train.npz": [failed]}
    text = parity.certificate.markdown(results)
    assert "| train | 1 | 0 | 1 | 0 | `fwd/tokens` | 5.0e-01 | 1.0e-05 |" in text
    absent = [row for row in units if row.status == "absent"]
    assert f"| units | {len(units)} | {len(units) - len(absent)} | 0 | {len(absent)} | `" in text
    assert "| units | `layernorm` |" in text and "e3f0224" in text
    rows = list(csv.DictReader(parity.certificate.table(results).splitlines()))
    assert len(rows) == len(units) + 1 and rows[-1]["note"] == "shape (3,)"
    shares = [float(row["absolute"]) / float(row["tolerance"]) for row in rows[:-1] if row["status"] == "pass"]
    closest = max(units, key=lambda row: row.absolute / row.tolerance if row.tolerance else 0)
    assert f"| `{closest.name}` | {closest.absolute:.1e} |" in text
    assert closest.absolute / closest.tolerance == pytest.approx(max(shares), rel=2e-2)


def test_the_certificate_in_docs_covers_the_fixtures(units):
    docs = Path(__file__).parent.parent / "docs"
    text, rows = (docs / "parity.md").read_text(), list(csv.DictReader((docs / "parity.csv").open()))
    assert {row["status"] for row in rows} == {"pass", "absent"}
    assert {(row.name, row.status) for row in units} <= {(row["name"], row["status"]) for row in rows}
    for name in {row["recording"] for row in rows}:
        assert f"| {name} | {sum(row['recording'] == name for row in rows)} |" in text
    for difference in parity.certificate.DIFFERENCES:
        assert f"| {' | '.join(difference)} |" in text
