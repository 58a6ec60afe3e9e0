"""``python -m dreamer_jax`` is the ``dreamer-jax`` command."""

import sys

from dreamer_jax.cli import main

sys.exit(main())
