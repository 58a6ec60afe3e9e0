"""Noise by row, exact draws, and the maths of the distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dreamer_jax.distributions import (
    bernoulli,
    categorical,
    clip_value,
    draw_noise,
    inverse_cdf,
    mode,
    noise_kind,
    normal,
    sample,
    straight_through,
    tanh_normal,
    trunc_normal,
    uniform_actions,
)
from dreamer_jax.specs import ArraySpec

KEY = jax.random.PRNGKey(0)
LOGITS = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)  # [N, S, K]


def softmax(logits):
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


# --- noise


def test_uniform_actions():
    specs = {
        "move": ArraySpec((2, 3), "float32"),
        "press": ArraySpec((), "int32", 5),
        "keys": ArraySpec((2,), "int32", 2),
    }
    rows = np.arange(4000)
    draw = jax.jit(lambda rows: uniform_actions(KEY, rows, specs))
    actions = draw(rows)
    assert {name: (x.shape, str(x.dtype)) for name, x in actions.items()} == dict(
        move=((4000, 2, 3), "float32"), press=((4000,), "int32"), keys=((4000, 2), "int32")
    )
    for name, classes in (("press", 5), ("keys", 2)):
        counts, expected = np.bincount(np.ravel(actions[name]), minlength=classes), actions[name].size / classes
        assert len(counts) == classes
        assert ((counts - expected) ** 2 / expected).sum() < 20  # 4 degrees of freedom: once in 2000 seeds
    moves = np.sort(np.ravel(actions["move"]))
    assert moves[0] >= -1 and moves[-1] < 1
    distance = np.abs((moves + 1) / 2 - (np.arange(moves.size) + 0.5) / moves.size).max()
    assert distance < 2 / np.sqrt(moves.size)  # Kolmogorov-Smirnov: once in 1500 seeds
    numbers = np.concatenate([np.reshape(x, (4000, -1)) for x in actions.values()], 1)
    assert np.abs(np.corrcoef(numbers.T) - np.eye(numbers.shape[1])).max() < 0.07  # no two are one
    for name, part in draw(rows[[7, 5]]).items():  # another batch, another device
        np.testing.assert_array_equal(part, actions[name][np.array([7, 5])])


@pytest.mark.parametrize("kind", ("uniform", "normal"))
def test_noise_of_a_row_depends_on_its_key_and_index_only(kind):
    program = jax.jit(lambda key, rows: draw_noise(key, rows, (3, 5), kind))
    draw = lambda rows, key=KEY: np.asarray(program(key, np.array(rows)))  # noqa: E731
    whole = draw([0, 1, 2, 3])
    assert whole.shape == (4, 3, 5) and whole.dtype == np.float32
    np.testing.assert_array_equal(whole[[2, 3, 2, 3]], draw([2, 3, 2, 3]))  # a device that holds other rows
    np.testing.assert_array_equal(whole[[3, 0, 2, 1]], draw([3, 0, 2, 1]))
    assert len(np.unique(whole)) == whole.size
    assert not np.intersect1d(whole, draw([0, 1, 2, 3], jax.random.PRNGKey(1))).size


def test_each_kind_has_its_distribution():
    uniform, gauss = jax.jit(
        lambda: [draw_noise(KEY, jnp.arange(50), (100,), kind) for kind in ("uniform", "normal")]
    )()
    assert uniform.min() >= 0 and uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.02 and abs(gauss.mean()) < 0.05 and abs(gauss.std() - 1) < 0.05
    assert (noise_kind(True), noise_kind(False)) == ("uniform", "normal")


# --- inverse of the distribution function


def test_draws_are_exactly_one_hot():
    probs = softmax(np.random.default_rng(1).normal(size=(7, 5)) * 4).astype(np.float32)
    uniform = np.random.default_rng(2).uniform(size=(1000, 7)).astype(np.float32)
    draws = np.asarray(jax.jit(inverse_cdf)(jnp.broadcast_to(probs, (1000, 7, 5)), uniform))
    assert set(np.unique(draws)) == {0, 1}
    np.testing.assert_array_equal(draws.sum(-1), 1)


def test_frequencies_match_probabilities():
    probs = np.array([0.1, 0.0, 0.45, 0.25, 0.2], np.float32)
    even = (np.arange(10000, dtype=np.float32) + 0.5) / 10000
    draws = np.asarray(inverse_cdf(jnp.broadcast_to(probs, (10000, 5)), even))
    np.testing.assert_allclose(draws.mean(0), probs, atol=2e-4)
    assert draws[:, 1].sum() == 0


def test_ends_of_the_unit_interval():
    probs = jnp.array([[0.25, 0.5, 0.25]] * 4)
    below_one = np.nextafter(np.float32(1), np.float32(0))
    places = np.argmax(inverse_cdf(probs, jnp.array([0, 0.25, 0.75, below_one])), -1)
    np.testing.assert_array_equal(places, [0, 1, 2, 2])  # a share includes its lower end
    np.testing.assert_array_equal(inverse_cdf(jnp.array([0.0, 1.0]), jnp.float32(0)), [0, 1])
    # probabilities that add up to less than one after rounding still give a class
    np.testing.assert_array_equal(inverse_cdf(jnp.array([0.3, 0.3, 0.3999]), jnp.float32(below_one)), [0, 0, 1])


# --- gradients


def test_straight_through_has_the_gradient_of_the_probabilities():
    weight = np.random.default_rng(3).normal(size=LOGITS.shape).astype(np.float32)
    uniform = np.random.default_rng(4).uniform(size=LOGITS.shape[:-1]).astype(np.float32)

    def sampled(logits):
        return (sample(categorical(logits, 0.01), uniform) * weight).sum()

    def expected(logits):
        return ((0.99 * jax.nn.softmax(logits) + 0.01 / 4) * weight).sum()

    np.testing.assert_allclose(
        jax.jit(jax.grad(sampled))(LOGITS), jax.jit(jax.grad(expected))(LOGITS), rtol=1e-4, atol=1e-6
    )
    onehot, probs = jnp.array([0.0, 1, 0]), jnp.array([0.1, 0.2, 0.7])
    np.testing.assert_array_equal(straight_through(onehot, probs), onehot)


def test_continuous_samples_are_reparameterised():
    mean, std, noise = jnp.array([[1.0, 2, 3]]), jnp.array([[0.1, 0.2, 0.3]]), jnp.array([[-1.0, 0.5, 2]])
    draw = lambda mean, std: sample(normal(mean, std), noise)  # noqa: E731
    np.testing.assert_allclose(draw(mean, std), mean + std * noise)
    by_mean, by_std = jax.grad(lambda *x: draw(*x).sum(), (0, 1))(mean, std)
    np.testing.assert_allclose(by_mean, 1)
    np.testing.assert_allclose(by_std, noise)


# --- formulas


@pytest.mark.parametrize("unimix", (0.0, 0.01, 1.0))
def test_categorical_against_numpy(unimix):
    left, right = LOGITS, np.roll(LOGITS, 1, -1) * 2
    p, q = ((1 - unimix) * softmax(x) + unimix / 4 for x in (left, right))
    event = np.eye(4)[[[0, 3, 2], [1, 1, 0]]]

    @jax.jit
    def formulas():
        one, two = categorical(left, unimix), categorical(right, unimix)
        return one.kl_divergence(two), one.entropy(), one.log_prob(event)

    kl, entropy, log_prob = formulas()
    np.testing.assert_allclose(kl, (p * np.log(p / q)).sum((-1, -2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(entropy, -(p * np.log(p)).sum((-1, -2)), rtol=1e-5)
    np.testing.assert_allclose(log_prob, (np.log(p) * event).sum((-1, -2)), rtol=1e-5)
    assert entropy.shape == (2,)


def test_unimix_bounds_probabilities_from_below():
    extreme = jnp.array([[[100.0, 0, -100, 0]]])
    np.testing.assert_allclose(jnp.exp(categorical(extreme, 0.01).distribution.logits)[0, 0].min(), 0.0025, rtol=1e-5)


def test_normal_and_bernoulli_against_numpy():
    mean, std, x = np.array([[0.5, -1.0]]), np.array([[0.1, 2.0]]), np.array([[0.4, 3.0]])
    expected = (-0.5 * ((x - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)).sum(-1)
    np.testing.assert_allclose(normal(jnp.asarray(mean), jnp.asarray(std)).log_prob(x), expected, rtol=1e-5)
    logit, soft = np.array([-1.5, 2.0]), np.array([0.3, 0.997])
    p = 1 / (1 + np.exp(-logit))
    expected = soft * np.log(p) + (1 - soft) * np.log(1 - p)
    np.testing.assert_allclose(bernoulli(jnp.asarray(logit)).log_prob(soft), expected, rtol=1e-5)


def test_modes():
    np.testing.assert_array_equal(mode(categorical(jnp.asarray(LOGITS))), np.eye(4)[LOGITS.argmax(-1)])
    assert mode(categorical(jnp.asarray(LOGITS))).dtype == jnp.float32
    np.testing.assert_array_equal(mode(normal(jnp.array([[3.0]]), jnp.array([[0.5]]))), [[3]])


def test_parameters_of_low_precision_are_widened():
    def outputs(x):
        return categorical(x).entropy(), normal(x, x).entropy(), bernoulli(x).log_prob(0.5)

    low = jax.ShapeDtypeStruct((2, 3, 4), jnp.bfloat16)
    assert {x.dtype for x in jax.eval_shape(outputs, low)} == {jnp.dtype("float32")}


# --- numbers in (-1, 1)


LOC, SCALE = np.array([[-0.95, -0.3, 0.0, 0.6]], np.float32), np.array([[0.1, 2.1, 0.5, 0.15]], np.float32)


def truncated():
    loc, scale = LOC.astype(np.float64), SCALE.astype(np.float64)
    return stats.truncnorm((-1 - loc) / scale, (1 - loc) / scale, loc, scale)


def test_tanh_normal_is_a_density_and_the_change_of_variables():
    edges = np.tanh(np.linspace(-6, 6, 2001))
    middle = (edges[1:] + edges[:-1]) / 2
    density = np.exp(tanh_normal(jnp.array([0.4]), jnp.array([0.7])).log_prob(jnp.asarray(middle)[:, None]))
    np.testing.assert_allclose((density * np.diff(edges)).sum(), 1, rtol=1e-4)
    x = np.array([[-3.0, 0.2], [4.0, 1.5]])
    loc, scale = np.array([0.5, -1.0]), np.array([2.0, 0.3])
    expected = (stats.norm(loc, scale).logpdf(x) - np.log(1 - np.tanh(x) ** 2)).sum(-1)
    found = tanh_normal(jnp.asarray(loc), jnp.asarray(scale)).log_prob(jnp.asarray(np.tanh(x)))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_tanh_normal_is_finite_at_its_ends():
    dist = tanh_normal(jnp.zeros(1), jnp.ones(1))
    ends = jnp.array([[-1.0], [1.0]])
    edge = np.arctanh(np.float64(np.float32(0.99999994)))  # 8.66
    expected = stats.norm.logpdf(edge) - 2 * (np.log(2) - edge - np.logaddexp(0, -2 * edge))
    np.testing.assert_allclose(dist.log_prob(ends), expected, rtol=1e-4)
    grad = jax.grad(lambda x: tanh_normal(x, jnp.ones(1)).log_prob(ends[1]).sum())(jnp.zeros(1))
    np.testing.assert_allclose(grad, edge, rtol=1e-5)


def test_samples_of_tanh_normal_are_reparameterised():
    loc, scale, noise = (jnp.asarray(x) for x in (LOC, SCALE, np.array([[1.0, -0.5, 2, 0]], np.float32)))
    draw = lambda loc, scale: sample(tanh_normal(loc, scale), noise)  # noqa: E731
    np.testing.assert_allclose(draw(loc, scale), np.tanh(LOC + SCALE * noise), rtol=1e-6)
    by_loc, by_scale = jax.grad(lambda *x: draw(*x).sum(), (0, 1))(loc, scale)
    slope = 1 - np.tanh(LOC + SCALE * noise) ** 2
    np.testing.assert_allclose(by_loc, slope, rtol=1e-4)
    np.testing.assert_allclose(by_scale, slope * noise, rtol=1e-4)


def test_mode_of_tanh_normal_is_the_likeliest_draw_of_every_element():
    rng = np.random.default_rng(0)
    loc, scale = rng.normal(size=(2, 3, 5, 2)).astype(np.float32)
    noise = rng.normal(size=(3, 5, 100, 2)).astype(np.float32)
    found = np.asarray(mode(tanh_normal(jnp.asarray(loc), jnp.asarray(np.abs(scale))), noise))
    x = loc[:, :, None] + np.abs(scale)[:, :, None] * noise.astype(np.float64)
    log_prob = (stats.norm(loc[:, :, None], np.abs(scale)[:, :, None]).logpdf(x) - np.log(1 - np.tanh(x) ** 2)).sum(-1)
    best = log_prob.argmax(-1)
    assert len(np.unique(best)) > 5
    expected = np.take_along_axis(np.tanh(x), best[..., None, None], 2)[:, :, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="mode: .* takes noise"):
        mode(tanh_normal(jnp.zeros(2), jnp.ones(2)))


def test_trunc_normal_against_scipy():
    x = np.array([[-0.9, 0.99, -0.4, 0.5], [-1, 1, 0, 0.9]], np.float32)
    dist = trunc_normal(jnp.asarray(LOC), jnp.asarray(SCALE))
    np.testing.assert_allclose(dist.log_prob(jnp.asarray(x)), truncated().logpdf(x).sum(-1), rtol=1e-4)
    np.testing.assert_allclose(dist.entropy(), truncated().entropy().sum(-1), rtol=1e-4)
    np.testing.assert_array_equal(mode(dist), LOC)
    for outside in (-1.0001, 1.0001):
        event = jnp.zeros(4).at[2].set(outside)
        assert (dist.log_prob(event) == -jnp.inf).all()


def test_samples_of_trunc_normal_invert_its_distribution_function():
    noise = np.random.default_rng(0).uniform(size=(500, 4)).astype(np.float32)
    drawn = sample(trunc_normal(jnp.asarray(LOC), jnp.asarray(SCALE)), noise)
    np.testing.assert_allclose(drawn, truncated().ppf(noise), atol=5e-5)


def test_samples_of_trunc_normal_have_the_gradient_of_fixed_bounds():
    """1 by the location and (sample - loc) / scale by the scale (TensorFlow's rule)."""
    noise = jnp.asarray(np.array([[0.2, 0.9, 0.5, 0.7]], np.float32))
    loc, scale = jnp.asarray(LOC), jnp.asarray(SCALE)
    draw = lambda loc, scale: sample(trunc_normal(loc, scale), noise)  # noqa: E731
    by_loc, by_scale = jax.grad(lambda *x: draw(*x).sum(), (0, 1))(loc, scale)
    np.testing.assert_array_equal(by_loc, 1)
    np.testing.assert_allclose(by_scale, (draw(loc, scale) - LOC) / SCALE, rtol=1e-4)


@pytest.mark.parametrize("noise", (0.0, 1 - 2.0**-23))
def test_samples_of_trunc_normal_stay_off_its_ends(noise):
    loc, scale = jnp.array([-1.0, 0.0, 1.0]), jnp.array([0.1, 0.1, 0.5])
    drawn = np.asarray(sample(trunc_normal(loc, scale), jnp.full(3, noise)))
    assert (np.abs(drawn) <= 1 - 1e-6 + 6e-8).all()
    assert abs(drawn[1]) < 0.6  # five deviations, not the end of the world


def test_clipping_lets_the_gradient_pass():
    x = jnp.array([-2.0, -0.5, 1.0, 3.0])
    np.testing.assert_array_equal(clip_value(x, 0.75), [-0.75, -0.5, 0.75, 0.75])
    np.testing.assert_array_equal(jax.grad(lambda x: clip_value(x, 0.75).sum())(x), 1)


def test_noise_of_numbers_in_an_interval():
    assert noise_kind(False, "tanh_normal") == "normal" and noise_kind(False, "trunc_normal") == "uniform"
    assert noise_kind(True, "tanh_normal") == "uniform"
    dist = trunc_normal(jnp.asarray(LOC), jnp.asarray(SCALE))
    draws = np.asarray(dist.sample(seed=KEY, sample_shape=(2000,)))  # distrax's own way comes to the same
    np.testing.assert_allclose(draws.mean(0), truncated().mean(), atol=0.05)
