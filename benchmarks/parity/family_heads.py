"""Heads and action distributions of DreamerV1 and DreamerV2 against recordings of the authors'."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import parity.names
from dreamer_jax import distributions
from dreamer_jax.behaviors.policy import Policy
from dreamer_jax.config.schema import DecoderConfig, NetsConfig, PolicyConfig
from dreamer_jax.models.decoder import reconstruction_loss
from dreamer_jax.models.heads import Head
from dreamer_jax.models.scalars import make_scalar
from dreamer_jax.specs import ArraySpec
from parity.units import Absent, Found, Unit, elementwise

SAMPLED = "by sampling, which no preset asks a squashed policy for: its entropy has no weight"
MOMENTS = "of the truncated law: nothing here asks for it"


def heads(u: Unit, meta: Mapping[str, Any]) -> Found:
    """``v2-heads``."""
    found: Found = {}
    for case, options in meta["cases"].items():
        found |= {f"{case}/{name}": x for name, x in _head(u, case, options, "grad_params", "grad_feat").items()}
    return found | _truncated(u) | _clipped(u)


def actors(u: Unit, meta: Mapping[str, Any]) -> Found:
    """``v1-actor``."""
    found: Found = {}
    for case, options in (
        {"onehot": {"dist": "onehot", "shape": u.output("onehot/action").shape[-1]}} | meta["cases"]
    ).items():
        options = {"dist": "tanh_normal", "act": "elu", "norm": "none"} | options
        if case.startswith("tanh"):
            names = "grad_log_prob_params", "grad_log_prob_feat"
        else:
            names = "grad_params", "grad_feat"
        target = "action" if f"{case}/action" in u else "target"
        found |= {f"{case}/{name}": x for name, x in _head(u, case, options, *names, target=target).items()}
    return found


def _head(u: Unit, case: str, options: Mapping[str, Any], params: str, feat: str, target: str = "target") -> Found:
    """Outputs of one head, and gradients by the names ``params`` and ``feat`` of the summed log-probability."""
    weights = {name: jnp.asarray(x) for name, x in u.part(f"{case}/params").items()}
    features, event = jnp.asarray(u[f"{case}/feat"]), jnp.asarray(u[f"{case}/{target}"])
    kinds: Mapping[str, Callable[..., Any]] = {
        "onehot": _one_hot,
        "tanh_normal": _tanh,
        "trunc_normal": _trunc,
        "binary": _binary,
    }
    kind = kinds.get(options["dist"], _normal)
    nets = NetsConfig(norm=options.get("norm", "none"), activation=options.get("act", "elu"))
    log_prob, outputs = kind(u, case, options, nets, weights, features, event)
    found: Found = {"log_prob": log_prob(weights, features), **outputs}
    found[params], found[feat] = jax.grad(lambda w, x: log_prob(w, x).sum(), (0, 1))(weights, features)
    return found


def _layers(weights: Mapping[str, Any]) -> dict[str, int]:
    """``layers`` and ``units`` of a head."""
    kernels = [x for name, x in weights.items() if name.endswith("kernel") and "out" not in name]
    return {"layers": len(kernels), "units": kernels[0].shape[-1]}


def _raw(nets: NetsConfig, width: int) -> Callable[..., jax.Array]:
    """(weights, features) -> the head's output [..., width]."""

    def apply(weights: Mapping[str, Any], features: jax.Array) -> jax.Array:
        module = Head(features.shape[-1:], *_layers(weights).values(), width, 1.0, nets=nets)
        return module.apply({"params": parity.names.head(weights)}, features)

    return apply


def _normal(u: Unit, case: str, options: Any, nets: Any, weights: Any, features: Any, event: Any) -> Any:
    if event.ndim == features.ndim:  # a vector, as the decoder has it
        raw, spec = _raw(nets, event.shape[-1]), ArraySpec(event.shape[-1:], "float32")
        config = DecoderConfig(loss="normal", symlog=False)
        loss = lambda w, x: -reconstruction_loss(raw(w, x), event, spec, config)  # noqa: E731
        return loss, dict.fromkeys(("mode", "mean"), raw(weights, features))
    scalar = make_scalar("normal", 255)
    raw = _raw(nets, scalar.outputs)
    loss = lambda w, x: -scalar.loss(raw(w, x), event)  # noqa: E731
    return loss, dict.fromkeys(("mode", "mean"), scalar.mean(raw(weights, features)))


def _binary(u: Unit, case: str, options: Any, nets: Any, weights: Any, features: Any, event: Any) -> Any:
    logit = lambda w, x: _raw(nets, 1)(w, x)[..., 0]  # noqa: E731
    dist = distributions.bernoulli(logit(weights, features))
    entropy = lambda w: distributions.bernoulli(logit(w, features)).entropy()  # noqa: E731
    outputs = {"logit": dist.logits, "mean": dist.probs, "mode": distributions.mode(dist), "entropy": entropy(weights)}
    outputs["entropy_grad_params"] = jax.grad(lambda w: entropy(w).sum())(weights)
    return lambda w, x: distributions.bernoulli(logit(w, x)).log_prob(event), outputs


def _policy(config: PolicyConfig, spec: ArraySpec, nets: NetsConfig) -> Callable[..., tuple[Any, Any]]:
    """(weights, features) -> statistics and distribution of the one action."""

    def run(weights: Mapping[str, Any], features: jax.Array) -> tuple[Any, Any]:
        policy = Policy(_with(config, **_layers(weights)), {"action": spec}, features.shape[-1:], nets=nets)
        tree = parity.names.policy(weights, spec.discrete)
        stats = policy.apply({"params": tree}, features)
        return stats["action"], policy.distributions(stats)["action"]

    return run


def _with(config: PolicyConfig, **changes: Any) -> PolicyConfig:
    return PolicyConfig(**{**vars(config), **changes})


def _one_hot(u: Unit, case: str, options: Any, nets: Any, weights: Any, features: Any, event: Any) -> Any:
    run = _policy(PolicyConfig(), ArraySpec((), "int32", int(options["shape"])), nets)
    cotangent = jnp.asarray(u[f"{case}/st_cotangent"])
    sample = lambda w: distributions.sample(run(w, features)[1], None)[..., 0, :]  # noqa: E731
    stats, dist = run(weights, features)
    outputs = {
        "logit": stats["logits"][..., 0, :],
        "probs": dist.distribution.probs[..., 0, :],
        "mode": distributions.mode(dist)[..., 0, :],
        "sample_mode": sample(weights),
        "entropy": dist.entropy(),
        "st_grad_params": jax.grad(lambda w: (sample(w) * cotangent).sum())(weights),
        "entropy_grad_params": jax.grad(lambda w: run(w, features)[1].entropy().sum())(weights),
    }
    return lambda w, x: run(w, x)[1].log_prob(event[..., None, :]), outputs


def _trunc(u: Unit, case: str, options: Any, nets: Any, weights: Any, features: Any, event: Any) -> Any:
    settings = {"min_std": options["min_std"], "init_std": options.get("init_std", 0.0)}
    run = _policy(PolicyConfig(dist="trunc_normal", **settings), ArraySpec(event.shape[-1:], "float32"), nets)
    stats, dist = run(weights, features)
    outputs = {
        "loc": stats["mean"],
        "scale": stats["std"],
        "mode": distributions.mode(dist),
        "sample_mode": distributions.sample(dist, None),
        "entropy": dist.entropy(),
        "entropy_grad_params": jax.grad(lambda w: run(w, features)[1].entropy().sum())(weights),
        "mean": Absent(MOMENTS),
        "variance": Absent(MOMENTS),
    }
    return lambda w, x: run(w, x)[1].log_prob(event), outputs


def _tanh(u: Unit, case: str, options: Any, nets: Any, weights: Any, features: Any, event: Any) -> Any:
    scale = {"mean_scale": options["mean_scale"]} if "mean_scale" in options else {}
    # DreamerV2 adds its own to the raw deviation, ours is the deviation where the raw one is 0.
    init = options["init_std"] if scale else math.log1p(math.exp(options["init_std"]))
    config = PolicyConfig(dist="tanh_normal", min_std=options["min_std"], init_std=init, **scale)
    run = _policy(config, ArraySpec(event.shape[-1:], "float32"), nets)
    stats, dist = run(weights, features)
    outputs: Found = {"loc": stats["mean"], "scale": stats["std"]}
    if f"{case}/noise/eps" in u:
        edge = jnp.asarray(u[f"{case}/action_edge"])
        outputs |= {"log_prob_edge": dist.log_prob(edge), **_noisy(u, case, run, weights, features)}
    return lambda w, x: run(w, x)[1].log_prob(event), outputs


def _noisy(u: Unit, case: str, run: Callable[..., Any], weights: Any, features: jax.Array) -> Found:
    """Draws from recorded noise [K, B, L, A], and the most likely of them.

    Near 1 the last bit of a draw is whole units of its log-probability, so that these are of the recorded draws.
    """
    noise, recorded = jnp.asarray(u[f"{case}/noise/eps"]), jnp.asarray(u.output(f"{case}/noise/sample"))
    likely = run(weights, features)[1].log_prob(recorded)
    sample0 = lambda w: run(w, features)[1].distribution.from_noise(noise[0]).sum()  # noqa: E731
    _, each = run(weights, features[:, :, None])
    by_draw = jnp.moveaxis(recorded, 0, -2)
    best = distributions.likeliest(each, by_draw)
    return {
        "noise/sample": jnp.moveaxis(each.distribution.from_noise(jnp.moveaxis(noise, 0, -2)), -2, 0),
        "noise/log_prob": likely,
        "noise/best_index": jnp.argmax(likely, 0),
        "noise/mode_per_element": best,
        "noise/grad_sample0_params": jax.grad(sample0)(weights),
        "noise/entropy": Absent(SAMPLED),
        "noise/grad_entropy": Absent(SAMPLED),
        "noise/mean": Absent("by sampling: nothing here asks for it"),
        "noise/mode_authors": Absent("it has an axis too many and no meaning"),
        "noise_flat/mode_authors": Absent(
            "the draw that is best for the first row, taken for all of them: not on purpose"
        ),
        "noise_flat/mode_per_element": best[:, 0],
        "noise_flat/log_prob": Absent("of draws that are not recorded; near 1 their last bit is whole units of it"),
    }


def _truncated(u: Unit) -> Found:
    """The truncated normal by itself, and drawn from."""
    loc, scale, event = (u[f"trunc/in/{name}"] for name in ("loc", "scale", "event"))
    law = distributions.TruncNormal  # of single numbers
    log_prob = lambda loc, scale, x: law(loc, scale).log_prob(x)  # noqa: E731
    entropy = lambda loc, scale: law(loc, scale).entropy()  # noqa: E731
    found: Found = {
        "log_prob": log_prob(loc, scale, event),
        "entropy": entropy(loc, scale),
        "mode": law(loc, scale).mode(),
        "mean": Absent(MOMENTS),
        "variance": Absent(MOMENTS),
    }
    for i, name in enumerate(("loc", "scale", "event")):
        found[f"grad_log_prob/{name}"] = elementwise(log_prob, loc, scale, event, argument=i)
        if name != "event":
            found[f"grad_entropy/{name}"] = elementwise(entropy, loc, scale, argument=i)
    found = {f"trunc/{name}": x for name, x in found.items()}
    loc, scale = u["trunc_sample/loc"], u["trunc_sample/scale"]
    noise = _noise_of(u.output("trunc_sample/sample"), loc, scale)
    draw = lambda loc, scale, noise: law(loc, scale).from_noise(noise)  # noqa: E731
    return found | {
        "trunc_sample/sample": draw(loc, scale, noise),
        "trunc_sample/dsample_dloc": elementwise(draw, loc, scale, noise),
        "trunc_sample/dsample_dscale": elementwise(draw, loc, scale, noise, argument=1),
    }


def _noise_of(sample: np.ndarray, loc: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The uniform number whose place in the distribution the recorded draw has."""
    place = np.vectorize(lambda x: math.erf(x / math.sqrt(2)))
    x, m, s = (a.astype(np.float64) for a in (sample, loc, scale))
    low, high, here = place((-1 - m) / s), place((1 - m) / s), place((x - m) / s)
    return ((here - low) / (high - low)).astype(np.float32)


def _clipped(u: Unit) -> Found:
    raw = u["clip/raw"]
    clip = lambda x: distributions.clip_value(x, distributions.TRUNC_LIMIT)  # noqa: E731
    return {"clip/sample": clip(raw), "clip/grad": elementwise(clip, raw)}
