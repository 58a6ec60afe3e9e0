"""``python -m dreamer_jax`` is the ``dreamer-jax`` command."""

import sys
from typing import NoReturn

from dreamer_jax.cli import main
from dreamer_jax.training.huge_pages import restart_with_huge_pages


def run() -> NoReturn:
    """The command as a program of its own."""
    restart_with_huge_pages()
    sys.exit(main())


if __name__ == "__main__":
    run()
