"""How long does a decision take, and how many frames a second do environments give? One JSON line.

    python benchmarks/acting.py --preset dreamer_v3 --size 1m --task dmc/walker_walk --num-envs 1 16

``dreamer_jax/profiling/speed.py`` says what is measured.
"""

from __future__ import annotations

import argparse
import json

import jax

from dreamer_jax.config.loading import load
from dreamer_jax.config.named import PRESETS, SIZES
from dreamer_jax.devices.huge_pages import restart_with_huge_pages
from dreamer_jax.profiling.speed import acting_speed, machine, peak_rss_mb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="dreamer_v3")
    parser.add_argument("--size", choices=SIZES, help="other than the preset's own")
    parser.add_argument("--task", default="dmc/walker_walk")
    parser.add_argument("--num-envs", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=500)
    options = parser.parse_args()
    options.size = options.size or PRESETS[options.preset].size
    config = load(options.preset, options.size, overrides=[("dtype", options.dtype), ("env.task", options.task)])
    jax.config.update("jax_enable_compilation_cache", False)
    before = machine()
    results = [acting_speed(config, num_envs, options.repeats) for num_envs in options.num_envs]
    named = {name: value for name, value in vars(options).items() if name != "num_envs"}
    print(json.dumps({"benchmark": "acting", **named, "results": results, "peak_rss_mb": peak_rss_mb(), **before}))


if __name__ == "__main__":
    restart_with_huge_pages()  # as the command line does
    main()
