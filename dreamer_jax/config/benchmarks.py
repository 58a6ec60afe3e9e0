"""Settings under which published scores came about, by benchmark: the environment, how often to update, how large.

``paper`` is the DreamerV3 paper (arXiv 2301.04104v2, tables of its appendix), ``2024`` the code of that time, and a
bare name danijar/dreamerv3 at commit e3f0224 (``dreamerv3/configs.yaml``, ``embodied/envs``). Frames are
environment frames; the code counts agent steps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

HEAD = "danijar/dreamerv3 at e3f0224"
PAPER = "arXiv 2301.04104v2"


class Benchmark(NamedTuple):
    """Settings by dotted name that a benchmark fixes."""

    meaning: str  # one line for --help
    source: str
    size: str  # unless another is chosen; empty: the preset's
    settings: dict[str, Any]
    published: str = ""  # scores that came about under it, in data/published_scores.json


_ATARI100K = {"env.action_repeat": 4, "env.num_envs": 1, "env.image_size": 64, "env.grey": False, "env.sticky": 0.0}

BENCHMARKS = {
    "none": Benchmark("whatever preset and settings say", "", "", {}),
    "dmc_proprio": Benchmark(
        "DeepMind Control from joint states, 18 tasks",
        HEAD,
        "1m",
        {"env.action_repeat": 1, "env.num_envs": 16, "train.train_ratio": 1024.0, "train.frames": 1_100_000},
    ),
    "dmc_proprio_paper": Benchmark(
        "the same, as in the paper",
        PAPER,
        "12m",
        {
            "env.action_repeat": 2,
            "env.num_envs": 16,
            "policy.unimix": 0.01,
            "train.train_ratio": 512.0,
            "train.frames": 500_000,
        },
        published="dmc_proprio",
    ),
    "dmc_vision": Benchmark(
        "DeepMind Control from pictures, 20 tasks",
        HEAD,
        "200m",
        {
            "env.observation": "image",
            "env.action_repeat": 1,
            "env.num_envs": 16,
            "train.train_ratio": 256.0,
            "train.frames": 1_100_000,
        },
    ),
    "dmc_vision_paper": Benchmark(
        "the same, as in the paper",
        PAPER,
        "12m",
        {
            "env.observation": "image",
            "env.action_repeat": 2,
            "env.num_envs": 16,
            "policy.unimix": 0.01,
            "train.train_ratio": 512.0,
            "train.frames": 1_000_000,
        },
        published="dmc_vision",
    ),
    "atari100k": Benchmark(
        "26 Atari games within 400K frames",
        HEAD,
        "200m",
        _ATARI100K
        | {
            "env.actions": "minimal",
            "env.noops": 30,
            "env.timeouts_terminate": True,
            "train.train_ratio": 256.0,
            "train.frames": 440_000,
        },
    ),
    "atari100k_2024": Benchmark(
        "the same, as the code of 2024 had it",
        "danijar/dreamerv3 in 2024",
        "200m",
        _ATARI100K
        | {
            "env.actions": "all",
            "env.noops": 0,
            "env.timeouts_terminate": True,
            "policy.unimix": 0.01,
            "train.train_ratio": 256.0,
            "train.frames": 440_000,
        },
    ),
    "atari100k_paper": Benchmark(
        "the same, as in the paper",
        PAPER,
        "200m",
        _ATARI100K
        | {
            "env.actions": "minimal",
            "env.noops": 30,
            "policy.unimix": 0.01,
            "train.train_ratio": 128.0,
            "train.frames": 400_000,
        },
        published="atari100k",
    ),
    "atari200m": Benchmark(
        "57 Atari games within 200M frames",
        HEAD,
        "200m",
        {
            "env.action_repeat": 4,
            "env.num_envs": 16,
            "env.image_size": 96,
            "env.grey": True,
            "env.sticky": 0.25,
            "env.actions": "all",
            "env.noops": 30,
            "env.timeouts_terminate": True,
            "train.train_ratio": 32.0,
            "train.frames": 204_000_000,
        },
    ),
    "crafter": Benchmark(
        "Crafter with rewards, 22 achievements",
        HEAD,
        "200m",
        {"env.action_repeat": 1, "env.num_envs": 1, "train.train_ratio": 512.0, "train.frames": 1_100_000},
    ),
}
