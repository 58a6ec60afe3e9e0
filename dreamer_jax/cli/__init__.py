"""The commands. Nothing heavy is imported before a command needs it, so that ``--help`` answers at once."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack

from dreamer_jax.cli.errors import FAILED, STOPPED, explain
from dreamer_jax.cli.output import answers_alone, complain, say
from dreamer_jax.cli.parser import make_parser
from dreamer_jax.cli.settings import pairs, refuse
from dreamer_jax.envs.signals import Interrupted, handled_by, interrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, 2 for anything a person can mend, or 128 + a signal's number."""
    try:
        with ExitStack() as scope:
            scope.enter_context(handled_by(interrupt))
            _quieten()
            options, rest = make_parser().parse_known_args(arguments)
            options.scope = scope
            if rest and not options.takes_settings:
                refuse(rest[0], options.flags)
            options.answers = scope.enter_context(answers_alone()) if options.json else sys.stdout
            status = options.run(options, pairs(rest, options.flags)) or 0
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever read our answer has had enough
        return STOPPED + signal.SIGPIPE
    except (Exception, Interrupted) as error:
        status, message = explain(error)
        if message is None:
            raise
        (complain if status == FAILED else say)(message)
        return status


def _quieten() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own notes
    logging.basicConfig(format="dreamer-jax: %(message)s")
    logging.getLogger("absl").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(tensorflow_probability|jax|distrax|tfp)")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # paths are printed as they were given, byte for byte
