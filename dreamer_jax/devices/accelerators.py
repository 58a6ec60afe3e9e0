"""Is there an accelerator that JAX does not use?"""

from __future__ import annotations

from pathlib import Path

NVIDIA = Path("/proc/driver/nvidia/version")
_EXTRAS = {"cuda": "cuda13", "tpu": "tpu"}


def visible() -> str | None:
    """``cuda`` or ``tpu`` where the kernel has a driver or a device of one, else None."""
    if NVIDIA.exists() or Path("/dev/nvidiactl").exists():
        return "cuda"
    return "tpu" if any(Path("/dev").glob("accel[0-9]*")) else None


def chosen() -> str:
    """What a person has told JAX to compute with, such as by ``JAX_PLATFORMS``; nothing mostly."""
    import jax

    return jax.config.values.get("jax_platforms") or ""


def left_out() -> str:
    """What mends that a visible accelerator is not used; nothing where none is, or where a person chose the CPU."""
    import jax

    kind = visible()
    if kind is None or chosen() or jax.default_backend() != "cpu":
        return ""
    extra = _EXTRAS[kind]
    return (
        f"python -m pip install -U 'dreamer-jax[{extra}]' (JAX computes on the CPU, and there is a device for {kind})"
    )
