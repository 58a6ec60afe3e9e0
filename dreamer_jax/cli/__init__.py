"""The commands. Nothing heavy is imported before a command needs it, so that ``--help`` answers at once."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence

from dreamer_jax.cli.errors import explain
from dreamer_jax.cli.parser import make_parser
from dreamer_jax.cli.settings import pairs
from dreamer_jax.envs.signals import Interrupted, handled_by, interrupt


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
        with handled_by(interrupt):
            return options.run(options, pairs(rest)) or 0
    except (Exception, Interrupted) as error:
        status, message = explain(error)
        if message is None:
            raise
        print(f"dreamer-jax: {message}", file=sys.stderr)
        return status
