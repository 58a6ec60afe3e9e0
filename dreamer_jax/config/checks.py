"""What values settings may have, each alone and beside the others."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from dreamer_jax.config.schema import FIELDS, Config, ConfigError, flatten

ATARI = ("atari", "atari100k")
"""The same games under two names: scores are published for two protocols, which presets choose."""

MODEL_PARTS = ("encoder", "rssm", "decoder", "projector", "reward", "cont", "balance", "ensemble")
BEHAVIOR_PARTS = ("actor", "critic")
"""Parts of an agent's parameters, as far as it has them."""

USED_BY: dict[str, tuple[str, ...]] = {
    "observation": ("dmc", *ATARI, "crafter"),
    "image_size": ("dmc", *ATARI, "crafter"),
    "grey": ATARI,
    "actions": ATARI,
    "sticky": ATARI,
    "noops": ATARI,
}
"""Settings of ``env`` that mean nothing to other suites; those refuse any value but the default."""


IN_JAX = ("gymnax", "brax", "playground", "craftax")
"""Suites whose environments can run on the device."""


def wants_device(config: Config) -> bool:
    """Whether a run is to be on the device, if nothing there stands in its way."""
    where, suite = config.train.where, config.env.task.partition("/")[0]
    return not config.offline.data and (where == "device" or (where == "auto" and suite in IN_JAX))


def unused(task: str) -> set[str]:
    """Settings that mean nothing to the suite of ``task``, by dotted name."""
    suite = task.partition("/")[0]
    return {f"env.{name}" for name, suites in USED_BY.items() if suite not in suites}


def check(config: Config) -> Config:
    """Return ``config`` if every value is within its limits and the relations between fields hold.

    Raises:
      ConfigError: starting with the field's name, then its value and what is allowed.
    """
    for name, value in flatten(config).items():
        check_limits(name, value)
    rssm, train, policy = config.rssm, config.train, config.policy
    if rssm.cell == "block_gru" and rssm.deter % rssm.blocks:
        raise ConfigError(f"rssm.blocks: got {rssm.blocks}, must divide rssm.deter {rssm.deter}")
    if train.devices and train.batch_size % train.devices:
        raise ConfigError(f"train.devices: got {train.devices}, must divide train.batch_size {train.batch_size}")
    if train.batch_size == train.devices > 1:
        raise ConfigError(
            f"train.devices: got {train.devices}, one row of train.batch_size {train.batch_size} each; two or more are "
            "needed"
        )
    if policy.min_std > policy.max_std:
        raise ConfigError(f"policy.min_std: got {policy.min_std}, must be at most policy.max_std {policy.max_std}")
    for name, bins in (("reward.bins", config.reward.bins), ("value.bins", config.value.bins)):
        if bins % 2 == 0:
            raise ConfigError(f"{name}: got {bins}, must be odd, so that one bin is exactly 0")
    planner = config.planner
    if planner.elites >= planner.candidates:
        raise ConfigError(
            f"planner.elites: got {planner.elites}, must be fewer than planner.candidates {planner.candidates}"
        )
    if planner.policy_plans >= planner.candidates:
        raise ConfigError(
            f"planner.policy_plans: got {planner.policy_plans}, must be fewer than planner.candidates "
            f"{planner.candidates}"
        )
    everything = parts(config)
    frozen = _named_parts("train.freeze", train.freeze, everything)
    if train.start_parts != "all":
        _named_parts("train.start_parts", train.start_parts, everything)
    for problem, wrong in _senseless(config).items():
        if wrong:
            raise ConfigError(problem)
    learning = {"world_model": MODEL_PARTS, "behavior": BEHAVIOR_PARTS, "all": everything}[config.offline.only]
    if not {name for name in everything if name in learning} - set(frozen):
        raise ConfigError(f"train.freeze: got {train.freeze}, which leaves nothing to learn")
    return config


def parts(config: Config) -> tuple[str, ...]:
    """The parts that an agent's parameters have, those of the world model first."""
    decodes, learns = config.representation.kind == "decoder", config.behavior.method == "actor_critic"
    there = {
        "encoder": True,
        "rssm": True,
        "decoder": decodes,
        "projector": not decodes,
        "reward": True,
        "cont": config.cont.label != "none",
        "balance": config.loss.balance == "learned",
        "ensemble": config.explore.ensemble > 0,
        "actor": learns,
        "critic": learns,
    }
    return tuple(name for name, present in there.items() if present)


def frozen_parts(config: Config) -> tuple[str, ...]:
    """Those that an update leaves as they are."""
    named = _named_parts("train.freeze", config.train.freeze, parts(config))
    others = {"world_model": BEHAVIOR_PARTS, "behavior": MODEL_PARTS, "all": ()}[config.offline.only]
    return tuple(name for name in parts(config) if name in named or name in others)


def _named_parts(field: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(text.split(",")) if text else ()
    for name in names:
        if name not in known:
            raise ConfigError(f"{field}: got {name!r}, this agent's parts are {', '.join(known)}")
    return names


def check_limits(name: str, value: Any) -> None:
    """Refuse what a field alone can't be."""
    kind, _, low, high = FIELDS[name]
    if get_origin(kind) is Literal and value not in get_args(kind):
        raise ConfigError(f"{name}: got {value!r}, expected one of {', '.join(get_args(kind))}")
    if low is not None and not value >= low:
        raise ConfigError(f"{name}: got {value}, must be at least {low}")
    if high is not None and not value <= high:
        raise ConfigError(f"{name}: got {value}, must be at most {high}")


def _senseless(config: Config) -> dict[str, bool]:
    """What can't be meant, beginning with the field to change."""
    behavior, replay, nets, kl, optimizer = config.behavior, config.replay, config.nets, config.kl, config.optimizer
    offline, train, represented = config.offline, config.train, config.representation
    learns, departs = behavior.method == "actor_critic", behavior.returns == "departure"
    return {
        "env.task: got '', expected a name": not config.env.task,
        "behavior.entropy: a tanh_normal policy has no entropy in closed form; set it to 0 or choose another "
        "policy.dist": learns and config.policy.dist == "tanh_normal" and behavior.entropy > 0,
        "policy.init_std: got 0, a tanh_normal policy needs more": learns
        and config.policy.dist == "tanh_normal"
        and config.policy.init_std == 0,
        "loss.replay_value: replayed returns begin with the next reward, behavior.returns departure with the state's "
        "own; set it to 0": learns and departs and config.loss.replay_value > 0,
        "behavior.start: excluded goes with behavior.returns departure": behavior.start == "excluded" and not departs,
        "behavior.imagination_length: got 1, behavior.returns departure needs at least 2": learns
        and departs
        and behavior.imagination_length < 2,
        "behavior.replay_value_grad: with optimizer.order model_first the world model has taken its step when replayed "
        "values are learnt; set it to false": learns
        and config.optimizer.order == "model_first"
        and config.loss.replay_value > 0
        and behavior.replay_value_grad,
        "behavior.starts: replayed values bootstrap from every record; set loss.replay_value to 0": learns
        and behavior.starts == "but_last"
        and config.loss.replay_value > 0,
        "replay.online: new windows come first only where replay.sampling is windows; set it to false": replay.online
        and replay.sampling == "episodes",
        "replay.ends: goes with replay.sampling episodes": replay.ends != "uniform" and replay.sampling != "episodes",
        "replay.recent: goes with replay.sampling episodes": replay.recent > 0 and replay.sampling != "episodes",
        "replay.mark_first: throws away the stored latents that replay.context keeps; set one of them to false": (
            replay.mark_first and replay.context
        ),
        "nets.bias: without a norm layers need one": nets.norm == "none" and not nets.bias,
        "cont.start: a recorded discount needs a head that predicts the others; cont.label is none": learns
        and config.cont.label == "none"
        and config.cont.start == "recorded",
        "planner.policy_plans: behavior.method planner has no policy; set it to 0": not learns
        and config.planner.policy_plans > 0,
        "planner.value: behavior.method planner has no critic; set it to false": not learns and config.planner.value,
        "kl.overshooting: got 1, which is the KL itself; 2 or more, or 0": kl.overshooting == 1,
        f"kl.schedule_updates: got 0, kl.schedule {kl.schedule} needs 1 or more": kl.schedule != "constant"
        and not kl.schedule_updates,
        f"optimizer.decay_updates: got 0, optimizer.schedule {optimizer.schedule} needs 1 or more": (
            optimizer.schedule != "constant" and not optimizer.decay_updates
        ),
        **{
            f"{name}: loss.balance learned takes its place; set it to {default:g}": config.loss.balance == "learned"
            and value != default
            for name, value, default in (
                ("loss.reconstruction", config.loss.reconstruction, 1),
                ("loss.reward", config.loss.reward, 1),
                ("kl.beta", kl.beta, 1),
                ("kl.overshooting", kl.overshooting, 0),
            )
        },
        "kl.dyn: got 0, and kl.rep, too; loss.balance learned needs one of them": config.loss.balance == "learned"
        and kl.dyn == kl.rep == 0,
        f"offline.only: {offline.only} is learnt from offline.data, which is not set": offline.only != "all"
        and not offline.data,
        "offline.only: actor and critic learn in a finished world model; set train.start": offline.only == "behavior"
        and not train.start,
        "offline.only: behavior.method planner learns no behavior": offline.only == "behavior" and not learns,
        "offline.patience: needs held-out windows; set replay.validation_fraction, or it to 0": offline.patience > 0
        and replay.validation_fraction == 0,
        "offline.patience: actor and critic have no held-out loss to be stopped by; set it to 0": offline.patience > 0
        and offline.only == "behavior",
        f"representation.transformer_heads: got {represented.transformer_heads}, must divide "
        f"representation.transformer_units {represented.transformer_units}": represented.kind == "next_embedding"
        and represented.transformer_units % represented.transformer_heads > 0,
        f"rssm.heads: got {config.rssm.heads}, must divide rssm.deter {config.rssm.deter}": (
            config.rssm.backbone == "transformer" and config.rssm.deter % config.rssm.heads > 0
        ),
        "rssm.initial: learned begins a recurrent state; rssm.backbone transformer has none": (
            config.rssm.backbone == "transformer" and config.rssm.initial == "learned"
        ),
        "explore.ensemble: got 1, which can't disagree; 2 or more, or 0": config.explore.ensemble == 1,
        "explore.disagreement: got 0, and explore.task_reward, too; nothing is rewarded": config.explore.ensemble > 0
        and config.explore.disagreement == config.explore.task_reward == 0,
        "kl.schedule: loss.balance learned takes its place; set it to constant": config.loss.balance == "learned"
        and kl.schedule != "constant",
    }
