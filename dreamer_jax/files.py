"""Files that are written whole or not at all, and arrays that anyone may have sent."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file; who reads meanwhile finds the old one or the new one.

    A link stays, and what it leads to is written. A device or a pipe (``/dev/stdout``) stays, and is written to.
    """
    data = content.encode() if isinstance(content, str) else content
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    scratch = path.with_name(f"{path.name}.tmp")
    scratch.write_bytes(data)
    os.replace(scratch, path)


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of a .npz file. Nothing is unpickled.

    Raises:
      ValueError: it can't be read, and why, in one line.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # anything may be there, and zipfile and NumPy raise whatever that leads to
        why = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
        raise ValueError(why or type(error).__name__) from error
