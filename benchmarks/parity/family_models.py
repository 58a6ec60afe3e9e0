"""Recurrent models, encoders and decoders of DreamerV1 and DreamerV2 against recordings of the authors'."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import parity.names
from dreamer_jax.config.schema import Config, DecoderConfig, EncoderConfig, NetsConfig, RSSMConfig
from dreamer_jax.interfaces import Dynamics
from dreamer_jax.models.decoder import Decoder, reconstruction_loss
from dreamer_jax.models.encoder import Encoder
from dreamer_jax.models.losses import kl_losses
from dreamer_jax.models.rssm import RSSMState, make_rssm
from dreamer_jax.nets.recurrent import GRU
from dreamer_jax.specs import ArraySpec
from dreamer_jax.types import Stats
from parity.units import REPLACED, Absent, Found, Unit

PLAIN = NetsConfig(norm="none", activation="elu", cnn_activation="elu", init="glorot")
Known = tuple[RSSMState, Stats]
"""States, and the distributions that their latents were drawn from."""
WIDTHS = "with a norm: layers of one MLP are as wide as each other here"


def gru(u: Unit, meta: Mapping[str, Any]) -> Found:
    """``v2-gru``."""
    found: Found = {
        "plain/": Absent("the cell of every preset of this kind has a norm"),
        "norm_bias2/": Absent("the gate that lets new values in is shifted by -1 in every preset"),
    }
    names = lambda w: {"gates": parity.names.dense(w, "cell"), "norm": parity.names.norm(w, "cell/norm")}  # noqa: E731
    weights = {f"cell/{name}": jnp.asarray(x) for name, x in u.part("norm/params").items()}
    outs, grads = _cell(u, "norm", "norm_gru", names, weights)
    grads["params"] = {name.removeprefix("cell/"): x for name, x in grads["params"].items()}
    return found | {"norm": {"out": outs, "grad": grads}}


def _cell(
    u: Unit, place: str, kind: Literal["norm_gru", "gru"], names: Callable[[Any], Any], weights: Mapping[str, jax.Array]
) -> tuple[jax.Array, dict[str, Any]]:
    """The next state, and its gradient if the recording has one."""
    x, h = jnp.asarray(u[f"{place}/x"]), jnp.asarray(u[f"{place}/h"])
    cell = GRU(kind, h.shape[-1], x.shape[-1], 1, 1, nets=PLAIN)
    call = lambda w, x, h: cell.apply({"params": names(w)}, x, h, method="recur")  # noqa: E731
    out, pull = jax.vjp(call, weights, x, h)
    grads = pull(jnp.asarray(u[f"{place}/cotangent"])) if f"{place}/cotangent" in u else ({}, None, None)
    return out, dict(zip(("params", "x", "h"), grads, strict=True))


def rssm_v2(u: Unit, meta: Mapping[str, Any]) -> Found:
    """``v2-rssm``."""
    found: Found = {}
    for case, options in meta["cases"].items():
        if options["ensemble"] > 1:
            found[f"{case}/"] = Absent("every preset predicts with one head")
            continue
        config = {"cell": "norm_gru", "std": options["std_act"], "min_std": options["min_std"]}
        nets = NetsConfig(**{**vars(PLAIN), "norm": options["norm"], "activation": options["act"]})
        found[case] = _rssm(u, f"{case}/", config, nets, parity.names.rssm_v2)
    return found


def rssm_v1(u: Unit, meta: Mapping[str, Any]) -> Found:
    """``v1-rssm``."""
    found = _rssm(u, "", {"cell": "gru"}, PLAIN, parity.names.rssm_v1)
    weights = {name: jnp.asarray(x) for name, x in u.part("params").items()}
    out, _ = _cell(u, "gru", "gru", lambda w: parity.names.rssm_v1(w)["core"], weights)
    return found | {"gru/out": out}


def _rssm(u: Unit, place: str, settings: Mapping[str, Any], nets: NetsConfig, names: Callable[[Any], Any]) -> Found:
    """What ``observe`` and ``imagine`` give from zero and from a given state, and their gradients."""
    weights = {name: jnp.asarray(x) for name, x in u.part(f"{place}params").items()}
    inputs = {name: jnp.asarray(x) for name, x in u.part(f"{place}in").items()}
    start = _state(parity.names.part(inputs, "state"))
    embed, action, cotangent = inputs["embed"], inputs["action"], inputs["cotangent"]
    resets = "is_first" in inputs
    first, first2 = (
        inputs[name] > 0 if resets else jnp.zeros(embed.shape[:2], bool) for name in ("is_first", "is_first2")
    )
    model = rssm_of(
        settings, nets, start, hidden=_width(weights, names), tokens=embed.shape[-1], action=action.shape[-1]
    )
    zero = model.initial(len(embed))

    def observe(w: Any, state: RSSMState, action: jax.Array, embed: jax.Array, first: jax.Array) -> Known:
        return model.observe(names(w), REPLACED, state, prev_action=action, tokens=embed, is_first=first)

    def both(post: Known) -> Found:
        prior = prior_of(model, names(weights), post[0])
        found = {"post": flat_state(*post), "prior": flat_state(*prior)}
        if not resets:
            _, kl = kl_losses(model.latent.divergence, post[1], prior[1], free_nats=0.0)
            found |= {"kl": kl, "entropy_post": model.latent.entropy(post[1])}
        return found

    def imagine(w: Any, state: RSSMState, actions: jax.Array) -> Known:
        path, now = [], state
        for t in range(actions.shape[1]):
            now, stats = model.prior(names(w), REPLACED, now, actions[:, t])
            path.append((now, stats))
        return jax.tree.map(lambda *xs: jnp.stack(xs, 1), *path)

    def scalar(w: Any, embed: jax.Array, action: jax.Array) -> jax.Array:
        post, stats = observe(w, zero, action, embed, first)
        total = (theirs(model.features(post)) * cotangent).sum()
        if resets:
            return total
        losses, _ = kl_losses(model.latent.divergence, stats, model.prior_stats(names(w), post), free_nats=0.0)
        # One KL whose gradient reaches both sides: the sum of the halves has it, and twice the value.
        return total + (losses["dyn"] + losses["rep"]).mean() - jax.lax.stop_gradient(losses["rep"]).mean()

    seen = observe(weights, zero, action, embed, first)
    carried = observe(weights, start, action, embed, first2)
    ahead = imagine(weights, start, inputs["img_action"])
    t = 1 if resets else 0
    now = {"prev_action": action[:, t], "tokens": embed[:, t], "is_first": first2[:, 0]}
    step = model.posterior(names(weights), REPLACED, start, **now)
    value, grads = jax.value_and_grad(scalar, (0, 1, 2))(weights, embed, action)
    named = dict(zip(("params", "embed", "action"), grads, strict=True))
    found: Found = {
        "observe": {**both(seen), "feat": theirs(model.features(seen[0]))},
        "observe_state": {**both(carried), "feat": theirs(model.features(carried[0]))},
        "imagine": {"prior": flat_state(*ahead), "feat": theirs(model.features(ahead[0]))},
        "imagine_zero": {"prior": flat_state(*imagine(weights, zero, inputs["img_action"]))},
        "img_step": {"prior": flat_state(*model.prior(names(weights), REPLACED, start, action[:, t]))},
        "grad": {"scalar": value, **named},
    }
    found |= dict.fromkeys(("obs_step_sample", "obs_step_mode") if resets else ("obs_step",), both(step))
    if resets:
        feat = lambda w, state, a: theirs(model.features(imagine(w, state, a)[0]))  # noqa: E731
        last = lambda w, state, a: (feat(w, state, a)[:, -1] * cotangent[:, -1]).sum()  # noqa: E731
        value, grads = jax.value_and_grad(last, (0, 1, 2))(weights, start, inputs["img_action"])
        by_state = {"deter": grads[1].deter, "stoch": grads[1].stoch}
        unused = {
            name: jnp.zeros_like(x) for name, x in parity.names.part(inputs, "state").items() if name not in by_state
        }
        found["grad_imagine"] = {"scalar": value, "params": grads[0], "state": by_state | unused, "action": grads[2]}
        found["dist/entropy"] = model.latent.entropy(seen[1])
    return found


def rssm_of(
    settings: Mapping[str, Any], nets: NetsConfig, start: RSSMState, *, hidden: int, tokens: int, action: int
) -> Dynamics:
    """The model of the sizes that a state has."""
    discrete = start.stoch.ndim == 3
    config = RSSMConfig(
        latent="categorical" if discrete else "gaussian",
        deter=start.deter.shape[-1],
        hidden=hidden,
        stoch=start.stoch.shape[1],
        classes=start.stoch.shape[-1] if discrete else 2,
        unimix=0.0,
        clip_action=False,
        prior_layers=1,
        posterior_layers=1,
        **settings,
    )
    return make_rssm(replace(Config(), rssm=config, nets=nets), tokens=tokens, action=action)


def _width(weights: Mapping[str, jax.Array], names: Callable[[Any], Any]) -> int:
    return len(names(weights)["core"]["embed"]["dense"]["bias"])


def _state(stats: Mapping[str, jax.Array]) -> RSSMState:
    return RSSMState(stats["deter"], stats["stoch"])


def prior_of(model: Dynamics, params: Any, post: RSSMState) -> Known:
    """What was predicted in the place of ``post``, with the most likely latent."""
    stats = model.prior_stats(params, post)
    return model.redraw(post, stats, None), stats


def theirs(feat: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Features in their order."""
    return jnp.concatenate(feat[::-1], -1)


def flat_state(state: RSSMState, stats: Stats) -> Found:
    """By their names."""
    named = {"logit" if name == "logits" else name: x for name, x in stats.items()}
    return {"deter": state.deter, "stoch": state.stoch, **named}


def coders_v2(u: Unit, meta: Mapping[str, Any]) -> Found:
    """``v2-encdec``."""
    found: Found = {}
    for case, options in meta["cases"].items():
        if options["norm"] != "none" and len(set(options["mlp_layers"])) > 1 and options["enc_keys_order"]["mlp"]:
            found[f"{case}/"] = Absent(WIDTHS)
            continue
        nets = NetsConfig(**{**vars(PLAIN), "norm": options["norm"], "cnn_activation": options["act"]})
        sizes = {
            "layers": len(options["mlp_layers"]),
            "units": max(options["mlp_layers"]),
            "depth": options["cnn_depth"],
        }
        found[case] = _coders(u, case, u.part(f"{case}/in"), nets, sizes)
    return found


def coders_v1(u: Unit, meta: Mapping[str, Any]) -> Found:
    """``v1-conv``."""
    nets = NetsConfig(**{**vars(PLAIN), "cnn_activation": meta["activation"]})
    found: Found = {}
    for case in sorted({name.split("/")[0] for name in u}):
        part = _coders(u, case, {"image": u[f"{case}/image"]}, nets, {"depth": meta["dims"]["depth"]})
        # One observation, without a name there.
        part["dec"] |= {name: part["dec"][name]["image"] for name in ("mode", "log_prob")}
        found[case] = part
    return found


def _coders(
    u: Unit, case: str, observation: Mapping[str, np.ndarray], nets: NetsConfig, sizes: Mapping[str, int]
) -> Found:
    specs = {name: ArraySpec(x.shape[2:], str(x.dtype)) for name, x in observation.items()}
    weights = {
        part: {name: jnp.asarray(x) for name, x in u.part(f"{case}/{part}/params").items()} for part in ("enc", "dec")
    }
    feat, cotangent = jnp.asarray(u[f"{case}/dec/feat"]), jnp.asarray(u[f"{case}/enc/cotangent"])
    encoder = Encoder(specs, EncoderConfig(cnn="valid", symlog=False, **sizes), nets=nets)
    config = DecoderConfig(cnn="valid", images="linear", loss="normal", symlog=False, **sizes)
    # Features come in one piece; where it is cut makes no difference.
    decoder = Decoder(specs, (1, feat.shape[-1] - 1), config, nets=nets)
    pixels = sum(spec.image for spec in specs.values()) and cotangent.shape[-1] - _vector_width(weights["enc"])

    def encode(w: Any) -> jax.Array:
        tokens = encoder.apply({"params": parity.names.encoder(w)}, observation)
        vectors = tokens[..., : tokens.shape[-1] - pixels]
        return jnp.concatenate([tokens[..., tokens.shape[-1] - pixels :], vectors], -1)  # images come first there

    def decode(w: Any, feat: jax.Array) -> Found:
        return decoder.apply({"params": parity.names.decoder(w)}, feat[..., -1:], feat[..., :-1])

    def log_prob(outputs: Found) -> Found:
        losses = {name: reconstruction_loss(x, observation[name], specs[name], config) for name, x in outputs.items()}
        return {name: -x for name, x in losses.items()}

    embed, pull = jax.vjp(encode, weights["enc"])
    outputs = decode(weights["dec"], feat)
    total = lambda w, feat: sum(x.sum() for x in log_prob(decode(w, feat)).values()) / 100  # noqa: E731
    grads = jax.grad(total, (0, 1))(weights["dec"], feat)
    # Ours are pixels from 0 to 1, theirs are around 0.
    modes = {name: x - 0.5 if specs[name].image else x for name, x in outputs.items()}
    return {
        "enc": {"embed": embed, "grad": pull(cotangent)[0]},
        "dec": {"mode": modes, "log_prob": log_prob(outputs), "grad": grads[0], "grad_feat": grads[1]},
    }


def _vector_width(weights: Mapping[str, jax.Array]) -> int:
    tree = parity.names.encoder(weights)
    return len(list(tree["mlp"].values())[-1]["dense"]["bias"]) if "mlp" in tree else 0
