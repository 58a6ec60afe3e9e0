"""Windows of stored records, and the training rows that they become."""

from __future__ import annotations

from typing import Any

import numpy as np

from dreamer_jax.replay.storage import Store
from dreamer_jax.types import TrajectoryBatch

UNSEEN = {"episode", "episode_step", "held_out"}  # in no batch


def gather(store: Store, cells: np.ndarray) -> dict[str, Any]:
    """Copies of the records of windows at ``cells [B, T+1]``, as ``align`` takes them; of the latents the first."""
    # The disk reads all latents meanwhile, because those that replace them are to come.
    store.expect(cells.reshape(-1), [name for name in store.flat if name not in UNSEEN])
    window: dict[str, Any] = {"observation": {}, "action": {}, "latents": {}}
    for name, flat in store.flat.items():
        part, _, key = name.partition("/")
        if key:
            window[part][key] = np.take(flat, cells[:, :1] if part == "latents" else cells, axis=0)
        elif name not in UNSEEN:
            window[name] = np.take(flat, cells, axis=0)
    return window


def align(window: dict[str, Any], *, mark_first: bool = False) -> TrajectoryBatch:
    """Turn ``T+1`` consecutive stored records into ``T`` training rows. The only place that shifts actions.

    Arrays may be numpy's or JAX's, also those of a trace; the rows are of the same kind.

    Args:
      window: ``observation``, ``action`` ({name: [B, T+1, ...]}), ``reward``, ``is_first``, ``is_last``,
        ``is_terminal`` ([B, T+1]) and ``latents`` ({name: [B, 1 or more, ...]}, maybe empty).
      mark_first: row 0 counts as the first of an episode.

    Record 0 gives only its latents, as context, and its action, as what led to record 1. A record
    whose successor in the window starts an episode is marked ``is_last`` (abandoned episodes).
    """
    is_first, is_last = window["is_first"][:, 1:], window["is_last"][:, 1:]
    xp = is_last.__array_namespace__()
    is_last = xp.concat([is_last[:, :-1] | is_first[:, 1:], is_last[:, -1:]], axis=1)
    if mark_first:
        is_first = xp.concat([xp.ones_like(is_first[:, :1]), is_first[:, 1:]], axis=1)
    return TrajectoryBatch(
        observation={name: value[:, 1:] for name, value in window["observation"].items()},
        prev_action={name: value[:, :-1] for name, value in window["action"].items()},
        reward=window["reward"][:, 1:],
        is_first=is_first,
        is_last=is_last,
        is_terminal=window["is_terminal"][:, 1:],
        context={name: value[:, 0] for name, value in window["latents"].items()} or None,
    )
