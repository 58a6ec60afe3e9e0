"""A Markdown table from JSON lines of the other programs, one row a line.

python benchmarks/train_step.py >> steps.jsonl
python benchmarks/report.py steps.jsonl --columns size update_ms compiled_memory_mb
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def read(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The objects of all files, in their order."""
    return [json.loads(line) for path in paths for line in path.read_text().splitlines() if line.strip()]


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
    options = parser.parse_args()
    rows = read(options.files)
    if unknown := set(options.columns) - {name for row in rows for name in row}:
        parser.error(f"no line has {', '.join(sorted(unknown))}; there are {', '.join(sorted(set().union(*rows)))}")
    print(table(rows, options.columns))


if __name__ == "__main__":
    main()
