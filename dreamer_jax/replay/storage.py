"""The files of a ring: one memory-mapped array a field, and ``layout.json`` saying what they hold."""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import ml_dtypes
import numpy as np

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import ArrayDict

FORMAT = 1
LAYOUT_FILE = "layout.json"
RESERVE_BYTES = 64 << 20
_OWN_FILE = re.compile(r"(undo-|observation%|action%|latents%|reward\b|is_|episode|held_out\b)")
RECORD = {
    "reward": ArraySpec((), "float32"),
    "is_first": ArraySpec((), "bool"),
    "is_last": ArraySpec((), "bool"),
    "is_terminal": ArraySpec((), "bool"),
    "episode": ArraySpec((), "int32"),  # number of the episode within its stream
    "episode_step": ArraySpec((), "int32"),  # 0 where is_first
}
HELD_OUT = {"held_out": ArraySpec((), "bool")}
"""Only where episodes are held out: that training does not see this one."""


def record_fields(spec: EnvSpec, latent_spec: dict[str, ArraySpec], *, held_out: bool = False) -> dict[str, ArraySpec]:
    """Everything that a record holds, by the names ``observation/<key>``, ``action/<key>``, ..."""
    parts = {"observation": spec.observation, "action": spec.action, "latents": latent_spec}
    named = {f"{part}/{name}": field for part, fields in parts.items() for name, field in fields.items()}
    return named | RECORD | (HELD_OUT if held_out else {})


def record_bytes(spec: EnvSpec, latent_spec: dict[str, ArraySpec], *, held_out: bool = False) -> int:
    """Bytes on disk of one record of one environment."""
    return sum(field.nbytes for field in record_fields(spec, latent_spec, held_out=held_out).values())


def numpy_dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def part_of(fields: dict[str, ArraySpec], part: str) -> dict[str, ArraySpec]:
    """The fields called ``<part>/<key>``, by key."""
    return {name.partition("/")[2]: field for name, field in fields.items() if name.startswith(f"{part}/")}


@dataclass(frozen=True)
class Layout:
    """What the files hold: ``rows`` (C) records of each of ``num_envs`` (E) streams."""

    rows: int
    num_envs: int
    fields: dict[str, ArraySpec]

    def row_bytes(self, name: str) -> int:
        return self.num_envs * self.fields[name].nbytes

    def difference(self, other: Layout) -> str:
        """What another layout has otherwise, rows apart, in a line; empty if nothing."""
        found = []
        if self.num_envs != other.num_envs:
            found.append(f"{self.num_envs} environments, now {other.num_envs}")
        for name in sorted(self.fields.keys() | other.fields.keys()):
            mine, theirs = self.fields.get(name), other.fields.get(name)
            if mine != theirs:
                found.append(f"{name} {_describe(mine)}, now {_describe(theirs)}")
        return "; ".join(found)

    def checked(self, record: ArrayDict) -> dict[str, np.ndarray]:
        """One row of a record as numpy arrays ``[E, ...]``.

        Raises:
          ValueError: a field is missing or unknown, has another shape, or would be cut to integers.
        """
        if record.keys() != self.fields.keys():
            raise ValueError(f"replay: missing or unknown: {sorted(record.keys() ^ self.fields.keys())}")
        arrays = {name: np.asarray(value) for name, value in record.items()}
        for name, spec in self.fields.items():
            value, shape = arrays[name], (self.num_envs, *spec.shape)
            cut = numpy_dtype(spec.dtype).kind in "biu" and value.dtype.kind not in "biu"
            if value.shape != shape or cut:
                raise ValueError(f"replay: {name} is {value.dtype}{list(value.shape)}, not {spec.dtype}{list(shape)}")
        return arrays

    def write(self, directory: Path) -> None:
        """Replace ``layout.json`` at once, so that it is whole at any instant."""
        fields = {name: {"file": file_name(name)} | spec.as_json() for name, spec in self.fields.items()}
        data = {"format": FORMAT, "rows": self.rows, "num_envs": self.num_envs, "fields": fields}
        temporary = directory / f"{LAYOUT_FILE}.new"
        temporary.write_text(json.dumps(data, indent=1) + "\n")
        os.replace(temporary, directory / LAYOUT_FILE)

    @classmethod
    def read(cls, directory: Path) -> Layout | None:
        """The layout of the ring in ``directory``; None if there is no (complete) ring.

        Raises:
          ConfigError: it can't be read, or is of another format.
        """
        path = Path(directory) / LAYOUT_FILE
        try:
            data = json.loads(path.read_text())
            if data["format"] != FORMAT:
                raise ConfigError(f"{path}: replay of format {data['format']}, this version reads format {FORMAT}")
            fields = {name: ArraySpec.from_json(spec) for name, spec in data["fields"].items()}
            return cls(data["rows"], data["num_envs"], fields)
        except FileNotFoundError:
            return None
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ConfigError(f"{path}: not a replay layout ({error!r})") from error


class Store:
    """The arrays ``[C, E, ...]`` of a ring by field name, shared with files (a private copy if not ``writable``)."""

    def __init__(self, directory: Path, layout: Layout, *, writable: bool = True) -> None:
        self.directory, self.layout, self.writable = directory, layout, writable
        self._reserved = 0
        self._map()

    @classmethod
    def create(cls, directory: Path, layout: Layout) -> Store:
        """Start an empty ring; what an interrupted ``create`` or ``clear`` left is dropped."""
        directory.mkdir(parents=True, exist_ok=True)
        clear(directory)
        for name in layout.fields:
            with open(directory / file_name(name), "wb") as file:
                file.truncate(layout.rows * layout.row_bytes(name))
        layout.write(directory)  # last: with it the ring exists
        return cls(directory, layout)

    def _map(self) -> None:
        self._maps, layout = {}, self.layout
        for name, spec in layout.fields.items():
            path, shape = self.directory / file_name(name), (layout.rows, layout.num_envs, *spec.shape)
            expected = layout.rows * layout.row_bytes(name)
            size = path.stat().st_size if path.exists() else 0
            if size < expected:  # longer is fine: a growth that was cut off
                raise ConfigError(f"{path}: damaged replay, {size} bytes where {expected} are needed")
            mode: Literal["r+", "c"] = "r+" if self.writable else "c"
            self._maps[name] = np.memmap(path, numpy_dtype(spec.dtype), mode, shape=shape)
        # Plain arrays index faster than np.memmap; they keep the mapping alive.
        self.arrays = {name: np.asarray(array) for name, array in self._maps.items()}

    def grow(self, rows: int) -> None:
        """Extend the files to ``rows``. ``arrays`` are new afterwards; the old ones must be let go."""
        for name in self.layout.fields:
            os.truncate(self.directory / file_name(name), rows * self.layout.row_bytes(name))
        self.layout = replace(self.layout, rows=rows)
        self.layout.write(self.directory)
        self._map()

    def assume_reserved(self, rows: int) -> None:
        """Rows before ``rows`` were written by an earlier process and have their disk space."""
        self._reserved = rows

    def reserve(self, row: int) -> None:
        """Give the rows up to and including ``row`` disk space: without, a full disk is a SIGBUS later.

        Raises:
          OSError: the disk is full.
        """
        if row < self._reserved:
            return
        layout, start = self.layout, self._reserved
        row_bytes = sum(layout.row_bytes(name) for name in layout.fields)
        end = min(layout.rows, max(row + 1, start + RESERVE_BYTES // row_bytes))
        for name in layout.fields:
            size, path = layout.row_bytes(name), self.directory / file_name(name)
            _allocate(path, start * size, (end - start) * size)
        self._reserved = end

    def flush(self) -> None:
        """Wait until the disk has everything (msync)."""
        if self.writable:
            for array in self._maps.values():
                array.flush()


def clear(directory: Path | str) -> None:
    """Delete a ring and its undo log, so that a new one can start there."""
    directory = Path(directory)
    (directory / LAYOUT_FILE).unlink(missing_ok=True)  # first: without it the rest counts as nothing
    for path in directory.glob("*.bin"):
        if _OWN_FILE.match(path.name):
            path.unlink()


def file_name(field: str) -> str:
    return quote(field, safe="") + ".bin"


def allocated_bytes(directory: Path, layout: Layout) -> int:
    """Disk space that the fields' files occupy already."""
    paths = [directory / file_name(name) for name in layout.fields]
    return sum(path.stat().st_blocks * 512 for path in paths if path.exists())


def _allocate(path: Path, offset: int, length: int) -> None:
    if not hasattr(os, "posix_fallocate"):
        return
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(descriptor, offset, length)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            return  # such a file system gets sparse files
        raise OSError(error.errno, f"replay: can't reserve {length:,} bytes: {error.strerror}", path) from None
    finally:
        os.close(descriptor)


def _describe(spec: ArraySpec | None) -> str:
    if spec is None:
        return "absent"
    return f"{spec.dtype}{list(spec.shape)}" + (f" of {spec.classes} classes" if spec.discrete else "")
