"""From names, YAML files and flags to one checked ``Config``, and back to YAML.

Layers, each may set only fields that exist, later wins: ``Config()``, preset, benchmark, size, files
from left to right, flags.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from dreamer_jax.config.checks import check, unused
from dreamer_jax.config.named import BENCHMARKS, PRESETS, SIZES, size_settings
from dreamer_jax.config.paths import path_of
from dreamer_jax.config.reading import Given, read, read_file
from dreamer_jax.config.schema import FIELDS, Config, ConfigError, EnvConfig, flatten

RESUMABLE = frozenset(
    {
        "behavior.chunk_rows",
        "env.vectorization",
        "offline.patience",
        "offline.updates",
        "train.devices",
        "train.eval_episodes",
        "train.eval_frames",
        "train.frames",
        "train.keep_checkpoints",
        "train.log_seconds",
        "train.report_frames",
        "train.save_frames",
        "train.save_minutes",
    }
)
"""Fields that do not change the algorithm; a run may be resumed with other values of them."""

HELD_OUT = {"replay.validation_fraction": 0.1}
"""By default where ``offline.data`` is learnt from, and nothing else says so."""

CUSTOM = "custom widths"

_NAMED: dict[str, Collection[str]] = {"preset": PRESETS, "benchmark": BENCHMARKS, "size": SIZES}


def load(
    preset: str | None = None,
    size: str | None = None,
    files: Iterable[str | Path] = (),
    overrides: Iterable[tuple[str, str]] = (),
    labels: Mapping[str, str] | None = None,
) -> Config:
    """Stack the layers and check the result.

    Args:
      preset: one of ``PRESETS``; wins over a file that names one.
      size: one of ``SIZES``; wins over a file that names one, which wins over the benchmark's and the preset's own.
      files: YAML files of settings in sections.
      overrides: dotted name and text of each flag, such as ``("env.task", "dmc/walker_walk")``.
      labels: how complaints call flags of other names than ``--rssm.deter``.

    Raises:
      ConfigError: one line that names the place, the field and a fix.
    """
    given = [setting for file in files for setting in read_file(path_of(file))]
    given += [read("preset", preset, (labels or {}).get("preset", "preset"))] if preset is not None else []
    given += [read("size", size, "size")] if size is not None else []
    given += [read(name, text, (labels or {}).get(name, f"--{name}")) for name, text in overrides]
    for name, value, label in given:
        if name in _NAMED and value not in _NAMED[name]:
            raise ConfigError(f"{label}: got {value!r}, expected one of {', '.join(_NAMED[name])}")
    last = {setting.name: setting for setting in given}

    preset = last["preset"].value if "preset" in last else Config.preset
    benchmark = last["benchmark"].value if "benchmark" in last else Config.benchmark
    size = last["size"].value if "size" in last else BENCHMARKS[benchmark].size or PRESETS[preset].size
    values = {"preset": preset, "revision": PRESETS[preset].meaning, "benchmark": benchmark, "size": size}
    task = last["env.task"].value if "env.task" in last else EnvConfig.task
    # A preset for pictures of one suite goes with a task of another, and then leaves those settings alone.
    values |= {name: value for name, value in PRESETS[preset].settings.items() if name not in unused(task)}
    values |= {**BENCHMARKS[benchmark].settings, **size_settings(size)}
    values |= {name: setting.value for name, setting in last.items()}
    if values.get("offline.data"):
        values = HELD_OUT | values
    config = replace(Config(), values)
    try:
        return check(config)
    except ConfigError as error:
        raise ConfigError(_locate(str(error), last)) from None


def replace(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy with some settings changed, by dotted name; unlike ``load`` it takes values, not text."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, _, field = name.rpartition(".")
        sections.setdefault(section, {})[field] = value
    top = sections.pop("", {})
    parts = {name: dataclasses.replace(getattr(config, name), **part) for name, part in sections.items()}
    return dataclasses.replace(config, **top, **parts)


def algorithm(config: Config) -> str:
    """``revision`` for a person: what it says of DeepMind Control only where the environment is one that it means."""
    meant = PRESETS[config.preset].settings.get("env.observation", EnvConfig.observation)
    same = config.env.task.startswith("dmc/") and config.env.observation == meant
    protocol = same and config.benchmark == Config.benchmark  # a benchmark is a protocol of its own
    return config.revision if protocol else re.split(",? (?:under the )?DMC ", config.revision)[0]


def width_name(config: Config) -> str:
    """The size whose widths these are, or ``CUSTOM`` where a file or flag has changed one."""
    widths, named = flatten(config), size_settings(config.size)
    return config.size if all(widths[name] == width for name, width in named.items()) else CUSTOM


def dump(config: Config) -> str:
    """YAML of every setting with its meaning beside it; loading it gives an equal ``Config``."""
    lines, current = [], ""
    for name, value in flatten(config).items():
        section, _, field = name.rpartition(".")
        if section != current:
            lines.append(f"\n{section}:")
            current = section
        indent = "  " if section else ""
        lines.append(f"{f'{indent}{field}: {write(value)}':<34}  # {FIELDS[name].meaning}")
    return "\n".join(lines) + "\n"


def difference(a: Config, b: Config) -> list[tuple[str, Any, Any]]:
    """Name and both values of every setting that differs."""
    left, right = flatten(a), flatten(b)
    return [(name, left[name], right[name]) for name in FIELDS if left[name] != right[name]]


def _locate(problem: str, given: Mapping[str, Given]) -> str:
    """Put the place where one of the fields in ``problem`` was set in front of it."""
    field, _, rest = problem.partition(": ")
    if field in given:
        return f"{given[field].label}: {rest}"
    others = [name for name in re.findall(r"\w+\.\w+", rest) if name in given]
    return f"{given[others[0]].label}: {problem}" if others else problem


def write(value: Any) -> str:
    """A value as YAML has it."""
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][\w./-]*(:\w[\w./-]*)?", value, re.ASCII)
    if plain and value.lower() != "null":
        return value
    style = '"' if isinstance(value, str) else None
    text = yaml.safe_dump(value, default_style=style, width=math.inf, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
