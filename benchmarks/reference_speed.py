"""The update of danijar/dreamerv3, timed as train_step.py times ours: one JSON line.

    git clone https://github.com/danijar/dreamerv3 && git -C dreamerv3 checkout e3f0224
    pip install elements ninjax portal granular einops ruamel.yaml
    python benchmarks/reference_speed.py dreamerv3 --size 1m --observation proprio

The checkout stays as it is. JAX takes the arguments of ``jax.jit`` by name alone since version 0.5, so that six of
them, which the checkout gives by position, are named on their way. Windows are as random as ours and as long, with the
record of context before; its ``report`` is not compiled.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from train_step import add_case, commit

from dreamer_jax.devices.huge_pages import restart_with_huge_pages
from dreamer_jax.profiling.speed import SPECS, machine, median, peak_rss_mb, random_windows, seconds, times_ms
from dreamer_jax.specs import ArraySpec

POSITIONAL = "in_shardings", "out_shardings", "static_argnums", "static_argnames", "donate_argnums"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="of danijar/dreamerv3")
    add_case(parser)
    parser.set_defaults(size="1m")
    options = parser.parse_args()
    if not (options.checkout / "dreamerv3" / "configs.yaml").exists():
        parser.error(f"{options.checkout}: no checkout of danijar/dreamerv3, which has dreamerv3/configs.yaml")
    before, flags = machine(), os.environ.get("XLA_FLAGS", "")
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
        found = measure(options, Path(folder))
    named = {"benchmark": "train_step", "program": "danijar/dreamerv3", "commit": commit(options.checkout)}
    asked = {name: value for name, value in vars(options).items() if name != "checkout"}
    print(json.dumps({**named, **asked, **found, "xla_flags": flags, **before}))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Median milliseconds of an update, and seconds until it can be called."""
    jax.jit = partial(by_name, jax.jit)
    sys.path.insert(0, str(options.checkout.resolve()))
    import elements  # type: ignore[import-not-found]
    import ruamel.yaml
    from dreamerv3.agent import Agent  # type: ignore[import-not-found]

    spec = SPECS[options.observation]
    space = partial(space_of, elements.Space)
    flag, number = elements.Space(bool), elements.Space(np.float32)
    observed = {name: space(leaf) for name, leaf in spec.observation.items()} | {"reward": number}
    observed |= dict.fromkeys(("is_first", "is_last", "is_terminal"), flag)
    text = (options.checkout / "dreamerv3" / "configs.yaml").read_text()
    files = ruamel.yaml.YAML(typ="safe").load(text)
    config = elements.Config(files["defaults"]).update(files[f"size{options.size}"])
    platform = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}[jax.default_backend()]
    config = config.update(
        {
            "batch_size": options.batch_size,
            "batch_length": options.batch_length,
            "agent.imag_length": options.imagination_length,
            "jax.platform": platform,
            "jax.compute_dtype": options.dtype,
            "jax.prealloc": False,
            "logdir": str(folder),
        }
    )
    known = ("logdir", "seed", "batch_size", "batch_length", "replay_context", "report_length", "replica", "replicas")
    kept = {name: config[name] for name in known}
    # Options of its agent, which its configuration file does not list.
    settings = elements.Config(**config.agent, **kept, jax={**config.jax, "precompile": False, "profiler": False})
    actions = {name: space(leaf) for name, leaf in spec.action.items()}
    init_s, agent = seconds(lambda: Agent(observed, actions, settings))

    data = batch(agent, random_windows(spec, {}, options.batch_size, options.batch_length + config.replay_context))
    carry = agent.init_train(options.batch_size)
    compile_s, _ = seconds(agent._compile_train)
    stream = iter(agent.stream(iter(lambda: data, None)))

    def update() -> Any:
        nonlocal carry
        carry, _, _ = agent.train(carry, next(stream))
        return agent.params

    first_s, _ = seconds(update)
    walls, cpus = times_ms(update, options.repeats)
    update_ms = median(walls)
    return {
        "update_ms": update_ms,
        "cpu_ms": median(cpus),
        "update_ms_each": [round(value, 1) for value in walls],
        "transitions_per_s": round(1e3 * options.batch_size * options.batch_length / update_ms, 1),
        "first_update_ms": round(1e3 * first_s, 3),
        "init_s": round(init_s, 2),
        "compile_s": round(compile_s, 2),
        "parameters": sum(x.size for name, x in agent.params.items() if not name.startswith(("opt/", "slowval/"))),
        "peak_rss_mb": peak_rss_mb(),
    }


def by_name(jit: Callable[..., Any], function: Any, *arguments: Any, **named: Any) -> Any:
    """``jax.jit`` as it was called before its arguments had to be named."""
    return jit(function, **{k: v for k, v in zip(POSITIONAL, arguments, strict=False) if v is not None}, **named)


def space_of(space: Any, leaf: ArraySpec) -> Any:
    if leaf.classes:
        return space(np.int32, leaf.shape, 0, leaf.classes)
    return space(leaf.dtype, leaf.shape, *((0, 255) if leaf.image else (-1.0, 1.0) if leaf.shape == (6,) else ()))


def batch(agent: Any, windows: Any) -> dict[str, np.ndarray]:
    """What its agent asks for, of the first chunk of each window: latents and names of records are random."""
    rng = np.random.default_rng(0)
    shape = windows.reward.shape
    named = {**windows.observation, **windows.prev_action}
    for name in ("reward", "is_first", "is_last", "is_terminal"):
        named[name] = getattr(windows, name)
    named["consec"] = np.zeros(shape, np.int32)
    for name, space in agent.spaces.items():
        if name not in named:
            low, high = (0, 256) if space.dtype == np.uint8 else (-1, 1)
            named[name] = rng.uniform(low, high, (*shape, *space.shape)).astype(space.dtype)
    return {name: named[name] for name in agent.spaces}


if __name__ == "__main__":
    restart_with_huge_pages()  # so that both have the same
    main()
