"""Commands that find what they compiled before."""

from __future__ import annotations

import argparse
from pathlib import Path

from dreamer_jax.cli.output import say


def start_computing(options: argparse.Namespace) -> None:
    """``start_quickly``, and from here to its end the command computes with fixed numerics."""
    from dreamer_jax.numerics import fixed_numerics, left_aside

    start_quickly(options)
    options.scope.enter_context(fixed_numerics())
    if aside := left_aside():
        say(aside)


def start_quickly(options: argparse.Namespace) -> None:
    """What a command compiles is there when it is called again. To be called once all is imported."""
    from dreamer_jax.devices.compilation_cache import collect_rarely, default_folder, keep_programs

    collect_rarely()
    if options.cache == "none":
        return
    problem = keep_programs(Path(options.cache).absolute() if options.cache else default_folder())
    if problem:
        say(problem)
