"""Named starting points: a preset is a list of settings, a size is a set of widths.

``Config()`` itself is DreamerV3 at HEAD, so that a preset says only in what it differs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from dreamer_jax.config.benchmarks import BENCHMARKS
from dreamer_jax.config.schema import FIELDS


class Preset(NamedTuple):
    """Settings by dotted name."""

    meaning: str  # which published algorithm this is: a run's ``revision``, and one line for --help
    size: str  # unless another is chosen
    settings: dict[str, Any]


# What PlaNet, DreamerV1 and DreamerV2 share; the published code of 2018 to 2020.
_BEFORE_V3 = {
    **{"env.observation": "image", "env.action_repeat": 2, "env.num_envs": 1},
    **{"replay.sampling": "episodes", "replay.ends": "skipped", "replay.online": False, "replay.context": False},
    **{"nets.norm": "none", "nets.init": "glorot", "nets.activation": "elu", "nets.cnn_activation": "elu"},
    **{"encoder.cnn": "valid", "encoder.depth": 32, "encoder.layers": 4, "encoder.units": 400, "encoder.symlog": False},
    **{"decoder.cnn": "valid", "decoder.depth": 32, "decoder.layers": 4, "decoder.units": 400, "decoder.symlog": False},
    **{"decoder.images": "linear", "decoder.loss": "normal", "rssm.latent": "gaussian", "rssm.stoch": 30},
    **{"rssm.deter": 200, "rssm.hidden": 200, "rssm.prior_layers": 1, "rssm.unimix": 0.0, "rssm.clip_action": False},
    **{"reward.dist": "normal", "reward.init_scale": 1.0, "value.dist": "normal", "value.init_scale": 1.0},
    **{"policy.init_scale": 1.0, "policy.evaluate": "mode", "cont.label": "none", "kl.rep": 1.0},
    **{"value.slow_regularizer": 0.0, "loss.replay_value": 0.0, "behavior.returns": "departure"},
    **{"behavior.normalize": "none", "behavior.entropy": 0.0, "behavior.discount_horizon": 100},
    **{"optimizer.kind": "adam_eps_hat", "optimizer.agc": 0.0, "optimizer.warmup": 0},
    **{"train.batch_size": 50, "train.batch_length": 50, "train.start_windows": 1, "train.pretrain": 100},
}
_HEADS = ("reward", "cont", "policy", "value")
_V2 = {
    **_BEFORE_V3,
    **{"env.action_repeat": 1, "replay.capacity": 2_000_000, "replay.ends": "prioritized"},
    **{"replay.mark_first": True, "encoder.depth": 48, "decoder.depth": 48},
    **{"rssm.latent": "categorical", "rssm.stoch": 32, "rssm.classes": 32},
    **{"rssm.cell": "norm_gru", "rssm.deter": 1024, "rssm.hidden": 1024, "rssm.std": "sigmoid2"},
    **{f"{head}.{name}": width for head in _HEADS for name, width in (("layers", 4), ("units", 400))},
    **{"reward.squash": "tanh", "cont.label": "soft", "cont.start": "recorded", "policy.dist": "trunc_normal"},
    **{"value.target": "slow", "value.slow_rate": 1.0, "value.slow_every": 100, "value.slow_first": "copy"},
    **{"kl.dyn": 0.8, "kl.rep": 0.2, "optimizer.order": "model_first"},
    **{"kl.free_nats": 0.0, "kl.free_average": True, "behavior.gradient": "auto", "behavior.entropy": 2e-3},
    **{"optimizer.learning_rate": 1e-4, "optimizer.actor_learning_rate": 8e-5, "optimizer.clip": 100.0},
    **{"optimizer.critic_learning_rate": 2e-4, "optimizer.eps": 1e-5, "optimizer.weight_decay": 1e-6},
    **{"train.batch_size": 16, "train.train_ratio": 160.0, "train.prefill": 10_000, "train.pretrain": 1},
}
_V2_PAPER = _V2 | {"train.batch_size": 50, "train.train_ratio": 625.0, "behavior.discount_horizon": 200}
_V1 = {
    **_BEFORE_V3,
    **{"nets.cnn_activation": "relu", "rssm.cell": "gru", "policy.dist": "tanh_normal", "policy.min_std": 1e-4},
    **{f"{head}.layers": layers for head, layers in zip(_HEADS, (2, 3, 4, 3), strict=True)},
    **{f"{head}.units": 400 for head in _HEADS},
    **{"policy.init_std": 5.0, "kl.free_nats": 3.0, "kl.free_average": True, "loss.cont": 10.0},
    **{"behavior.gradient": "dynamics", "behavior.start": "excluded", "explore.noise": 0.3},
    **{"optimizer.learning_rate": 6e-4, "optimizer.actor_learning_rate": 8e-5, "optimizer.eps": 1e-7},
    **{"optimizer.critic_learning_rate": 8e-5, "optimizer.clip": 100.0, "train.train_ratio": 500.0},
    **{"train.prefill": 2500, "train.update_every": 500, "train.frames": 5_000_000},
}
_V1_PAPER = _V1 | {f"{head}.units": 300 for head in _HEADS}
_PLANET = {
    **_BEFORE_V3,
    **{"nets.activation": "relu", "nets.cnn_activation": "relu", "encoder.image_bits": 5, "reward.layers": 3},
    **{"reward.units": 300, "rssm.cell": "gru_reset_before", "kl.free_nats": 3.0, "loss.reward": 10.0},
    **{"replay.recent": 0.5, "behavior.method": "planner", "explore.noise": 0.3, "optimizer.learning_rate": 1e-3},
    **{"optimizer.eps": 1e-4, "optimizer.clip": 1000.0, "train.train_ratio": 500.0, "train.prefill": 2500},
    **{"train.update_every": 500, "train.frames": 1_000_000},
}
_V3_2024 = {
    **{"encoder.cnn": "stride", "decoder.cnn": "transpose", "cont.start": "recorded", "policy.unimix": 0.01},
    **{"value.slow_first": "copy", "env.action_repeat": 2, "train.train_ratio": 512.0, "train.start_windows": 16},
}
_V3_2023 = {
    **{"nets.norm": "layer", "nets.bias": False, "nets.init": "fan_avg", "encoder.cnn": "same", "decoder.cnn": "same"},
    **{"decoder.images": "linear", "rssm.cell": "norm_gru", "rssm.initial": "learned", "rssm.prior_layers": 1},
    **{"reward.dist": "symlog_twohot", "value.dist": "symlog_twohot", "cont.label": "hard", "cont.start": "recorded"},
    **{"policy.unimix": 0.01, "policy.init_scale": 1.0, "kl.dyn": 0.5, "loss.replay_value": 0.0},
    **{"value.slow_first": "copy", "behavior.gradient": "auto", "optimizer.order": "model_first"},
    **{"optimizer.kind": "adam", "optimizer.agc": 0.0, "optimizer.warmup": 0},
    **{"optimizer.learning_rate": 1e-4, "optimizer.actor_learning_rate": 3e-5, "optimizer.eps": 1e-8},
    **{"optimizer.critic_learning_rate": 3e-5, "optimizer.clip": 1000.0, "optimizer.actor_critic_clip": 100.0},
    **{"optimizer.actor_critic_eps": 1e-5, "replay.capacity": 1_000_000, "replay.online": False},
    **{"replay.context": False, "replay.mark_first": True, "env.num_envs": 4, "env.action_repeat": 2},
    # Random actions in hundreds until there are 16 x 64 windows: 1024 + 4 x 63 = 1276 records.
    **{"train.train_ratio": 512.0, "train.prefill": 1300},
}


_HEAD = "danijar/dreamerv3 at e3f0224 (V3-HEAD)"
_DMC = BENCHMARKS["dmc_proprio_paper"].settings
PRESETS = {
    "dreamer_v3": Preset(f"DreamerV3, {_HEAD}, DMC proprio protocol", "1m", {}),
    "dreamer_v3_paper": Preset(f"{_HEAD} with what arXiv 2301.04104v2 says otherwise", "12m", {"policy.unimix": 0.01}),
    "dreamer_v3_paper_dmc": Preset(f"{_HEAD} under the DMC proprio protocol of arXiv 2301.04104v2", "12m", _DMC),
    "dreamer_v3_2024": Preset("DreamerV3, danijar/dreamerv3 at 251910d (July 2024)", "12m", _V3_2024),
    "dreamer_v3_2023": Preset("DreamerV3, danijar/dreamerv3 at 8fa35f8 (June 2023)", "small", _V3_2023),
    "dreamer_v2": Preset("DreamerV2, danijar/dreamerv2 at 07d906e, its default settings", "own", _V2),
    "dreamer_v2_paper": Preset("DreamerV2 with what arXiv 2010.02193 says otherwise", "own", _V2_PAPER),
    "dreamer_v1": Preset("DreamerV1, danijar/dreamer at 56d4d44, DMC from pictures", "own", _V1),
    "dreamer_v1_paper": Preset("DreamerV1 with what arXiv 1912.01603 says otherwise", "own", _V1_PAPER),
    "planet": Preset("PlaNet, google-research/planet at c04226b, DMC from pictures", "own", _PLANET),
}

# Width of the recurrent state. The names are the reference's and count an agent that sees images:
# one for vectors is smaller, 0.64 M parameters at 1m and 9.7 M at 12m on walker.
_WIDTHS = {"1m": 512, "12m": 2048, "25m": 3072, "50m": 4096, "100m": 6144, "200m": 8192, "400m": 12288}
# Of 2023 (xsmall of the paper alone): width of the recurrent state, of everything else, layers, channels.
_OF_2023 = {
    "xsmall": (256, 256, 1, 24),
    "small": (512, 512, 2, 32),
    "medium": (1024, 640, 3, 48),
    "large": (2048, 768, 4, 64),
    "xlarge": (4096, 1024, 5, 96),
}
# What that code sets by size misses its settings encoder.mlp_layers and the like, which so stay as large as they are.
_VECTORS_2023 = {"encoder.layers": 5, "encoder.units": 1024, "decoder.layers": 5, "decoder.units": 1024}
SIZES = ("own", *_WIDTHS, *_OF_2023)
"""``own``: the widths that the preset itself has."""


def size_settings(size: str) -> dict[str, int]:
    """Every width at this size; before and after 2023 all of them are fixed fractions of the recurrent state's."""
    if size == "own":
        return {}
    if size in _WIDTHS:
        deter, units, classes, depth = (_WIDTHS[size] // part for part in (1, 8, 128, 128))
        layers: dict[str, int] = {}
    else:
        deter, units, count, depth = _OF_2023[size]
        classes, layers = 32, {name: count for name in FIELDS if name.endswith(".layers")} | _VECTORS_2023
    widths = {name: units for name in FIELDS if name.endswith(".units")}
    depths = {name: depth for name in FIELDS if name.endswith(".depth")}
    return {"rssm.deter": deter, "rssm.hidden": units, "rssm.classes": classes, **widths, **depths, **layers}
