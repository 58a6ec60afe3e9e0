"""Windows of stored records, and the training rows that they become."""

from __future__ import annotations

from typing import Any

import numpy as np

from dreamer_jax.replay.storage import Store
from dreamer_jax.types import RSSMState, TrajectoryBatch

_UNSEEN = {"episode", "episode_step", "held_out"}  # in no batch


def gather(store: Store, cells: np.ndarray) -> dict[str, Any]:
    """Copies of the records of windows at ``cells [B, T+1]``, as ``align`` takes them; of the latents the first."""
    # The disk reads all latents meanwhile, because those that replace them are to come.
    store.expect(cells.reshape(-1), [name for name in store.flat if name not in _UNSEEN])
    window: dict[str, Any] = {"observation": {}, "action": {}, "latents": {}}
    for name, flat in store.flat.items():
        part, _, key = name.partition("/")
        if key:
            window[part][key] = np.take(flat, cells[:, :1] if part == "latents" else cells, axis=0)
        elif name not in _UNSEEN:
            window[name] = np.take(flat, cells, axis=0)
    return window


def align(window: dict) -> TrajectoryBatch:
    """Turn ``T+1`` consecutive stored records into ``T`` training rows. The only place that shifts actions.

    Args:
      window: ``observation``, ``action`` ({name: [B, T+1, ...]}), ``reward``, ``is_first``, ``is_last``,
        ``is_terminal`` ([B, T+1]) and ``latents`` ({name: [B, 1 or more, ...]}, maybe empty).

    Record 0 gives only its latents, as context, and its action, as what led to record 1. A record
    whose successor in the window starts an episode is marked ``is_last`` (abandoned episodes).
    """
    is_first, is_last = window["is_first"][:, 1:], np.array(window["is_last"][:, 1:])
    is_last[:, :-1] |= is_first[:, 1:]
    latents = window["latents"]
    return TrajectoryBatch(
        observation={name: value[:, 1:] for name, value in window["observation"].items()},
        prev_action={name: value[:, :-1] for name, value in window["action"].items()},
        reward=window["reward"][:, 1:],
        is_first=is_first,
        is_last=is_last,
        is_terminal=window["is_terminal"][:, 1:],
        context=RSSMState(latents["deter"][:, 0], latents["stoch"][:, 0]) if latents else None,
    )
