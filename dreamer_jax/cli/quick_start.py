"""Commands that find what they compiled before."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def start_quickly(options: argparse.Namespace) -> None:
    """What a command compiles is there when it is called again. To be called once all is imported."""
    from dreamer_jax.training.program_cache import collect_rarely, default_folder, keep_programs

    collect_rarely()
    if options.cache == "none":
        return
    problem = keep_programs(Path(options.cache).absolute() if options.cache else default_folder())
    if problem:
        print(f"dreamer-jax: {problem}", file=sys.stderr)
