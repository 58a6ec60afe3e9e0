"""What goes wrong, as an exit status and one line for a person."""

from __future__ import annotations

import sys
import traceback

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.envs.signals import Interrupted

FAILED, STOPPED = 2, 128
"""For anything a person can mend; and what the number of a signal is added to."""


def explain(error: Exception | Interrupted) -> tuple[int, str | None]:
    """Exit status and the line for a person; no line for what is a fault of ours."""
    if isinstance(error, Interrupted):
        return error.status, str(error)
    if isinstance(error, ConfigError | FileExistsError):
        return FAILED, str(error)
    if isinstance(error, OSError) and error.errno:
        where = f"{error.filename}: " if error.filename else ""
        return FAILED, f"{where}{error.strerror}"
    if isinstance(error, ValueError) and _of_jax_variables(error):
        return FAILED, f"JAX can't read one of its variables: {error}"
    if "dreamer_jax.training.train" in sys.modules:
        from dreamer_jax.envs.wrappers import EnvironmentFailed
        from dreamer_jax.processes.group import ParametersDiffer
        from dreamer_jax.training.interrupt import Stopped
        from dreamer_jax.training.learner import NotFinite, NoUpdates

        if isinstance(error, Stopped):
            return error.status, f"{error}; the same command goes on from there"
        if isinstance(error, EnvironmentFailed | NotFinite | NoUpdates | ParametersDiffer):
            return FAILED, str(error)
    return 1, None


def _of_jax_variables(error: ValueError) -> bool:
    """Whether it was raised as JAX was imported, where it reads them."""
    names = {frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__)}
    return "jax._src.config" in names and "jax" not in sys.modules
