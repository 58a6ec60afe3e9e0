"""Is this machine ready? What is installed, what computes, what draws, what room there is; each fault with its cure."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata, resources, util
from pathlib import Path
from typing import Any, NamedTuple

from dreamer_jax.devices.accelerators import left_out
from dreamer_jax.devices.compilation_cache import default_folder, unusable
from dreamer_jax.devices.huge_pages import TUNABLE, TUNABLES
from dreamer_jax.devices.memory import system_bytes
from dreamer_jax.terminal import Answer, table

PACKAGE = "dreamer-jax"
LEAST_DISK_GB, LEAST_MEMORY_GB = 5.0, 4.0
"""Below this even a small run may not fit: 1M records of states take 1 GB, an update at 1m two."""
DRAW = "import sys; from dreamer_jax.envs.rendering import seconds_a_frame as f; print(f(sys.argv[1]))"
BACKENDS = {
    "egl": "apt-get install libegl1 libgl1-mesa-dri",
    "osmesa": "apt-get install libosmesa6",
    "glfw": "a display; egl and osmesa need none",
}
PATIENCE = 120
"""Seconds for a frame, with the import of a simulator."""


class Finding(NamedTuple):
    """``mend`` is the one line that helps; where it is empty, all is well."""

    about: str
    found: str
    mend: str = ""


def examine() -> Iterator[Finding]:
    """Everything that is looked at, one after another."""
    yield from packages(metadata.requires(PACKAGE) or [], installed, tested_versions())
    yield from devices()
    yield from rendering()
    yield from games()
    yield from room()


def installed(name: str) -> str | None:
    """The version of a package, None where it is not there."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def tested_versions() -> dict[str, str]:
    """One set of versions that is known to work together."""
    return json.loads(resources.files("dreamer_jax").joinpath("data/tested_versions.json").read_text("utf-8"))


def packages(
    required: Sequence[str], version: Callable[[str], str | None], tested: Mapping[str, str]
) -> Iterator[Finding]:
    """Those that are required, each in its range, and beside the tested ones."""
    from packaging.requirements import Requirement

    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", python)
    for text in required:
        one = Requirement(text)
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        found = version(one.name)
        wanted = f'python -m pip install -U "{one.name}{one.specifier}"'
        if found is None:
            yield Finding(one.name, "missing", wanted)
        elif not one.specifier.contains(found, prereleases=True):
            yield Finding(one.name, f"{found}, allowed are {one.specifier}", wanted)
        else:
            known = tested.get(one.name)
            yield Finding(one.name, found if known in (None, found) else f"{found} (tested with {known})")


def devices() -> Iterator[Finding]:
    """What JAX computes with, and how many cores there are for the rest."""
    import jax

    try:
        found = jax.devices()
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())
        yield Finding("devices", f"JAX can't begin: {reason}", "unset JAX_PLATFORMS, or install what it asks for")
        return
    kinds = sorted({one.device_kind for one in found})
    yield Finding("devices", f"{len(found)} x {', '.join(kinds)} ({jax.default_backend()})", left_out())
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cores", f"{usable} for this process")


def rendering() -> Iterator[Finding]:
    """A frame by each OpenGL library; one that works is enough."""
    found = {}
    for backend in BACKENDS:
        try:
            ended = subprocess.run(
                [sys.executable, "-c", DRAW, backend], capture_output=True, text=True, timeout=PATIENCE
            )
            last = (ended.stdout if ended.returncode == 0 else ended.stderr).strip().splitlines()[-1:] or ["no word"]
            found[backend] = (ended.returncode == 0, last[0].rpartition("ConfigError: ")[2])
        except subprocess.TimeoutExpired:
            found[backend] = (False, f"no frame within {PATIENCE} s")
    works = any(ok for ok, _ in found.values())
    for backend, (ok, text) in found.items():
        if ok:
            yield Finding(f"MUJOCO_GL={backend}", f"draws 64 x 64 in {1e3 * float(text):.1f} ms")
        else:
            yield Finding(f"MUJOCO_GL={backend}", f"draws nothing: {text}", "" if works else BACKENDS[backend])


def games() -> Iterator[Finding]:
    """Extras for environments, and whether Atari's games are there."""
    if util.find_spec("ale_py") is None:
        yield Finding("Atari", f"not installed; pip install '{PACKAGE}[atari]' brings it and its games")
    else:
        from ale_py import roms

        count = len(roms.get_all_rom_ids())
        cure = "" if count else "python -m pip install -U ale-py"
        yield Finding("Atari", f"ale-py {metadata.version('ale-py')}, {count} games", cure)
    found = installed("crafter")
    yield Finding("Crafter", found or f"not installed; pip install '{PACKAGE}[crafter]' brings it")


def room() -> Iterator[Finding]:
    """Memory, disk, pages of 2 MB and compiled programs."""
    memory = system_bytes()
    if memory is not None:
        cure = "end other programs, or take a smaller --size" if memory < 1e9 * LEAST_MEMORY_GB else ""
        yield Finding("memory", f"{memory / 1e9:.1f} GB free", cure)
    free = shutil.disk_usage(".").free
    cure = "free some, or give --run-dir on another disk" if free < 1e9 * LEAST_DISK_GB else ""
    yield Finding("disk", f"{free / 1e9:.1f} GB free in {Path.cwd()}", cure)
    pages = "asked for" if TUNABLE in os.environ.get(TUNABLES, "") else "not asked for: the kernel or glibc is without"
    yield Finding("huge pages", pages)
    folder = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or default_folder())
    size = sum(path.stat().st_size for path in folder.glob("*")) / 1e6 if folder.is_dir() else 0
    problem = unusable(folder)
    cure = "give a folder of yours with --cache DIR" if problem else ""
    yield Finding("compiled programs", problem or f"{size:.0f} MB in {folder}", cure)


def describe(findings: Sequence[Finding]) -> Answer:
    """A table, and each fault with what mends it."""
    rows = [("wrong" if one.mend else "", one.about, one.found) for one in findings]
    faults = [one for one in findings if one.mend]
    lines = [f"{one.about}: {one.found}\n  {one.mend}" for one in faults] or ["nothing is in the way of a run"]
    return [table(("", "what", "found"), rows), "", *lines]


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    return {"findings": [one._asdict() for one in findings], "faults": sum(bool(one.mend) for one in findings)}
