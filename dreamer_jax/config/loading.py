"""From names, YAML files and flags to one checked ``Config``, and back to YAML.

Layers, each may set only fields that exist, later wins: ``Config()``, preset, benchmark, size, files
from left to right, flags. Text is read against the type of its field, so that YAML's own guesses (``1e-4`` is
text, ``on`` is a boolean) never matter.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import yaml

from dreamer_jax.config.benchmarks import BENCHMARKS
from dreamer_jax.config.checks import check, unused
from dreamer_jax.config.paths import path_of
from dreamer_jax.config.presets import PRESETS, SIZES, size_settings
from dreamer_jax.config.schema import FIELDS, Config, ConfigError, EnvConfig, flatten

RESUMABLE = frozenset(
    {
        "behavior.chunk_rows",
        "env.vectorization",
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

_YAML = "tag:yaml.org,2002:"
_MAP, _LIST, _NULL = (_YAML + kind for kind in ("map", "seq", "null"))
_TEXT = {_NULL, *(_YAML + kind for kind in "str int float bool timestamp value merge".split())}
"""What YAML takes text for; what a field makes of the text counts. Any other tag was written by hand."""

_NAMED: dict[str, Collection[str]] = {"preset": PRESETS, "benchmark": BENCHMARKS, "size": SIZES}
_SECTIONS = {name.partition(".")[0] for name in FIELDS if "." in name}


class _Given(NamedTuple):
    """One setting as a person gave it; ``label`` begins any complaint about it."""

    name: str
    value: Any
    label: str  # "x.yaml:3: rssm.deter" or "--rssm.deter"


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
    given = [setting for file in files for setting in _read_file(path_of(file))]
    given += [_read("preset", preset, "preset")] if preset is not None else []
    given += [_read("size", size, "size")] if size is not None else []
    given += [_read(name, text, (labels or {}).get(name, f"--{name}")) for name, text in overrides]
    last = {setting.name: setting for setting in given}

    preset = last["preset"].value if "preset" in last else Config.preset
    benchmark = last["benchmark"].value if "benchmark" in last else Config.benchmark
    size = last["size"].value if "size" in last else BENCHMARKS[benchmark].size or PRESETS[preset].size
    values = {"preset": preset, "revision": PRESETS[preset].meaning, "benchmark": benchmark, "size": size}
    task = last["env.task"].value if "env.task" in last else EnvConfig.task
    # A preset for pictures of one suite goes with a task of another, and then leaves those settings alone.
    values |= {name: value for name, value in PRESETS[preset].settings.items() if name not in unused(task)}
    values |= {**BENCHMARKS[benchmark].settings, **size_settings(size)}
    config = replace(Config(), values | {name: setting.value for name, setting in last.items()})
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


def dump(config: Config) -> str:
    """YAML of every setting with its meaning beside it; loading it gives an equal ``Config``."""
    lines, current = [], ""
    for name, value in flatten(config).items():
        section, _, field = name.rpartition(".")
        if section != current:
            lines.append(f"\n{section}:")
            current = section
        indent = "  " if section else ""
        lines.append(f"{f'{indent}{field}: {_write(value)}':<34}  # {FIELDS[name].meaning}")
    return "\n".join(lines) + "\n"


def difference(a: Config, b: Config) -> list[tuple[str, Any, Any]]:
    """Name and both values of every setting that differs."""
    left, right = flatten(a), flatten(b)
    return [(name, left[name], right[name]) for name in FIELDS if left[name] != right[name]]


def _read_file(path: Path) -> list[_Given]:
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")], n=1)
        raise ConfigError(f"{path}: no such file" + (f"; did you mean {near[0]!r}?" if near else "")) from None
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: can't be read: it is not UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
        raise ConfigError(f"{path}:{mark.line + 1 if mark else 1}: not valid YAML: {reason}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not settings: nested far too deeply") from None
    except (ValueError, OverflowError) as error:  # of characters and versions that can't be
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode) or root.tag != _MAP:
        raise ConfigError(f"{path}:{root.start_mark.line + 1}: expected settings such as 'seed: 1', got {_shape(root)}")
    return list(_walk(root, "", path, set()))


def _walk(node: yaml.MappingNode, prefix: str, path: Path, seen: set[str]) -> Iterable[_Given]:
    for key, value in node.value:
        name = prefix + (key.value if isinstance(key, yaml.ScalarNode) else f"({_shape(key)})")
        label = f"{path}:{key.start_mark.line + 1}: {name}"
        if name in seen:
            raise ConfigError(f"{label}: set twice in this file")
        seen.add(name)
        if name in _SECTIONS:
            if isinstance(value, yaml.MappingNode) and value.tag == _MAP:
                yield from _walk(value, f"{name}.", path, seen)
            elif isinstance(value, yaml.MappingNode):
                raise ConfigError(f"{label}: got {_shape(value)}, expected a section")
            elif value.tag != _NULL:  # a section with every line commented out
                raise ConfigError(_section_problem(name, label))
        elif name in FIELDS and not (isinstance(value, yaml.ScalarNode) and value.tag in _TEXT):
            raise ConfigError(f"{label}: got {_shape(value)}, expected {_expected(FIELDS[name].kind)}")
        else:
            yield _read(name, None if value.tag == _NULL else value.value, label)


def _read(name: str, text: Any, label: str) -> _Given:
    """Check that the field exists and turn its text into a value of its type."""
    if name in _SECTIONS:
        raise ConfigError(_section_problem(name, label))
    if name not in FIELDS:
        raise ConfigError(f"{label}: unknown field{_suggest(name)}")
    kind = FIELDS[name].kind
    value = None if text is None else parse(text, kind)
    if value is None:
        got = "nothing" if text is None else repr(text)
        raise ConfigError(f"{label}: got {got}, expected {_expected(kind)}")
    if name in _NAMED and value not in _NAMED[name]:
        raise ConfigError(f"{label}: got {text!r}, expected one of {', '.join(_NAMED[name])}")
    return _Given(name, value, label)


def parse(text: str, kind: Any) -> str | int | float | bool | None:
    """The value that ``text`` stands for, None if it stands for none of this type."""
    if get_origin(kind) is Literal:
        return text if text in get_args(kind) else None
    if kind is bool:
        return {"true": True, "false": False}.get(text)
    try:
        if kind is str:
            return text.encode().decode()  # not for halves of characters, which no file can hold
        if kind is float:
            return number if math.isfinite(number := float(text)) else None
        exact = Decimal(text)  # a float would round a long seed
        # adjusted() is the decimal exponent: 1e999999 must not become a number of that length.
        return int(exact) if exact.is_finite() and exact.adjusted() < 19 and exact == int(exact) else None
    except (ValueError, InvalidOperation):
        return None


def _expected(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[kind]


def _shape(node: yaml.Node) -> str:
    if node.tag not in {_MAP, _LIST, *_TEXT}:
        return f"something tagged {node.tag.replace(_YAML, '!!')}"
    if isinstance(node, yaml.MappingNode):
        return "a section"
    return "a list" if isinstance(node, yaml.SequenceNode) else "text"


def _section_problem(name: str, label: str) -> str:
    first = next(field for field in FIELDS if field.startswith(f"{name}."))
    return f"{label}: a section has no value of its own; set its fields, such as {first!r}"


def _suggest(name: str) -> str:
    name = name[:99].replace("-", "_")
    leaf = name.rpartition(".")[2]
    elsewhere = [field for field in FIELDS if field.rpartition(".")[2] == leaf]
    names = elsewhere or difflib.get_close_matches(name, [*FIELDS, *_SECTIONS], n=1)
    return f"; did you mean {names[0]!r}?" if names else f"; sections are {', '.join(sorted(_SECTIONS))}"


def _locate(problem: str, given: Mapping[str, _Given]) -> str:
    """Put the place where one of the fields in ``problem`` was set in front of it."""
    field, _, rest = problem.partition(": ")
    if field in given:
        return f"{given[field].label}: {rest}"
    others = [name for name in re.findall(r"\w+\.\w+", rest) if name in given]
    return f"{given[others[0]].label}: {problem}" if others else problem


def _write(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][\w./-]*(:\w[\w./-]*)?", value, re.ASCII):
        return value
    style = '"' if isinstance(value, str) else None
    text = yaml.safe_dump(value, default_style=style, width=math.inf, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
