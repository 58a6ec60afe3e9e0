"""The files of a ring: one memory-mapped array a field, and ``layout.json`` saying what they hold.

A field's file is a sequence of blocks, in each of which a stream's records lie one after the other, so that
a window is one piece of the file or two. Files grow by whole blocks; the last one may not be used up.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import ml_dtypes
import numpy as np

from dreamer_jax.checksums import seal, unseal
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import ArrayDict

FORMAT = 2
BLOCK = 256  # a window rarely lies in two, and the last block, which may be used in part, is small
LAYOUT_FILE = "layout.json"
RESERVE_BYTES = 64 << 20
WITHOUT = "evaluate, plot, compare and dreamer_jax.load do without replay"
"""For messages about damage."""
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
    block: int = field(default_factory=lambda: BLOCK)  # rows

    @property
    def blocks(self) -> int:
        return -(-self.rows // self.block)

    def file_bytes(self, name: str, blocks: int | None = None) -> int:
        """Of the whole file of a field, or of its first ``blocks``."""
        blocks = self.blocks if blocks is None else blocks
        return blocks * self.block * self.num_envs * self.fields[name].nbytes

    @property
    def total_bytes(self) -> int:
        return sum(self.file_bytes(name) for name in self.fields)

    def cells(self, env: np.ndarray | int, row: np.ndarray) -> np.ndarray:
        """Where in its file the record of row ``row`` of the run, in stream ``env``, lies."""
        block, offset = np.divmod(row % self.rows, self.block)
        return (block * self.num_envs + env) * self.block + offset

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
        sizes = {"rows": self.rows, "num_envs": self.num_envs, "block": self.block}
        data = {"format": FORMAT} | sizes | {"fields": fields}
        temporary = directory / f"{LAYOUT_FILE}.new"
        temporary.write_text(seal(data))
        os.replace(temporary, directory / LAYOUT_FILE)

    @classmethod
    def read(cls, directory: Path) -> Layout | None:
        """The layout of the ring in ``directory``; None if there is no (complete) ring.

        Raises:
          ConfigError: it can't be read, is damaged, or is of another format.
        """
        path = Path(directory) / LAYOUT_FILE
        try:
            data = unseal(path.read_bytes())
            if (found := data["format"]) != FORMAT:
                raise ConfigError(f"{path}: replay of format {found}, this version reads format {FORMAT}")
            fields = {name: ArraySpec.from_json(spec) for name, spec in data["fields"].items()}
            return cls(data["rows"], data["num_envs"], fields, data["block"])
        except FileNotFoundError:
            return None
        except ConfigError:
            raise
        except OSError as error:
            raise ConfigError(f"{path}: can't be read ({error.strerror}; {WITHOUT})") from error
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path}: damaged ({error}); put back a copy of the file ({WITHOUT})") from error


class Store:
    """The arrays of a ring by field name, shared with files (a private copy if not ``writable``).

    ``flat`` has them as ``[cells, ...]`` (see ``Layout.cells``), ``arrays`` as ``[blocks, E, rows of a block, ...]``.
    """

    def __init__(self, directory: Path, layout: Layout, *, writable: bool = True) -> None:
        self.directory, self.layout, self.writable = directory, layout, writable
        self._reserved = 0  # blocks
        self._map()

    @classmethod
    def create(cls, directory: Path, layout: Layout) -> Store:
        """Start an empty ring; what an interrupted ``create`` or ``clear`` left is dropped."""
        directory.mkdir(parents=True, exist_ok=True)
        clear(directory)
        for name in layout.fields:
            with open(directory / file_name(name), "wb") as file:
                file.truncate(layout.file_bytes(name))
        layout.write(directory)  # last: with it the ring exists
        return cls(directory, layout)

    def _map(self) -> None:
        layout = self.layout
        shape = layout.blocks, layout.num_envs, layout.block
        self._maps: dict[str, mmap.mmap] = {}
        self.flat: dict[str, np.ndarray] = {}
        for name, spec in layout.fields.items():
            path, expected = self.directory / file_name(name), layout.file_bytes(name)
            try:
                with open(path, "r+b" if self.writable else "rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    if size < expected:  # longer is fine: a growth that was cut off
                        raise ConfigError(
                            f"{path}: damaged, {size} bytes where {expected} are needed; put back a copy of the file "
                            f"({WITHOUT})"
                        )
                    access = mmap.ACCESS_WRITE if self.writable else mmap.ACCESS_COPY
                    self._maps[name] = mmap.mmap(file.fileno(), expected, access=access)
            except OSError as error:
                raise ConfigError(f"{path}: can't be read ({error.strerror}; {WITHOUT})") from error
            if hasattr(mmap, "MADV_RANDOM"):
                # Else a fault fills the cache in pieces of megabytes, each of which is later written to the
                # disk as a whole when one record in it changes. What is wanted soon is said with ``expect``.
                self._maps[name].madvise(mmap.MADV_RANDOM)
            array = np.frombuffer(self._maps[name], numpy_dtype(spec.dtype))
            self.flat[name] = array.reshape(-1, *spec.shape)
        self.arrays = {name: array.reshape(*shape, *array.shape[1:]) for name, array in self.flat.items()}

    def grow(self, rows: int) -> None:
        """Extend the files to ``rows``. ``flat`` and ``arrays`` are new afterwards; the old ones must be let go."""
        layout = replace(self.layout, rows=rows)
        for name in layout.fields:
            os.truncate(self.directory / file_name(name), layout.file_bytes(name))
        self.layout = layout
        self.layout.write(self.directory)
        self._map()

    def expect(self, cells: np.ndarray, names: Iterable[str] = ()) -> None:
        """Have the disk read these cells, of all fields or some, at once rather than one after the other.

        Does not wait for it, and costs little where they are in memory already.
        """
        if not hasattr(mmap, "MADV_WILLNEED"):
            return
        pieces = [(int(cells[start]), int(cells[stop - 1]) + 1) for start, stop in runs(cells)]
        for name in names or self._maps:
            advise, size = self._maps[name].madvise, self.layout.fields[name].nbytes
            for start, stop in pieces:
                page = start * size & -mmap.PAGESIZE
                advise(mmap.MADV_WILLNEED, page, stop * size - page)

    def expect_next_block(self, slot: int) -> None:
        """As ``expect``, for what rows in slots after ``slot`` are about to replace; does something now and then."""
        layout = self.layout
        block, offset = divmod(slot, layout.block)
        if offset == 0:
            size, block = layout.num_envs * layout.block, (block + 1) % layout.blocks
            self.expect(np.arange(block * size, (block + 1) * size))

    def assume_reserved(self, rows: int) -> None:
        """Rows before ``rows`` were written by an earlier process and have their disk space."""
        self._reserved = -(-rows // self.layout.block)

    def reserve(self, row: int) -> None:
        """Give the rows up to and including ``row`` disk space: without, a full disk is a SIGBUS later.

        Raises:
          OSError: the disk is full.
        """
        layout, start = self.layout, self._reserved
        block = row // layout.block
        if block < start:
            return
        size = layout.total_bytes // layout.blocks
        end = min(layout.blocks, max(block + 1, start + RESERVE_BYTES // size))
        for name in layout.fields:
            begin = layout.file_bytes(name, start)
            _allocate(self.directory / file_name(name), begin, layout.file_bytes(name, end) - begin)
        self._reserved = end

    def flush(self) -> None:
        """Wait until the disk has everything (msync)."""
        if self.writable:
            for mapped in self._maps.values():
                mapped.flush()


def shrink(directory: Path, rows: int) -> None:
    """Make a ring that nobody has open, and that has never wrapped, as small as its first ``rows`` allow."""
    layout = Layout.read(directory)
    assert layout is not None
    layout = replace(layout, rows=max(rows, 1))
    layout.write(directory)
    for name in layout.fields:
        os.truncate(directory / file_name(name), layout.file_bytes(name))


def runs(cells: np.ndarray) -> list[tuple[int, int]]:
    """Where in ``cells`` numbers that follow upon each other begin and end."""
    breaks = np.flatnonzero(np.diff(cells) != 1) + 1
    return list(pairwise([0, *breaks.tolist(), len(cells)])) if len(cells) else []


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
