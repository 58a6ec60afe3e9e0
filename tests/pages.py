"""The pages that people read: README and docs/, taken apart into prose and blocks of code."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
LOOP = re.compile(r"\bfor (\w+) in ([^;]*);")
END = re.compile(r"\s(?:>>|>|\||;|&&|\d>).*$")
"""Where a command ends within a line of shell."""


class Block(NamedTuple):
    page: str  # relative to the repository's root
    line: int
    language: str
    body: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


class Command(NamedTuple):
    place: str  # page and line of its block
    words: list[str]  # after ``dreamer-jax``


@cache
def text(page: Path) -> str:
    """A page with the files that it includes."""

    def include(match: re.Match) -> str:
        return (ROOT / match[1]).read_text().rstrip("\n")

    return re.sub(r"^--8<--\n(.*)\n--8<--$", include, page.read_text(), flags=re.MULTILINE)


@cache
def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        content = text(page)
        for match in FENCE.finditer(content):
            line = content[: match.start()].count("\n") + 2
            found.append(Block(page.relative_to(ROOT).as_posix(), line, match[1], match[2]))
    return found


@cache
def prose(page: Path) -> str:
    return FENCE.sub("", text(page))


def commands() -> list[Command]:
    """Every command line of the package in a block of shell, with loops' first values in place of their variables."""
    found = []
    for block in blocks():
        if block.language != "bash":
            continue
        body = block.body.replace("\\\n", " ").replace("$SLURM_ARRAY_TASK_ID", "0")
        for name, values in LOOP.findall(body):
            body = re.sub(rf"\$\{{{name}\}}|\${name}\b", values.split()[0], body)
        for line in body.splitlines():
            _, started, rest = re.sub(r"(^|\s)#.*$", "", line).partition("dreamer-jax ")
            if started:
                found.append(Command(block.place, shlex.split(END.sub("", rest.rstrip('"')))))
    return found


def run(arguments: list[str], directory: Path, package: Path = ROOT) -> str:
    """What Python prints in ``directory``, as a reader would start it; compiled quickly, as speed is not tested."""
    flags = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout
