"""Recordings of DreamerV1 and DreamerV2: parts of them, and whole updates."""

import csv
from pathlib import Path

import numpy as np
import parity.comparison
import parity.family
import pytest
from parity import certificate
from parity.comparison import Row

FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("v[12]-*.npz"))


@pytest.fixture(scope="module", params=FIXTURES, ids=lambda path: path.stem)
def recording(request):
    arrays, meta = parity.comparison.read(str(request.param))
    return arrays, parity.comparison.family_rows(arrays, meta)


def test_every_quantity_agrees_or_says_why_it_is_absent(recording):
    _, rows = recording
    assert not [row for row in rows if row.status == "FAIL"]
    absent = [row for row in rows if row.status == "absent"]
    assert all(len(row.note.split("; ", 1)[1]) > 20 and not row.note.startswith("0 ") for row in absent)
    assert sum(row.status == "pass" for row in rows) > 6


def test_the_certificate_in_docs_covers_the_fixtures(recording, request):
    rows = csv.DictReader((Path(__file__).parent.parent / "docs" / "parity.csv").open())
    name = request.node.callspec.params["recording"].stem
    there = {(row["name"], row["status"]) for row in rows if row["recording"] == name}
    assert {(row.name, row.status) for row in recording[1]} == there


def test_one_changed_element_fails(recording):
    arrays, rows = recording
    for row in rows:
        if row.status == "absent" or not arrays[row.name].any():
            continue
        theirs = arrays[row.name].astype(np.float64)
        largest = np.unravel_index(np.abs(theirs).argmax(), theirs.shape)
        change = max(abs(0.01 * theirs[largest]), 0.01 * np.abs(theirs).mean())
        if row.tolerance > 0.3 * change:  # a parameter that hardly moves, a log-probability next to the edge
            change = 4 * row.tolerance
        changed = theirs.copy()
        changed[largest] += change
        # Ours lies within ``absolute`` of theirs, so that it can't be within the tolerance of the changed one.
        limits = parity.family.tolerance({**arrays, row.name: changed}, row.name)
        scale = 1.0 if limits.absolute else np.abs(changed[np.isfinite(changed)]).max()
        assert change > max(limits.limit * scale, limits.floor) + row.absolute, row


def test_a_missing_quantity_fails(monkeypatch):
    path = str(next(path for path in FIXTURES if path.stem == "v1-returns"))
    plain = parity.family.ours

    def without(*inputs):
        return {name: x for name, x in plain(*inputs).items() if not name.endswith("/ret")}

    monkeypatch.setattr(parity.family, "ours", without)
    failed = [row for row in parity.comparison.compare(path) if row.status == "FAIL"]
    assert failed and all(row.note == "not computed" for row in failed)


def test_a_part_that_nobody_knows_is_refused():
    with pytest.raises(parity.comparison.ConfigError, match="danijar/dreamerv2 novelty: not a part"):
        parity.family.ours({}, {"repo": "danijar/dreamerv2", "part": "novelty"})


def test_infinities_agree_with_themselves_only():
    theirs = np.array([1.0, -np.inf])
    assert parity.comparison.row("x", theirs, theirs, 1e-5).status == "pass"
    for wrong in ([1.0, 5.0], [1.0, np.inf], [-np.inf, -np.inf], [1.0, np.nan]):
        assert parity.comparison.row("x", theirs, np.array(wrong), 1e-5).status == "FAIL"


def test_a_table_is_read_as_it_was_written():
    rows = [Row("a/x", "pass", 1.234e-6, 0.5, 1e-5), Row("a/y", "absent", note='why, and "how"')]
    text = certificate.table({"v2-some-0.npz": rows, "other.npz": [Row("z", "FAIL", np.inf, 1.0, 0.0)]})
    known = certificate.known(text)
    assert list(known) == ["v2-some", "other"] and known["v2-some"] == [rows[0]._replace(absolute=1.23e-6), rows[1]]
    assert certificate.table(known) == text
