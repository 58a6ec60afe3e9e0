"""Tasks times seeds with one command, which ends in one page of all runs.

    python benchmarks/suite.py --config configs/quickstart.yaml --tasks dmc/cartpole_balance dmc/reacher_easy
    python benchmarks/suite.py --config configs/quickstart.yaml --tasks dmc/cartpole_balance --seeds 0..4 --print

trains every run that is not complete, a task at a time, its seeds together where one program can train them, and goes
on where it was stopped. ``--print`` prints the commands instead, one for each task and seed, for a scheduler, and after
``--`` settings and flags of ``train`` can follow, such as ``--launch slurm``, which makes jobs of all. When they are
done, the same line without ``--print`` or ``--launch`` only writes the page.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.config.sweep import parse_seeds


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("suite", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", nargs="+", required=True, metavar="FILE", help="settings of all runs")
    parser.add_argument("--tasks", nargs="+", required=True, metavar="TASK")
    parser.add_argument("--seeds", default="0..4", metavar="A..B", help="default 0..4")
    parser.add_argument("--runs", type=Path, default=Path("runs/suite"), metavar="DIR", help="default runs/suite")
    parser.add_argument("--together", type=int, default=0, metavar="N", help="seeds of a task at a time (default all)")
    parser.add_argument("--to", default="dreamerv3", metavar="METHOD", help="whose published curves are beside them")
    parser.add_argument("--print", action="store_true", dest="only_print", help="the commands, and run nothing")
    parser.add_argument("settings", nargs="*", metavar="-- --SETTING VALUE", help="for every run")
    options = parser.parse_args(words)
    try:
        seeds = parse_seeds(options.seeds)
        if options.together < 0:
            raise ConfigError(f"--together: got {options.together}, must be at least 0")
    except ConfigError as error:
        print(f"suite: {error}", file=sys.stderr)
        return 2
    if options.only_print:
        for task in options.tasks:
            for seed in seeds:
                print(shlex.join(["dreamer-jax", *command(options, task, str(seed))]))
        return 0
    failed = []
    for number, task in enumerate(options.tasks, start=1):
        print(f"suite: {task}, {number} of {len(options.tasks)} tasks", file=sys.stderr, flush=True)
        status = run(command(options, task, options.seeds))
        if status >= 128:  # a signal: the same command goes on
            return status
        failed += [task] * (status != 0)
    if any(word.partition("=")[0] == "--launch" for word in options.settings):
        return int(bool(failed))
    if failed:
        print(f"suite: not complete: {', '.join(failed)}", file=sys.stderr)
    return run(["report", str(options.runs), "--to", options.to]) or int(bool(failed))


def command(options: argparse.Namespace, task: str, seeds: str) -> list[str]:
    """The words that train a task, with one folder for each task and one in it for each seed."""
    folder = options.runs / "".join(letter if letter.isalnum() else "-" for letter in task)
    together = ["--together", str(options.together)] if options.together else []
    words = ["train", "--config", *options.config, "--run-dir", str(folder), "--seeds", seeds, *together]
    return [*words, "--env.task", task, *options.settings]


def run(words: list[str]) -> int:
    """Of this package, by this Python; its exit status."""
    status = subprocess.run([sys.executable, "-m", "dreamer_jax", *words]).returncode
    return 128 - status if status < 0 else status


if __name__ == "__main__":
    raise SystemExit(main())
