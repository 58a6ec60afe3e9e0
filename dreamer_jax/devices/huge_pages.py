"""Memory in pages of 2 MB, where Linux gives them to programs that ask.

XLA takes the temporaries of an update anew every time, hundreds of megabytes. In pages of 4 kB, handing them out takes
the kernel a fifth of an update's CPU time at size 1m. glibc asks for huge pages if an environment variable says so, but
reads it only when a program starts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

TUNABLES, TUNABLE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
_POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart_with_huge_pages() -> None:
    """Begin this program again as a program with huge pages, in the same process; nothing if that would not help."""
    if sys.platform != "linux":
        return
    try:
        wanted = tunables(os.environ, _POLICY.read_text(), os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (OSError, ValueError):  # no such file, or another C library
        return
    if wanted:
        os.environ[TUNABLES] = wanted
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def tunables(environ: Mapping[str, str], policy: str, libc: str) -> str:
    """What the variable has to say, or nothing: it says so already, or nobody has to ask, or asking is of no use."""
    name, _, version = libc.partition(" ")
    numbers = tuple(int(number) for number in version.split(".")[:2] if number.isdigit())
    now = environ.get(TUNABLES, "")
    if name != "glibc" or numbers < (2, 35) or "[madvise]" not in policy or TUNABLE in now:
        return ""
    return f"{now}:{TUNABLE}=1".removeprefix(":")
