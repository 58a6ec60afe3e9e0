"""The commands. Nothing heavy is imported before a command needs it, so that ``--help`` answers at once."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence

from dreamer_jax.cli.parser import FAILED, make_parser
from dreamer_jax.cli.settings import pairs
from dreamer_jax.config.schema import ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, 2 for anything a person can mend, or 128 + a signal's number."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own notes
    logging.basicConfig(format="dreamer-jax: %(message)s")
    logging.getLogger("absl").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(tensorflow_probability|jax|distrax|tfp)")
    parser = make_parser()
    options, rest = parser.parse_known_args(arguments)
    try:
        if not options.takes_settings and rest:
            parser.error(f"{options.command}: unrecognized arguments: {' '.join(rest)}")
        return options.run(options, pairs(rest)) or 0
    except Exception as error:
        status, message = explain(error)
        if message is None:
            raise
        print(f"dreamer-jax: {message}", file=sys.stderr)
        return status


def explain(error: Exception) -> tuple[int, str | None]:
    """Exit status and the line for a person; no line for what is a fault of ours."""
    if isinstance(error, ConfigError | FileExistsError):
        return FAILED, str(error)
    if isinstance(error, OSError) and error.errno:
        where = f"{error.filename}: " if error.filename else ""
        return FAILED, f"{where}{error.strerror}"
    if "dreamer_jax.training.loop" in sys.modules:
        from dreamer_jax.envs.wrappers import EnvironmentFailed
        from dreamer_jax.training.interrupt import Stopped
        from dreamer_jax.training.learner import NotFinite

        if isinstance(error, Stopped):
            return error.status, f"{error}; the same command goes on from there"
        if isinstance(error, EnvironmentFailed | NotFinite):
            return FAILED, str(error)
    return 1, None
