"""Shapes and types of what an environment emits and accepts. Imports neither JAX nor a simulator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ArraySpec:
    """One array without its batch axes. ``classes`` marks a discrete value in ``[0, classes)``."""

    shape: tuple[int, ...]
    dtype: str
    classes: int | None = None

    @property
    def discrete(self) -> bool:
        return self.classes is not None

    @property
    def image(self) -> bool:
        """A picture ``[height, width, channels]`` of bytes."""
        return len(self.shape) == 3 and self.dtype == "uint8" and not self.discrete

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def width(self) -> int:
        """Width of the vector that a network sees: one-hot where discrete."""
        return self.size * (self.classes or 1)

    @property
    def nbytes(self) -> int:
        return self.size * np.dtype(self.dtype).itemsize if self.dtype != "bfloat16" else 2 * self.size

    def as_json(self) -> dict[str, object]:
        return {"shape": list(self.shape), "dtype": self.dtype, "classes": self.classes}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ArraySpec:
        return cls(tuple(data["shape"]), data["dtype"], data["classes"])


@dataclass(frozen=True)
class EnvSpec:
    """Observations and actions by name. Continuous actions are float32 in [-1, 1]."""

    observation: dict[str, ArraySpec]
    action: dict[str, ArraySpec]

    def as_json(self) -> dict[str, dict[str, dict[str, object]]]:
        return {
            part: {name: spec.as_json() for name, spec in getattr(self, part).items()}
            for part in ("observation", "action")
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> EnvSpec:
        return cls(
            *(
                {name: ArraySpec.from_json(spec) for name, spec in data[part].items()}
                for part in ("observation", "action")
            )
        )
