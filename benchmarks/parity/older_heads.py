"""What our heads say of states, raw and before the agent makes anything of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from dreamer_jax.behaviors.policy import Policy
from dreamer_jax.config.schema import Config
from dreamer_jax.distributions import bernoulli
from dreamer_jax.models.heads import Head
from dreamer_jax.models.rssm import make_rssm
from dreamer_jax.models.scalars import make_scalar
from dreamer_jax.specs import EnvSpec
from dreamer_jax.types import Features, LatentState, TrajectoryBatch
from parity.training import Seen


class Heads(NamedTuple):
    """Functions of parameters and states, compiled once for a recording."""

    replayed: Callable[[Any, LatentState, TrajectoryBatch], dict[str, jax.Array]]  # (model's params, posterior, batch)
    going: Callable[[Any, Features], jax.Array]  # probability that an episode goes on
    entropy: Callable[[Any, LatentState], jax.Array]  # of the policy, from the actor's params


def make_heads(config: Config, spec: EnvSpec) -> Heads:
    """``replayed`` has rewards and continuations of records: ``logits``, predictions and losses, of hard labels."""
    dynamics, nets = make_rssm(config, tokens=1, action=1), config.nets
    inputs, features = dynamics.feature_widths, dynamics.features
    scalar = make_scalar(config.reward.dist, config.reward.bins)
    reward = Head(inputs, config.reward.layers, config.reward.units, scalar.outputs, 1.0, nets=nets)
    cont = Head(inputs, config.cont.layers, config.cont.units, 1, 1.0, nets=nets)
    policy = Policy(config.policy, spec.action, inputs, nets=nets)

    def going(params: Any, feat: Features) -> jax.Array:
        return bernoulli(cont.apply({"params": params["cont"]}, *feat)[..., 0]).probs

    def replayed(params: Any, posterior: LatentState, batch: TrajectoryBatch) -> dict[str, jax.Array]:
        feat = features(posterior)
        logits = reward.apply({"params": params["reward"]}, *feat)
        continues = bernoulli(cont.apply({"params": params["cont"]}, *feat)[..., 0])
        return {
            "logits": logits,
            "reward": scalar.mean(logits),
            "reward_loss": scalar.loss(logits, batch.reward),
            "going": continues.probs,
            "going_loss": -continues.log_prob(1 - batch.is_terminal.astype(np.float32)),
        }

    def entropy(params: Any, state: LatentState) -> jax.Array:
        parts = policy.distributions(policy.apply({"params": params}, *features(state)))
        return sum(one.entropy() for one in parts.values())

    return Heads(jax.jit(replayed), jax.jit(going), jax.jit(entropy))


def start_reward(seen: Seen, batch: TrajectoryBatch) -> np.ndarray:
    """Imagined rewards [N, H+1] with that of the record at the start, as the code of 2024 has it in its metrics."""
    imagined = np.asarray(seen.aux["behavior"]["imagined"].reward)
    return np.concatenate([batch.reward.reshape(-1, 1), imagined[:, 1:]], 1)
