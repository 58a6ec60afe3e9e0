"""Settings under which published scores came about, by benchmark: the environment, how often to update, how large.

``paper`` is the DreamerV3 paper (arXiv 2301.04104v2, tables of its appendix), a year the code of that time under which
the published curves came about, and a bare name danijar/dreamerv3 at commit e3f0224 (``dreamerv3/configs.yaml``,
``embodied/envs``). Frames are environment frames; the code counts agent steps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

HEAD = "danijar/dreamerv3 at e3f0224"
PAPER = "arXiv 2301.04104v2"
V3_2024 = "danijar/dreamerv3 at 251910d"
V3_2023 = "danijar/dreamerv3 at 8fa35f8"
V2 = "danijar/dreamerv2 at 07d906e"
V1 = "danijar/dreamer at 56d4d44"


class Benchmark(NamedTuple):
    """Settings by dotted name that a benchmark fixes."""

    meaning: str  # one line for --help
    source: str
    size: str  # unless another is chosen; empty: the preset's
    settings: dict[str, Any]
    published: str = ""  # scores that came about under it, in data/published_scores.json


_ATARI100K = {"env.action_repeat": 4, "env.num_envs": 1, "env.image_size": 64, "env.grey": False, "env.sticky": 0.0}
_DMC_2020 = {
    **{"env.action_repeat": 2, "env.num_envs": 1, "replay.ends": "uniform", "rssm.deter": 200},
    **{"rssm.hidden": 200, "reward.squash": "none", "cont.label": "none", "cont.start": "predicted"},
    **{"kl.free_nats": 1.0, "behavior.entropy": 1e-4, "optimizer.learning_rate": 3e-4},
    **{"optimizer.critic_learning_rate": 8e-5, "train.prefill": 1000, "train.pretrain": 100},
}

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
    ),
    "dmc_proprio_2023": Benchmark(
        "the same, for DreamerV3 of 2023, which the published curves are of",
        V3_2023,
        "small",
        {
            **{"env.action_repeat": 2, "env.num_envs": 8, "train.train_ratio": 512.0, "train.frames": 500_000},
            # Random actions in hundreds, a step of all environments at a time, until there are 16 x 64 windows.
            "train.prefill": 1560,
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
    ),
    "dmc_vision_2024": Benchmark(
        "the same, for DreamerV3 of 2024, which the published curves are of",
        V3_2024,
        "12m",
        {
            **{"env.observation": "image", "env.action_repeat": 2, "env.num_envs": 8, "policy.unimix": 0.01},
            **{"train.start_windows": 16, "train.train_ratio": 512.0, "train.frames": 1_000_000},
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
        "the same, for DreamerV3 of 2024, which the published curves are of",
        V3_2024,
        "200m",
        _ATARI100K
        | {
            "env.actions": "all",
            "env.noops": 0,
            "env.timeouts_terminate": True,
            "policy.unimix": 0.01,
            "train.start_windows": 16,
            "train.train_ratio": 256.0,
            "train.frames": 440_000,
        },
        published="atari100k",
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
    "dmc_vision_2020": Benchmark(
        "DeepMind Control from pictures, for DreamerV2",
        V2,
        "",
        _DMC_2020 | {"env.observation": "image", "train.frames": 2_000_000},
        published="dmc_vision_2020",
    ),
    "dmc_proprio_2020": Benchmark(
        "the same from joint states", V2, "", _DMC_2020 | {"env.observation": "state", "train.frames": 1_000_000}
    ),
    "atari200m_2020": Benchmark(
        "Atari within 200M frames, for DreamerV2",
        V2,
        "",
        {
            **{"env.action_repeat": 4, "env.num_envs": 1, "env.image_size": 64, "env.grey": True, "env.sticky": 0.25},
            **{"env.actions": "minimal", "env.noops": 30, "env.time_limit": 27_000, "rssm.deter": 600},
            **{"rssm.hidden": 600, "kl.dyn": 0.08, "kl.rep": 0.02, "loss.cont": 5.0, "behavior.entropy": 1e-3},
            **{"behavior.discount_horizon": 1000, "optimizer.learning_rate": 2e-4},
            **{"optimizer.actor_learning_rate": 4e-5, "optimizer.critic_learning_rate": 1e-4},
            **{"train.prefill": 50_000, "train.train_ratio": 50.0, "train.frames": 200_000_000},
        },
        published="atari200m_2020",
    ),
    "crafter_2021": Benchmark(
        "Crafter with rewards, for DreamerV2",
        V2,
        "",
        {
            **{"env.action_repeat": 1, "env.num_envs": 1, "nets.norm": "layer", "behavior.entropy": 3e-3},
            **{"behavior.discount_horizon": 1000, "optimizer.learning_rate": 1e-4},
            **{"optimizer.actor_learning_rate": 1e-4, "optimizer.critic_learning_rate": 1e-4},
            **{"train.frames": 1_000_000},
        },
    ),
    "dmc_vision_2019": Benchmark(
        "DeepMind Control from pictures, for DreamerV1",
        V1,
        "",
        {"env.observation": "image", "env.action_repeat": 2, "env.num_envs": 1, "train.frames": 5_000_000},
        published="dmc_vision_2019",
    ),
    "atari200m_2019": Benchmark(
        "Atari for DreamerV1: discrete actions",
        "arXiv 1912.01603, appendix",
        "",
        {
            **{"env.action_repeat": 4, "env.num_envs": 1, "env.image_size": 64, "env.sticky": 0.25},
            **{"reward.squash": "tanh", "cont.label": "soft", "behavior.starts": "but_last", "kl.dyn": 0.1},
            **{"kl.rep": 0.1, "behavior.imagination_length": 10, "explore.epsilon": 0.4},
            **{"explore.epsilon_final": 0.1, "explore.epsilon_steps": 200_000, "train.frames": 200_000_000},
        },
    ),
}
