"""A run's arrays as they are in a checkpoint, where the processes' shards lie side by side, and each one's shard.

Environments and rows of a batch belong to processes in order: an equal number to each, those of process 0 first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Arrays = dict[str, np.ndarray]

SAME = {"replay/rows", "stats/recent", "learner/started_at"}
"""The same for all processes; of ``stats/recent`` only the first one's is used."""
TAKEN, CHECKSUMS = "replay/taken", "replay/checksums"  # of each process's own ring
BATCHES = ("learner/flight/", "learner/next/")  # [K, B, ...]
ACTIONS = "envs/action/"  # of all environments one after the other; envs/length says how many are whose


def gather(shards: Sequence[Arrays], num_envs: int) -> Arrays:
    """The arrays of a run of ``num_envs`` environments from those of its processes, in order."""
    if len(shards) == 1:
        return shards[0]
    gathered: Arrays = {}
    for name, first in shards[0].items():
        pieces = [shard[name] for shard in shards]
        if name in SAME:
            gathered[name] = first
        elif name in (TAKEN, CHECKSUMS):
            gathered[name] = np.stack(pieces)
        elif name.startswith(BATCHES):
            if name.endswith("/index"):
                pieces = [piece + [index * num_envs // len(shards), 0] for index, piece in enumerate(pieces)]
            gathered[name] = np.concatenate(pieces, 1)
        else:
            gathered[name] = np.concatenate(pieces)
    return gathered


def shard(arrays: Arrays, index: int, count: int, num_envs: int) -> Arrays:
    """What process ``index`` of ``count`` gave to ``gather``, or takes of what ``reshard`` gave."""
    if count == 1:
        return arrays
    ends = np.cumsum(arrays["envs/length"]).reshape(count, -1)[:, -1]
    found: Arrays = {}
    for name, array in arrays.items():
        if name in SAME:
            found[name] = array
        elif name in (TAKEN, CHECKSUMS):
            found[name] = array[index]
        elif name.startswith(BATCHES):
            found[name] = np.split(array, count, 1)[index]
            if name.endswith("/index"):
                found[name] = found[name] - [index * num_envs // count, 0]
        elif name.startswith(ACTIONS):
            found[name] = np.split(array, ends[:-1])[index]
        else:
            found[name] = np.split(array, count)[index]
    return found


def reshard(arrays: Arrays, before: int, count: int, num_envs: int) -> Arrays:
    """The joined arrays of ``before`` processes for ``parts`` of them; flights must be in replay already.

    The batch that was drawn ahead is left out. The windows of the online queue that it may have are taken again.
    """
    rounds = np.inf
    ahead = arrays["learner/next/index"][..., 0].size if "learner/next/index" in arrays else 0
    for taken in np.atleast_1d(arrays[TAKEN]):
        rounds = min(rounds, max(0, int(taken) - ahead // before) // (num_envs // before))
    taken = np.asarray(rounds * num_envs // count, np.int64)
    kept = {name: array for name, array in arrays.items() if not name.startswith((*BATCHES, CHECKSUMS))}
    return kept | {TAKEN: taken if count == 1 else np.full(count, taken)}


def below(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays below ``prefix/``, without it."""
    return {name.removeprefix(f"{prefix}/"): x for name, x in arrays.items() if name.startswith(f"{prefix}/")}
