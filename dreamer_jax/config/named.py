"""Named settings, each in a YAML file of its own with the sources of its values: presets, sizes and benchmarks.

A preset is a published algorithm, a size a set of widths, a benchmark the settings under which published scores came
about: the environment, how often to update, how large. ``Config()`` itself is DreamerV3 at HEAD, so that files say only
in what they differ. Beside the sections of ``config.yaml`` they have

- ``meaning``: one line for a person; for a preset that is a run's ``revision``
- ``base``: another file, on which this one builds; names that begin with an underscore are bases alone
- ``size``: of a preset, or a benchmark that fixes it, unless another is chosen
- ``source``: who published the benchmark; ``published``: its scores in data/published_scores.json

Frames are environment frames; the code of 2023 and later counts agent steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from dreamer_jax.config.reading import settings_of

_HEADER = ("meaning", "base", "size", "source", "published")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it was built


class Named(NamedTuple):
    """Settings by dotted name."""

    meaning: str
    size: str
    source: str
    published: str
    settings: dict[str, Any]


def _read(path: Path) -> Named:
    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=_LOADER)
    assert isinstance(root, yaml.MappingNode), path
    header = {key.value: value.value for key, value in root.value if key.value in _HEADER}
    root.value = [(key, value) for key, value in root.value if key.value not in _HEADER]
    settings = _read(path.with_name(f"{header['base']}.yaml")).settings if "base" in header else {}
    own = {setting.name: setting.value for setting in settings_of(root, "", path, set())}
    rest = {name: header.get(name, "") for name in _HEADER if name != "base"}
    return Named(settings={**settings, **own}, **rest)


def _read_all(kind: str) -> dict[str, Named]:
    """By name, in the order of the alphabet."""
    files = sorted((Path(__file__).parent / kind).glob("[!_]*.yaml"))
    return {path.stem: _read(path) for path in files}


PRESETS = _read_all("presets")
BENCHMARKS = _read_all("benchmarks")
_SIZES = _read_all("sizes")
SIZES = ("own", *sorted(_SIZES, key=lambda name: (name.isalpha(), _SIZES[name].settings["rssm.deter"])))
"""``own``: the widths that the preset itself has. Those of 2023 come last."""


def size_settings(size: str) -> dict[str, Any]:
    """Every width at this size."""
    return {} if size == "own" else dict(_SIZES[size].settings)
