"""Checksums by which damage is told from content: of files, and of JSON that carries its own."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20
_OWN = "crc32"


def file_checksum(path: Path, size: int | None = None) -> tuple[int, int]:
    """Bytes of a file, or of its first ``size`` as far as they are there, and their CRC-32.

    Raises:
      OSError: it can't be read.
    """
    count = checksum = 0
    with open(path, "rb") as file:
        while piece := file.read(_CHUNK if size is None else min(_CHUNK, size - count)):
            checksum, count = zlib.crc32(piece, checksum), count + len(piece)
    return count, checksum


def seal(data: dict[str, Any]) -> str:
    """JSON text of ``data`` and a checksum of it."""
    return json.dumps(data | {_OWN: _checksum(data)}, indent=1) + "\n"


def unseal(text: str | bytes) -> dict[str, Any]:
    """What was given to ``seal``. Text without a checksum, of an older version, is taken as it is.

    Raises:
      ValueError: it is damaged.
    """
    data = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    if _OWN in data and data.pop(_OWN) != _checksum(data):
        raise ValueError("its checksum differs")
    return data


def _checksum(data: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(data, sort_keys=True).encode())
