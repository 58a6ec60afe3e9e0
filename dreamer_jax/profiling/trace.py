"""A trace of a few updates and of all that happens between them, by JAX's profiler.

It changes no number of the run; those few updates are slower.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

WARM_UP, TRACED = 10, 4
"""Dispatches of updates before the trace and in it."""


class Profile:
    """Writes one trace into ``folder``, or does nothing without one; ``dispatched`` counts."""

    def __init__(self, folder: Path | None, note: Callable[[str], None]) -> None:
        self._folder, self._note = folder, note
        self._count = 0

    def __enter__(self) -> Profile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is None or self._count >= WARM_UP + TRACED:
            return
        if self._count >= WARM_UP:
            self._stop()
        else:
            self._note(f"no profile: it begins after {WARM_UP} dispatches of updates, and there were {self._count}")

    def dispatched(self, results: Any) -> None:
        """To be called after every dispatch, with something that it computes."""
        if self._folder is None:
            return
        self._count += 1
        if self._count == WARM_UP:
            jax.block_until_ready(results)
            jax.profiler.start_trace(str(self._folder))
        elif self._count == WARM_UP + TRACED:
            jax.block_until_ready(results)  # the device runs behind
            self._stop()

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self._note(
            f"profile of {self._count - WARM_UP} dispatches of updates: {self._folder}; open its newest "
            "*.trace.json.gz in https://ui.perfetto.dev, or the folder with `xprof`"
        )
