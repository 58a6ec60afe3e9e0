"""Dreamer world-model agents as pure functions in JAX and Flax.

The names below are the public interface. Each is imported when first used, so that importing the
package loads neither JAX nor a simulator.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamer_jax.agent import make_agent
    from dreamer_jax.config.loading import load as load_config
    from dreamer_jax.config.named import PRESETS, SIZES
    from dreamer_jax.config.schema import Config, ConfigError
    from dreamer_jax.runs.load import load
    from dreamer_jax.training.train import train

    __version__: str

__all__ = [
    "PRESETS",
    "SIZES",
    "Config",
    "ConfigError",
    "__version__",
    "load",
    "load_config",
    "make_agent",
    "train",
]

_HOMES = {
    "PRESETS": ("dreamer_jax.config.named", "PRESETS"),
    "SIZES": ("dreamer_jax.config.named", "SIZES"),
    "Config": ("dreamer_jax.config.schema", "Config"),
    "ConfigError": ("dreamer_jax.config.schema", "ConfigError"),
    "load": ("dreamer_jax.runs.load", "load"),
    "load_config": ("dreamer_jax.config.loading", "load"),
    "make_agent": ("dreamer_jax.agent", "make_agent"),
    "train": ("dreamer_jax.training.train", "train"),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata  # takes a tenth of what ``--help`` takes

        return metadata.version("dreamer-jax")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = globals()[name] = getattr(importlib.import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return __all__
