"""JAX's own settings on which numbers depend: the same for every run, so that one seed is one run.

They are variables such as ``JAX_ENABLE_X64``, and whatever shares the process may change them, environments above all.
JAX holds them for each thread. Those for finding faults, such as ``JAX_DEBUG_NANS``, change no number and stay as
they are.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from dreamer_jax.config.schema import ConfigError

FIXED: dict[str, Any] = {
    "enable_x64": False,
    "numpy_rank_promotion": "allow",
    "numpy_dtype_promotion": "standard",
    "default_matmul_precision": None,
    "default_prng_impl": "threefry2x32",
    "threefry_partitionable": True,
    "softmax_custom_jvp": False,
    "disable_jit": False,
    "transfer_guard_host_to_device": "allow",
    "transfer_guard_device_to_host": "allow",
    "transfer_guard_device_to_device": "allow",
}
"""What they are here, whatever the process has."""

REFUSED: dict[str, Any] = {
    "jax_random_seed_offset": 0,
    "jax_disable_most_optimizations": False,
    "jax_scan3": False,
    "jax_custom_vjp3": False,
    "eager_constant_folding": False,
}
"""Those that a thread can't have for itself, and the one value with which numbers are right."""


class _Thread(threading.local):
    fixed: ExitStack | None = None


_here = _Thread()


@contextmanager
def fixed_numerics() -> Iterator[None]:
    """In this thread ``FIXED`` holds, however deep inside each other.

    Raises:
      ConfigError: one of ``REFUSED`` has another value, or JAX has no device.
    """
    if _here.fixed is not None:
        yield
        return
    find_devices()
    for name, value in REFUSED.items():
        if (found := _of_process(name, value)) != value:
            raise ConfigError(f"{name.upper()}: got {found}, with which no run is what it should be; leave it out")
    _here.fixed = _fix()
    try:
        yield
    finally:
        _here.fixed.close()
        _here.fixed = None


@contextmanager
def process_numerics() -> Iterator[None]:
    """Meanwhile code of others, such as an environment, finds JAX as the process has it."""
    if _here.fixed is None:
        yield
        return
    _here.fixed.close()
    _here.fixed = None
    try:
        yield
    finally:
        _here.fixed = _fix()


def left_aside() -> str:
    """What the process has in place of ``FIXED``, for a person; nothing mostly."""
    with process_numerics():
        found = {name: _of_process(f"jax_{name}", value) for name, value in FIXED.items()}
    others = [f"JAX_{name.upper()}={value}" for name, value in found.items() if value not in (None, FIXED[name])]
    return f"not used, because numbers would depend on it: {', '.join(others)}" if others else ""


def find_devices() -> None:
    """Let JAX begin, if it has not.

    Raises:
      ConfigError: it finds nothing of what ``JAX_PLATFORMS`` asks for.
    """
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        asked = jax.config.values.get("jax_platforms") or ""
        reason = " ".join(str(error).split()) or "its plugin is not installed"
        raise ConfigError(
            f"JAX_PLATFORMS: got {asked!r}, which JAX can't use here ({reason}); install what it needs, such as "
            "jax[cuda12], or leave the variable out"
        ) from error


def _fix() -> ExitStack:
    import jax

    with ExitStack() as entered:
        for name, value in FIXED.items():
            entered.enter_context(getattr(jax, name)(value))
        return entered.pop_all()


def _of_process(name: str, otherwise: Any) -> Any:
    import jax

    return jax.config.values.get(name, otherwise)
