"""The world model: losses, gradients, what depends on what, and the latents that replay keeps."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from agents import (
    KEY,
    MIXED,
    ROWS,
    B,
    D,
    K,
    S,
    T,
    assert_trees_equal,
    largest,
    quick_jit,
    random_batch,
    tiny,
    tiny_config,
)

from dreamer_jax.config.schema import ConfigError, DecoderConfig, EncoderConfig, NetsConfig
from dreamer_jax.models.decoder import Decoder, reconstruction_loss
from dreamer_jax.models.encoder import Encoder, flatten_leaves, image_grid, quantize
from dreamer_jax.models.world_model import make_world_model
from dreamer_jax.nets.convolution import Conv
from dreamer_jax.specs import ArraySpec, EnvSpec

TINY = tiny()
MODEL, PARAMS, BATCH = TINY.model, TINY.state.params["model"], TINY.batch
features = MODEL.dynamics.features
NAMES = ("dyn", "rep", "rew", "con", "speed", "cells", "place")
CONTINUE = 1 - 1 / 333

loss = quick_jit(MODEL.loss)


@quick_jit
def gradient(params, observation, weights):
    """Of the weighted sum of all losses [B, T] and logits, to parameters and observations."""

    def total(params, floats):
        batch = BATCH.replace(observation={**observation, **floats})
        losses, aux = MODEL.loss(params, KEY, ROWS, batch)
        logits = (aux.posterior_stats["logits"] ** 2).sum((-1, -2))
        return sum((weights[name] * value).sum() for name, value in {**losses, "logits": logits}.items())

    return jax.grad(total, (0, 1))(params, {name: x for name, x in observation.items() if x.dtype == np.float32})


def weights(**given):
    return {name: np.zeros((B, T), np.float32) + given.get(name, 0) for name in (*NAMES, "logits")}


@pytest.fixture(scope="module")
def result():
    return loss(PARAMS, KEY, ROWS, BATCH)


def at(row):
    """One row of a batch in every place."""
    return jax.tree.map(lambda x: x[[row] * B], BATCH)


# --- losses


def test_one_loss_for_each_record(result):
    losses, aux = result
    posterior = aux.posterior
    assert losses.keys() == set(NAMES)
    assert {(x.shape, x.dtype) for x in losses.values()} == {((B, T), jnp.dtype("float32"))}
    assert posterior.deter.shape == (B, T, D) and posterior.stoch.shape == (B, T, S, K)
    assert aux.reconstruction["place"].shape == (B, T, 4, 2)
    assert aux.reconstruction["cells"].shape == (B, T, 4, 3)


def test_losses_by_hand(result):
    losses, aux = result
    feat = features(aux.posterior)
    place = BATCH.observation["place"]
    square = (aux.reconstruction["place"] - np.sign(place) * np.log1p(np.abs(place))) ** 2
    np.testing.assert_allclose(losses["place"], square.sum((-1, -2)), rtol=1e-4)
    logits = np.asarray(aux.reconstruction["cells"], np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen = np.take_along_axis(log_probs, BATCH.observation["cells"][..., None], -1)
    np.testing.assert_allclose(losses["cells"], -chosen.sum((-1, -2)), rtol=1e-4)
    reward, going_on = jax.jit(MODEL.predict)(PARAMS, feat)
    soft = CONTINUE * (1 - BATCH.is_terminal)  # a time limit is not a termination
    expected = -soft * np.log(going_on) - (1 - soft) * np.log(1 - going_on)
    np.testing.assert_allclose(losses["con"], expected, rtol=1e-4, atol=1e-6)
    assert reward.shape == (B, T)
    np.testing.assert_allclose(losses["dyn"], np.maximum(aux.divergence, 1), rtol=1e-5)
    np.testing.assert_allclose(losses["dyn"], losses["rep"], rtol=1e-5)


def test_reward_of_a_new_model_is_exactly_zero():
    params = jax.tree.map(np.copy, PARAMS)
    params["reward"]["out"] = jax.tree.map(np.zeros_like, params["reward"]["out"])  # as init leaves it
    losses, aux = loss(params, KEY, ROWS, BATCH)
    np.testing.assert_allclose(losses["rew"], np.log(255), rtol=1e-6)
    assert not np.asarray(jax.jit(MODEL.predict)(params, features(aux.posterior))[0]).any()


def test_gradients_reach_the_parts_that_they_should():
    everything = {"encoder", "rssm", "decoder", "reward", "cont"}
    reached = {
        "rew": {"encoder", "rssm", "reward"},
        "con": {"encoder", "rssm", "cont"},
        "place": {"encoder", "rssm", "decoder"},
        "dyn": {"encoder", "rssm"},  # through deter alone
        "rep": {"encoder", "rssm"},
    }
    for name, parts in reached.items():
        grad = gradient(PARAMS, BATCH.observation, weights(**{name: 1}))[0]
        assert {part for part in everything if largest(grad[part]) > 0} == parts, name
    dyn, rep = (gradient(PARAMS, BATCH.observation, weights(**{name: 1}))[0]["rssm"] for name in ("dyn", "rep"))
    assert largest(dyn["prior_out"]) > 0 == largest(rep["prior_out"])
    assert largest(rep["posterior_out"]["bias"]) > 0


def test_no_gradient_below_the_free_nats(result):
    kl = result[1].divergence
    assert largest(gradient(PARAMS, BATCH.observation, weights(dyn=kl < 1, rep=kl < 1))) == 0
    assert (np.asarray(kl) > 1).any()


# --- what depends on what


def test_a_posterior_ignores_what_is_observed_later():
    weight = np.zeros((B, T), np.float32)
    weight[2, 3] = 1  # a row without a reset
    by_observation = gradient(PARAMS, BATCH.observation, weights(logits=weight))[1]
    for x in by_observation.values():
        reached = np.abs(np.asarray(x).reshape(B, T, -1)).sum(-1) > 0
        np.testing.assert_array_equal(reached, [[False] * T, [False] * T, [True] * 4 + [False] * 3])


def test_nothing_before_a_reset_matters_after_it(result):
    other = random_batch(MIXED, TINY.config, seed=1)
    mixed = jax.tree.map(np.copy, BATCH)
    for part in ("observation", "prev_action"):
        for name, x in getattr(mixed, part).items():
            x[0, :3] = getattr(other, part)[name][0, :3]
    for name, x in mixed.prev_action.items():
        x[0, 3] = other.prev_action[name][0, 3]
    mixed.context["deter"][:] = other.context["deter"]
    after = lambda posterior: jax.tree.map(lambda x: x[0, 3:], posterior)  # noqa: E731
    changed, before = loss(PARAMS, KEY, ROWS, mixed)[1].posterior, result[1].posterior
    assert_trees_equal(after(changed), after(before))
    assert (changed.deter[0, :3] != before.deter[0, :3]).any()


def test_a_row_has_its_own_noise_wherever_it_is_computed(result):
    """Rows keep their losses when another device holds them beside other rows."""
    rows = np.array([2, 0, 2])
    shuffled = loss(PARAMS, KEY, rows, jax.tree.map(lambda x: x[rows], BATCH))
    whole = jax.tree.map(lambda x: np.asarray(x)[rows], result)
    assert_trees_equal(shuffled[1].posterior.stoch, whole[1].posterior.stoch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), shuffled[0], whole[0])
    copies = loss(PARAMS, KEY, ROWS, at(2))[1].posterior
    assert (copies.stoch[0] != copies.stoch[2]).any()  # the same records, other noise


def test_filter_equals_observe():
    """Acting sees what learning sees: the first record of a window that has no context."""
    now = lambda tree: jax.tree.map(lambda x: x[:, 0], tree)  # noqa: E731
    inputs = dict(prev_action=now(BATCH.prev_action), observation=now(BATCH.observation), is_first=np.ones(B, bool))
    state = quick_jit(MODEL.filter)(PARAMS, KEY, ROWS, MODEL.dynamics.initial(B), **inputs)
    posterior = quick_jit(MODEL.observe)(PARAMS, KEY, ROWS, BATCH.replace(is_first=np.ones((B, T), bool), context=None))
    np.testing.assert_allclose(state.deter, posterior.deter[:, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.stoch, posterior.stoch[:, 0], rtol=1e-4, atol=1e-5)


# --- observations and actions as vectors


def test_leaves_are_joined_in_sorted_order_and_one_hot():
    specs = {"b": ArraySpec((2,), "int32", 3), "a": ArraySpec((1, 2), "float32")}
    values = {"b": np.array([[2, 0]]), "a": np.array([[[7.0, 8.0]]], np.float32)}
    np.testing.assert_array_equal(flatten_leaves(values, specs), [[7, 8, 0, 0, 1, 1, 0, 0]])
    assert MODEL.action_vector(jax.tree.map(lambda x: x[:, 0], BATCH.prev_action)).shape == (B, 8)


def test_missing_values_are_zeros():
    specs = {"b": ArraySpec((2,), "int32", 3), "a": ArraySpec((2,), "float32")}
    encoder = Encoder(specs, EncoderConfig(layers=1, units=5))
    values = lambda number: {"b": np.array([[-1, 1]]), "a": np.array([[number, 1]], np.float32)}  # noqa: E731
    params = jax.tree.map(lambda x: jnp.ones(x.shape), jax.eval_shape(encoder.init, KEY, values(0)))
    np.testing.assert_array_equal(encoder.apply(params, values(-np.inf)), encoder.apply(params, values(0)))
    np.testing.assert_array_equal(flatten_leaves({"b": np.array([[-1, 1]])}, {"b": specs["b"]}), [[0, 0, 0, 0, 1, 0]])


def test_symlog_of_vectors_is_a_setting():
    specs = {"a": ArraySpec((2,), "float32")}
    x = {"a": np.array([[9.0, -9.0]], np.float32)}
    squashed = {"a": np.array([[np.log(10), -np.log(10)]], np.float32)}
    params = jax.tree.map(
        lambda x: np.random.default_rng(0).normal(size=x.shape).astype(np.float32),
        jax.eval_shape(Encoder(specs, EncoderConfig(layers=1, units=5)).init, KEY, x),
    )
    on, off = (
        Encoder(specs, EncoderConfig(layers=1, units=5, symlog=symlog)).apply(params, y)
        for symlog, y in ((True, x), (False, squashed))
    )
    np.testing.assert_allclose(on, off, rtol=1e-5)


def test_reconstruction_of_a_vector_has_no_half():
    loss = reconstruction_loss(jnp.zeros((1, 1, 2)), np.float32([[[1, -3]]]), ArraySpec((2,), "float32"))
    np.testing.assert_allclose(loss, [[np.log(2) ** 2 + np.log(4) ** 2]], rtol=1e-5)


# --- latents for replay


def test_compact_latents(result):
    posterior = result[1].posterior
    small = MODEL.dynamics.compress(posterior)
    assert small["deter"].dtype == ml_dtypes.bfloat16 and small["stoch"].dtype == np.uint8
    assert small.keys() == MODEL.latent_spec.keys()
    for name, leaf in MODEL.latent_spec.items():
        stored = small[name]
        assert (stored.shape[2:], str(stored.dtype)) == (leaf.shape, leaf.dtype)
    np.testing.assert_array_equal(np.eye(K)[np.asarray(small["stoch"])], np.round(posterior.stoch))


def test_whole_latents_and_their_round_trip(result):
    """A window goes on from a stored latent as if it had never been stored."""
    whole = tiny(replay__context_dtype="float32").model
    posterior = result[1].posterior
    kept = whole.dynamics.compress(posterior)
    assert_trees_equal(kept, {"deter": posterior.deter, "stoch": posterior.stoch})
    assert {name: leaf.shape for name, leaf in whole.latent_spec.items()} == {"deter": (D,), "stoch": (S, K)}
    observe = quick_jit(MODEL.observe)
    start = jax.tree.map(lambda x: x[:, 2], MODEL.dynamics.compress(posterior))
    onehot = np.eye(K, dtype=np.float32)[np.asarray(start["stoch"])]
    wide = {"deter": start["deter"].astype(np.float32), "stoch": onehot}
    assert_trees_equal(
        observe(PARAMS, KEY, ROWS, BATCH.replace(context=start)),
        observe(PARAMS, KEY, ROWS, BATCH.replace(context=wide)),
    )


def test_many_classes_need_wider_indices():
    many = make_world_model(tiny(rssm__classes=257).config, MIXED)
    assert many.latent_spec["stoch"].dtype == "uint16"


# --- images

CAMERAS = {"left": ArraySpec((32, 48, 2), "uint8"), "aft": ArraySpec((32, 48, 3), "uint8")}


def pictures(seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.integers(256, size=(2, 3, *spec.shape)).astype(np.uint8) for name, spec in CAMERAS.items()}


def random_params(module, *inputs):
    shapes = jax.eval_shape(module.init, KEY, *inputs)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)


@pytest.mark.parametrize("cnn", ["pool", "stride"])
def test_encoder_of_images_and_vectors(cnn):
    specs = {"speed": ArraySpec((2,), "float32"), **CAMERAS}
    encoder = Encoder(specs, EncoderConfig(layers=1, units=5, depth=3, cnn=cnn))
    x = {"speed": np.ones((2, 3, 2), np.float32), **pictures()}
    params = random_params(encoder, x)
    tokens = encoder.apply(params, x)
    assert tokens.shape == (2, 3, encoder.width) == (2, 3, 5 + 2 * 3 * 4 * 3)
    # Cameras are joined in the order of their names.
    assert params["params"]["cnn_0"]["conv"]["kernel"].shape[2] == 5
    grey = encoder.apply(params, x | {"left": np.full_like(x["left"], 128)})
    kernel = params["params"]["cnn_0"]["conv"]["kernel"]
    silent = jax.tree.map(np.copy, params)
    silent["params"]["cnn_0"]["conv"]["kernel"] = np.where(np.arange(5)[:, None] < 3, kernel, 0)
    np.testing.assert_array_equal(encoder.apply(silent, x), encoder.apply(silent, x | {"left": 255 - x["left"]}))
    assert np.abs(grey - tokens)[..., 5:].max() > 0.01
    np.testing.assert_array_equal(tokens[..., :5], grey[..., :5])


@pytest.mark.parametrize("cnn", ["repeat", "transpose"])
def test_decoder_of_images_and_vectors(cnn):
    specs = {"left": CAMERAS["left"], "speed": ArraySpec((2,), "float32"), "aft": CAMERAS["aft"]}
    decoder = Decoder(specs, (12, 6), DecoderConfig(layers=1, units=5, depth=3, cnn=cnn, blocks=4))
    deter, stoch = (np.random.default_rng(0).normal(size=(2, 3, width)).astype(np.float32) for width in (12, 6))
    params = random_params(decoder, deter, stoch)
    outputs = decoder.apply(params, deter, stoch)
    assert {name: x.shape for name, x in outputs.items()} == {name: (2, 3, *specs[name].shape) for name in specs}
    assert all(0 <= outputs[name].min() < outputs[name].max() <= 1 for name in CAMERAS)
    # Rows are decoded by themselves, and channels are dealt out in the order of declaration: left first.
    np.testing.assert_allclose(decoder.apply(params, deter[1:], stoch[1:])["aft"], outputs["aft"][1:], atol=1e-5)
    params["params"]["images"]["out"]["bias"] = np.float32([50, 50, -50, -50, -50])
    outputs = decoder.apply(params, deter, stoch)
    assert outputs["left"].min() > 0.99 and outputs["aft"].max() < 0.01


def test_reconstruction_of_an_image_is_a_sum_over_pixels():
    target = np.zeros((1, 1, 2, 2, 1), np.uint8)
    target[..., 0, 0, 0], target[..., 1, 1, 0] = 255, 51
    loss = reconstruction_loss(jnp.full(target.shape, 0.5), target, ArraySpec((2, 2, 1), "uint8"))
    np.testing.assert_allclose(loss, [[3 * 0.25 + 0.09]], rtol=1e-6)


# --- what the earlier agents do otherwise

SMALL_SQUARE = {"image": ArraySpec((64, 64, 3), "uint8")}


def square_pictures(size=2):
    return {"image": np.random.default_rng(0).integers(256, size=(size, *SMALL_SQUARE["image"].shape)).astype(np.uint8)}


@pytest.mark.parametrize(("cnn", "width"), [("valid", 2 * 2 * 16), ("same", 4 * 4 * 16)])
def test_encoders_by_kernels_of_four(cnn, width):
    nets = NetsConfig(norm="none", cnn_activation="relu")
    encoder = Encoder(SMALL_SQUARE, EncoderConfig(depth=2, cnn=cnn), nets=nets)
    params = random_params(encoder, square_pictures())
    kernels = [params["params"][f"cnn_{i}"]["conv"]["kernel"].shape for i in range(4)]
    assert kernels == [(4, 4, 3, 2), (4, 4, 2, 4), (4, 4, 4, 8), (4, 4, 8, 16)]
    assert encoder.apply(params, square_pictures()).shape == (2, width) == (2, encoder.width)


@pytest.mark.parametrize(("cnn", "grid"), [("valid", (1, 1, 64)), ("same", (4, 4, 16))])
def test_decoders_by_one_linear_layer(cnn, grid):
    config = DecoderConfig(depth=2, cnn=cnn, images="linear")
    decoder = Decoder(SMALL_SQUARE, (12, 6), config, nets=NetsConfig(norm="none", cnn_activation="elu"))
    deter, stoch = (np.random.default_rng(0).normal(size=(2, 3, width)).astype(np.float32) for width in (12, 6))
    params = random_params(decoder, deter, stoch)
    inner = params["params"]["images"]
    assert inner["dense"]["kernel"].shape == (18, np.prod(grid))
    image = decoder.apply(params, deter, stoch)["image"]
    assert image.shape == (2, 3, 64, 64, 3)
    assert image.min() < 0 and image.max() > 1  # linear: nothing bounds it
    silent = jax.tree.map(np.zeros_like, params)
    np.testing.assert_array_equal(decoder.apply(silent, deter, stoch)["image"], np.full(image.shape, 0.5))


def test_a_transposed_convolution_scatters_its_kernel():
    """out[2i + a, 2j + b] += x[i, j] kernel[a, b], without padding."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 3, 4, 2)), rng.normal(size=(5, 5, 2, 3))
    expected = np.zeros((2, 9, 11, 3))
    for i, j, a, b in np.ndindex(3, 4, 5, 5):
        expected[:, 2 * i + a, 2 * j + b] += x[:, i, j] @ kernel[a, b]
    params = {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.zeros(3)}
    out = Conv(2, 3, 5, "valid_transpose").apply({"params": params}, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_images_of_another_size_need_padding():
    with pytest.raises(ConfigError, match="got 32 x 48 pixels; cnn valid, without padding, takes 64 x 64"):
        image_grid({"left": CAMERAS["left"]}, "valid")


def test_pixels_of_five_bits():
    """floor(x / 8) / 32 and noise of one step, as PlaNet has it; with a noise of 0 the lowest of eight values."""
    image, noise = np.arange(256).astype(np.uint8), np.random.default_rng(0).uniform(size=256)
    seen = quantize(image, 5, noise)
    np.testing.assert_allclose(seen, (np.arange(256) // 8 + noise) / 32, rtol=1e-6)
    np.testing.assert_array_equal(quantize(image, 8, np.zeros(256)), np.arange(256) / 256)


@pytest.mark.slow
def test_encoder_and_decoder_see_the_same_coarse_pixels():
    spec = EnvSpec(SMALL_SQUARE, MIXED.action)
    config = tiny_config(encoder__image_bits=2, decoder__blocks=4)
    model, batch = make_world_model(config, spec), random_batch(spec, config)
    image = batch.observation["image"] // 64 * 64  # all noise is above these
    batch = batch.replace(observation={**batch.observation, "image": image})
    params = model.init(KEY)
    losses, aux = quick_jit(model.loss)(params, KEY, ROWS, batch)
    lowest = image / 256 - np.asarray(aux.reconstruction["image"])
    assert np.abs(aux.tokens - model.encode(params, batch.observation)).mean() > 0.01
    # The noise lies in a quarter of the range, so that the loss does between those of its ends.
    corners = [np.square(lowest), np.square(lowest + 0.25)]
    most = np.maximum(*corners).sum((2, 3, 4))
    least = np.where(np.sign(lowest) != np.sign(lowest + 0.25), 0, np.minimum(*corners)).sum((2, 3, 4))
    assert (least <= losses["image"]).all() and (losses["image"] <= most).all()
    mean = (np.square(lowest + 0.125) + 0.25**2 / 12).sum((2, 3, 4))
    np.testing.assert_allclose(losses["image"], mean, rtol=0.03)


def test_a_normal_likelihood_has_a_half_and_a_constant():
    config = DecoderConfig(loss="normal", symlog=False)
    loss = reconstruction_loss(jnp.zeros((1, 1, 2)), np.float32([[[1, -3]]]), ArraySpec((2,), "float32"), config)
    np.testing.assert_allclose(loss, [[(1 + 9) / 2 + np.log(2 * np.pi)]], rtol=1e-6)


@pytest.mark.parametrize("label", ["soft", "hard", "none"])
def test_labels_of_the_continuation(label):
    config = tiny_config(cont__label=label, behavior__discount_horizon=10)
    model = make_world_model(config, MIXED)
    params = random_tree(jax.eval_shape(model.init, KEY))
    losses, aux = quick_jit(model.loss)(params, KEY, ROWS, BATCH)
    feat = features(aux.posterior)
    _, discount = model.predict(params, feat)
    ends = np.asarray(BATCH.is_terminal, np.float32)
    if label == "none":
        assert "cont" not in params and "con" not in losses
        np.testing.assert_allclose(discount, 0.9, rtol=1e-6)
        return
    np.testing.assert_allclose(aux.cont_target, (1 - ends) * (0.9 if label == "soft" else 1), rtol=1e-6)
    assert "con" in losses
    if label == "hard":
        for shift, expected in ((-50, 0.0), (50, 0.9)):
            sure = params | {"cont": params["cont"] | {"out": {**params["cont"]["out"], "bias": np.float32([shift])}}}
            np.testing.assert_allclose(model.predict(sure, feat)[1], expected, rtol=1e-6)


def test_squashed_rewards_are_what_is_learnt():
    plain, squashed = (tiny_config(reward__squash=name, reward__dist="normal") for name in ("none", "tanh"))
    params = random_tree(jax.eval_shape(make_world_model(plain, MIXED).init, KEY))
    small = BATCH.replace(reward=np.tanh(BATCH.reward))
    one, two = (
        quick_jit(make_world_model(config, MIXED).loss)(params, KEY, ROWS, batch)[0]["rew"]
        for config, batch in ((squashed, BATCH), (plain, small))
    )
    np.testing.assert_allclose(one, two, rtol=1e-5)


def random_tree(shapes):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape).astype(np.float32), shapes)
