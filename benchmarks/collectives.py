"""What crosses between devices, read from a compiled program's text."""

from __future__ import annotations

import re
from collections import defaultdict

KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
# No quotes before the name: behind them are remarks, which may say anything.
_CALL = re.compile(rf'= ([^"\n]*?) ({"|".join(KINDS)})(-start|-done)?\(')
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,<=]*)\]")


def collectives(text: str) -> dict[str, dict[str, int]]:
    """By kind: how many there are in an HLO text, and the bytes of their results on one device.

    All results of a tuple count. Of a pair that starts and ends apart only the end does, whose result is the whole's.
    What stands in the body of a loop counts once.
    """
    found: dict[str, dict[str, int]] = defaultdict(lambda: {"count": 0, "bytes": 0})
    for result, kind, half in _CALL.findall(text):
        if half != "-start":
            found[kind]["count"] += 1
            found[kind]["bytes"] += result_bytes(result)
    return dict(found)


def result_bytes(result: str) -> int:
    """Of an HLO type, an array or a tuple of them: ``f32[2,3]{1,0}`` is 24."""
    total = 0
    for dtype, bits, shape in _ARRAY.findall(result):
        size = 1
        for axis in re.findall(r"\d+", shape):
            size *= int(axis)
        total += -(-size * (8 if dtype == "pred" else int(bits)) // 8)
    return total
