"""Undo log of the ring: what was overwritten since each checkpoint, so that it can be put back.

A checkpoint does not copy the ring, which goes on changing in place. Instead, the first time after
a checkpoint that a slot is about to be overwritten, its old bytes go to a segment file
``undo-<checkpoint>.bin``. The kernel keeps both the log and the mapped files when the process is
killed; because an entry is written (one ``write``) before its slot is changed, an entry that was
cut off belongs to a change that never happened. A power failure is another matter: nothing here
waits for the disk.

A segment holds at most one extra copy of what is touched between two checkpoints.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.replay.storage import WITHOUT

_HEADER = struct.Struct("<4sIQQI")  # magic, group, count, bytes of the body, crc32 of all else
_MAGIC = b"undo"
_SEGMENT = re.compile(r"undo-(\d+)\.bin")


class Group(NamedTuple):
    """Arrays ``[cells, ...]`` in which a slot is always overwritten in all of them at once."""

    slots: int
    arrays: Sequence[np.ndarray]
    cells: Callable[[np.ndarray], np.ndarray]  # of slots [n]: [n], or [n, k] where a slot has several
    expect: Callable[[np.ndarray], None]  # told which cells [n] are about to be read


class _Marks:
    """A bit for each of ``count`` slots; all are set at first."""

    def __init__(self, count: int) -> None:
        self._bits = np.full(-(-count // 8), 255, np.uint8)

    def clear_first(self, count: int) -> None:
        """Exactly these are not set."""
        self._bits[:] = 255
        whole, rest = divmod(count, 8)
        self._bits[:whole] = 0
        if rest:
            self._bits[whole] = 255 << rest & 255

    def unset(self, slots: np.ndarray) -> np.ndarray:
        """Which of ``slots`` are not set, each once and in order."""
        return np.unique(slots[self._bits[slots >> 3] >> (slots & 7).astype(np.uint8) & 1 == 0])

    def set(self, slots: np.ndarray) -> None:
        np.bitwise_or.at(self._bits, slots >> 3, np.uint8(1) << (slots & 7).astype(np.uint8))


class Journal:
    """Segments of the undo log in ``directory``; changes nothing there before ``begin`` or ``rewind``."""

    def __init__(self, directory: Path, groups: Sequence[Group]) -> None:
        self._directory, self._groups = directory, groups
        self._preserved = [_Marks(group.slots) for group in groups]
        self._file: int | None = None

    def begin(self, name: int, valid: Sequence[int]) -> None:
        """From now on preserve the first ``valid[g]`` slots of every group g as they are.

        Raises:
          ValueError: ``name`` is not above all earlier ones.
        """
        newest = max(self.segments(), default=-1)
        if name <= newest:
            raise ValueError(f"checkpoint {name}: the newest one is {newest} already")
        self._open(name, valid)

    def preserve(self, group: int, slots: np.ndarray) -> None:
        """Log the old content of ``slots``, as far as needed; to be called before they are changed."""
        if self._file is None:
            return
        slots = self._preserved[group].unset(slots)
        if len(slots):
            self._write(self._file, group, slots)
            self._preserved[group].set(slots)

    def exempt(self, group: int, slots: np.ndarray) -> None:
        """These slots hold nothing any more that the checkpoint knows."""
        self._preserved[group].set(slots)

    def committed(self, name: int) -> None:
        """Nobody goes back to checkpoints before ``name`` any more."""
        segments = self.segments()
        if name > max(segments, default=-1):
            raise ValueError(f"checkpoint {name}: no such segment, only {segments}")
        for segment in segments:
            if segment < name:
                with suppress(OSError):  # it takes room, but does no harm
                    self._path(segment).unlink()

    def undo(self, name: int) -> Path | None:
        """Put the arrays back to their content at checkpoint ``name``; changes no segment.

        May be repeated, also after it was interrupted: every entry is absolute. Returns a segment whose end is no
        entry, if there is one: a kill cut that off, or it is damaged.

        Raises:
          ConfigError: a segment is missing or damaged.
        """
        chain = [segment for segment in self.segments() if segment >= name]
        if name not in chain:
            raise ConfigError(f"{self._path(name)}: missing, {_no_way_back(name)}")
        cut_off = None
        for segment in reversed(chain):
            path = self._path(segment)
            try:
                with open(path, "rb") as file:
                    entries, damaged = _scan(file)
                    if damaged and segment != chain[-1]:  # only the newest can have been cut off
                        raise ConfigError(f"{path}: damaged, {_no_way_back(name)}")
                    cut_off = path if damaged else cut_off
                    for group, count, offset, length in reversed(entries):
                        file.seek(offset)
                        self._apply(group, count, file.read(length))
            except OSError as error:
                raise ConfigError(f"{path}: can't be read ({error.strerror}), {_no_way_back(name)}") from error
        return cut_off

    def resume(self, name: int, valid: Sequence[int]) -> None:
        """After ``undo(name)``: forget what came later, and preserve that state again."""
        for segment in reversed(self.segments()):
            if segment > name:
                self._path(segment).unlink()
        self._open(name, valid)

    def segments(self) -> list[int]:
        """Checkpoints that the ring has segments of, oldest first."""
        matches = (_SEGMENT.fullmatch(path.name) for path in self._directory.glob("undo-*.bin"))
        return sorted(int(match[1]) for match in matches if match)

    def sync(self) -> None:
        """Wait until the disk has the newest segment."""
        if self._file is not None:
            os.fsync(self._file)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _path(self, name: int) -> Path:
        return self._directory / f"undo-{name}.bin"

    def _open(self, name: int, valid: Sequence[int]) -> None:
        self.close()
        self._file = os.open(self._path(name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        for preserved, count in zip(self._preserved, valid, strict=True):
            preserved.clear_first(count)

    def _write(self, file: int, group: int, slots: np.ndarray) -> None:
        cells = self._groups[group].cells(slots)
        old = [np.take(array, cells, axis=0).view(np.uint8) for array in self._groups[group].arrays]
        body = [part.reshape(-1).data for part in (slots.astype("<i8").view(np.uint8), *old)]
        head = (_MAGIC, group, len(slots), sum(map(len, body)))
        entry = [memoryview(_HEADER.pack(*head, _checksum(head, body))), *body]
        start = os.fstat(file).st_size
        try:
            while entry:  # one call unless the kernel takes less, as it does above 2 GB
                entry = _after(entry, os.writev(file, entry))
        except OSError:
            os.ftruncate(file, start)  # entries after half an entry would be lost
            raise

    def _apply(self, group: int, count: int, body: bytes) -> None:
        slots, offset = np.frombuffer(body, "<i8", count), 8 * count
        cells = self._groups[group].cells(slots)
        self._groups[group].expect(cells.reshape(-1))
        for array in self._groups[group].arrays:
            shape = *cells.shape, *array.shape[1:]
            size = int(np.prod(shape, dtype=np.int64))
            array[cells] = np.frombuffer(body, array.dtype, size, offset).reshape(shape)
            offset += size * array.dtype.itemsize


def _no_way_back(name: int) -> str:
    return f"replay can't go back to checkpoint {name}; put back a copy of the file ({WITHOUT})"


def _after(parts: list[memoryview], count: int) -> list[memoryview]:
    """What is left of ``parts`` after their first ``count`` bytes."""
    while parts and count >= len(parts[0]):
        count -= len(parts[0])
        parts = parts[1:]
    return [parts[0][count:], *parts[1:]] if parts else []


def _checksum(head: tuple, body: Sequence[bytes | memoryview]) -> int:
    checksum = zlib.crc32(_HEADER.pack(*head, 0))
    for part in body:
        checksum = zlib.crc32(part, checksum)
    return checksum


def _scan(file: BinaryIO) -> tuple[list[tuple[int, int, int, int]], bool]:
    """Group, count, offset and length of each whole entry, and whether something else follows them."""
    entries: list[tuple[int, int, int, int]] = []
    while True:
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return entries, bool(header)
        *head, checksum = _HEADER.unpack(header)
        magic, group, count, length = head
        offset, remaining = file.tell(), os.fstat(file.fileno()).st_size - file.tell()
        if magic != _MAGIC or length > remaining or _checksum(tuple(head), [file.read(length)]) != checksum:
            return entries, True
        entries.append((group, count, offset, length))
