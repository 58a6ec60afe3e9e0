"""Which dynamics the settings ask for."""

from __future__ import annotations

from typing import Any

from dreamer_jax.config.schema import Config
from dreamer_jax.interfaces import Dynamics
from dreamer_jax.models.rssm import make_rssm
from dreamer_jax.models.transformer import make_transformer


def make_dynamics(config: Config, /, *, tokens: int, action: int, dtype: Any) -> Dynamics:
    """What ``rssm.backbone`` names."""
    match config.rssm.backbone:
        case "recurrent":
            return make_rssm(config, tokens=tokens, action=action, dtype=dtype)
        case "transformer":
            return make_transformer(config, tokens=tokens, action=action, dtype=dtype)
