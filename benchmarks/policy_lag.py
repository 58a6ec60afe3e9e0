"""Trains with a policy that acts by parameters of some updates ago, as programs that send them to actors do.

    python benchmarks/policy_lag.py --updates 2 --run-dir runs/lag-0 -- --config configs/quickstart.yaml --seed 0

What comes after ``--`` is a command line of ``dreamer-jax train``. All else is as there, so that
``dreamer-jax compare`` and benchmarks/learning.py say what the lag changes. A run is to be trained in one go: the
earlier parameters are in no checkpoint.
"""

from __future__ import annotations

import argparse
import collections
from typing import Any

import jax
import jax.numpy as jnp

from dreamer_jax.cli import main
from dreamer_jax.training import loop
from dreamer_jax.training.learner import Learner


def lagging(updates: int) -> type[Learner]:
    """A learner that hands out the parameters of so many updates ago."""

    class Lagging(Learner):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self._earlier: collections.deque[Any] = collections.deque(maxlen=updates)

        @property
        def params(self) -> Any:
            return self._earlier[0] if self._earlier else super().params

        def _dispatch(self, batches: Any) -> None:
            self._earlier.append(jax.tree.map(jnp.copy, super().params))  # the update gives them away
            super()._dispatch(batches)

    return Lagging


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=2, metavar="N", help="of so many ago (default 2)")
    parser.add_argument("--run-dir", required=True)
    parser.add_argument("flags", nargs="+", metavar="FLAG", help="of dreamer-jax train")
    options = parser.parse_args()
    if options.updates:
        loop.Learner = lagging(options.updates)  # type: ignore[misc]
    raise SystemExit(main(["train", "--run-dir", options.run_dir, *options.flags]))
