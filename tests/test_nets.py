"""Layers against formulas; initial deviations."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax.nets.layers import MLP, Dense, Layer, RMSNorm, batched_init_noise, product, truncated_normal

KEY = jax.random.PRNGKey(0)
RNG = np.random.default_rng(0)
XS = [RNG.normal(size=(5, width)).astype(np.float32) for width in (2, 3, 4)]


def silu(x):
    return x / (1 + np.exp(-x))


def rms(x, scale):
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-4) * scale


@pytest.fixture(scope="module")
def params():
    """Of a layer of three inputs; its norm is not the identity."""
    normal = lambda *shape: RNG.normal(size=shape).astype(np.float32)  # noqa: E731
    return {"dense": {"kernel": normal(9, 6), "bias": normal(6)}, "norm": {"scale": normal(6)}}


def test_several_inputs_equal_their_concatenation(params):
    joined = np.concatenate(XS, -1)
    apart = Dense((2, 3, 4), 6).apply({"params": params["dense"]}, *XS)
    np.testing.assert_allclose(
        apart, joined @ params["dense"]["kernel"] + params["dense"]["bias"], rtol=1e-5, atol=1e-5
    )
    together = Dense((9,), 6).apply({"params": params["dense"]}, joined)
    np.testing.assert_allclose(apart, together, rtol=1e-5, atol=1e-5)


def test_parameters_of_another_shape_are_refused(params):
    wrong = {**params, "dense": {**params["dense"], "kernel": np.zeros((9, 7), np.float32)}}
    with pytest.raises(ValueError, match=r"^parameter dense/kernel: got shape \(9, 7\), must be \(9, 6\)"):
        Layer((2, 3, 4), 6).apply({"params": wrong}, *XS)
    with pytest.raises(ValueError, match=r"^parameter norm/scale: got shape None, must be \(6,\)"):
        Layer((2, 3, 4), 6).apply({"params": {**params, "norm": {}}}, *XS)


@pytest.mark.parametrize("shape", [(7, 3, 5), (4, 6, 2, 3)])
def test_a_product_and_its_gradients_are_those_of_a_matrix_product(shape):
    *batch, inputs, features = shape
    x, kernel = RNG.normal(size=(*batch, inputs)), RNG.normal(size=(inputs, features))
    weight = RNG.normal(size=(*batch, features))

    def both(multiply):
        return jax.value_and_grad(lambda x, kernel: (jnp.tanh(multiply(x, kernel)) * weight).sum(), (0, 1))(
            jnp.float32(x), jnp.float32(kernel)
        )

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *map(both, (product, jnp.matmul)))


def test_order_is_linear_norm_silu(params):
    joined = np.concatenate(XS, -1)
    expected = silu(rms(joined @ params["dense"]["kernel"] + params["dense"]["bias"], params["norm"]["scale"]))
    np.testing.assert_allclose(Layer((2, 3, 4), 6).apply({"params": params}, *XS), expected, rtol=1e-4, atol=1e-5)


def test_norm_over_several_axes():
    x = RNG.normal(size=(3, 2, 4)).astype(np.float32)
    scale = RNG.normal(size=(3, 1, 4)).astype(np.float32)
    expected = x / np.sqrt(np.square(x).mean((0, 2), keepdims=True) + 1e-4) * scale
    np.testing.assert_allclose(RMSNorm((3, 1, 4), (0, 2)).apply({"params": {"scale": scale}}, x), expected, rtol=1e-5)


@pytest.mark.parametrize("layers", (0, 1, 3))
def test_mlp(layers):
    mlp = MLP((2, 3, 4), layers, 6)
    shapes = jax.eval_shape(mlp.init, KEY, *XS).get("params", {})
    assert [shapes[f"hidden_{i}"]["dense"]["kernel"].shape for i in range(layers)] == [(9, 6), (6, 6), (6, 6)][:layers]
    outputs = jax.eval_shape(lambda: mlp.init_with_output(KEY, *XS)[0])
    assert tuple(x.shape[-1] for x in outputs) == mlp.outputs


@pytest.mark.parametrize(("fan_in", "scale"), ((64, 1.0), (640, 0.01)))
def test_initial_deviation(fan_in, scale):
    draw = np.asarray(jax.jit(lambda key: truncated_normal(fan_in, scale)(key, (200, 300)))(KEY))
    np.testing.assert_allclose(draw.std(), scale / fan_in**0.5, rtol=0.01)
    assert abs(draw.mean()) < 0.02 * draw.std()
    assert np.abs(draw).max() <= 2 * 1.1368 * scale / fan_in**0.5 * 1.0001  # truncated at two deviations


SHAPES = {"wide": (100, 900), "square": (300, 300), "blocks": (8, 30, 400)}


def kernels(key):
    """Noise of three shapes, and what else a model begins with."""
    keys = jax.random.split(key, len(SHAPES))
    drawn = {name: truncated_normal(64)(one, shape) for one, (name, shape) in zip(keys, SHAPES.items(), strict=True)}
    return {**drawn, "zero": truncated_normal(64, 0.0)(key, (5, 5)), "bias": jnp.zeros(7)}


def test_noise_from_one_draw_is_the_same_distribution():
    drawn = jax.device_get(jax.jit(batched_init_noise(kernels))(KEY))
    assert {name: x.shape for name, x in drawn.items()} == {**SHAPES, "zero": (5, 5), "bias": (7,)}
    assert not drawn["zero"].any() and not drawn["bias"].any()
    erf = np.vectorize(math.erf)
    ends = erf(np.array([-2, 2]) / math.sqrt(2))
    for name in SHAPES:
        noise = np.sort(drawn[name].ravel() * 64**0.5 / 1.1368)
        share = (erf(noise / math.sqrt(2)) - ends[0]) / (ends[1] - ends[0])  # the normal's, cut at 2 deviations
        expected = (np.arange(noise.size) + 0.5) / noise.size
        assert np.abs(share - expected).max() < 1.95 / noise.size**0.5, name  # Kolmogorov and Smirnov's, at 0.1 %
    everything = np.concatenate([drawn[name].ravel() for name in SHAPES])
    assert len(np.unique(everything)) > 0.98 * everything.size  # no number is used twice


def test_noise_from_one_draw_follows_from_the_key_alone():
    alone = kernels(KEY)
    init = jax.jit(batched_init_noise(kernels))
    first, again, other = init(KEY), init(KEY), init(jax.random.PRNGKey(1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert all((first[name] != other[name]).mean() > 0.99 for name in SHAPES)
    both = jax.vmap(batched_init_noise(kernels))(jnp.stack([KEY, jax.random.PRNGKey(1)]))
    jax.tree.map(lambda x, y, xy: np.testing.assert_allclose(jnp.stack([x, y]), xy, rtol=1e-6), first, other, both)
    # Afterwards, and after a failure, every kernel has its own key again.
    with pytest.raises(ZeroDivisionError):
        batched_init_noise(lambda key: kernels(key) and 1 / 0)(KEY)
    jax.tree.map(np.testing.assert_array_equal, kernels(KEY), alone)


def test_low_precision_activations_keep_float32_parameters():
    layer = Layer((2, 3, 4), 6, jnp.bfloat16)
    outputs, variables = jax.eval_shape(lambda: layer.init_with_output(KEY, *XS))
    assert outputs.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_norm_is_computed_in_float32():
    x = jnp.full((1, 512), 300, jnp.bfloat16).at[0, 0].set(1)
    norm = RMSNorm((512,)).apply({"params": {"scale": jnp.ones(512)}}, x)
    np.testing.assert_allclose(np.asarray(norm[0, 1:], np.float32), (512 / 511) ** 0.5, rtol=4e-3)
