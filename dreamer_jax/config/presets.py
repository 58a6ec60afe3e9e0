"""Named starting points: a preset is a list of settings, a size is a set of widths.

``Config()`` itself is DreamerV3 at HEAD, so that a preset says only in what it differs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from dreamer_jax.config.benchmarks import BENCHMARKS
from dreamer_jax.config.schema import FIELDS


class Preset(NamedTuple):
    """Settings by dotted name. ``settings["revision"]`` says which published algorithm this is."""

    meaning: str  # one line for --help
    size: str  # unless another is chosen
    settings: dict[str, Any]


PRESETS = {
    "dreamer_v3": Preset(
        "DreamerV3, danijar/dreamerv3 at e3f0224 (V3-HEAD), DMC proprio protocol",
        "1m",
        {
            "revision": "DreamerV3 as in danijar/dreamerv3 at commit e3f0224, "
            "with its dmc_proprio settings unless a benchmark is named.",
        },
    ),
    "dreamer_v3_paper_dmc": Preset(
        "the same networks under the paper's DMC proprio protocol",
        "12m",
        {
            "revision": "DreamerV3 as in danijar/dreamerv3 at commit e3f0224, "
            "with the DMC proprio protocol of the paper (arXiv 2301.04104v2).",
            **BENCHMARKS["dmc_proprio_paper"].settings,
        },
    ),
}

# Width of the recurrent state. The names are the reference's and count an agent that sees images:
# one for vectors is smaller, 0.64 M parameters at 1m and 9.7 M at 12m on walker.
SIZES = {"1m": 512, "12m": 2048, "25m": 3072, "50m": 4096, "100m": 6144, "200m": 8192, "400m": 12288}


def size_settings(size: str) -> dict[str, int]:
    """Every width at this size: all of them are fixed fractions of the recurrent state's."""
    deter = SIZES[size]
    units = {name: deter // 8 for name in FIELDS if name.endswith(".units")}
    depths = {name: deter // 128 for name in FIELDS if name.endswith(".depth")}
    return {"rssm.deter": deter, "rssm.hidden": deter // 8, "rssm.classes": deter // 128, **units, **depths}
