"""A run's arrays as they are in a checkpoint, where the processes' shares lie side by side, and each one's share.

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


def join(shares: Sequence[Arrays], num_envs: int) -> Arrays:
    """The arrays of a run of ``num_envs`` environments from those of its processes, in order."""
    if len(shares) == 1:
        return shares[0]
    joined: Arrays = {}
    for name, first in shares[0].items():
        pieces = [share[name] for share in shares]
        if name in SAME:
            joined[name] = first
        elif name in (TAKEN, CHECKSUMS):
            joined[name] = np.stack(pieces)
        elif name.startswith(BATCHES):
            if name.endswith("/index"):
                pieces = [piece + [part * num_envs // len(shares), 0] for part, piece in enumerate(pieces)]
            joined[name] = np.concatenate(pieces, 1)
        else:
            joined[name] = np.concatenate(pieces)
    return joined


def share(arrays: Arrays, part: int, parts: int, num_envs: int) -> Arrays:
    """What process ``part`` of ``parts`` gave to ``join``, or takes of what ``deal`` gave."""
    if parts == 1:
        return arrays
    ends = np.cumsum(arrays["envs/length"]).reshape(parts, -1)[:, -1]
    found: Arrays = {}
    for name, array in arrays.items():
        if name in SAME:
            found[name] = array
        elif name in (TAKEN, CHECKSUMS):
            found[name] = array[part]
        elif name.startswith(BATCHES):
            found[name] = np.split(array, parts, 1)[part]
            if name.endswith("/index"):
                found[name] = found[name] - [part * num_envs // parts, 0]
        elif name.startswith(ACTIONS):
            found[name] = np.split(array, ends[:-1])[part]
        else:
            found[name] = np.split(array, parts)[part]
    return found


def deal(arrays: Arrays, before: int, parts: int, num_envs: int) -> Arrays:
    """The joined arrays of ``before`` processes for ``parts`` of them; flights must be in replay already.

    The batch that was drawn ahead is left out. The windows of the online queue that it may have are taken again.
    """
    rounds = np.inf
    ahead = arrays["learner/next/index"][..., 0].size if "learner/next/index" in arrays else 0
    for taken in np.atleast_1d(arrays[TAKEN]):
        rounds = min(rounds, max(0, int(taken) - ahead // before) // (num_envs // before))
    taken = np.asarray(rounds * num_envs // parts, np.int64)
    dealt = {name: array for name, array in arrays.items() if not name.startswith((*BATCHES, CHECKSUMS))}
    return dealt | {TAKEN: taken if parts == 1 else np.full(parts, taken)}


def below(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays below ``prefix/``, without it."""
    return {name.removeprefix(f"{prefix}/"): x for name, x in arrays.items() if name.startswith(f"{prefix}/")}
