"""The RSSM: scan and loop, resets, clipped actions, prior and posterior."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import KEY, B, D, K, S, T, assert_trees_equal, quick_jit, tiny, tiny_config

from dreamer_jax.models.rssm import RSSMState, make_rssm

A, TOKENS = 8, 11
RSSM = make_rssm(tiny_config(), tokens=TOKENS, action=A)
PARAMS = tiny().state.params["model"]["rssm"]
RNG = np.random.default_rng(0)
NOISE = RNG.uniform(size=(B, T, S)).astype(np.float32)
ACTION = RNG.uniform(-1, 1, (B, T, A)).astype(np.float32)
EMBEDDED = RNG.normal(size=(B, T, TOKENS)).astype(np.float32)
FIRST = np.zeros((B, T), bool)
FIRST[0, 3] = FIRST[1, 5] = True
STATE = RSSMState(
    RNG.uniform(-1, 1, (B, D)).astype(np.float32), np.eye(K, dtype=np.float32)[RNG.integers(K, size=(B, S))]
)


def named(action, tokens, first):
    return dict(prev_action=action, tokens=tokens, is_first=first)


observe = quick_jit(lambda noise, state, *inputs: RSSM.observe(PARAMS, noise, state, **named(*inputs)))
posterior = quick_jit(lambda noise, state, *inputs: RSSM.posterior(PARAMS, noise, state, **named(*inputs)))
prior = quick_jit(lambda *inputs: RSSM.prior(PARAMS, *inputs))


@pytest.fixture(scope="module")
def observed():
    return observe(NOISE, STATE, ACTION, EMBEDDED, FIRST)


@pytest.fixture(scope="module")
def states(observed):
    return observed[0]


def at(tree, t):
    return jax.tree.map(lambda x: x[:, t], tree)


def test_scan_equals_a_loop(observed):
    states, stats = observed
    assert states.deter.shape == (B, T, D)
    assert states.stoch.shape == stats["logits"].shape == (B, T, S, K)
    state = STATE
    for t in range(T):
        after = posterior(NOISE[:, t], state, ACTION[:, t], EMBEDDED[:, t], FIRST[:, t])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), after, at(observed, t))
        state = after[0]


def test_nothing_before_a_reset_matters_after_it(states):
    action, embedded = ACTION.copy(), EMBEDDED.copy()
    action[0, :4] += 1  # also the action that led to the reset
    embedded[0, :3] += 1
    other = STATE.replace(deter=STATE.deter + 1, stoch=np.roll(STATE.stoch, 1, -1))
    changed, _ = observe(NOISE, other, action, embedded, FIRST)
    row = lambda tree, part: jax.tree.map(lambda x: x[0, part], tree)  # noqa: E731
    assert_trees_equal(row(changed, slice(3, None)), row(states, slice(3, None)))
    assert (row(changed, slice(0, 3)).deter != row(states, slice(0, 3)).deter).any()


def test_a_reset_is_a_start_from_zeros(states):
    """Zeros in place of the vector of the action: for a choice that is not its first class."""
    start = RSSM.initial(B)
    now = NOISE[:, 3], start, np.zeros((B, A), np.float32), EMBEDDED[:, 3], FIRST[:, 0]
    np.testing.assert_allclose(states.deter[0, 3], posterior(*now)[0].deter[0], rtol=1e-5, atol=1e-6)
    first_class = np.eye(A, dtype=np.float32)[[0] * B]
    other, _ = posterior(NOISE[:, 3], start, first_class, EMBEDDED[:, 3], FIRST[:, 0])
    assert np.abs(other.deter[0] - states.deter[0, 3]).max() > 1e-3


def test_actions_are_clipped():
    one, five, half = (prior(NOISE[:, 0], STATE, np.full((B, A), size, np.float32)) for size in (1, 5, 0.5))
    assert_trees_equal(one, five)
    assert (half[0].deter != one[0].deter).any()


def test_prior_and_posterior_share_the_recurrent_state(observed):
    states, posterior_stats = observed
    ahead, ahead_stats = prior(NOISE[:, 0], STATE, ACTION[:, 0])
    np.testing.assert_allclose(ahead.deter, states.deter[:, 0], rtol=1e-5, atol=1e-6)
    stats = jax.jit(lambda state: RSSM.prior_stats(PARAMS, state))(ahead)
    np.testing.assert_allclose(stats["logits"], ahead_stats["logits"], rtol=1e-4, atol=1e-5)
    assert np.abs(stats["logits"] - posterior_stats["logits"][:, 0]).max() > 1e-2


def test_samples_are_one_hot(states):
    np.testing.assert_allclose(np.sort(states.stoch, -1), np.eye(K)[[K - 1] * S] + np.zeros((B, T, S, K)), atol=1e-6)


def test_a_later_record_has_no_gradient_to_an_earlier_one():
    weight = RNG.normal(size=(S, K)).astype(np.float32)

    def early(embedded, action):
        states, stats = RSSM.observe(PARAMS, NOISE, STATE, **named(action, embedded, FIRST & False))
        return (stats["logits"][:, 2] * weight).sum() + states.deter[:, 2].sum()

    for grad in quick_jit(jax.grad(early, (0, 1)))(EMBEDDED, ACTION):
        assert not np.asarray(grad[:, 3:]).any()
        assert (np.abs(np.asarray(grad[:, :3])).sum(-1) > 0).all()


@pytest.mark.parametrize("layers", (1, 3))
def test_numbers_of_layers(layers):
    changes = {f"rssm__{name}_layers": layers for name in ("dynamics", "prior", "posterior")}
    rssm = make_rssm(tiny_config(**changes), tokens=TOKENS, action=A)
    params = jax.eval_shape(rssm.init, KEY)
    assert sum(name.endswith("_kernel") for name in params["core"]) == layers + 1
    assert len(params["prior_mlp"]) == layers
    assert len(params.get("posterior_mlp", ())) == layers - 1
    _, stats = jax.eval_shape(partial(rssm.observe, **named(ACTION, EMBEDDED, FIRST)), params, NOISE, STATE)
    assert stats["logits"].shape == (B, T, S, K)


# --- other latents, cells and beginnings

PLAIN = {"nets__norm": "none", "nets__activation": "elu"}


def other(**settings):
    """An RSSM that differs in ``settings``, and random parameters for it."""
    changes = {f"rssm__{name}": value for name, value in settings.items()}
    rssm = make_rssm(tiny_config(**changes, **PLAIN), tokens=TOKENS, action=A)
    rng = np.random.default_rng(0)
    draw = lambda x: rng.normal(0, 0.4, x.shape).astype(np.float32)  # noqa: E731
    return rssm, jax.tree.map(draw, jax.eval_shape(rssm.init, KEY))


@pytest.mark.parametrize("cell", ["block_gru", "norm_gru", "gru", "gru_reset_before", "mlp"])
@pytest.mark.parametrize("latent", ["categorical", "gaussian"])
@pytest.mark.parametrize("initial", ["zeros", "learned"])
def test_every_kind_is_a_loop_of_its_steps(cell, latent, initial):
    rssm, params = other(cell=cell, latent=latent, initial=initial)
    noise = NOISE if latent == "categorical" else RNG.normal(size=(B, T, S)).astype(np.float32)
    state = rssm.start(params, B)
    states = quick_jit(rssm.observe)(params, noise, state, **named(ACTION, EMBEDDED, FIRST))
    step = quick_jit(rssm.posterior)
    for t in range(T):
        after = step(params, noise[:, t], state, **named(ACTION[:, t], EMBEDDED[:, t], FIRST[:, t]))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), after, at(states, t))
        state = after[0]


def test_a_gaussian_state_is_mean_plus_noise():
    rssm, params = other(latent="gaussian", std="sigmoid2", min_std=0.2)
    state = rssm.initial(B)
    assert state.stoch.shape == (B, S)
    noise = RNG.normal(size=(B, S)).astype(np.float32)
    after, stats = rssm.prior(params, noise, state, ACTION[:, 0])
    assert {name: x.shape for name, x in stats.items()} == {"mean": (B, S), "std": (B, S)}
    np.testing.assert_allclose(after.stoch, stats["mean"] + stats["std"] * noise, rtol=1e-5)
    assert stats["std"].min() > 0.2 and stats["std"].max() < 2.2


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("softplus", lambda x: np.log1p(np.exp(x))),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
        ("sigmoid2", lambda x: 2 / (1 + np.exp(-x / 2))),
    ],
)
def test_deviations(name, formula):
    rssm, params = other(latent="gaussian", std=name, min_std=0.1, prior_layers=0)
    deter = RNG.uniform(-1, 1, (B, D)).astype(np.float32)
    raw = (deter @ params["prior_out"]["kernel"] + params["prior_out"]["bias"])[:, S:]
    np.testing.assert_allclose(rssm.prior_stats(params, RSSMState(deter, None))["std"], formula(raw) + 0.1, rtol=1e-4)


def test_a_learnt_beginning_replaces_zeros_and_learns():
    rssm, params = other(initial="learned")
    start = rssm.start(params, 2)
    np.testing.assert_allclose(start.deter, np.tanh(params["first"])[None].repeat(2, 0), rtol=1e-5)
    np.testing.assert_array_equal(start.stoch.argmax(-1), rssm.prior_stats(params, start)["logits"].argmax(-1))
    everything = np.ones((B, T), bool)
    elsewhere = STATE.replace(deter=STATE.deter + 1)
    run = quick_jit(rssm.observe)
    assert_trees_equal(
        run(params, NOISE, STATE, **named(ACTION, EMBEDDED, everything)),
        run(params, NOISE, elsewhere, **named(ACTION, EMBEDDED, everything)),
    )

    def total(params, first):
        return jnp.square(rssm.observe(params, NOISE, STATE, **named(ACTION, EMBEDDED, first))[0].deter).sum()

    assert jnp.abs(jax.grad(total)(params, everything)["first"]).max() > 0.01
    assert not jax.grad(total)(params, np.zeros((B, T), bool))["first"].any()


def test_unclipped_actions():
    rssm, params = other(clip_action=False)
    clipped = make_rssm(tiny_config(**PLAIN), tokens=TOKENS, action=A)
    run = lambda rssm, action: rssm.prior(params, NOISE[:, 0], STATE, action)[0].deter  # noqa: E731
    np.testing.assert_allclose(run(rssm, ACTION[:, 0]), run(clipped, ACTION[:, 0]), rtol=1e-5)
    assert np.abs(run(rssm, 3 * ACTION[:, 0]) - run(clipped, 3 * ACTION[:, 0])).max() > 1e-3


def test_gradients_of_the_whole_scan_are_those_of_a_plain_one():
    """Weight gradients are taken after the scan for every cell; with rematerialisation they are not."""
    for cell in ("norm_gru", "gru", "gru_reset_before", "mlp"):
        changes = dict(rssm__cell=cell, rssm__latent="gaussian", rssm__initial="learned")
        changes |= dict(nets__norm="layer", nets__activation="elu")
        rssm, plain = (
            make_rssm(tiny_config(**changes, rematerialize=again), tokens=TOKENS, action=A) for again in (False, True)
        )
        params = jax.tree.map(
            lambda x: np.random.default_rng(0).normal(0, 0.4, x.shape).astype(np.float32),
            jax.eval_shape(rssm.init, KEY),
        )

        def total(params, rssm=rssm):
            state = rssm.start(params, B)
            states = rssm.observe(params, NOISE, state, **named(ACTION, EMBEDDED, FIRST))
            return sum((x**2).sum() for x in jax.tree.leaves(states))

        ours, theirs = (quick_jit(jax.grad(lambda p, r=r: total(p, r)))(params) for r in (rssm, plain))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max() + 1e-6), ours, theirs
        )
