"""Which OpenGL library dm_control draws with, if any. States need none, and none is loaded for them."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
import timeit
from collections.abc import Iterator

from dreamer_jax.config.schema import ConfigError

HEADLESS = ("egl", "osmesa")
"""What is tried, in this order, where the environment variable MUJOCO_GL is not set."""


@contextlib.contextmanager
def without_opengl() -> Iterator[None]:
    """Let dm_control's first import choose no renderer.

    It would otherwise load an OpenGL library, which warns or even fails on a machine without a
    display. Other libraries and child processes never see the variable.
    """
    if "dm_control" in sys.modules:
        yield
        return
    with _variable("MUJOCO_GL", "disable"):
        yield


@functools.cache
def start() -> None:
    """Make this process able to draw: with what MUJOCO_GL names, else with EGL, else with OSMesa.

    Raises:
      ConfigError: nothing can be drawn; says what was tried, and which packages are needed.
    """
    chosen = os.environ.get("MUJOCO_GL")
    problems = []
    for backend in (chosen,) if chosen else HEADLESS:
        problem = _try(backend)
        if not problem:
            return
        problems.append(f"MUJOCO_GL={backend} fails with {problem}")
    raise ConfigError(
        f"no picture can be drawn (env.observation image, or a film): {'; '.join(problems)}; set MUJOCO_GL to egl "
        "(Debian packages libegl1 libgl1-mesa-dri) or osmesa (libosmesa6)"
    )


def _try(backend: str) -> str:
    """Load one library and draw an empty scene with it; says what went wrong, nothing if it works."""
    with without_opengl():
        from dm_control import _render, mujoco
    platform, loaded = os.environ.get("PYOPENGL_PLATFORM"), set(sys.modules)
    try:
        with _variable("MUJOCO_GL", backend):
            importlib.reload(_render)
        physics = mujoco.Physics.from_xml_string("<mujoco/>")
        physics.render(16, 16)
        physics.free()
    except Exception as error:
        # What PyOpenGL has bound to one library is of no use to the next.
        _put_back("PYOPENGL_PLATFORM", platform)
        for name in set(sys.modules) - loaded:
            if name.startswith(("OpenGL", "dm_control._render.")):
                del sys.modules[name]
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return ""


def seconds_a_frame(backend: str) -> float:
    """Of 64 x 64 pixels of a task of DeepMind Control, drawn with one library; the fastest of ten.

    Raises:
      ConfigError: it draws nothing here.
    """
    if problem := _try(backend):
        raise ConfigError(problem)
    with without_opengl():
        from dm_control import suite
    physics = suite.load("cartpole", "balance").physics
    return min(timeit.repeat(lambda: physics.render(64, 64, camera_id=0), number=1, repeat=10))


@contextlib.contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        _put_back(name, before)


def _put_back(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
