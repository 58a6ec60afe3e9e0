"""Checksums of a ring's blocks, as of a checkpoint: what changes on the disk afterwards is found before it is used.

A block is one of the pieces that a field's file consists of (see ``storage``), as far as it holds records. Its
checksum is taken when a checkpoint is made, if it has changed since the one before, and compared after the ring was
brought back to that checkpoint: all at once, or each before it is used for the first time.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.replay.storage import WITHOUT, Store, file_name

AT_ONCE = 4 << 30
"""Bytes that a checkpoint or a start reads for this; it takes a second or two for each GB, less with more cores.

Beyond it a start compares each block before it is first used, and a checkpoint leaves the latents without checksums:
updates refresh them everywhere all the time, while other records never change.
"""
_NONE = -1  # no checksum
_THREADS = 8


class Blocks:
    """Which blocks have changed since their checksums were taken, and which have not been compared yet."""

    def __init__(self, store: Store, latents: Sequence[str]) -> None:
        self._store, self._names = store, list(store.layout.fields)
        self._latents = self._numbers(latents)
        shape = len(self._names), store.layout.blocks
        self._sums = np.full(shape, _NONE, np.int64)
        self._changed, self._waiting = np.ones(shape, bool), np.zeros(shape, bool)
        self._rows = 0  # that were compared, or wait for it
        self._left = 0  # blocks that wait
        self._hint = ""

    def change(self, blocks: np.ndarray | int, *, latents_only: bool = False) -> None:
        """Something in these blocks is about to be overwritten.

        Raises:
          ConfigError: one of them is damaged.
        """
        names = [self._names[field] for field in self._latents] if latents_only else None
        self.compare(blocks, names)
        if latents_only:
            self._changed[self._latents[:, None], blocks] = True
        else:
            self._changed[:, blocks] = True

    def take(self, rows: int) -> np.ndarray:
        """Checksums of all blocks, [fields, blocks], while the first ``rows`` slots of the ring hold records."""
        count = self._used(rows)
        found = np.argwhere(self._changed[:, :count])
        latents = np.isin(found[:, 0], self._latents)
        if sum(self._bytes(field, block, rows) for field, block in found[latents]) > AT_ONCE:
            self._sums[self._latents[:, None], found[latents][:, 1]] = _NONE
            found = found[~latents]
        self._sums[tuple(found.T)] = self._checksums(found, rows)
        self._changed[:, :count] = self._sums[:, :count] == _NONE
        return self._sums[:, :count].copy()

    def expect(self, sums: np.ndarray | None, rows: int, hint: str, *, waits: bool) -> None:
        """The ring is at a checkpoint where ``take(rows)`` gave ``sums``, if it was asked.

        ``hint`` goes into the message where a block is damaged; unless it ``waits``, none is to be compared.
        """
        self._changed[:], self._waiting[:] = True, False
        self._rows, self._hint = rows, hint
        if sums is not None:
            count = self._used(rows)
            self._sums[:, :count] = sums
            self._changed[:, :count] = sums == _NONE
            self._waiting[:, :count] = waits & (sums != _NONE)
        self._left = int(self._waiting.sum())

    def compare_all(self) -> bool:
        """Compare all blocks that wait, unless they have more bytes than ``AT_ONCE``; whether none waits any more.

        Raises:
          ConfigError: one of them is damaged.
        """
        waiting = np.argwhere(self._waiting)
        if sum(self._bytes(field, block, self._rows) for field, block in waiting) > AT_ONCE:
            return False
        self._compare(waiting)
        return True

    def compare(self, blocks: np.ndarray | int, names: Sequence[str] | None = None) -> None:
        """Compare those of these blocks that wait, of all fields or some.

        Raises:
          ConfigError: one of them is damaged.
        """
        if not self._left:
            return
        fields, blocks = self._numbers(self._names if names is None else names), np.unique(blocks)
        chosen = np.argwhere(self._waiting[np.ix_(fields, blocks)])
        self._compare(np.stack([fields[chosen[:, 0]], blocks[chosen[:, 1]]], 1))

    def _compare(self, chosen: np.ndarray) -> None:
        wrong = self._checksums(chosen, self._rows) != self._sums[tuple(chosen.T)]
        for field, block in chosen[wrong][:1]:
            path = self._store.directory / file_name(self._names[field])
            raise ConfigError(
                f"{path}: damaged: block {block} is not what it was{self._hint}; put back a copy of the file "
                f"({WITHOUT})"
            )
        self._waiting[tuple(chosen.T)] = False
        self._left = int(self._waiting.sum())

    def _numbers(self, names: Sequence[str]) -> np.ndarray:
        return np.array([self._names.index(name) for name in names], np.int64)

    def _checksums(self, chosen: np.ndarray, rows: int) -> list[int]:
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads:
            return list(threads.map(partial(self._checksum, rows), *chosen.T.tolist()))

    def _checksum(self, rows: int, field: int, block: int) -> int:
        name, layout = self._names[field], self._store.layout
        size = layout.num_envs * layout.block
        self._store.expect(np.arange(block * size, (block + 1) * size), [name])
        held = self._store.arrays[name][block][:, : rows - block * layout.block]
        return zlib.crc32(np.ascontiguousarray(held).reshape(-1).view(np.uint8).data)

    def _bytes(self, field: int, block: int, rows: int) -> int:
        layout = self._store.layout
        held = min(layout.block, rows - block * layout.block)
        return held * layout.num_envs * layout.fields[self._names[field]].nbytes

    def _used(self, rows: int) -> int:
        return -(-rows // self._store.layout.block)
