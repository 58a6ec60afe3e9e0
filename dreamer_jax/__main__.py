"""``python -m dreamer_jax`` is the ``dreamer-jax`` command."""

import os
import sys
import time
import traceback
from contextlib import suppress
from typing import NoReturn

from dreamer_jax.cli import main
from dreamer_jax.cli.errors import STOPPED
from dreamer_jax.devices.huge_pages import restart_with_huge_pages

SECONDS_TO_FOLLOW = 5
"""If the first of several processes fails, the others get so long to do the same, before JAX's service goes with it."""


def run() -> NoReturn:
    """The command as a program of its own."""
    restart_with_huge_pages()
    try:
        status = main()
    except Exception:
        traceback.print_exc()
        status = 1
    leave_stdout()
    if 0 < status < STOPPED and "jax" in sys.modules:
        leave_the_others(status)
    sys.exit(status)


def leave_stdout() -> None:
    """What is printed from here on, as environments and libraries are torn down, is no answer of the command's."""
    with suppress(AttributeError):  # there is no stdout
        try:
            sys.stdout.flush()
        except OSError:  # the reader has gone, or the disk is full; Python would try it once more
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        else:
            os.dup2(2, 1)


def leave_the_others(status: int) -> None:
    """Of several processes that share a run one has failed: JAX would wait for minutes until all leave together."""
    import jax

    if jax.distributed.is_initialized():
        sys.stderr.flush()
        time.sleep(SECONDS_TO_FOLLOW * (jax.process_index() == 0))
        os._exit(status)


if __name__ == "__main__":
    run()
