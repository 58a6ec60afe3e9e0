"""The rings of a run's processes, and dealing their streams out again when there are more or fewer processes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dreamer_jax.replay.host import Replay

_RING = re.compile(r"replay(-\d+-of-\d+)?")


def ring_folder(run_dir: Path, part: int = 0, parts: int = 1) -> Path:
    """Where process ``part`` of ``parts`` keeps the records of its environments."""
    return run_dir / ("replay" if parts == 1 else f"replay-{part}-of-{parts}")


def reshard_rings(rings: Sequence[Replay], replay: Replay, first: int, state: dict[str, np.ndarray], name: int) -> None:
    """Fill the empty ``replay`` with the streams from number ``first`` on that ``rings`` hold, equally many each.

    ``state`` is that of ``replay`` at checkpoint ``name``, to which the rings have been brought.

    Raises:
      OSError: the disk is full.
    """
    each = rings[0].num_envs

    def column(field: str, env: int, rows: range) -> np.ndarray:
        ring, stream = divmod(first + env, each)
        return rings[ring].column(field, stream, rows)

    replay.fill(state, name, column)


def delete_other_rings(run_dir: Path, parts: int) -> None:
    """Delete rings of other numbers of processes, whose records those of ``parts`` have."""
    own = {ring_folder(run_dir, part, parts).name for part in range(parts)}
    for folder in run_dir.iterdir():
        if _RING.fullmatch(folder.name) and folder.name not in own:
            shutil.rmtree(folder, ignore_errors=True)  # what is still open somewhere goes the next time
