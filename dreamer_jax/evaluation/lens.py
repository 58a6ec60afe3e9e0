"""A world model as WorldModelLens takes it: taken apart into ``h`` and ``z``, in PyTorch's tensors.

WorldModelLens (interpretability of world models: caches, patches, probes) steps a model itself: ``z ~ q(z | h, x)`` by
``encode``, ``p(z | h)`` by ``dynamics``, and the next ``h`` by ``transition``. ``take_apart`` gives these as functions
of JAX; ``lens_adapter`` is the object that its ``HookedWorldModel`` asks for. Only that one needs PyTorch and
WorldModelLens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.evaluation.subject import Subject
from dreamer_jax.ops.transforms import symexp
from dreamer_jax.types import Array, ArrayDict, LatentState

Rows = Callable[..., jax.Array]
LEAST = 1e-6
"""Probabilities of going on stay so far from 0 and 1, so that their logits are finite."""


class Apart(NamedTuple):
    """A world model in pieces, each a pure function of rows, with its parameters in it.

    ``h`` [N, D] is all of a state but its latent: of an RSSM its deterministic part, of a transformer that and what
    attention remembers, 0 and 1 for what there is. ``z`` [N, *latent] is the latent's mean: probabilities of one-hot
    classes [N, S, K], or means [N, S]. Observations are as the environment gives them, images from 0 to 255: one alone
    in its shape, else all of them side by side in the order of ``spec.observation``, [N, X].
    """

    initial: Rows  # of N: the h of an episode's first record
    tokens: Rows  # of x: [N, W], the encoded observation
    posterior: Rows  # of h and tokens: z
    prior: Rows  # of h: z
    transition: Rows  # of h, z and the action vector [N, A]: the next h
    decode: Rows | None  # of h and z: x; None without a decoder
    reward: Rows  # of h and z: [N, 1], expected
    going_on: Rows  # of h and z: [N, 1], the logit of the probability of going on, the discount included
    h_width: int
    action_width: int
    observation_shape: tuple[int, ...]
    latent_shape: tuple[int, ...]


def take_apart(subject: Subject, *, hard: bool = True) -> Apart:
    """The pieces of a model.

    Args:
      hard: what is given as probabilities becomes the most likely class before anything else sees it, because the model
        has never seen another latent; its gradient is that of what was given. Otherwise it is taken as it is, so that
        any change of it has an effect.

    Raises:
      ConfigError: its dynamics can't be taken apart.
    """
    model, params, spec = subject.model, subject.params["model"], subject.spec
    dynamics, latent = model.dynamics, model.dynamics.latent
    stats_of, empty = dynamics.posterior_stats, dynamics.initial(1)
    if stats_of is None or not hasattr(empty, "stoch") or not hasattr(empty, "replace"):
        raise ConfigError(
            f"{subject.name}: its dynamics can't be taken apart: they have no posterior_stats, or states without stoch"
        )
    flat, unravel = ravel_pytree(jax.tree.map(lambda x: x[0], empty.replace(stoch=None)))
    classes = len(latent.shape) == 2 and latent.shape[1] > 1

    def rest(state: LatentState) -> jax.Array:
        rows: jax.Array = jax.vmap(lambda one: ravel_pytree(one)[0])(state.replace(stoch=None))
        return rows

    def join(h: Array, z: Array) -> LatentState:
        if hard and classes:
            likeliest = jax.nn.one_hot(z.argmax(-1), z.shape[-1], dtype=z.dtype)
            z = likeliest + z - jax.lax.stop_gradient(z)
        return jax.vmap(unravel)(h).replace(stoch=z)

    def mean(stats: Any) -> jax.Array:
        return jnp.asarray((latent.mean or latent.mode)(stats))

    def without_latent(h: Array) -> LatentState:
        return join(h, jnp.zeros((len(h), *latent.shape)))

    def features(h: Array, z: Array) -> Any:
        return dynamics.features(join(h, z))

    def initial(size: int) -> jax.Array:
        begins = dynamics.start(params["rssm"], size)
        return rest(model.imagine_step(params, None, begins, jnp.zeros((size, action_width))))

    def transition(h: Array, z: Array, action: Array) -> jax.Array:
        return rest(model.imagine_step(params, None, join(h, z), action))

    def going_on(h: Array, z: Array) -> jax.Array:
        chance = model.predict(params, features(h, z))[1]
        return jax.scipy.special.logit(jnp.clip(chance, LEAST, 1 - LEAST))[:, None]

    def decode(h: Array, z: Array) -> jax.Array:
        return _joined(subject, model.decode(params, features(h, z)))

    action_width = sum(leaf.width for leaf in spec.action.values())
    leaves = list(spec.observation.values())
    decoded = jax.eval_shape(lambda: model.decode(params, dynamics.features(dynamics.initial(1))))
    return Apart(
        initial=initial,
        tokens=lambda x: jnp.asarray(model.encode(params, _split(subject, x))),
        posterior=lambda h, tokens: mean(stats_of(params["rssm"], without_latent(h), tokens)),
        prior=lambda h: mean(dynamics.prior_stats(params["rssm"], without_latent(h))),
        transition=transition,
        decode=decode if decoded.keys() == spec.observation.keys() else None,
        reward=lambda h, z: jnp.asarray(model.predict(params, features(h, z))[0])[:, None],
        going_on=going_on,
        h_width=flat.size,
        action_width=action_width,
        observation_shape=leaves[0].shape if len(leaves) == 1 else (sum(leaf.size for leaf in leaves),),
        latent_shape=latent.shape,
    )


def recorded(subject: Subject, episode: ArrayDict) -> tuple[np.ndarray, np.ndarray]:
    """Observations [T, ...] and action vectors [T, A], float32, of an episode of a dataset, as ``Apart`` takes them.

    The action of a row is the one taken after its observation, as ``transition`` wants it.
    """
    shown = {name: np.asarray(episode[f"observation/{name}"], np.float32) for name in subject.spec.observation}
    action = subject.model.action_vector({name: episode[f"action/{name}"] for name in subject.spec.action})
    return np.array(_side_by_side(shown)), np.array(action, np.float32)


def lens_adapter(subject: Subject, *, hard: bool = True) -> Any:
    """An adapter of WorldModelLens: ``HookedWorldModel(adapter, adapter.config)`` runs it. See ``take_apart``.

    Tensors may have any leading axes, or none. Gradients reach the tensors that are given; the parameters, which
    ``named_parameters`` has copies of, are fixed. There is no actor or critic in it, because what a behavior of ours
    gives is an action, not a distribution.

    Raises:
      ConfigError: PyTorch or WorldModelLens is not installed, or the dynamics can't be taken apart.
    """
    torch, base, make_config, capabilities = _libraries()
    apart = take_apart(subject, hard=hard)

    class Call(torch.autograd.Function):  # type: ignore[name-defined]
        """A function of JAX among PyTorch's."""

        @staticmethod
        def forward(ctx: Any, function: _Differentiable, *inputs: Any) -> Any:
            ctx.function, ctx.arrays = function, [x.detach().cpu().numpy() for x in inputs]
            return torch.from_numpy(np.array(function.value(*ctx.arrays))).to(inputs[0].device)

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            found = ctx.function.pull(ctx.arrays, gradient.cpu().numpy())
            return None, *(torch.from_numpy(np.array(x)).to(gradient.device) for x in found)

    def rows(x: Any, shape: tuple[int, ...]) -> Any:
        return x.reshape(-1, *shape).to(torch.float32)

    class Adapter(base):  # type: ignore[valid-type,misc]
        def __init__(self) -> None:
            shape, states = apart.observation_shape, apart.latent_shape
            config = make_config(
                d_h=apart.h_width,
                n_cat=states[0],
                n_cls=states[1] if len(states) > 1 else 1,
                d_action=apart.action_width,
                d_obs=int(np.prod(shape)),
                encoder_type="cnn" if len(shape) == 3 else "mlp",
                decoder_type="cnn" if len(shape) == 3 else "mlp",
                backend="custom",
                has_decoder=apart.decode is not None,
                has_value_head=False,
                has_policy_head=False,
            )
            super().__init__(config)
            self._capabilities = capabilities(
                has_decoder=apart.decode is not None, has_reward_head=True, has_continue_head=True, uses_actions=True
            )
            pieces = {name: piece for name, piece in apart._asdict().items() if callable(piece) and name != "initial"}
            self._pieces = {name: _differentiable(piece) for name, piece in pieces.items()}

        def _call(self, name: str, *inputs: Any, like: Any) -> Any:
            """The piece of that name, for rows; with the leading axes of ``like``, which ends in one of its own."""
            found = Call.apply(self._pieces[name], *inputs)
            return found.reshape(*like.shape[:-1], *found.shape[1:])

        def _both(self, name: str, h: Any, z: Any) -> Any:
            return self._call(name, rows(h, (apart.h_width,)), rows(z, apart.latent_shape), like=h)

        def encode(self, obs: Any, h_prev: Any) -> tuple[Any, Any]:
            h = rows(h_prev, (apart.h_width,))
            tokens = Call.apply(self._pieces["tokens"], rows(obs, apart.observation_shape))
            found = self._call("posterior", h, tokens, like=h_prev)
            return found, tokens.reshape(*h_prev.shape[:-1], tokens.shape[-1])

        def dynamics(self, h: Any, action: Any = None) -> Any:
            return self._call("prior", rows(h, (apart.h_width,)), like=h)

        def transition(self, h: Any, z: Any, action: Any = None) -> Any:
            before = rows(h, (apart.h_width,))
            if action is None:
                action = torch.zeros(len(before), apart.action_width)
            inputs = before, rows(z, apart.latent_shape), rows(action, (apart.action_width,))
            return self._call("transition", *inputs, like=h)

        def initial_state(self, batch_size: int = 1, device: Any = None) -> tuple[Any, Any]:
            h = torch.from_numpy(np.array(apart.initial(batch_size))).to(device or "cpu")
            return h, self.sample_z(self.dynamics(h), sample=False)

        def sample_z(self, logits_or_repr: Any, temperature: float = 1.0, sample: bool = True) -> Any:
            """A draw of probabilities [..., S, K], or their most likely class; means of a Gaussian as they are."""
            if len(apart.latent_shape) == 1:
                return logits_or_repr
            chances = logits_or_repr.clamp(min=1e-8) ** (1 / temperature)
            chances = chances / chances.sum(-1, keepdim=True)
            if sample:
                return torch.distributions.OneHotCategoricalStraightThrough(chances).rsample()
            return torch.nn.functional.one_hot(chances.argmax(-1), chances.shape[-1]).to(chances.dtype)

        def decode(self, h: Any, z: Any) -> Any:
            return None if apart.decode is None else self._both("decode", h, z)

        def predict_reward(self, h: Any, z: Any) -> Any:
            return self._both("reward", h, z)

        def predict_continue(self, h: Any, z: Any) -> Any:
            return self._both("going_on", h, z)

        def named_parameters(self, *unused: Any, **also: Any) -> Any:
            for path, leaf in jax.tree_util.tree_leaves_with_path(subject.params["model"]):
                values = torch.from_numpy(np.array(leaf, np.float32))
                yield jax.tree_util.keystr(path, simple=True, separator="."), values

    return Adapter()


class _Differentiable(NamedTuple):
    value: Callable[..., jax.Array]
    pull: Callable[[list[Any], Any], tuple[jax.Array, ...]]  # of inputs and the gradient of the value


def _differentiable(function: Rows) -> _Differentiable:
    return _Differentiable(jax.jit(function), jax.jit(lambda inputs, gradient: jax.vjp(function, *inputs)[1](gradient)))


def _split(subject: Subject, x: Array) -> ArrayDict:
    """Observations [N, ...] by name."""
    leaves = subject.spec.observation
    ends = np.cumsum([leaf.size for leaf in leaves.values()])[:-1]
    parts = jnp.split(x, ends, 1) if len(ends) else [x]
    found = {}
    for (name, leaf), part in zip(leaves.items(), parts, strict=True):
        values = part.reshape(len(x), *leaf.shape)
        if leaf.discrete:
            values = jnp.rint(values).astype(leaf.dtype)
        found[name] = values / 255 if leaf.image else values  # an encoder takes floats of images as [0, 1]
    return found


def _joined(subject: Subject, decoded: ArrayDict) -> jax.Array:
    """What a decoder puts out, as observations are given, float32."""
    parts = {}
    for name, leaf in subject.spec.observation.items():
        output = jnp.asarray(decoded[name])
        if leaf.discrete:
            output = output.argmax(-1).astype(jnp.float32)
        elif leaf.image:
            output = 255 * output
        elif subject.symlog:
            output = symexp(output)
        parts[name] = output
    return jnp.asarray(_side_by_side(parts))


def _side_by_side(parts: ArrayDict) -> Array:
    if len(parts) == 1:
        return next(iter(parts.values()))
    return jnp.concatenate([x.reshape(len(x), -1) for x in parts.values()], -1)


def _libraries() -> tuple[Any, Any, Any, Any]:
    try:
        import torch
    except ImportError as error:
        raise ConfigError('torch: not installed; run: pip install "dreamer-jax[bridges]"') from error
    try:
        from world_model_lens import WorldModelConfig
        from world_model_lens.backends import base_adapter
    except ImportError as error:
        raise ConfigError("world_model_lens: not installed; see WorldModelLens's own page for how to") from error
    base = getattr(base_adapter, "BaseModelAdapter", None) or base_adapter.WorldModelAdapter  # it has had both names
    return torch, base, WorldModelConfig, base_adapter.WorldModelCapabilities
