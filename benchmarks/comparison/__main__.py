"""World model, end-to-end RL or behaviour cloning? The same worlds, seeds, frames and evaluations for all.

    python benchmarks/comparison --runs runs/comparison --report docs/results/comparison

does every run that has left no file in docs/results/comparison/runs yet, a seed at a time, and after each writes the
page (.md), the numbers (.json) and the figure (.png) from all files that are there by then. It may be stopped and
started at any time: a run that was stopped begins anew. ``--report-only`` runs nothing. Methods of end-to-end RL are
those of sbx-rl: pip install 'dreamer-jax[baselines]'.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

sys.path.pop(0)  # the folder itself: its modules would stand for those of the library
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from comparison import model_free
from comparison.protocol import METHODS, MODEL_FREE, PROTOCOL, Place
from comparison.report import report
from comparison.run import perform
from comparison.schedule import jobs, starter, work
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.config.sweep import parse_seeds


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "comparison", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, required=True, metavar="FOLDER", help="of the agents and what they say")
    parser.add_argument("--report", type=Path, required=True, metavar="STEM", help="STEM.md, .json, .png, STEM/runs/")
    parser.add_argument("--tasks", nargs="+", choices=PROTOCOL.tasks, default=list(PROTOCOL.tasks))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", default="0..4", metavar="A..B", help="default 0..4")
    parser.add_argument(
        "--together", type=int, default=1, metavar="N", help="runs at a time, one core each (default 1)"
    )
    parser.add_argument("--report-only", action="store_true", help="of the runs that are complete")
    parser.add_argument("--one", nargs=3, metavar=("TASK", "METHOD", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    place = Place(options.runs, options.report / "runs")
    try:
        if options.one:
            task, method, seed = options.one
            perform(PROTOCOL, place, task, method, int(seed))
            return 0
        if options.together < 1:
            raise ConfigError(f"--together: got {options.together}, must be at least 1")
        every = jobs(options.tasks, options.methods, parse_seeds(options.seeds))
        failed = 0
        if not options.report_only:
            if set(options.methods) & set(MODEL_FREE):
                model_free.library()
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
            failed = work(
                PROTOCOL,
                place,
                every,
                together=options.together,
                start=starter(place),
                say=lambda text: print(text, file=sys.stderr, flush=True),
                after=lambda: report(PROTOCOL, place, options.report),
            )
        report(PROTOCOL, place, options.report)
        return int(failed > 0)
    except ConfigError as error:
        print(f"comparison: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
