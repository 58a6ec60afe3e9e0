"""Single parts against recordings of the reference's: ``units-*.npz``.

Each function takes the recorded inputs of one unit, runs our part, and returns our value of every
recorded output by its recorded name. What we have no part for is ``Absent``, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dreamer_jax import distributions
from dreamer_jax.agent import follow
from dreamer_jax.behaviors.policy import Policy
from dreamer_jax.config.loading import load, replace
from dreamer_jax.config.schema import BehaviorConfig, Config, ConfigError, OptimizerConfig, PolicyConfig, ValueConfig
from dreamer_jax.models.decoder import Decoder, reconstruction_loss
from dreamer_jax.models.encoder import Encoder, flatten_leaves
from dreamer_jax.models.losses import kl_losses
from dreamer_jax.models.rssm import RSSMState, make_rssm
from dreamer_jax.nets.convolution import Conv, Resample
from dreamer_jax.nets.layers import MLP, Dense, RMSNorm
from dreamer_jax.nets.recurrent import block_product, enter_blocks
from dreamer_jax.ops.moments import range_scale, update_range
from dreamer_jax.ops.returns import lambda_return, replay_return
from dreamer_jax.ops.transforms import symexp, symexp_bins, symlog, twohot_loss, twohot_mean
from dreamer_jax.optim import clip_by_tensor_norm, make_optimizer
from dreamer_jax.reference import to_reference, tree_from_reference
from dreamer_jax.specs import ArraySpec, EnvSpec

REPLACED: Any = ()
"""Stands for noise where draws are replaced. None would ask for the most likely values, which have no gradient."""
Found = dict[str, Any]


class Absent(NamedTuple):
    """Stands for every recorded quantity under a name that we compute nothing for."""

    reason: str


class Unit(Mapping[str, np.ndarray]):
    """The recorded arrays of one unit; ``read`` tells which of them were inputs."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays, self.read = arrays, set[str]()

    def __getitem__(self, name: str) -> np.ndarray:
        value = self._arrays[name]
        self.read.add(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def output(self, name: str) -> np.ndarray:
        """One that is compared nevertheless: for a size that nothing else in the file says, or to start from."""
        return self._arrays[name]

    def part(self, prefix: str) -> dict[str, np.ndarray]:
        """Inputs below ``prefix``."""
        return {name.removeprefix(f"{prefix}/"): self[name] for name in self if name.startswith(f"{prefix}/")}


def ours(unit: str, recorded: Unit) -> Found:
    """Our values for ``unit``.

    Raises:
      ConfigError: nobody knows this unit.
    """
    for name, function in UNITS.items():
        if unit == name or (name.endswith("*") and unit.startswith(name[:-1])):
            return function(recorded) if callable(function) else {"": function}
    raise ConfigError(f"{unit}: not a unit that this program knows")


def elementwise(function: Callable[..., jax.Array], *xs: np.ndarray, argument: int = 0) -> jax.Array:
    """The derivative of a function of scalars, at every element."""
    grad = jax.grad(function, argument)
    return jax.vmap(grad)(*(jnp.ravel(x) for x in xs)).reshape(xs[0].shape)


# Functions.


def squash(function: Callable[[jax.Array], jax.Array], *, grad: bool = True) -> Callable[[Unit], Found]:
    def run(u: Unit) -> Found:
        found = {"out": jax.jit(function)(u["x"])}
        return found | ({"grad": elementwise(function, u["x"])} if grad else {})

    return run


def twohot(u: Unit) -> Found:
    logits, target = u["logits"], u["target"]
    if logits.shape[-1] % 2 == 0:
        return {"": Absent("an even number of bins is refused: no agent has one, and none would lie at 0")}
    bins = symexp_bins(logits.shape[-1])
    loss = jax.jit(lambda x, y: twohot_loss(x, y, bins))
    mean = jax.jit(lambda x: twohot_mean(x, bins))(logits)
    # The gradient of a cross entropy is the difference of prediction and target.
    flat = jnp.zeros_like(logits)
    weights = 1 / logits.shape[-1] - jax.grad(lambda x: loss(x, target).sum())(flat)
    return {
        "bins": bins,
        "pred": mean,
        "loss": loss(logits, target),
        "grad_logits": jax.grad(lambda x: loss(x, target).mean())(logits),
        "target_weights": weights,
        "loss_of_soft_target": loss(logits, u.output("pred")[::-1]),
    }


def returns(u: Unit) -> Found:
    reward, last, terminal, bootstrap = u["rew"], u["last"], u["term"], u["boot"]
    discount, lambda_ = float(u["disc"]), float(u["lam"])
    u["val"]  # not used by the reference either
    if terminal.dtype == bool:
        return {"ret": replay_return(reward, last, terminal, bootstrap, discount=discount, lambda_=lambda_)}
    return {"ret": lambda_return(reward, discount * (1 - terminal), lambda_ * (1 - last), bootstrap)}


def normaliser(u: Unit) -> Found:
    c = BehaviorConfig()
    moments = {ours: jnp.asarray(u[f"state0/{theirs}/value"]) for ours, theirs in (("low", "lo"), ("high", "hi"))}
    found: Found = {}
    for step in range(1, 1 + len({name.split("/")[0] for name in u if name.startswith("update")})):
        x = u[f"update{step}/x"]
        moments = update_range(moments, x, low=c.return_low, high=c.return_high, rate=c.return_rate)
        found |= {
            f"update{step}/state/lo/value": moments["low"],
            f"update{step}/state/hi/value": moments["high"],
            f"update{step}/offset": moments["low"],
            f"update{step}/scale": range_scale(moments, c.return_limit),
        }
    return found


# Distributions.


def one_hot(unimix: float) -> Callable[[Unit], Found]:
    def run(u: Unit) -> Found:
        p, q, weight, event = u["logits_p"], u["logits_q"], u["sample_weight"], u["event"]
        over = lambda logits: distributions.categorical(logits, unimix)  # noqa: E731
        each = over(p).distribution  # one variable, without the sum over S
        kl = lambda p, q: over(p).kl_divergence(over(q)).sum()  # noqa: E731
        sample = lambda p: distributions.sample(over(p), None)  # noqa: E731
        return {
            "logp": each.log_prob(event),
            "entropy": each.entropy(),
            "entropy_sum": over(p).entropy(),
            "kl": each.kl_divergence(over(q).distribution),
            "kl_sum": over(p).kl_divergence(over(q)),
            # Ours are normalised; unmixed ones are recorded as they came.
            "mixed_logits_p": jnp.log(each.probs) + (0 if unimix else jax.nn.logsumexp(p, -1, keepdims=True)),
            "grad_kl_p": jax.grad(kl, 0)(p, q),
            "grad_kl_q": jax.grad(kl, 1)(p, q),
            "mode_sample": sample(p),
            "grad_plain_sum": jax.grad(lambda p: sample(p).sum())(p),
            "grad_weighted_sum": jax.grad(lambda p: (sample(p) * weight).sum())(p),
        }

    return run


def normal_head(u: Unit) -> Found:
    c, x, action = PolicyConfig(layers=0), u["x"], u["action"]
    raw = {part: u.part(f"param/pi/{theirs}") for part, theirs in (("mean", "mean"), ("std", "stddev"))}
    spec = ArraySpec(action.shape[-1:], "float32")
    policy, params = _policy(c, x, spec, raw)
    stats = lambda params: policy.apply({"params": params}, x)["a"]  # noqa: E731
    dist = lambda params: policy.distributions({"a": stats(params)})["a"]  # noqa: E731
    dense = lambda part: Dense(x.shape[-1:], spec.width).apply({"params": raw[part]}, x)  # noqa: E731
    extreme = lambda std: distributions.normal(jnp.zeros(action.shape), jnp.full(action.shape, std))  # noqa: E731
    found = {
        "raw_mean": dense("mean"),
        "raw_std": dense("std"),
        "mean": stats(params)["mean"],
        "std": stats(params)["std"],
        "pred": distributions.mode(dist(params)),
        "logp": dist(params).log_prob(action),
        "entropy": dist(params).entropy(),
        "minent": extreme(c.min_std).distribution.entropy(),
        "maxent": extreme(c.max_std).distribution.entropy(),
    }
    grads = {
        "grad_logp": jax.grad(lambda params: dist(params).log_prob(action).sum())(params),
        "grad_entropy": jax.grad(lambda params: dist(params).entropy().sum())(params),
    }
    for name, grad in grads.items():
        for part, theirs in (("mean", "mean"), ("std", "stddev")):
            found |= {f"{name}/pi/{theirs}/{leaf}": x for leaf, x in grad[f"heads_a_{part}"].items()}
    return found


def categorical_head(u: Unit) -> Found:
    x, action = u["x"], u["action"]
    raw = {"logits": u.part("param/pi/logits")}
    shape = action.shape[1:]
    spec = ArraySpec(shape, "int32", len(raw["logits"]["bias"]) // int(np.prod(shape)))
    policy, params = _policy(PolicyConfig(layers=0), x, spec, raw)
    stats = lambda params: policy.apply({"params": params}, x)  # noqa: E731
    dist = lambda params: policy.distributions(stats(params))["a"]  # noqa: E731
    event = jax.nn.one_hot(action, spec.classes).reshape(len(x), spec.size, spec.classes)
    log_prob = lambda params: dist(params).log_prob(event).sum()  # noqa: E731
    grad = jax.grad(log_prob)(params)["heads_a_logits"]
    uniform = distributions.categorical(jnp.zeros((spec.size, spec.classes))).entropy()
    return {
        "logits": stats(params)["a"]["logits"].reshape(*action.shape, -1),
        "pred": policy.for_environment({"a": distributions.mode(dist(params))})["a"],
        "logp": dist(params).log_prob(event),
        "entropy": dist(params).entropy(),
        "maxent": uniform,
        **{f"grad_logp/pi/logits/{leaf}": x for leaf, x in grad.items()},
    }


def _policy(config: PolicyConfig, x: np.ndarray, spec: ArraySpec, raw: Mapping[str, Any]) -> tuple[Policy, Any]:
    return Policy(config, {"a": spec}, x.shape[-1:]), {f"heads_a_{part}": value for part, value in raw.items()}


def categorical_unimix(u: Unit) -> Found:
    logits = u["logits"]
    dist = distributions.categorical(logits[:, None], 0.01)
    event = jax.nn.one_hot(u["action"], logits.shape[-1])[:, None]
    return {
        "logp": dist.log_prob(event),
        "entropy": dist.entropy(),
        "mixed_logits": jnp.log(dist.distribution.probs[:, 0]),
        "pred": jnp.argmax(distributions.mode(dist)[:, 0], -1),
    }


def binary(u: Unit) -> Found:
    logit, target = u["logit"], u["target"]
    loss = lambda x, y: -distributions.bernoulli(x).log_prob(y)  # noqa: E731
    return {
        "loss": loss(logit, target),
        "grad_loss": elementwise(loss, logit, target),
        "prob1": distributions.bernoulli(logit).probs,
        "grad_prob1": elementwise(lambda x: distributions.bernoulli(x).probs, logit),
        "pred": distributions.mode(distributions.bernoulli(logit)).astype(bool),
    }


def vector_loss(u: Unit) -> Found:
    output, target = u["pred_in"], u["target"]
    spec = ArraySpec(target.shape[1:], "float32")
    loss = lambda x: reconstruction_loss(x[None], target[None], spec)[0]  # noqa: E731
    return {"pred": output, "loss": loss(output), "grad": jax.grad(lambda x: loss(x).sum())(output)}


# Layers.


def layer(name: str, function: Callable[[Mapping[str, Any], jax.Array], jax.Array]) -> Callable[[Unit], Found]:
    """A part with parameters under ``name`` that maps ``x`` to ``out``."""

    def run(u: Unit) -> Found:
        params, x, cotangent = u.part(f"param/{name}"), u["x"], u["cotangent"]
        value = lambda params, x: function(params, x).reshape(cotangent.shape)  # noqa: E731
        out, pull = jax.vjp(jax.jit(value), params, jnp.asarray(x))
        grads, grad_x = pull(jnp.asarray(cotangent))
        return {"out": out, "grad_x": grad_x, **{f"grad/{name}/{leaf}": g for leaf, g in grads.items()}}

    return run


def linear(params: Mapping[str, Any], x: jax.Array) -> jax.Array:
    return Dense(x.shape[-1:], len(params["bias"])).apply({"params": params}, x)


def norm(params: Mapping[str, Any], x: jax.Array) -> jax.Array:
    return RMSNorm(x.shape[-1:]).apply({"params": params}, x)


def block_linear(params: Mapping[str, Any], x: jax.Array) -> jax.Array:
    rows = x.reshape(-1, x.shape[-1])
    out = block_product(enter_blocks(rows, len(params["kernel"])), params["kernel"], params["bias"])
    return jnp.swapaxes(out, 0, 1).reshape(*x.shape[:-1], -1)


def convolution(resample: Resample) -> Callable[[Mapping[str, Any], jax.Array], jax.Array]:
    def run(params: Mapping[str, Any], x: jax.Array) -> jax.Array:
        size, _, inputs, features = params["kernel"].shape
        return Conv(inputs, features, size, resample).apply({"params": params}, x)

    return run


def mlp(params: Mapping[str, Any], x: jax.Array) -> jax.Array:
    layers = 1 + max(int(name.split("/")[0].removeprefix("linear")) for name in params if name.startswith("linear"))
    tree = {
        f"hidden_{i}": {
            "dense": {leaf: params[f"linear{i}/{leaf}"] for leaf in ("kernel", "bias")},
            "norm": {"scale": params[f"norm{i}/scale"]},
        }
        for i in range(layers)
    }
    (out,) = MLP(x.shape[-1:], layers, len(params["linear0/bias"])).apply({"params": tree}, x)
    return out


def dict_concat(u: Unit) -> Found:
    values = u.part("in")
    widths = {name: int(np.prod(x.shape[2:])) for name, x in values.items() if x.dtype.kind == "f"}
    widths |= {name: 2 * int(np.prod(x.shape[2:])) for name, x in values.items() if x.dtype.kind == "b"}
    (choice,) = set(values) - set(widths)
    classes = {choice: u.output("out_plain").shape[-1] - sum(widths.values())}  # nothing else in the file says it
    classes |= {name: 2 for name, x in values.items() if x.dtype.kind == "b"}
    specs = {name: ArraySpec(x.shape[2:], str(x.dtype), classes.get(name)) for name, x in values.items()}
    return {"out_plain": flatten_leaves(values, specs), "out_symlog": flatten_leaves(values, specs, squash=symlog)}


# Encoder, RSSM, decoder.


def rssm(u: Unit) -> Found:
    arrays = u.part("param")
    deter, stoch, vector, tokens, reset = (u[name] for name in ("deter", "stoch", "action_vec", "tokens", "reset"))
    cot_deter, cot_stoch = u["cot_deter"], u["cot_stoch"]
    action = u["action"]
    classes = None if action.dtype.kind == "f" else vector.shape[-1]
    spec = EnvSpec({}, {"action": ArraySpec(action.shape[2:], str(action.dtype), classes)})
    layers = lambda kind: len({k for k in arrays if k.startswith(f"dyn/{kind}") and k.endswith("kernel")})  # noqa: E731
    config = replace(
        load(),
        {
            "rssm.deter": deter.shape[-1],
            "rssm.stoch": stoch.shape[-2],
            "rssm.classes": stoch.shape[-1],
            "rssm.hidden": len(arrays["dyn/dynin0/bias"]),
            "rssm.blocks": len(arrays["dyn/dyngru/kernel"]),
            "rssm.dynamics_layers": layers("dynhid"),
            "rssm.prior_layers": layers("prior") - 1,
            "rssm.posterior_layers": layers("obs") - 1,
        },
    )
    part = make_rssm(config, tokens=tokens.shape[-1], action=vector.shape[-1])
    tree = tree_from_reference(arrays, config, spec)
    params = tree["params"]["model"]["rssm"]
    actions = flatten_leaves({"action": action}, spec.action)
    start = RSSMState(jnp.asarray(deter), jnp.asarray(stoch))

    def losses(params: Any) -> tuple[jax.Array, Any]:
        inputs = {"prev_action": actions, "tokens": tokens, "is_first": reset}
        posterior, stats = part.observe(params, jnp.zeros(reset.shape), start, **inputs)
        prior = part.prior_stats(params, posterior)
        clipped, _ = kl_losses(part.latent.divergence, stats, prior, free_nats=config.kl.free_nats)
        total = clipped["dyn"].mean() + 0.1 * clipped["rep"].mean()
        total += (posterior.deter * cot_deter).mean() + (posterior.stoch * cot_stoch).mean()
        found = {
            "seq_deter": posterior.deter,
            "seq_stoch": posterior.stoch,
            "seq_post_logit": stats["logits"],
            "carry_deter": posterior.deter[:, -1],
            "carry_stoch": posterior.stoch[:, -1],
            "loss_dyn": clipped["dyn"],
            "loss_rep": clipped["rep"],
            "dyn_ent": part.latent.entropy(prior).mean(),
            "rep_ent": part.latent.entropy(stats).mean(),
        }
        return total, found

    def single_steps(params: Any) -> Found:
        now = {"prev_action": actions[:, 0], "tokens": tokens[:, 0], "is_first": reset[:, 0]}
        first, first_stats = part.posterior(params, REPLACED, start, **now)
        state, path = start, []
        for t in range(actions.shape[1]):
            state, prior = part.prior(params, REPLACED, state, actions[:, t])
            path.append((state, prior))
        return {
            "core_deter": part.prior(params, REPLACED, start, vector)[0].deter,
            "prior_logit": part.prior_stats(params, start)["logits"],
            "obs1_deter": first.deter,
            "obs1_stoch": first.stoch,
            "obs1_post_logit": first_stats["logits"],
            "imag_deter": jnp.stack([state.deter for state, _ in path], 1),
            "imag_stoch": jnp.stack([state.stoch for state, _ in path], 1),
            "imag_prior_logit": jnp.stack([prior["logits"] for _, prior in path], 1),
        }

    (_, found), grads = jax.jit(jax.value_and_grad(losses, has_aux=True))(params)
    found |= jax.jit(single_steps)(params)
    return found | _grads({"rssm": grads}, config, spec)


def encoder_decoder(u: Unit) -> Found:
    observation, arrays = u.part("obs"), u.part("param")
    deter, stoch, cotangent = u["deter"], u["stoch"], u["cot_tokens"]
    flat = stoch.reshape(*stoch.shape[:-2], -1)
    # Two images are declared in the order of their names reversed, so that sorting them shows.
    images = sorted((name for name, x in observation.items() if x.ndim == 5), reverse=True)
    order = [name for name in observation if name not in images] + images
    spec = EnvSpec({name: ArraySpec(observation[name].shape[2:], str(observation[name].dtype)) for name in order}, {})
    config = replace(load(), {name: value for name, value in _coder_sizes(arrays).items() if value})
    params = tree_from_reference(arrays, config, spec)["params"]["model"]
    encoder = Encoder(spec.observation, config.encoder)
    decoder = Decoder(spec.observation, (deter.shape[-1], flat.shape[-1]), config.decoder)

    def encode(params: Any) -> tuple[jax.Array, Found]:
        tokens = encoder.apply({"params": params}, observation)
        return (tokens * cotangent).mean(), {"tokens": tokens}

    def decode(params: Any) -> tuple[jax.Array, Found]:
        outputs = decoder.apply({"params": params}, jnp.asarray(deter), jnp.asarray(flat))
        losses = {
            name: reconstruction_loss(x, observation[name], spec.observation[name]) for name, x in outputs.items()
        }
        found = {f"loss/{name}": x for name, x in losses.items()}
        for name, x in outputs.items():
            found |= {f"recon_t0/{name}": x[:, 0]} if spec.observation[name].image else {f"recon/{name}": x}
        return sum(x.mean() for x in losses.values()), found

    found: Found = {}
    grads = {}
    for name, function in (("encoder", encode), ("decoder", decode)):
        grads[name], values = jax.jit(jax.grad(function, has_aux=True))(params[name])
        found |= values
    return found | _grads(grads, config, spec)


def _coder_sizes(arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Widths and depths from the shapes of encoder and decoder parameters, 0 where there are none."""

    def size(name: str) -> int:
        return len(arrays[name]) if name in arrays else 0

    def layers(prefix: str) -> int:
        return len({name for name in arrays if name.startswith(prefix) and name.endswith("/kernel")})

    return {
        "encoder.layers": layers("enc/mlp"),
        "decoder.layers": layers("dec/mlp/linear"),
        "encoder.units": size("enc/mlp0/bias"),
        "decoder.units": size("dec/mlp/linear0/bias") or size("dec/sp1/bias") // 2,
        "encoder.depth": size("enc/cnn0/bias") // 2,
        "decoder.depth": size("dec/conv0/bias") // 2,
        "decoder.blocks": size("dec/sp0/kernel"),
    }


def _grads(grads: Mapping[str, Any], config: Config, spec: EnvSpec) -> Found:
    theirs = to_reference({"params": {"model": grads}}, config, spec)
    return {f"grad/{name}": x for name, x in theirs.items()}


# Optimiser.


def optimizer(u: Unit) -> Found:
    start = {name: jnp.asarray(x) for name, x in u.part("param0").items()}
    steps = 1 + max(int(name.split("/")[1].removeprefix("step")) for name in u if name.startswith("grad/")) - 1
    grads = [u.part(f"grad/step{step}") for step in range(1, steps + 1)]
    found: Found = {"warm0_wd": Absent("no preset with LaProp decays weights")}
    for schedule in sorted({name.split("/")[0] for name in u if name.startswith("warm")} - {"warm0_wd"}):
        warmup, _, rest = schedule.removeprefix("warm").partition("_")
        config = OptimizerConfig(warmup=int(warmup), agc=0.0 if rest == "noagc" else OptimizerConfig().agc)
        chain = make_optimizer(config)
        params, state = start, chain.init(start)
        for step, grad in enumerate(grads, 1):
            updates, state = chain.update(grad, state, params)
            params = optax.apply_updates(params, updates)
            found |= {f"{schedule}/step{step}/update/{name}": x for name, x in updates.items()}
            found |= {f"{schedule}/step{step}/param/{name}": x for name, x in params.items()}
        found |= {f"{schedule}/final_nu/{name}": x for name, x in state[1].nu.items()}
        found |= {f"{schedule}/final_mu/{name}": x for name, x in state[2].ema.items()}
    clip = clip_by_tensor_norm(OptimizerConfig().agc)
    clipped, _ = clip.update(grads[0], clip.init(start), start)
    return found | {f"agc_only_step1/{name}": x for name, x in clipped.items()}


def slow(u: Unit) -> Found:
    critic, before = u.part("param/val"), u.part("param/slowval")
    step = jnp.ones((), jnp.int32)
    after = follow(ValueConfig(), step, critic, before)
    found: Found = {"after1/slowval_count/value": step}
    found |= {f"after1/val/{name}": x for name, x in critic.items()}
    return found | {f"after1/slowval/{name}": x for name, x in after.items()}


UNUSED_NORM = Absent("only returns are normalised, by percentiles without correction of the bias")
UNITS: dict[str, Callable[[Unit], Found] | Absent] = {
    "symlog": squash(symlog),
    "symexp": squash(symexp, grad=False),
    "act_silu": squash(nn.silu),
    "twohot*": twohot,
    "onehot": one_hot(0.01),
    "onehot_nomix": one_hot(0.0),
    "bounded_normal": normal_head,
    "categorical_unimix": categorical_unimix,
    "categorical_head": categorical_head,
    "categorical_vector_head": categorical_head,
    "binary": binary,
    "mse": Absent("squared errors belong to images, which encdec_image compares"),
    "symlog_mse": vector_loss,
    "lambda_return/count": lambda u: {"": u[""]},  # how many there are
    "lambda_return/*": returns,
    "norm/retnorm_zero": normaliser,
    "norm/retnorm_warm": normaliser,
    "norm/*": UNUSED_NORM,
    "rmsnorm*": layer("norm", norm),
    "layernorm": Absent("every norm of DreamerV3 divides by the root mean square"),
    "linear*": layer("lin", linear),
    "blocklinear": layer("blk", block_linear),
    "mlp": layer("mlp", mlp),
    "conv_k5_s2": layer("conv", convolution("stride")),
    "conv_k5_transposed_s2": layer("conv", convolution("transpose")),
    "conv_k5_maxpool2": layer("conv", convolution("pool")),
    "upsample2_conv_k5": layer("conv", convolution("repeat")),
    "conv_*": layer("conv", convolution("none")),
    "dictconcat": dict_concat,
    "rssm_*": rssm,
    "encdec_*": encoder_decoder,
    "opt": optimizer,
    "slow": slow,
}
