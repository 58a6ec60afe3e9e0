"""Text of settings files and flags, read against the types of the fields: YAML's own guesses never matter.

``1e-4`` is text to YAML, and ``on`` a boolean.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import yaml

from dreamer_jax.config.schema import FIELDS, ConfigError

_YAML = "tag:yaml.org,2002:"
_MAP, _LIST, _NULL = (_YAML + kind for kind in ("map", "seq", "null"))
_TEXT = {_NULL, *(_YAML + kind for kind in "str int float bool timestamp value merge".split())}
"""What YAML takes text for; what a field makes of the text counts. Any other tag was written by hand."""
MOST_BYTES = 2**20
"""Of a settings file."""
SECTIONS = {name.partition(".")[0] for name in FIELDS if "." in name}


class Given(NamedTuple):
    """One setting as a person gave it; ``label`` begins any complaint about it."""

    name: str
    value: Any
    label: str  # "x.yaml:3: rssm.deter" or "--rssm.deter"


def read_file(path: Path) -> list[Given]:
    """The settings of a YAML file, in order.

    Raises:
      ConfigError: one line that names the file, the place and what was expected.
    """
    try:
        with open(path, "rb") as file:  # which may be a pipe, or a device without end
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ConfigError(f"{path}: not settings: more than {MOST_BYTES:,} bytes")
        root = yaml.compose(data.decode("utf-8"), Loader=yaml.SafeLoader)
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
    return list(settings_of(root, "", path, set()))


def settings_of(node: yaml.MappingNode, prefix: str, path: Path, seen: set[str]) -> Iterable[Given]:
    """Those of a section, or of a whole file; ``seen`` gets their names."""
    for key, value in node.value:
        name = prefix + (key.value if isinstance(key, yaml.ScalarNode) else f"({_shape(key)})")
        label = f"{path}:{key.start_mark.line + 1}: {name}"
        if name in seen:
            raise ConfigError(f"{label}: set twice in this file")
        seen.add(name)
        if name in SECTIONS:
            if isinstance(value, yaml.MappingNode) and value.tag == _MAP:
                yield from settings_of(value, f"{name}.", path, seen)
            elif isinstance(value, yaml.MappingNode):
                raise ConfigError(f"{label}: got {_shape(value)}, expected a section")
            elif value.tag != _NULL:  # a section with every line commented out
                raise ConfigError(_section_problem(name, label))
        elif name in FIELDS and not (isinstance(value, yaml.ScalarNode) and value.tag in _TEXT):
            raise ConfigError(f"{label}: got {_shape(value)}, expected {_expected(FIELDS[name].kind)}")
        else:
            yield read(name, None if value.tag == _NULL else value.value, label)


def read(name: str, text: Any, label: str) -> Given:
    """Check that the field exists and turn its text into a value of its type."""
    if name in SECTIONS:
        raise ConfigError(_section_problem(name, label))
    if name not in FIELDS:
        raise ConfigError(f"{label}: unknown field{_suggest(name)}")
    kind = FIELDS[name].kind
    value = None if text is None else parse(text, kind)
    if value is None:
        got = "nothing" if text is None else repr(text)
        raise ConfigError(f"{label}: got {got}, expected {_expected(kind)}")
    return Given(name, value, label)


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
    names = elsewhere or difflib.get_close_matches(name, [*FIELDS, *SECTIONS], n=1)
    return f"; did you mean {names[0]!r}?" if names else f"; sections are {', '.join(sorted(SECTIONS))}"
