"""A Markdown table from JSON lines of the other programs, one row a line.

python benchmarks/train_step.py >> steps.jsonl
python benchmarks/report.py steps.jsonl --columns size update_ms compiled_memory_mb

``--baseline PROGRAM`` adds ``speed``: the ``update_ms`` of that program's line for the same observation and size,
divided by this line's. Lines of several runs of one program are one row: medians of their numbers, and as
``spread_ms`` the slowest update less the quickest of all. ``--figure PATH.png`` draws the speeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def read(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The objects of all files, in their order."""
    return [json.loads(line) for path in paths for line in path.read_text().splitlines() if line.strip()]


def merged(rows: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> list[dict[str, Any]]:
    """One row for all that agree in ``fields``."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) for name in fields), []).append(row)
    found = []
    for group in groups.values():
        numbers = {name for row in group for name, value in row.items() if type(value) in (int, float)}
        values = {name: [row[name] for row in group if row.get(name) is not None] for name in numbers - {*fields}}
        medians = {name: statistics.median(column) for name, column in values.items() if column}
        found.append({**group[0], **medians, "runs": len(group), "spread_ms": spread(group)})
    return found


def spread(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """The slowest update less the quickest."""
    times = [value for row in rows for value in row.get("update_ms_each", ())]
    return max(times) - min(times) if times else None


def with_speed(rows: Sequence[Mapping[str, Any]], program: str) -> list[dict[str, Any]]:
    """Each row with ``speed``: how many of its updates fit into one of ``program``."""
    by_case = {case(row): row["update_ms"] for row in rows if row.get("program") == program}
    return [{**row, "speed": by_case[case(row)] / row["update_ms"] if case(row) in by_case else None} for row in rows]


def case(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row.get("observation"), row.get("size")


def figure(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Bars of ``speed``: a group for each case, a colour for each program and number of devices."""
    from matplotlib.figure import Figure

    cases = list(dict.fromkeys(case(row) for row in rows))
    kinds = list(dict.fromkeys(label(row) for row in rows))
    picture = Figure(figsize=(9, 3.6), layout="constrained")
    axes = picture.subplots()
    for place, kind in enumerate(kinds):
        bars = [(cases.index(case(row)), row["speed"]) for row in rows if label(row) == kind and row["speed"]]
        left = [index + (place - (len(kinds) - 1) / 2) * 0.8 / len(kinds) for index, _ in bars]
        drawn = axes.bar(left, [speed for _, speed in bars], 0.8 / len(kinds), label=kind)
        axes.bar_label(drawn, fmt="%.2g", fontsize=7)
    axes.set_xticks(range(len(cases)), [" ".join(map(str, name)) for name in cases])
    axes.set_ylabel("updates in the time of one\nof the baseline (more is better)")
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    picture.savefig(path, dpi=110)


def label(row: Mapping[str, Any]) -> str:
    devices = row.get("devices") or 1
    return f"{row.get('program')}, {devices} devices" if devices > 1 else str(row.get("program"))


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Cells are empty where a line has no such field; numbers keep four digits."""
    lines = [columns, ["---"] * len(columns)]
    lines += [[cell(row.get(name)) for name in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        case int():
            return f"{value:,}"
    return str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--columns", nargs="+", required=True, metavar="FIELD")
    parser.add_argument("--merge", nargs="+", metavar="FIELD", help="lines that agree in these are one row")
    parser.add_argument("--baseline", metavar="PROGRAM", help="add `speed`, relative to this program's lines")
    parser.add_argument("--figure", type=Path, metavar="PATH.png", help="with --baseline: draw the speeds")
    options = parser.parse_args()
    if options.figure and not options.baseline:
        parser.error("--figure: draws the speeds of --baseline PROGRAM, which is missing")
    rows = read(options.files)
    if options.merge:
        rows = merged(rows, options.merge)
    if options.baseline:
        rows = with_speed(rows, options.baseline)
    if unknown := set(options.columns) - {name for row in rows for name in row}:
        parser.error(f"no line has {', '.join(sorted(unknown))}; there are {', '.join(sorted(set().union(*rows)))}")
    print(table(rows, options.columns))
    if options.figure:
        figure(rows, options.figure)


if __name__ == "__main__":
    main()
