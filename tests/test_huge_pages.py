"""When a program begins again to get huge pages, and that it does so once."""

import os
import subprocess
import sys

import pytest

from dreamer_jax.devices.huge_pages import tunables

ASKED, LIBC = "always [madvise] never\n", "glibc 2.36"


@pytest.mark.parametrize(
    ("environ", "policy", "libc", "expected"),
    [
        ({}, ASKED, LIBC, "glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": "glibc.malloc.check=1"}, ASKED, LIBC, "glibc.malloc.check=1:glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, ASKED, LIBC, ""),
        ({}, "[always] madvise never\n", LIBC, ""),
        ({}, "always madvise [never]\n", LIBC, ""),
        ({}, ASKED, "glibc 2.34", ""),
        ({}, ASKED, "glibc 3.0", "glibc.malloc.hugetlb=1"),
        ({}, ASKED, "", ""),
    ],
)
def test_huge_pages_are_asked_for_where_that_helps(environ, policy, libc, expected):
    assert tunables(environ, policy, libc) == expected


def test_a_program_begins_again_once_with_its_arguments(tmp_path):
    """Whatever this machine is like: the file that says so is another one."""
    (tmp_path / "policy").write_text(ASKED)
    (tmp_path / "program.py").write_text(
        "import os, sys, pathlib\n"
        "from dreamer_jax.devices import huge_pages\n"
        "huge_pages._POLICY = pathlib.Path(sys.argv[1])\n"
        "print('begun', flush=True)\n"
        "huge_pages.restart_with_huge_pages()\n"
        "print(os.getpid(), os.environ.get('GLIBC_TUNABLES'), *sys.argv[2:])\n"
    )
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "policy"), "--seed", "1"]
    environ = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    program = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)
    output = program.communicate()[0].splitlines()
    glibc = sys.platform == "linux" and (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    times, variable = (2, "glibc.malloc.hugetlb=1") if glibc else (1, "None")
    assert output == ["begun"] * times + [f"{program.pid} {variable} --seed 1"]
