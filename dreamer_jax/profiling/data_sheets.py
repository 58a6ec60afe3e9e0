"""What accelerators are said to do by those who make them."""

from __future__ import annotations

from typing import NamedTuple


class Accelerator(NamedTuple):
    """Of its data sheet: dense products a second in bfloat16 and in float32 (TF32 where there is that), and memory."""

    bfloat16: float
    float32: float
    memory: float


ACCELERATORS = {
    "rtx4090": Accelerator(165e12, 82e12, 24e9),
    "a100": Accelerator(312e12, 156e12, 80e9),
    "h100": Accelerator(989e12, 494e12, 80e9),
    "h200": Accelerator(989e12, 494e12, 141e9),
    "tpu_v5e": Accelerator(197e12, 98e12, 16e9),
}
