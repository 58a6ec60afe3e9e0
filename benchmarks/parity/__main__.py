"""Compare our numbers with numbers recorded from the reference.

Reads recordings of whole training steps (every loss, every gradient, three updates, acting) and of single
parts, rebuilds the same thing from our parts, and prints for every recorded quantity the largest absolute
and relative difference, the tolerance, and whether it passes. Exit status 1 if a quantity differs by more than
its tolerance, 2 if a file can't be read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.pop(0)  # the folder itself: its modules would stand for those of the library
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dreamer_jax.config.schema import ConfigError
from parity import certificate
from parity.comparison import Row, compare


def main() -> int:
    parser = argparse.ArgumentParser(
        "parity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", metavar="FILE.npz")
    parser.add_argument("--json", action="store_true", help="one JSON object for each quantity")
    parser.add_argument(
        "--certificate", type=Path, metavar="FILE.md", help="also write a page, and its rows as FILE.csv"
    )
    parser.add_argument(
        "--keep-others", action="store_true", help="with it: recordings not named stay as they are there"
    )
    options = parser.parse_args()
    results: dict[str, list[Row]] = {}
    unreadable = False
    for path in options.files:
        try:
            results[Path(path).name] = compare(path)
        except ConfigError as error:
            print(f"parity: {error}", file=sys.stderr)
            unreadable = True
            continue
        report(Path(path).name, results[Path(path).name], as_json=options.json)
    if unreadable:
        return 2
    if options.certificate:
        if options.keep_others:
            before = certificate.known(options.certificate.with_suffix(".csv").read_text())
            results = before | {certificate.short(file): rows for file, rows in results.items()}
        options.certificate.write_text(certificate.markdown(results))
        options.certificate.with_suffix(".csv").write_text(certificate.table(results))
    return int(any(row.status == "FAIL" for rows in results.values() for row in rows))


def report(file: str, rows: list[Row], *, as_json: bool) -> None:
    """The rows on stdout, their count on stderr."""
    for one in rows:
        if as_json:
            print(json.dumps({"file": file, **one._asdict()}))
        elif one.status == "absent":
            print(f"absent  {one.name}: {one.note}")
        else:
            note = f"  ({one.note})" if one.note else ""
            print(f"{one.status}  {one.absolute:9.2e} {one.relative:9.2e} {one.tolerance:9.2e}  {one.name}{note}")
    counts: Mapping[str, int] = {status: sum(row.status == status for row in rows) for status in ("pass", "absent")}
    computed = len(rows) - counts["absent"]
    lacking = f", {counts['absent']} absent" if counts["absent"] else ""
    print(f"{file}: {counts['pass']} of {computed} quantities agree{lacking}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
