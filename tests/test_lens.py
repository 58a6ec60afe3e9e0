"""A world model taken apart steps as the whole does, for every kind of dynamics; and WorldModelLens runs it."""

import sys
from functools import cache
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import KEY, MIXED, quick_jit, random_leaf, tiny_config

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.evaluation.lens import lens_adapter, recorded, take_apart
from dreamer_jax.evaluation.subject import Subject
from dreamer_jax.models.world_model import make_world_model
from dreamer_jax.ops.transforms import symexp
from dreamer_jax.specs import ArraySpec, EnvSpec

LENGTH = 5
IMAGE = EnvSpec({"eye": ArraySpec((16, 16, 3), "uint8")}, {"motors": ArraySpec((2,), "float32")})
SETTINGS = dict(reward__dist="normal", rssm__deter=32, encoder__depth=1, decoder__depth=1, decoder__blocks=2)
KINDS = {
    "categorical": dict(rssm__initial="learned"),
    "gaussian": dict(rssm__latent="gaussian", rssm__cell="gru"),
    "transformer": dict(rssm__backbone="transformer", rssm__transformer_layers=2, rssm__heads=4, rssm__memory=3),
}


@cache
def subject(kind="categorical", spec="mixed"):
    config = tiny_config(**SETTINGS | KINDS[kind])
    spec = {"mixed": MIXED, "image": IMAGE}[spec]
    model, rng = make_world_model(config, spec), np.random.default_rng(1)
    draw = lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32)  # noqa: E731
    params = jax.tree.map(draw, jax.eval_shape(model.init, KEY))
    return Subject("tiny", model, {"model": params}, spec, config.decoder.symlog)


def episode(spec, seed=0):
    rng = np.random.default_rng(seed)
    parts = {"observation": spec.observation, "action": spec.action}
    return {
        f"{part}/{name}": random_leaf(rng, leaf, LENGTH)
        for part, leaves in parts.items()
        for name, leaf in leaves.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_pieces_step_as_the_whole(kind):
    """Against ``Dynamics.posterior`` and ``prior`` with the most likely latents, record by record."""
    whole, given = subject(kind), episode(MIXED)
    model, params, dynamics = whole.model, whole.params["model"], whole.model.dynamics
    apart, mean = take_apart(whole), dynamics.latent.mean
    observations, actions = recorded(whole, given)
    assert observations.shape == (LENGTH, 14) and actions.shape == (LENGTH, 8)
    noise = dynamics.noise(KEY, np.arange(1), ())

    @quick_jit
    def step(state, h, before, seen, x, action, first):
        tokens = model.encode(params, seen)
        _, prior = dynamics.prior(params["rssm"], None, state, before)
        given = dict(prev_action=before, tokens=tokens, is_first=first)
        after, stats = dynamics.posterior(params["rssm"], noise, state, **given)
        after = after.replace(stoch=dynamics.latent.mode(stats))
        feat = dynamics.features(after)
        decoded = model.decode(params, feat)
        decoded = [symexp(decoded["speed"]), decoded["cells"].argmax(-1), symexp(decoded["place"]).reshape(1, -1)]
        reward, going_on = model.predict(params, feat)
        expected = tokens, after.deter, mean(prior), mean(stats), jnp.concatenate(decoded, -1), reward, going_on
        known = apart.tokens(x)
        z = apart.posterior(h, known)
        shown, reward, going_on = apart.decode(h, z), apart.reward(h, z)[:, 0], apart.going_on(h, z)[:, 0]
        found = known, h[:, : after.deter.shape[1]], apart.prior(h), z, shown, reward, jax.nn.sigmoid(going_on)
        return after, apart.transition(h, z, action), found, expected

    state, h, before = dynamics.start(params["rssm"], 1), apart.initial(1), np.zeros((1, 8), np.float32)
    for t in range(LENGTH):
        seen = {name: given[f"observation/{name}"][t : t + 1] for name in MIXED.observation}
        x, action = observations[t : t + 1], actions[t : t + 1]
        state, h, found, expected = step(state, h, before, seen, x, action, np.array([t == 0]))
        for name, mine, other in zip("tokens h prior posterior x reward cont".split(), found, expected, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-5, err_msg=f"{name} {t}")
        before = action


def test_latents_are_the_likeliest_or_as_given():
    hard, soft = (take_apart(subject(), hard=hard) for hard in (True, False))
    h = hard.initial(1)
    chances = jax.nn.softmax(np.random.default_rng(0).normal(size=(1, *hard.latent_shape)).astype(np.float32))
    one = jax.nn.one_hot(chances.argmax(-1), chances.shape[-1])
    np.testing.assert_allclose(hard.reward(h, chances), hard.reward(h, one), rtol=1e-5)
    np.testing.assert_allclose(soft.reward(h, one), hard.reward(h, one), rtol=1e-5)
    assert abs(soft.reward(h, chances) - hard.reward(h, chances)) > 1e-4
    assert all(jnp.abs(jax.grad(lambda z, of=of: of.reward(h, z).sum())(chances)).max() > 1e-6 for of in (hard, soft))


def test_images_are_given_and_decoded_as_bytes():
    whole, given = subject(spec="image"), episode(IMAGE)
    apart, (observations, _) = take_apart(whole), recorded(subject(spec="image"), episode(IMAGE))
    assert apart.observation_shape == (16, 16, 3) and observations.max() > 200
    tokens = quick_jit(whole.model.encode)(whole.params["model"], {"eye": given["observation/eye"]})
    np.testing.assert_allclose(quick_jit(apart.tokens)(observations), tokens, rtol=1e-4, atol=1e-5)
    h = apart.initial(1)
    assert 10 < np.mean(quick_jit(lambda h: apart.decode(h, apart.prior(h)))(h)) < 245


def test_a_model_without_a_decoder_has_none():
    config = tiny_config(**SETTINGS, representation__kind="contrastive")
    model = make_world_model(config, MIXED)
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(model.init, KEY))
    assert take_apart(Subject("tiny", model, {"model": params}, MIXED, True)).decode is None


def test_dynamics_that_can_not_be_taken_apart():
    whole = subject()
    model = whole.model._replace(dynamics=whole.model.dynamics._replace(posterior_stats=None))
    with pytest.raises(ConfigError, match="tiny: its dynamics can't be taken apart: they have no posterior_stats"):
        take_apart(whole._replace(model=model))


def test_without_the_libraries(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError, match=r'torch: not installed; run: pip install "dreamer-jax\[bridges\]"'):
        lens_adapter(subject())
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    monkeypatch.setitem(sys.modules, "world_model_lens", None)
    with pytest.raises(ConfigError, match="world_model_lens: not installed; see"):
        lens_adapter(subject())


@pytest.mark.parametrize("kind", KINDS)
def test_world_model_lens_runs_it(kind):
    torch, library = pytest.importorskip("torch"), pytest.importorskip("world_model_lens")
    whole = subject(kind)
    adapter, apart = lens_adapter(whole), take_apart(whole)
    pieces = {
        name: quick_jit(getattr(apart, name)) for name in "tokens posterior prior transition decode reward".split()
    }
    hooked = library.HookedWorldModel(adapter, adapter.config)
    observations, actions = (torch.from_numpy(x) for x in recorded(whole, episode(MIXED)))
    trajectory, cache = hooked.run_with_cache(observations, actions)
    assert len(trajectory.states) == LENGTH and len(hooked.named_weights) > 10
    h = apart.initial(1)
    for t in range(LENGTH):
        z = pieces["posterior"](h, pieces["tokens"](observations[t : t + 1].numpy()))
        expected = {"h": h, "z_posterior": z, "z_prior": pieces["prior"](h), "reward": pieces["reward"](h, z)}
        for name, rows in expected.items():
            np.testing.assert_allclose(cache[name, t], rows[0], atol=1e-5, err_msg=name)
        np.testing.assert_allclose(cache["reconstruction", t], pieces["decode"](h, z)[0], rtol=1e-3, atol=1e-5)
        if kind == "categorical":  # Kullback-Leibler in nats, of what it finds as probabilities
            p, q = z[0], pieces["prior"](h)[0]
            np.testing.assert_allclose(cache["kl", t], (p * jnp.log(p / q)).sum(-1), rtol=1e-3, atol=1e-5)
        h = pieces["transition"](h, z, actions[t : t + 1].numpy())
    torch.manual_seed(0)
    imagined = hooked.imagine(trajectory.states[2], actions[2:], horizon=3)
    assert [tuple(state.state.shape) for state in imagined.states] == [(apart.h_width,)] * 3


def test_gradients_reach_tensors():
    torch = pytest.importorskip("torch")
    pytest.importorskip("world_model_lens")
    whole = subject()
    adapter, apart = lens_adapter(whole), take_apart(whole)
    h, z = (x.clone().requires_grad_() for x in adapter.initial_state(2))
    adapter.predict_reward(h, z).sum().backward()
    wanted = jax.grad(lambda h, z: apart.reward(h, z).sum(), (0, 1))(h.detach().numpy(), z.detach().numpy())
    for mine, expected in zip((h.grad, z.grad), wanted, strict=True):
        np.testing.assert_allclose(mine, expected, atol=1e-5)
        assert mine.abs().max() > 1e-4
    drawn = adapter.sample_z(torch.full((2000, *apart.latent_shape), 1 / apart.latent_shape[1]))
    assert drawn.sum(-1).eq(1).all() and (drawn.mean((0, 1)) - 1 / apart.latent_shape[1]).abs().max() < 0.02
