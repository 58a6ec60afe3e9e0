"""Compare an agent with numbers recorded from the reference: forward pass, gradients, three updates, acting.

Reads a recording of whole training steps (``train-*.npz``), rebuilds the same model from its sizes and
parameters, and runs the functions that training runs. Only sampling is replaced, as in the recording:
the most likely class, and mean plus a recorded noise. Exit status 1 if a quantity differs by more than
its tolerance, 2 if the file can't be read.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from unittest import mock

import distrax
import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax import distributions
from dreamer_jax.agent import make_agent
from dreamer_jax.behaviors.policy import Policy
from dreamer_jax.config.loading import load, replace
from dreamer_jax.config.schema import Config, ConfigError
from dreamer_jax.models.world_model import make_world_model
from dreamer_jax.reference import from_reference, to_reference
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import PolicyCarry, RSSMState, TimeStep, TrainState, TrajectoryBatch

Arrays = dict[str, np.ndarray]
KEY = jax.random.key(0)  # sampling is replaced, so that no number depends on it

FORWARD, GRADIENT, STEP = 1e-5, 1e-4, 2e-6
"""Tolerances: relative to an array's largest value, and for parameters after a step absolute."""

RATES = {"dyn": "kl.dyn", "rep": "kl.rep", "rew": "loss.reward", "con": "loss.cont", "rec": "loss.reconstruction"}
RATES |= {"policy": "loss.policy", "value": "loss.value", "repval": "loss.replay_value"}


class Row(NamedTuple):
    """One recorded quantity and how far ours is from it."""

    name: str
    absolute: float
    relative: float  # to the largest recorded value
    tolerance: float
    passed: bool


class Recording(NamedTuple):
    """The file's arrays, and the model and data that they describe."""

    arrays: Arrays
    config: Config
    spec: EnvSpec
    batch: TrajectoryBatch


def read(path: str) -> Recording:
    """Open a recording.

    Raises:
      ConfigError: it can't be read, or describes something that this package does not compute.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(str(arrays.pop("meta")[0]))
        config, spec = settings(meta), env_spec(meta)
        return Recording(arrays, config, spec, trajectory(arrays, spec, meta["replay_context"]))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path}: not a recording of training steps ({error})") from error


def settings(meta: Mapping[str, Any]) -> Config:
    """The recorded agent's settings in our names."""
    agent = meta["agent_config"]
    rssm, enc, dec = agent["dyn"]["rssm"], agent["enc"]["simple"], agent["dec"]["simple"]
    heads = {"reward": "rewhead", "cont": "conhead", "policy": "policy", "value": "value"}
    values: dict[str, Any] = {"dtype": "float32", "encoder.symlog": enc["symlog"]}
    values |= {f"{ours}.{k}": agent[theirs][k] for ours, theirs in heads.items() for k in ("layers", "units")}
    values |= {
        f"{ours}.{k}": part[k] for ours, part in {"encoder": enc, "decoder": dec}.items() for k in ("layers", "units")
    }
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
    return TrajectoryBatch(
        {name: rows[name] for name in spec.observation}, previous, **signals, context=RSSMState(deter, stoch)
    )


def deterministic(noise: np.ndarray | None) -> Any:
    """What stands in for ``distributions.sample``."""

    def sample(distribution: Any, _: Any) -> jax.Array:
        inner = distribution.distribution
        if isinstance(inner, distrax.OneHotCategorical):
            best = jax.nn.one_hot(jnp.argmax(inner.logits, -1), inner.logits.shape[-1])
            return distributions.straight_through(best, inner.probs)
        return inner.loc + inner.scale * noise

    return sample


def ours(recording: Recording) -> Arrays:
    """Our value of every recorded quantity, by its recorded name."""
    arrays = recording.arrays
    noise = arrays.get("noise/action")
    with mock.patch.object(distributions, "sample", deterministic(noise)):
        start = from_reference(part(arrays, "init"), recording.config, recording.spec)
        found = forward(recording, start)
        found |= updates(recording, start)
        found |= acting(recording, start)
    return {name: np.asarray(value) for name, value in found.items()}


def forward(recording: Recording, start: TrainState) -> dict[str, Any]:
    """``fwd/*`` and ``grad/*``: the loss, all that it hands out, and its gradient."""
    _, config, spec, batch = recording
    agent = make_agent(config, spec)
    value_and_grad = jax.jit(jax.value_and_grad(agent.loss, has_aux=True))
    (total, aux), grads = value_and_grad(start.params, start, KEY, batch)
    model, behavior = aux["model"], aux["behavior"]
    posterior, path, replayed = model["posterior"], behavior["imagined"], behavior["replayed"]
    size, length = batch.reward.shape

    parts = make_world_model(config, spec)
    inputs = (config.rssm.deter, config.rssm.stoch * config.rssm.classes)
    # The loss needs neither the prior's logits along the path nor the policy at its last state.
    prior = parts.prior_stats(start.params["model"], path.features[0][:, 1:])["logits"]
    logits = posterior.stats["logits"].reshape(size * length, 1, *prior.shape[2:])
    policy = Policy(config.policy, spec.action, inputs).apply({"params": start.params["actor"]}, *path.features)
    moments, scale = behavior["moments"], behavior["scale"]
    stoch = path.features[1].reshape(*path.features[1].shape[:2], config.rssm.stoch, config.rssm.classes)

    found: dict[str, Any] = {
        "tokens": model["tokens"],
        "rep/deter": posterior.deter,
        "rep/stoch": posterior.stoch,
        "rep/logit": posterior.stats["logits"],
        "rep/prior_logit": model["prior"]["logits"],
        "rep/kl_raw": model["kl"],
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
        "img/ret": behavior["return"],
        "img/tar_normed": behavior["return"],
        "img/roffset": moments["low"],
        "img/rscale": scale,
        "img/ret_normed": (behavior["return"] - moments["low"]) / scale,
        "img/adv": behavior["advantage"],
        "img/adv_normed": behavior["advantage"],
        "img/logpi": sum(behavior["log_prob"].values()),
        "img/policy_loss": behavior["policy_loss"],
        "img/value_loss_t": behavior["value_loss"],
        "repl/boot": behavior["return"][:, 0].reshape(size, length),
        "repl/rew": batch.reward,
        "repl/term": batch.is_terminal,
        "repl/last": batch.is_last,
        "repl/ret": replayed["return"],
        "repl/weight": replayed["weight"],
        "repl/val": replayed["value"],
        "repl/slowval": replayed["slow_value"],
        "repl/val_logits": replayed["logits"],
        "loss_total": total,
        "carry_out/deter": posterior.deter[:, -1],
        "carry_out/stoch": posterior.stoch[:, -1],
        "replay_out/dyn/deter": posterior.deter,
        "replay_out/dyn/stoch": posterior.stoch,
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
    theirs = to_reference({"params": grads}, config, spec)
    norms = {f"gradnorm/{name}": np.linalg.norm(x.ravel()) for name, x in theirs.items()}
    return {f"fwd/{name}": x for name, x in found.items()} | {f"grad/{name}": x for name, x in theirs.items()} | norms


def updates(recording: Recording, start: TrainState) -> dict[str, Any]:
    """``warm*``: metrics and states of three updates on the same batch, for each recorded warm-up."""
    _, config, spec, batch = recording
    found: dict[str, Any] = {}
    schedules = sorted({name.split("/")[0] for name in recording.arrays if name.startswith("warm")})
    for schedule in schedules:
        agent = make_agent(replace(config, {"optimizer.warmup": int(schedule.removeprefix("warm"))}), spec)
        update, state = jax.jit(agent.update), start
        for step in (1, 2, 3):
            before = to_reference(state, config, spec)
            state, metrics, _ = update(state, KEY, batch)
            after = to_reference(state, config, spec)
            place = f"{schedule}/step{step}"
            found |= {f"{place}/state/{name}": x for name, x in after.items()}
            found |= {f"{place}/update/{name}": after[name] - before[name] for name in after}
            found[f"{place}/state/slowval_count/value"] = state.step
            count = sum(x.size for x in jax.tree.leaves(state.params))
            extra = {"opt/loss": metrics["loss/total"], "opt/updates": state.step, "opt/param_count": count}
            found |= {f"{place}/metrics/{name}": x for name, x in (metrics | extra).items()}
    return found


def acting(recording: Recording, start: TrainState) -> dict[str, Any]:
    """``policy/*``: the first records one at a time, each action leading to the next."""
    arrays, config, spec, _ = recording
    agent = make_agent(config, spec)
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
    return found


def compare(recording: Recording) -> Iterator[Row]:
    """A row for every recorded quantity; one that we lack differs infinitely."""
    found = ours(recording)
    for name, theirs in recording.arrays.items():
        group = name.split("/")[0]
        if group not in ("init", "batch", "carry", "noise"):
            yield row(name, theirs, found.get(name))


def row(name: str, theirs: np.ndarray, mine: np.ndarray | None) -> Row:
    """Compare one quantity under the tolerance of its kind."""
    if mine is None or mine.shape != theirs.shape:
        return Row(name, np.inf, np.inf, 0.0, False)
    difference = np.abs(np.asarray(mine, np.float64) - np.asarray(theirs, np.float64))
    scale = float(np.abs(theirs).max()) if theirs.size else 0.0
    stepped = "/state/" in name or "/update/" in name
    worst = float(difference.max()) if difference.size else 0.0
    gradient = name.startswith(("grad/", "gradnorm/"))
    tolerance = STEP if stepped else (GRADIENT if gradient else FORWARD) * max(scale, 1e-12)
    if gradient and scale == 0:
        tolerance = 1e-6  # exactly 0 there, a residue of rounding here
    return Row(name, worst, worst / scale if scale else worst, tolerance, bool(worst <= tolerance))


def part(arrays: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(f"{prefix}/"): x for name, x in arrays.items() if name.startswith(f"{prefix}/")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--json", action="store_true", help="one JSON object for each quantity")
    options = parser.parse_args()
    try:
        rows = list(compare(read(options.file)))
    except ConfigError as error:
        print(f"parity: {error}", file=sys.stderr)
        return 2
    for one in rows:
        if options.json:
            print(json.dumps(one._asdict()))
            continue
        figures = f"{one.absolute:9.2e} {one.relative:9.2e} {one.tolerance:9.2e}"
        print(f"{'pass' if one.passed else 'FAIL'}  {figures}  {one.name}")
    failed = sum(not one.passed for one in rows)
    print(f"{len(rows) - failed} of {len(rows)} quantities agree", file=sys.stderr)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
