"""Whole training steps against recordings of the reference's: ``train-*.npz``.

The model is rebuilt from the sizes and parameters in the file and put through the functions that training
runs. Only sampling is replaced, as in the recording: the most likely class, and mean plus a recorded noise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import optax

import dreamer_jax.agent
from dreamer_jax import distributions
from dreamer_jax.agent import make_agent
from dreamer_jax.behaviors.policy import Policy
from dreamer_jax.config.loading import load, replace
from dreamer_jax.config.schema import Config, OptimizerConfig
from dreamer_jax.models.encoder import FACTORS
from dreamer_jax.models.rssm import RSSMState
from dreamer_jax.models.world_model import make_world_model
from dreamer_jax.optim import make_optimizer
from dreamer_jax.reference import from_reference, to_reference
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import BehaviorAux, PolicyCarry, TimeStep, TrainState, TrajectoryBatch

Arrays = dict[str, np.ndarray]
KEY = jax.random.key(0)  # sampling is replaced, so that no number depends on it

RATES = {"dyn": "kl.dyn", "rep": "kl.rep", "rew": "loss.reward", "con": "loss.cont", "rec": "loss.reconstruction"}
RATES |= {"policy": "loss.policy", "value": "loss.value", "repval": "loss.replay_value"}
SLOW_CRITICS = {"val/": "slowval/", "critic/": "slowcritic/"}
SLOW_CRITICS |= {"task_behavior/critic/net/": "task_behavior/critic/slow/"}
"""How names of a critic's tensors begin, and those of its slow critic: V3-HEAD, 2024, 2023."""


ARRAYS = {"extr_return_raw": "ret", "extr_return_normed": "ret_normed", "extr_reward": "rew", "extr_critic": "val"}
ARRAYS |= {"loss_actor": "policy_loss", "actor_opt_loss": "policy_loss"}
ARRAYS |= {"adv": "adv", "reward_pred": "fwd/rep/rew", "rewstats/pred": "fwd/rep/rew"}
"""What metrics of 2023 and 2024 are numbers of, by the names of recorded rows."""


class Seen(NamedTuple):
    """What the agent's loss hands out at one state, and its gradient in our layout."""

    total: jax.Array
    aux: dict[str, Any]
    grads: Any


Gradient = Callable[[TrainState, TrainState, Seen], Seen]
"""What an update from one state to the next followed, and what ``loss`` hands out at the first."""


class Update(NamedTuple):
    """One update of ours, and the gradient that it followed."""

    before: TrainState
    after: TrainState
    metrics: dict[str, jax.Array]
    seen: Seen


class Tolerances(NamedTuple):
    """Of a recording, relative to the largest value of an array."""

    forward: float = 1e-5
    mean: float = 2.0**-22  # of a metric, to the largest of the terms that it is the mean of: two roundings
    gradient: float = 1e-4
    added: float = 1e-4  # by the first update
    sign: float = 2e-6  # elements of a gradient below this may have either sign, and so may their first update


class Code(NamedTuple):
    """How one revision of the reference names its tensors, and what it records in its own way."""

    state: Callable[[Arrays], TrainState]
    tensors: Callable[[Any], Arrays]  # of a train state, or of a dict of params, slow, moments
    forward: Callable[[Recording, TrainState, Seen, dict[str, Any]], dict[str, Any]]  # adds to or replaces rows
    gradient: Gradient
    metrics: Callable[[Recording, Update], dict[str, Any]]
    counters: Callable[[int], dict[str, int]]  # recorded beside the tensors of a state after so many updates
    acting: Callable[[TrainState, PolicyCarry], dict[str, Any]]  # recorded beside an action
    tolerances: Tolerances


class Recording(NamedTuple):
    """The file's arrays, and the model and data that they describe."""

    arrays: Arrays
    config: Config
    spec: EnvSpec
    batch: TrajectoryBatch
    code: Code


def read(arrays: Arrays, meta: Mapping[str, Any]) -> Recording:
    """The model and the batch that the arrays of the code at HEAD were recorded with.

    Raises:
      ConfigError, KeyError, TypeError, ValueError: this package does not compute such a thing.
    """
    config, spec = settings(meta), env_spec(meta)
    code = Code(
        partial(from_reference, config=config, spec=spec),
        partial(to_reference, config=config, spec=spec),
        lambda recording, start, seen, found: {},
        same_gradient,
        _metrics,
        lambda updates: {"slowval_count/value": updates},
        lambda start, carry: {},
        Tolerances(),
    )
    return Recording(arrays, config, spec, trajectory(arrays, spec, meta["replay_context"]), code)


def same_gradient(before: TrainState, after: TrainState, seen: Seen) -> Seen:
    """An update follows the gradient of the loss."""
    return seen


def _metrics(recording: Recording, update: Update) -> dict[str, Any]:
    """Ours, which have the names of the code at HEAD, and what it counts."""
    count = sum(x.size for x in jax.tree.leaves(update.after.params))
    step = update.after.step
    return update.metrics | {"opt/loss": update.metrics["loss/total"], "opt/updates": step, "opt/param_count": count}


def settings(meta: Mapping[str, Any]) -> Config:
    """The recorded agent's settings in our names."""
    agent = meta["agent_config"]
    rssm, enc, dec = agent["dyn"]["rssm"], agent["enc"]["simple"], agent["dec"]["simple"]
    heads = {"reward": "rewhead", "cont": "conhead", "policy": "policy", "value": "value"}
    values: dict[str, Any] = {"dtype": "float32", "encoder.symlog": enc["symlog"]}
    values |= {f"{ours}.{k}": agent[theirs][k] for ours, theirs in heads.items() for k in ("layers", "units")}
    values |= {
        f"{ours}.{k}": part[k]
        for ours, part in {"encoder": enc, "decoder": dec}.items()
        for k in ("layers", "units", "depth")
    }
    values |= {"encoder.cnn": _cnn(enc, "pool", "stride"), "decoder.cnn": _cnn(dec, "repeat", "transpose")}
    values["decoder.blocks"] = dec["bspace"]
    values |= {f"rssm.{k}": rssm[k] for k in ("deter", "hidden", "stoch", "classes", "blocks", "unimix")}
    layers = {"dynamics_layers": "dynlayers", "prior_layers": "imglayers", "posterior_layers": "obslayers"}
    values |= {f"rssm.{ours}": rssm[theirs] for ours, theirs in layers.items()}
    values |= {
        "kl.free_nats": rssm["free_nats"],
        "reward.bins": agent["rewhead"]["bins"],
        "value.bins": agent["value"]["bins"],
    }
    values |= {"policy.min_std": agent["policy"]["minstd"], "policy.max_std": agent["policy"]["maxstd"]}
    values |= {RATES[name]: scale for name, scale in agent["loss_scales"].items()}
    values |= {
        "behavior.imagination_length": agent["imag_length"],
        "behavior.discount_horizon": agent["horizon"],
        "behavior.lambda_": agent["imag_loss"]["lam"],
        "behavior.entropy": agent["imag_loss"]["actent"],
        "behavior.replay_value_grad": agent["repval_grad"],
        "behavior.return_low": agent["retnorm"]["perclo"],
        "behavior.return_high": agent["retnorm"]["perchi"],
        "behavior.return_rate": agent["retnorm"]["rate"],
        "behavior.return_limit": agent["retnorm"]["limit"],
        "value.slow_rate": agent["slowvalue"]["rate"],
        "value.slow_every": agent["slowvalue"]["every"],
        "value.slow_regularizer": agent["imag_loss"]["slowreg"],
        "optimizer.learning_rate": agent["opt"]["lr"],
        "optimizer.agc": agent["opt"]["agc"],
        "optimizer.beta1": agent["opt"]["beta1"],
        "optimizer.beta2": agent["opt"]["beta2"],
        "optimizer.eps": agent["opt"]["eps"],
    }
    return replace(load(), values)


def _cnn(part: Mapping[str, Any], head: str, strided: str) -> str:
    """The CNN that the recorded settings describe."""
    kind = strided if part["strided"] else head
    if part["outer"] != part["strided"] or tuple(part["mults"]) != FACTORS[kind] or part["kernel"] != 5:
        raise ValueError(f"a CNN of factors {part['mults']}, kernel {part['kernel']}")
    return kind


def env_spec(meta: Mapping[str, Any]) -> EnvSpec:
    """Observations and actions of the recording."""

    def leaf(space: Mapping[str, Any]) -> ArraySpec:
        classes = None if space.get("classes") is None else int(np.max(space["classes"]))
        return ArraySpec(tuple(space["shape"]), space["dtype"], classes)

    signals = ("reward", "is_first", "is_last", "is_terminal")
    spaces = meta["obs_space"], meta["act_space"]
    return EnvSpec(*({name: leaf(space) for name, space in part.items() if name not in signals} for part in spaces))


def trajectory(arrays: Arrays, spec: EnvSpec, context: int) -> TrajectoryBatch:
    """The batch of the recording, aligned as replay aligns it."""
    batch = {name.removeprefix("batch/"): x for name, x in arrays.items() if name.startswith("batch/")}
    actions = {name: batch[name] for name in spec.action}
    if context:
        # The first record is only context, unless its window goes on from the one before.
        fresh = batch["consec"][:, 0] == 0
        deter = np.where(fresh[:, None], batch["dyn/deter"][:, 0], arrays["carry/deter"])
        stoch = np.where(fresh[:, None, None], batch["dyn/stoch"][:, 0], arrays["carry/stoch"])
        previous = {name: x[:, :-1] for name, x in actions.items()}
    else:
        deter, stoch = arrays["carry/deter"], arrays["carry/stoch"]
        first = {name: arrays[f"carry/prevact/{name}"][:, None] for name in actions}
        previous = {name: np.concatenate([first[name], x[:, :-1]], 1) for name, x in actions.items()}
    rows = {name: x[:, context:] for name, x in batch.items()}
    signals = {name: rows[name] for name in ("reward", "is_first", "is_last", "is_terminal")}
    observation, stored = {name: rows[name] for name in spec.observation}, {"deter": deter, "stoch": stoch}
    return TrajectoryBatch(observation, previous, **signals, context=stored)


def deterministic(noise: np.ndarray | float | None) -> Any:
    """What stands in for ``distributions.sample``: the most likely class, and ``noise`` as the standardised number."""

    def sample(distribution: Any, _: Any) -> jax.Array:
        inner = distribution.distribution
        if isinstance(inner, distrax.OneHotCategorical):
            best = jax.nn.one_hot(jnp.argmax(inner.logits, -1), inner.logits.shape[-1])
            return distributions.straight_through(best, inner.probs)
        if isinstance(inner, distributions.Reparameterized):
            return inner.from_standard(noise)
        return inner.loc + inner.scale * noise

    return sample


def ours(recording: Recording) -> Arrays:
    """Our value of every recorded quantity, by its recorded name."""
    arrays, code = recording.arrays, recording.code
    noise = arrays.get("noise/action")
    with mock.patch.object(distributions, "sample", deterministic(noise)):
        start = code.state(part(arrays, "init"))
        see = sight(recording)
        seen = see(start)
        found = forward(recording, start, seen)
        found |= {f"fwd/{name}": x for name, x in code.forward(recording, start, seen, found).items()}
        found |= updates(recording, start, see, moving(recording, seen))
        found |= acting(recording, start)
    return {name: np.asarray(value) for name, value in found.items()}


def sight(recording: Recording) -> Callable[[TrainState], Seen]:
    """The agent's loss at the parameters of a state, all that it hands out, and its gradient."""
    agent = make_agent(recording.config, recording.spec)
    value_and_grad = jax.jit(jax.value_and_grad(agent.loss, has_aux=True))

    def see(state: TrainState) -> Seen:
        (total, aux), grads = value_and_grad(state.params, state, KEY, recording.batch)
        found = {"losses": aux.losses, "model": vars(aux.model), "behavior": by_name(aux.behavior)}
        return Seen(total, found, grads)

    return see


def by_name(aux: BehaviorAux) -> dict[str, Any]:
    """What the losses of actor and critic are made of."""
    details = aux.details
    found = {"imagined": details.imagined, "weight": details.targets.credit.cumulative_discount}
    found["replayed"] = {} if details.replayed is None else details.replayed._asdict()
    return found | details.predictions._asdict() | details.targets._asdict() | details.learnt._asdict()


def forward(recording: Recording, start: TrainState, seen: Seen) -> dict[str, Any]:
    """``fwd/*``, ``grad/*`` and ``gradnorm/*`` at the initial parameters."""
    config, spec, batch = recording.config, recording.spec, recording.batch
    total, aux, grads = seen
    model, behavior = aux["model"], aux["behavior"]
    posterior, path, replayed = model["posterior"], behavior["imagined"], behavior["replayed"]
    size, length = batch.reward.shape

    parts = make_world_model(config, spec)
    inputs = (config.rssm.deter, config.rssm.stoch * config.rssm.classes)
    # The loss needs neither the prior's logits along the path nor the policy at its last state.
    later = RSSMState(path.features[0][:, 1:], None)
    prior = jax.jit(parts.dynamics.prior_stats)(start.params["model"]["rssm"], later)["logits"]
    logits = model["posterior_stats"]["logits"].reshape(size * length, 1, *prior.shape[2:])
    actor = Policy(config.policy, spec.action, inputs, nets=config.nets)
    policy = jax.jit(actor.apply)({"params": start.params["actor"]}, *path.features)
    moments, scale = behavior["moments"], behavior["scale"]
    stoch = path.features[1].reshape(*path.features[1].shape[:2], config.rssm.stoch, config.rssm.classes)

    found: dict[str, Any] = {
        "tokens": model["tokens"],
        "rep/deter": posterior.deter,
        "rep/stoch": posterior.stoch,
        "rep/logit": model["posterior_stats"]["logits"],
        "rep/prior_logit": model["prior_stats"]["logits"],
        "rep/kl_raw": model["divergence"],
        "con_target": model["cont_target"],
        "eff_reset": batch.is_first,
        "img/deter": path.features[0],
        "img/stoch": stoch,
        "img/logit": jnp.concatenate([logits, prior], 1),
        "img/rew": path.reward,
        "img/con": path.discount,
        "img/val": behavior["value"],
        "img/tarval": behavior["value"],
        "img/slowval": behavior["slow_value"],
        "img/weight": behavior["weight"],
        "img/ret": behavior["returns"],
        "img/tar_normed": behavior["returns"],
        "img/roffset": moments["low"],
        "img/rscale": scale,
        "img/ret_normed": (behavior["returns"] - moments["low"]) / scale,
        "img/adv": behavior["advantage"],
        "img/adv_normed": behavior["advantage"],
        "img/logpi": sum(behavior["log_prob"].values()),
        "img/policy_loss": behavior["policy_loss"],
        "img/value_loss_t": behavior["value_loss"],
        "loss_total": total,
        "carry_out/deter": posterior.deter[:, -1],
        "carry_out/stoch": posterior.stoch[:, -1],
        "replay_out/dyn/deter": posterior.deter,
        "replay_out/dyn/stoch": posterior.stoch,
    }
    if replayed:
        found |= {
            "repl/boot": behavior["returns"][:, 0].reshape(size, length),
            "repl/rew": batch.reward,
            "repl/term": batch.is_terminal,
            "repl/last": batch.is_last,
            "repl/ret": replayed["returns"],
            "repl/weight": replayed["weight"],
            "repl/val": replayed["value"],
            "repl/slowval": replayed["slow_value"],
            "repl/val_logits": replayed["logits"],
        }
    found |= {f"losses/{name}": x for name, x in aux["losses"].items()}
    found |= {f"recon/{name}": x for name, x in model["reconstruction"].items()}
    found |= {f"recon_t0_tlast/{name}": x[:, [0, -1]] for name, x in model["reconstruction"].items()}
    found |= {f"prevact/{name}": x for name, x in batch.prev_action.items()}
    found |= {f"img/ent/{name}": x for name, x in behavior["entropy"].items()}
    for name, leaf in spec.action.items():
        event = path.action[name]
        found[f"img/act/{name}"] = (
            jnp.argmax(event, -1).reshape(*event.shape[:2], *leaf.shape) if leaf.discrete else event
        )
        for ours_name, theirs in (("mean", "mean"), ("std", "std"), ("logits", "logits")):
            if ours_name in policy[name]:
                found[f"img/pol_{theirs}/{name}"] = policy[name][ours_name].reshape(
                    *event.shape[:2],
                    *(policy[name][ours_name].shape[2:] if not leaf.discrete else (*leaf.shape, leaf.classes)),
                )
        found[f"carry_out/prevact/{name}"] = recording.arrays[f"batch/{name}"][:, -1]
    if "batch/stepid" in recording.arrays:
        found["replay_out/stepid"] = recording.arrays["batch/stepid"][:, -length:]
    theirs = recording.code.tensors({"params": grads})
    norms = {f"gradnorm/{name}": np.linalg.norm(x.ravel()) for name, x in theirs.items()}
    found = {f"fwd/{name}": x for name, x in found.items()}
    return found | {f"grad/{name}": x for name, x in theirs.items()} | norms


def updates(recording: Recording, start: TrainState, see: Callable[[TrainState], Seen], moving: Any) -> dict[str, Any]:
    """``warm*``: metrics and states of three updates of what is ``moving``, for each recorded warm-up.

    What the first one adds can't be read off the states exactly: the optimiser says it for the gradient.
    """
    code, found = recording.code, dict[str, Any]()
    optimizer = partial(still, moving)
    schedules = sorted({name.split("/")[0] for name in recording.arrays if name.startswith("warm")})
    for schedule in schedules:
        config = replace(recording.config, {"optimizer.warmup": int(schedule.removeprefix("warm"))})
        with mock.patch.object(dreamer_jax.agent, "make_optimizer", optimizer):
            update, state = jax.jit(make_agent(config, recording.spec).update), start
        for step in (1, 2, 3):
            before = state
            state, metrics, _ = update(before, KEY, recording.batch)
            seen = jax.device_get(code.gradient(before, state, see(before)))
            rows = {"metrics": code.metrics(recording, Update(before, state, metrics, seen))}
            rows["state"] = code.tensors(state) | code.counters(step)
            if step == 1:
                optimize = jax.jit(optimizer(config.optimizer).update)
                first, _ = optimize(seen.grads, start.opt_state, start.params)
                rows |= {"grad": code.tensors({"params": seen.grads}), "update": code.tensors({"params": first})}
            found |= {f"{schedule}/step{step}/{kind}/{name}": x for kind in rows for name, x in rows[kind].items()}
    return found


def moving(recording: Recording, seen: Seen) -> Any:
    """0 for elements of parameters of which we have a gradient where the recorded one is exactly 0; 1 for all others.

    The gradient of a policy's mean is 0 where the action is the mean itself. Ours may be a residue of rounding, which
    differs from processor to processor and whose sign the optimiser would take for a step. That it is no more is a row
    of its own.
    """
    known, mine = part(recording.arrays, "grad"), recording.code.tensors({"params": seen.grads})
    marks = {
        name: np.ones_like(value) if name not in known else ((known[name] != 0) | (mine[name] == 0)).astype(value.dtype)
        for name, value in part(recording.arrays, "init").items()
    }
    return recording.code.state(marks).params


def still(moving: Any, config: OptimizerConfig) -> optax.GradientTransformation:
    """The optimiser of ``config``, for which elements that don't move have no gradient."""
    inner = make_optimizer(config)

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        return inner.update(jax.tree.map(jnp.multiply, grads, moving), state, params)

    return optax.GradientTransformation(inner.init, update)


def acting(recording: Recording, start: TrainState) -> dict[str, Any]:
    """``policy/*``: the first records one at a time, each action leading to the next."""
    arrays, spec = recording.arrays, recording.spec
    agent = make_agent(recording.config, spec)
    policy = jax.jit(agent.policy, static_argnames="mode")
    latent = RSSMState(arrays["carry/deter"], arrays["carry/stoch"])
    carry = PolicyCarry(latent, {name: arrays[f"carry/prevact/{name}"] for name in spec.action})
    steps = len({name.split("/")[1] for name in arrays if name.startswith("policy/")})
    found: dict[str, Any] = {}
    for t in range(steps):
        row = {name: x[:, t] for name, x in part(arrays, "batch").items()}
        signals = {name: row[name] for name in ("reward", "is_first", "is_last", "is_terminal")}
        timestep = TimeStep({name: row[name] for name in spec.observation}, **signals)
        carry, action, _ = policy(start.params, KEY, carry, timestep, mode="sample")
        found |= {f"policy/t{t}/deter": carry.latent.deter, f"policy/t{t}/stoch": carry.latent.stoch}
        found |= {f"policy/t{t}/act/{name}": x for name, x in action.items()}
        found |= {f"policy/t{t}/{name}": x for name, x in recording.code.acting(start, carry).items()}
    return found


def uncertain(arrays: Arrays, found: Arrays, below: float = Tolerances().sign) -> Arrays:
    """Elements of parameters whose update may have the other sign, by the names of their states and updates.

    The first update is the sign of the gradient, however small that is. Where it is ``below`` so much of its tensor's
    largest element, and what is rounded differently is more than a tenth of it, nobody can tell the sign. Where it is
    exactly 0 nothing moves.
    """
    masks: Arrays = {}
    place = "warm0/step1/grad" if part(arrays, "warm0/step1/grad") else "grad"
    for name, theirs in part(arrays, place).items():
        mine, size = found[f"{place}/{name}"], np.abs(theirs)
        masks[name] = (size > 0) & (size <= below * size.max()) & (np.abs(mine - theirs) > 0.1 * size)
        for critic, slow in SLOW_CRITICS.items():
            if name.startswith(critic):
                masks[slow + name.removeprefix(critic)] = masks[name]
    return masks


def terms(metric: str, found: Arrays) -> float:
    """The largest of the terms that a metric is the mean, least or most of, 0 if they are not recorded."""
    array = re.sub(r"/(mean|min|max)$", "", metric)
    array = re.sub(rf"^({'|'.join(ARRAYS)})_(mean|min|max)$", r"\1", array)
    name = ARRAYS.get(array, array)
    source = f"fwd/losses/{name.removeprefix('loss/')}" if name.startswith("loss/") else f"fwd/img/{name}"
    source = name if name.startswith("fwd/") else source
    return float(np.abs(found[source]).max()) if source in found else 0.0


def part(arrays: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(f"{prefix}/"): x for name, x in arrays.items() if name.startswith(f"{prefix}/")}
