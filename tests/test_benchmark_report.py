"""The table that benchmarks/report.py makes of JSON lines."""

import json
import sys

import pytest
import report


def test_rows_and_cells(tmp_path, monkeypatch, capsys):
    lines = [{"size": "1m", "ms": 1234.56, "again": True, "n": 4096}, {"size": "12m", "ms": 0.123456, "n": 1}]
    path = tmp_path / "lines.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    monkeypatch.setattr(sys, "argv", ["report", str(path), "--columns", "size", "ms", "again", "n"])
    report.main()
    assert capsys.readouterr().out.splitlines() == [
        "| size | ms | again | n |",
        "| --- | --- | --- | --- |",
        "| 1m | 1,235 | yes | 4,096 |",
        "| 12m | 0.1235 |  | 1 |",
    ]


def test_unknown_columns_are_named(tmp_path, monkeypatch, capsys):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"size": "1m"}\n')
    monkeypatch.setattr(sys, "argv", ["report", str(path), "--columns", "sise"])
    with pytest.raises(SystemExit):
        report.main()
    assert "no line has sise; there are size" in capsys.readouterr().err
