"""Parts and updates of DreamerV1 and DreamerV2 against recordings of the authors': ``v1-*.npz`` and ``v2-*.npz``.

Each function takes a recording and what it says about itself (``meta``), and returns our value of every recorded
output by its recorded name. What no agent of ours uses is ``Absent``, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import parity.family_given
import parity.family_heads
import parity.family_models
import parity.family_v1
import parity.family_v2
from dreamer_jax import distributions
from dreamer_jax.config.schema import ConfigError, OptimizerConfig
from dreamer_jax.models.losses import kl_losses
from dreamer_jax.ops.returns import departure_return
from dreamer_jax.optim import make_optimizer
from parity.units import Absent, Found, Unit

FORWARD, GRADIENT, STEP, UPDATE = 2e-5, 1e-4, 2e-6, 2e-3
"""Relative to an array's largest value; parameters after a step absolute, or relative to the largest change."""
CANCELLING, SATURATED = 1e-6, 1e-3
"""Absolute: scalars whose terms nearly cancel; log-probabilities taken back through tanh close to 1."""


class Tolerance(NamedTuple):
    limit: float
    floor: float = 0.0  # absolute
    absolute: bool = False  # whether ``limit`` is


def tolerance(arrays: Mapping[str, np.ndarray], name: str) -> Tolerance:
    """What the recorded quantity may differ by."""
    words = name.split("/")
    step = next((i for i, word in enumerate(words) if word.startswith("params") and word != "params0"), None)
    if step is not None and not any(word.startswith("grad") for word in words):
        before = _before(arrays, words, step)
        if before is not None:
            change = float(np.abs(arrays[name] - arrays[before]).max())
            return Tolerance(max(STEP, UPDATE * change), absolute=True)
    if any("grad" in word for word in words):
        return Tolerance(GRADIENT)
    if words[-2:] == ["noise", "log_prob"]:
        return Tolerance(FORWARD, max(SATURATED, _amplified(arrays, words[0])))
    return Tolerance(FORWARD, CANCELLING if arrays[name].ndim == 0 else 0.0)


def _amplified(arrays: Mapping[str, np.ndarray], case: str) -> float:
    """What two roundings of a number before tanh, and as many of the mean, are in its log-probability."""
    loc, scale, draws = (arrays[f"{case}/{name}"] for name in ("loc", "scale", "noise/sample"))
    x = np.arctanh(np.clip(draws.astype(np.float64), -distributions.TANH_LIMIT, distributions.TANH_LIMIT))
    return float((2.0**-21 * np.abs(x) * np.abs(x - loc) / scale**2).max())


def _before(arrays: Mapping[str, np.ndarray], words: list[str], place: int) -> str | None:
    """The parameter one step earlier: ``params2`` and ``params1``, or below ``step2`` and ``step1``, or ``params0``."""
    numbers = [i for i in (place - 1, place) if i >= 0 and words[i][-1].isdigit()]
    for i in numbers:
        kind, number = words[i].rstrip("0123456789"), int(words[i][len(words[i].rstrip("0123456789")) :])
        earlier = [*words[:i], f"{kind}{number - 1}", *words[i + 1 :]]
        first = [*words[:i], "params0", *words[place + 1 :]]
        for found in ("/".join(earlier), "/".join(first)):
            if found in arrays:
                return found
    return None


def ours(recorded: Unit, meta: Mapping[str, Any]) -> Found:
    """Our values for a file.

    Raises:
      ConfigError: nobody knows this part.
    """
    for name, function in PARTS.items():
        repository, _, kind = name.partition(" ")
        if meta["repo"] == repository and (
            meta["part"] == kind or (kind[-1] == "*" and meta["part"].startswith(kind[:-1]))
        ):
            return dict(_flat(function(recorded, meta)))
    raise ConfigError(f"{meta['repo']} {meta['part']}: not a part that this program knows")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested dictionaries as one with ``/`` in its names."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def returns(u: Unit, meta: Mapping[str, Any]) -> Found:
    cotangent = jnp.asarray(u["in/cotangent"])
    rate = "pcont" if "in/pcont" in u else "discount"
    inputs = {name: jnp.asarray(u[f"in/{name}"]) for name in ("reward", rate, "value", "bootstrap")}
    found: Found = {}
    for case in meta["cases"]:
        fixed = case.get("discount", "array")

        def compute(inputs: dict[str, jax.Array], case: Any = case, fixed: str = fixed) -> jax.Array:
            x = dict(inputs)
            if fixed != "array":
                x[rate] = jnp.full_like(x[rate], float(fixed.split()[0]))
            # Ours ends with the bootstrap in place of the last value, whose reward and discount nobody asks for.
            ends = {"value": x["bootstrap"] if case["bootstrap"] else jnp.zeros_like(x["bootstrap"])}
            unused = jnp.zeros_like(x["bootstrap"])
            reward, discount, value = (
                jnp.concatenate([x[name], ends.get(name, unused)[None]]).T for name in ("reward", rate, "value")
            )
            return departure_return(reward, discount, case["lambda_"], value).T

        result, pull = jax.vjp(compute, inputs)
        found[case["key"]] = {"ret": result, "grad": pull(cotangent)[0]}
    return found


def kl(u: Unit, meta: Mapping[str, Any]) -> Found:
    found: Found = {}
    for case in meta["cases"]:
        kind, key = case["kind"], case["key"]
        post, prior = (
            {k: jnp.asarray(x) for k, x in u.part(f"{kind}/in/{side}").items()} for side in ("post", "prior")
        )
        found[f"{kind}/entropy_post"] = _latent(post).entropy()
        if case["forward"]:
            found[f"{key}/"] = Absent("forward: no preset turns the KL round")
            continue
        plain = case["balance"] == 0.5  # one KL whose gradient reaches both sides, never averaged before it is clipped
        scales = {"dyn": 1.0, "rep": 1.0} if plain else {"dyn": case["balance"], "rep": 1 - case["balance"]}

        def total(
            post: Any, prior: Any, case: Any = case, scales: Any = scales, plain: bool = plain
        ) -> tuple[jax.Array, Any]:
            average = case["free_avg"] and not plain
            losses, raw = kl_losses(_divergence, post, prior, free_nats=case["free"], free_average=average)
            return sum(scales[name] * x.mean() for name, x in losses.items()), raw

        (loss, raw), grads = jax.value_and_grad(total, (0, 1), has_aux=True)(post, prior)
        # Both halves have the value of the plain one.
        found[key] = {"loss": loss / 2 if plain else loss, "value": raw, "grad/post": grads[0], "grad/prior": grads[1]}
    return found


def _latent(stats: Mapping[str, jax.Array]) -> Any:
    if "logit" in stats:
        return distributions.categorical(stats["logit"])
    return distributions.normal(stats["mean"], stats["std"])


def _divergence(left: Mapping[str, jax.Array], right: Mapping[str, jax.Array]) -> jax.Array:
    return distributions.variable_kl(_latent(left), _latent(right))


def optimizer(u: Unit, meta: Mapping[str, Any]) -> Found:
    found: Found = {}
    for case, options in meta["cases"].items():
        if case.startswith("streamnorm_"):
            found |= _stream_norm(u, case.removeprefix("streamnorm_"), options)
        elif "wd_pattern" in options:
            found[f"{case}/"] = Absent("no preset keeps some parameters from decay")
        else:
            found[case] = _steps(u, case, options, decays="v2" in meta["repo"])
    if "schedules" in meta:
        found["schedule/"] = Absent("no preset changes a setting as time passes")
    return found


def _steps(u: Unit, case: str, options: Mapping[str, Any], *, decays: bool) -> Found:
    """Updates by the recorded gradients. DreamerV1's decay had no effect, and its presets have none."""
    chain = make_optimizer(
        OptimizerConfig(
            kind="adam_eps_hat",
            learning_rate=options["lr"],
            eps=options["eps"],
            clip=options["clip"] or 0.0,
            weight_decay=options["wd"] if decays else 0.0,
            agc=0.0,
            warmup=0,
        )
    )
    params = {"model": u.part(f"{case}/params0")}
    state, found = chain.init(params), Found()
    for step in range(1, 1 + len({name.split("/")[1] for name in u if name.startswith(f"{case}/step")})):
        grads = {"model": u.part(f"{case}/step{step}/grads")}
        updates, state = chain.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        found |= {f"step{step}/grad_norm": optax.global_norm(grads), f"params{step}": params["model"]}
    return found


def _stream_norm(u: Unit, name: str, options: Mapping[str, Any]) -> Found:
    place = f"streamnorm/{name}/"
    if options["momentum"] < 1:
        return {place: Absent("no preset divides rewards by their running magnitude")}
    counts = sorted({key.split("/")[2] for key in u if key.startswith(place)})
    # With momentum 1 the magnitude stays 1, which is what leaving rewards alone is.
    return {f"{place}{i}": {"out": u[f"{place}{i}/x"], "mag_f64": np.ones(())} for i in counts}


V1, V2 = "danijar/dreamer", "danijar/dreamerv2"
PARTS: dict[str, Callable[[Unit, Mapping[str, Any]], Found]] = {
    f"{V1} returns": returns,
    f"{V2} returns": returns,
    f"{V2} kl": kl,
    f"{V1} optim": optimizer,
    f"{V2} optim": optimizer,
    f"{V1} actor": parity.family_heads.actors,
    f"{V2} heads": parity.family_heads.heads,
    f"{V2} gru": parity.family_models.gru,
    f"{V2} rssm": parity.family_models.rssm_v2,
    f"{V1} rssm": parity.family_models.rssm_v1,
    f"{V2} encdec": parity.family_models.coders_v2,
    f"{V1} conv": parity.family_models.coders_v1,
    f"{V1} train_*": parity.family_v1.train,
    f"{V1} fixed_*": parity.family_v1.fixed,
    f"{V2} actorcritic": parity.family_given.given,
    f"{V2} worldmodel_*": parity.family_v2.world_model,
    f"{V2} behavior_*": parity.family_v2.behavior,
    f"{V2} expl": lambda u, meta: {"": Absent("exploration by disagreement: no preset has it")},
}
