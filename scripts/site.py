"""The pages of the site that the code itself writes: commands, settings, presets, the API, notebooks.

mkdocs calls ``on_config`` and ``on_files`` (``hooks`` in mkdocs.yml). Nothing here is written down twice: a setting,
a command or a module that is added, moved or removed changes its page.
"""

from __future__ import annotations

import argparse
import html
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from dreamer_jax.cli.parser import make_parser
from dreamer_jax.config.loading import load
from dreamer_jax.config.named import BENCHMARKS, PRESETS, SIZES, size_settings
from dreamer_jax.config.schema import FIELDS, Config, Field, flatten

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dreamer_jax"
NOTEBOOKS = ROOT / "notebooks"
EXAMPLES = ROOT / "examples"
API = "reference/api"
SIZE_COLUMNS = {
    "rssm.deter": "recurrent state",
    "rssm.hidden": "hidden units",
    "rssm.classes": "classes",
    "encoder.depth": "CNN depth",
}
BENCHMARK_COLUMNS = {
    "env.action_repeat": "repeat",
    "env.num_envs": "environments",
    "train.train_ratio": "train ratio",
    "train.frames": "frames",
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lists the API's pages in the navigation, under the entry that is called so."""
    _section(config.nav, "API")[:] = [{_title(name): f"{API}/{name}.md"} for name in packages()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages, and the examples, to those that lie in docs/."""
    examples = {f"examples/{path.name}": path.read_text() for path in sorted(EXAMPLES.glob("*.*"))}
    for path, content in {**pages(), **examples}.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Lets links to files outside docs/ lead to what the site has of them; notebooks are pages there."""
    outside = r"\]\(((?:\.\./)*)\.\./((?:examples|notebooks)/\w+\.\w+)\)"
    return re.sub(outside, lambda link: f"]({link[1]}{link[2].replace('.ipynb', '.md')})", markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Lets long names of modules and files break at their dots and slashes, and nowhere else."""
    return re.sub(r"(?<=<code>)[\w./]+(?=</code>)", lambda name: re.sub(r"([./])", r"\1<wbr>", name[0]), content)


def pages() -> dict[str, str | bytes]:
    """Every generated file by its place in the site."""
    return {
        "reference/commands.md": commands_page(),
        "reference/settings.md": settings_page(),
        "reference/presets.md": presets_page(),
        **{f"{API}/{name}.md": api_page(name, modules) for name, modules in packages().items()},
        **notebook_pages(),
    }


def commands_page() -> str:
    """Every command with its flags, as the parser has them."""
    lines = ["# Commands", "", COMMANDS, ""]
    parser = make_parser()
    (commands,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for name, sub in commands.choices.items():
        lines += [f"## {name}", "", sub.description or "", "", "```text", sub.format_usage().strip(), "```", ""]
        for group in sub._action_groups:
            actions = [a for a in group._group_actions if a.help is not argparse.SUPPRESS and a.dest != "help"]
            if not actions:
                continue
            if group.title not in ("positional arguments", "options", "optional arguments"):
                lines += [f"**{(group.title or '').capitalize()}**", ""]
            lines += [_definitions((_flag(action), _help(action), "") for action in actions), ""]
        if sub.get_default("takes_settings"):
            lines += ["Every [setting](settings.md) is a flag as well, under its dotted name.", ""]
    return "\n".join(lines)


def settings_page() -> str:
    """Every setting with its meaning, type, limits, default, and the presets that have another value."""
    lines = ["# Settings", "", SETTINGS, ""]
    default, others = flatten(Config()), {name: flatten(load(name)) for name in PRESETS}
    section = ""
    for name, field in FIELDS.items():
        part = name.rpartition(".")[0] or "general"
        if part != section:
            section = part
            lines += [f"## {part}", ""]
        facts = f"{_kind(field)}, default <code>{_value(default[name])}</code>"
        differing: dict[str, list[str]] = {}
        for preset, values in others.items():
            if values[name] != default[name] and name not in ("preset", "revision"):
                differing.setdefault(_value(values[name]), []).append(preset)
        facts += "".join(f"; <code>{value}</code> in {', '.join(names)}" for value, names in differing.items())
        meaning = html.escape(field.meaning, quote=False)
        lines += [_definitions([(f"--{name}", meaning, f"{facts}.")], anchor=name), ""]
    return "\n".join(lines)


def presets_page() -> str:
    """Presets, sizes and benchmarks by name."""
    presets = [[f"`{name}`", preset.meaning, f"`{preset.size}`"] for name, preset in PRESETS.items()]
    widths = {name: size_settings(name) for name in SIZES if name != "own"}
    sizes = [[f"`{name}`", *(f"{values[key]:,}" for key in SIZE_COLUMNS)] for name, values in widths.items()]
    benchmarks = [
        [f"`{name}`", entry.meaning, entry.source, *(_cell(entry.settings.get(key)) for key in BENCHMARK_COLUMNS)]
        for name, entry in BENCHMARKS.items()
        if name != "none"
    ]
    return "\n".join(
        [
            "# Presets, sizes and benchmarks",
            "",
            PRESETS_TEXT,
            "## Presets",
            "",
            _table(["preset", "what it is", "size"], presets),
            SIZES_TEXT,
            _table(["size", *SIZE_COLUMNS.values()], sizes),
            BENCHMARKS_TEXT,
            _table(["benchmark", "what it is", "source", *BENCHMARK_COLUMNS.values()], benchmarks),
        ]
    )


def api_page(name: str, modules: list[str]) -> str:
    """What the modules of one package hold, for mkdocstrings to fill in."""
    title = "dreamer_jax" if name == "index" else f"dreamer_jax.{name}"
    return "\n".join([f"# {title}", "", *(f"::: {module}\n" for module in modules)])


@cache
def packages() -> dict[str, list[str]]:
    """Modules by the folder that they are in, ``index`` for those of the package itself."""
    found: dict[str, list[str]] = {"index": ["dreamer_jax"]}
    for path in sorted(PACKAGE.rglob("*.py")):
        folder = path.parent.relative_to(PACKAGE).as_posix().replace("/", ".")
        if path.stem.startswith("__"):
            continue
        name = "index" if folder == "." else folder
        found.setdefault(name, []).append(".".join(path.relative_to(ROOT).with_suffix("").parts))
    return found


def notebook_pages() -> dict[str, str | bytes]:
    """Notebooks as Markdown, and the pictures that their cells have shown."""
    if not NOTEBOOKS.is_dir():
        return {}
    from nbconvert import MarkdownExporter

    made: dict[str, str | bytes] = {}
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        body, resources = MarkdownExporter().from_filename(str(path))
        folder = f"{path.stem}_files"
        made[f"notebooks/{path.stem}.md"] = body.replace("](output_", f"]({folder}/output_")
        made |= {f"notebooks/{folder}/{name}": data for name, data in resources["outputs"].items()}
    return made


def _section(nav: list[Any], title: str) -> list[Any]:
    """The entries below ``title`` in a navigation."""
    for entry in nav:
        for name, below in entry.items() if isinstance(entry, dict) else ():
            if name == title:
                return below
            if isinstance(below, list) and (found := _section(below, title)) is not None:
                return found
    return None  # type: ignore[return-value]


def _title(package: str) -> str:
    return "dreamer_jax" if package == "index" else f"dreamer_jax.{package}"


def _flag(action: argparse.Action) -> str:
    words = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    if action.option_strings and action.nargs != 0:
        words += f" {action.metavar or _choices(action) or action.dest.upper()}"
    return words


def _choices(action: argparse.Action) -> str:
    return "|".join(map(str, action.choices)) if action.choices else ""


def _help(action: argparse.Action) -> str:
    return html.escape(action.help or "", quote=False)


def _kind(field: Field) -> str:
    if get_origin(field.kind) is Literal:
        return "one of " + ", ".join(f"<code>{choice}</code>" for choice in get_args(field.kind))
    kind = {str: "text", int: "whole number", float: "number", bool: "true or false"}[field.kind]
    ends = [(field.low, "at least"), (field.high, "at most")]
    return ", ".join([kind, *(f"{words} {end:g}" for end, words in ends if end is not None)])


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}".replace("e-0", "e-") if isinstance(value, float) else html.escape(str(value)) or "nothing"


def _cell(value: float | None) -> str:
    return "the preset's" if value is None else f"{value:,.0f}"


def _definitions(entries: Iterator[tuple[str, str, str]] | list[tuple[str, str, str]], anchor: str = "") -> str:
    """Terms with their meanings below them, which need no width as a table does."""
    lines = ['<dl class="terms">']
    for term, meaning, facts in entries:
        mark = f' id="{anchor}"' if anchor else ""
        lines.append(f"<dt{mark}><code>{html.escape(term)}</code></dt>")
        lines.append(f"<dd>{meaning}{f'<br><small>{facts}</small>' if facts else ''}</dd>")
    return "\n".join([*lines, "</dl>"])


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


COMMANDS = """\
Generated from the parser; `dreamer-jax COMMAND --help` prints the same. Every command ends with status 0, with 2 and
one line on stderr that says what to change, or with 128 and the number of the signal that stopped it. With `--json`
stdout has nothing but the answer: whatever environments or libraries print goes to stderr. `~` in a path is your home
directory."""
SETTINGS = """\
Generated from `dreamer_jax/config/schema.py`. Each is a flag of `train` under its dotted name (`--rssm.deter 256`) and
a line in a section of a YAML file. Later wins: preset, benchmark, size, YAML files from left to right, flags.
`dreamer-jax config` with the same flags prints what comes out. Where presets have another value than the default, they
are named; [The family](../family.md) has the presets side by side."""
PRESETS_TEXT = """\
Generated from the files in `dreamer_jax/config/presets/`, `sizes/` and `benchmarks/`. A preset (`--preset`) is a
published algorithm, a size (`--size`) sets all widths, a benchmark (`--benchmark`, or the file of that name in
`configs/`) the settings under which published scores came about. A preset made for pictures of one suite goes with
tasks of another: what those can't use (`env.observation`) is left at its default, unless you set it.
"""
SIZES_TEXT = """\
## Sizes

A size sets all widths; from 1m to 400m as fixed fractions of the recurrent state's. Their names are the reference's and
count an agent with images: one for vectors is smaller, about 0.64 M parameters at 1m and 9.7 M at 12m. Those of 2023
are xsmall to xlarge. `own` leaves the widths of the preset.
"""
BENCHMARKS_TEXT = """\
## Benchmarks

A reproduction is then `dreamer-jax train --config configs/atari100k.yaml --env.task atari100k/boxing`. Those of 2023
and 2024 go with the presets of these years, as the files in `configs/` have them;
[Reproduction](../reproduction.md#which-algorithm-the-published-curves-are-of) says how it is known which curve is of
which. Those of earlier agents: [Settings for a suite](../family.md#settings-for-a-suite). A score is comparable
with a published one only under the protocol that produced that one; `revision` in a run's `config.yaml` says which
algorithm it was.
"""
