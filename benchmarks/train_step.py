"""How long does one update take, and how long does it take to compile? One JSON line.

    python benchmarks/train_step.py --preset dreamer_v3 --size 1m --batch-size 16 --batch-length 64

``dreamer_jax/profiling/speed.py`` says what is measured. Compile times are those of a first run, unless
``--cache DIR`` keeps compiled programs there: with an empty folder it then measures a cold start, and
when called again a warm one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import jax

from dreamer_jax.config.loading import load
from dreamer_jax.config.named import PRESETS, SIZES
from dreamer_jax.config.schema import Config
from dreamer_jax.devices.compilation_cache import collect_rarely, keep_programs
from dreamer_jax.devices.data_parallel import check_devices
from dreamer_jax.devices.huge_pages import restart_with_huge_pages
from dreamer_jax.profiling.speed import SPECS, machine, update_speed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--rematerialize", action="store_true", help="less memory, more time")
    parser.add_argument("--chunk-rows", type=int, default=-1, help="behavior.chunk_rows: less memory")
    parser.add_argument("--devices", type=int, default=1, help="that share each batch; a CPU becomes as many")
    options = parser.parse_args()
    options.size = options.size or PRESETS[options.preset].size
    keep_or_forget(parser, options.cache)
    settings = {
        "rematerialize": str(options.rematerialize).lower(),
        "behavior.chunk_rows": str(options.chunk_rows),
        "train.devices": str(options.devices),
    }
    config = configured(options, settings)
    collect_rarely()  # as the command line does
    check_devices(options.devices)
    before = machine()
    found = update_speed(config, SPECS[options.observation], options.repeats)
    named = {"benchmark": "train_step", "program": "dreamer_jax", "commit": commit()}
    flags = os.environ.get("XLA_FLAGS", "")
    print(json.dumps({**named, **vars(options), **found, "xla_flags": flags, **before}))


def add_options(parser: argparse.ArgumentParser) -> None:
    """What every measurement of our updates can be asked for."""
    parser.add_argument("--preset", choices=PRESETS, default="dreamer_v3")
    add_case(parser)
    parser.add_argument("--cache", metavar="DIR", help="keep compiled programs there")
    parser.add_argument("--updates-per-dispatch", type=int, default=1, metavar="K", help="updates in one device call")


def add_case(parser: argparse.ArgumentParser) -> None:
    """What a measurement of anyone's updates can be asked for."""
    parser.add_argument("--size", choices=SIZES, help="other than the preset's own")
    parser.add_argument("--observation", choices=SPECS, default="proprio")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--batch-length", type=int, default=64)
    parser.add_argument("--imagination-length", type=int, default=15)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=5)


def keep_or_forget(parser: argparse.ArgumentParser, folder: str | None) -> None:
    """Compiled programs, in ``folder`` if one is named."""
    if folder is None:
        jax.config.update("jax_enable_compilation_cache", False)
    elif problem := keep_programs(Path(folder)):
        parser.error(problem)


def configured(options: argparse.Namespace, settings: Mapping[str, str]) -> Config:
    """As the options of ``add_options`` say, and ``settings``."""
    named = {
        "dtype": options.dtype,
        "behavior.imagination_length": str(options.imagination_length),
        "train.batch_size": str(options.batch_size),
        "train.batch_length": str(options.batch_length),
        "train.updates_per_dispatch": str(options.updates_per_dispatch),
    }
    return load(options.preset, options.size, overrides={**named, **settings}.items())


def commit(folder: Path = Path(__file__).parent) -> str | None:
    """Of the checkout that this program lies in, or another."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
    with suppress(OSError):
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None
    return None


if __name__ == "__main__":
    restart_with_huge_pages()  # as the command line does
    main()
