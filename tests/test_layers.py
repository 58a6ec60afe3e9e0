"""Imports run one way, special libraries stay in their files, importing the package is cheap."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dreamer_jax
from dreamer_jax.config.named import PRESETS

PACKAGE = Path(__file__).parent.parent / "dreamer_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
ORDER = (
    "types specs files checksums terminal config interfaces numerics ops distributions nets optim models behaviors "
    "report agent reference replay envs processes runs devices datasets analysis profiling training evaluation "
    "reporting doctor cli"
).split()  # each imports only itself and what stands to its left


def place(path: Path) -> str:
    """File relative to the package, such as ``ops/returns.py``."""
    return path.relative_to(PACKAGE).as_posix()


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported anywhere in a file, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(path: str, source: str) -> list[str]:
    """What a file of the package may not do, as sentences."""
    tree = ast.parse(source)
    unit = path.split("/")[0].removesuffix(".py")
    names = list(imports(tree))
    found = []
    if unit not in ("__init__", "__main__"):
        if unit not in ORDER:
            return [f"{path}: {unit} has no place in the order of imports"]
        for name in names:
            root, _, rest = name.partition(".")
            other = rest.partition(".")[0]
            if root == "dreamer_jax" and other in ORDER and ORDER.index(other) > ORDER.index(unit):
                found.append(f"{path}: {unit} may not import {other}")
    for library, homes in {
        "distrax": ("distributions.py",),
        "tensorflow_probability": (),
        "flax.linen": ("nets/", "models/", "behaviors/"),
    }.items():
        if any(f"{name}.".startswith(f"{library}.") for name in names) and not path.startswith(homes):
            found.append(f"{path}: may not import {library}")
    for node in ast.walk(tree):
        if "pmap" in (getattr(node, "attr", ""), getattr(node, "name", "")) and path != "devices/data_parallel.py":
            found.append(f"{path}: pmap belongs to devices/data_parallel.py")
        if (
            isinstance(node, ast.Constant)
            and node.value in list(PRESETS)
            and path not in ("config/named.py", "config/schema.py")
        ):
            found.append(f"{path}: names the preset {node.value}; an option is named for its mechanism")
    return found


@pytest.mark.parametrize("path", FILES, ids=place)
def test_file_keeps_to_its_layer(path):
    assert not violations(place(path), path.read_text())


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("ops/returns.py", "from dreamer_jax.nets import layers"),
        ("ops/returns.py", "def f():\n    import dreamer_jax.agent"),
        ("nets/layers.py", "from dreamer_jax import models"),
        ("replay/host.py", "from dreamer_jax.envs.vector import make"),
        ("novel.py", ""),
        ("models/heads.py", "import distrax"),
        ("distributions.py", "from tensorflow_probability.substrates import jax"),
        ("agent.py", "from flax import linen as nn"),
        ("training/loop.py", "import jax\njax.pmap(print)"),
        ("training/loop.py", "from jax import pmap"),
        ("agent.py", f"x = {next(iter(PRESETS))!r}"),
    ],
)
def test_the_check_sees_each_kind_of_violation(path, source):
    assert len(violations(path, source)) == 1


def test_the_check_lets_the_right_files_pass():
    assert not violations("distributions.py", "import distrax")
    assert not violations("models/rssm.py", "import flax.linen as nn\nfrom dreamer_jax.nets.layers import MLP")
    assert not violations("devices/data_parallel.py", "import jax\njax.pmap(print)")
    assert not violations("__main__.py", "from dreamer_jax.cli import main")


def test_importing_the_package_and_its_settings_is_cheap():
    heavy = ["jax", "tensorflow_probability", "distrax", "gymnasium", "dm_control", "mujoco", "matplotlib", "rich"]
    program = (
        f"import sys, dreamer_jax\ndreamer_jax.load_config()\nprint(*[name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_agent_imports_without_a_simulator_or_replay():
    program = (
        "import sys, dreamer_jax.agent\n"
        "bad = [n for n in sys.modules if n.split('.')[0] in ('gymnasium', 'dm_control', 'mujoco')]\n"
        "bad += [n for n in sys.modules if n.startswith(('dreamer_jax.replay', 'dreamer_jax.envs'))]\n"
        "print(*bad)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_public_names():
    assert set(dreamer_jax.__all__) == {*dreamer_jax._HOMES, "__version__"}
    for name in dreamer_jax.__all__:
        assert getattr(dreamer_jax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dreamer_jax.nothing  # noqa: B018
