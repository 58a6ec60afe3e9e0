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


def test_runs_of_one_program_are_one_row_and_its_speed_is_relative(tmp_path, monkeypatch, capsys):
    def run(program, observation, ms, *each):
        numbers = {"update_ms": ms, "update_ms_each": each} if each else {"update_ms": ms}
        return {"program": program, "observation": observation, "size": "1m", **numbers}

    lines = [run("theirs", "a", 600.0), run("ours", "a", 200.0, 190, 230), run("ours", "a", 400.0, 380, 410)]
    lines += [run("ours", "a", 300.0, 290, 310), run("ours", "b", 7.0)]
    path = tmp_path / "lines.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    columns = ["program", "observation", "runs", "update_ms", "spread_ms", "speed"]
    arguments = ["--columns", *columns, "--merge", "program", "observation", "--baseline", "theirs"]
    arguments += ["--figure", str(tmp_path / "speeds.png")]
    monkeypatch.setattr(sys, "argv", ["report", str(path), *arguments])
    report.main()
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| theirs | a | 1 | 600 |  | 1 |",
        "| ours | a | 3 | 300 | 220 | 2 |",
        "| ours | b | 1 | 7 |  |  |",
    ]
    from matplotlib.image import imread

    height, width, _ = imread(tmp_path / "speeds.png").shape
    assert width > 2 * height
    monkeypatch.setattr(sys, "argv", ["report", str(path), *arguments[:-4], "--figure", "x.png"])
    with pytest.raises(SystemExit):
        report.main()
    assert "--baseline PROGRAM, which is missing" in capsys.readouterr().err
