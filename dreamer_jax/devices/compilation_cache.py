"""Quick starts: compiled programs kept on the disk, so that the next start compiles nothing, and less collecting."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import jax


def default_folder() -> Path:
    """``dreamer_jax/compiled`` in the user's cache folder, ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    named = os.path.expanduser(os.environ.get("XDG_CACHE_HOME", ""))
    return Path(named if os.path.isabs(named) else os.path.expanduser("~/.cache"), "dreamer_jax", "compiled")


def keep_programs(folder: Path) -> str:
    """Keep what is compiled from now on in ``folder``, and look there first; all of it, however small.

    JAX's environment variables of the same settings win, such as ``JAX_COMPILATION_CACHE_DIR``. Returns
    a line for a person if the folder can't be used, else nothing; programs are then compiled as ever.
    """
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    chosen = {name: value for name, value in settings.items() if name.upper() not in os.environ}
    problem = unusable(folder) if "jax_compilation_cache_dir" in chosen else ""
    if not problem:
        for name, value in chosen.items():
            jax.config.update(name, value)
    return problem


_usual: tuple[int, int, int] | None = None
"""How often Python's collector worked before ``collect_rarely``."""


def collect_rarely() -> None:
    """Keep Python's collector from walking through what imports and tracing leave, a fifth of the time of tracing.

    To be called once all is imported, and ``collect_as_usual`` once all is compiled.
    """
    global _usual
    _usual = _usual or gc.get_threshold()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


def collect_as_usual() -> None:
    """Let go of what compiling has left, hundreds of MB; after ``collect_rarely`` the collector is as it was again.

    What is there then stays to the end and is not walked through any more, so that collections are quick, and each
    checkpoint and report is let go of soon.
    """
    global _usual
    gc.collect()
    usual, _usual = _usual, None  # at once: several threads come here
    if usual is not None:
        gc.freeze()
        gc.set_threshold(*usual)


def unusable(folder: Path) -> str:
    """Why nothing can be kept there."""
    try:
        if folder.parts[0] == "~":  # nobody's home, as in some containers
            raise OSError(0, "~ stands for no directory here")
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(0, "it is not writable")
    except OSError as error:
        return f"compiled programs are not kept in {folder}: {error.strerror}; --cache DIR names another folder"
    return ""
