"""Recurrent cells against plain formulas; the block GRU's with repeated inputs and one product for each block."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax.config.schema import NetsConfig
from dreamer_jax.nets.recurrent import GRU, BlockGRU, RecurrentMLP, enter_blocks

KEY = jax.random.PRNGKey(0)
SIZES = {
    "one layer": dict(deter=12, hidden=5, stoch=7, action=2, blocks=3, layers=1),
    "two layers": dict(deter=8, hidden=3, stoch=5, action=6, blocks=2, layers=2),
}


def plain(params, deter, stoch, action, *, blocks, layers):
    """Next deter, written as the specification reads."""

    def rms(x, scale):
        return x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-4) * scale.reshape(-1)

    def blocked(x, kernel, bias):  # x [N, blocks, in]
        return jnp.concatenate([x[:, g] @ kernel[g] for g in range(blocks)], -1) + bias

    def embed(x, layer):
        x = rms(x @ layer["dense"]["kernel"] + layer["dense"]["bias"], layer["norm"]["scale"])
        return x * jax.nn.sigmoid(x)

    shared = jnp.concatenate([embed(x, params[f"embed_{i}"]) for i, x in enumerate((deter, stoch, action))], -1)
    x = deter
    for index in range(layers):
        parts = x.reshape(len(x), blocks, -1)
        if index == 0:
            repeated = jnp.repeat(shared[:, None], blocks, 1)
            parts = jnp.concatenate([parts, repeated], -1)
        x = blocked(parts, params[f"hidden{index}_kernel"], params[f"hidden{index}_bias"])
        x = rms(x, params[f"norms_{index}"]["scale"])
        x = x * jax.nn.sigmoid(x)
    gates = blocked(x.reshape(len(x), blocks, -1), params["gates_kernel"], params["gates_bias"])
    gates = gates.reshape(len(x), blocks, 3, -1)  # three gates within each block
    reset, candidate, update = (gates[:, :, i].reshape(deter.shape) for i in range(3))
    candidate = jnp.tanh(jax.nn.sigmoid(reset) * candidate)
    update = jax.nn.sigmoid(update - 1)
    return update * candidate + (1 - update) * deter


def build(sizes):
    cell = BlockGRU(**sizes)

    def run(params, deter, stoch, action, *, of=0):
        call = lambda *xs, method: cell.apply({"params": params}, *xs, method=method)  # noqa: E731
        blocks = enter_blocks(deter, sizes["blocks"])
        return call(deter, blocks, stoch, call(action, method="action_term"), method="__call__")[of]

    inputs = [jnp.zeros((1, sizes[name])) for name in ("deter", "stoch", "action")]
    return run, jax.eval_shape(lambda key: cell.init(key, *inputs, method=touch)["params"], KEY)


def touch(self, deter, stoch, action):
    return self(deter, enter_blocks(deter, self.blocks), stoch, self.action_term(action))


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_values_and_gradients(sizes):
    run, shapes = build(sizes)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    inputs = [rng.normal(size=(4, sizes[name])).astype(np.float32) for name in ("deter", "stoch", "action")]
    weight = rng.normal(size=(4, sizes["deter"])).astype(np.float32)

    def both(function):
        def scalar(params, inputs):
            value = function(params, *inputs)
            return (value * weight).sum(), value

        return jax.jit(jax.value_and_grad(scalar, (0, 1), has_aux=True))(params, inputs)

    (_, value), grads = both(run)
    (_, expected), expected_grads = both(partial(plain, blocks=sizes["blocks"], layers=sizes["layers"]))
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4), grads, expected_grads)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_the_state_in_blocks_is_the_same_state(sizes):
    run, shapes = build(sizes)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    inputs = [rng.normal(size=(4, sizes[name])).astype(np.float32) for name in ("deter", "stoch", "action")]
    after, blocks = (run(params, *inputs, of=place) for place in (0, 1))
    np.testing.assert_array_equal(enter_blocks(after, sizes["blocks"]), blocks)


def test_initial_deviations_follow_the_width_of_all_blocks():
    sizes = dict(deter=512, hidden=64, stoch=128, action=6, blocks=8, layers=1)
    cell = BlockGRU(**sizes)
    inputs = [jnp.zeros((1, sizes[name])) for name in ("deter", "stoch", "action")]

    @jax.jit
    def deviations(key):
        params = cell.init(key, *inputs, method=touch)["params"]
        return params["hidden0_kernel"].std(), params["gates_kernel"].std()

    np.testing.assert_allclose(deviations(KEY), [0.0221, 0.0442], rtol=5e-3)


def test_parameters_by_name_and_shape():
    _, shapes = build(dict(deter=512, hidden=64, stoch=128, action=6, blocks=8, layers=1))
    assert shapes["hidden0_kernel"].shape == (8, 256, 64)
    assert shapes["gates_kernel"].shape == (8, 64, 192)
    assert [shapes[f"embed_{i}"]["dense"]["kernel"].shape for i in range(3)] == [(512, 64), (128, 64), (6, 64)]


WIDTHS = dict(deter=6, hidden=5, stoch=4, action=3)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def norm_gru(params, x, h):
    gates = np.concatenate([x, h], -1) @ params["gates"]["kernel"] + params["gates"]["bias"]
    gates = (gates - gates.mean(-1, keepdims=True)) / np.sqrt(gates.var(-1, keepdims=True) + 1e-3)
    reset, candidate, update = np.split(gates * params["norm"]["scale"] + params["norm"]["shift"], 3, -1)
    update = sigmoid(update - 1)
    return update * np.tanh(sigmoid(reset) * candidate) + (1 - update) * h


def gru(params, x, h):
    ours, theirs = params["from_input"], params["from_state"]
    x, y = x @ ours["kernel"] + ours["bias"], h @ theirs["kernel"] + theirs["bias"]
    (u, r, c), (v, s, d) = np.split(x, 3, -1), np.split(y, 3, -1)
    return sigmoid(u + v) * h + (1 - sigmoid(u + v)) * np.tanh(c + sigmoid(r + s) * d)


def gru_reset_before(params, x, h):
    gates = sigmoid(np.concatenate([x, h], -1) @ params["gates"]["kernel"] + params["gates"]["bias"])
    reset, keep = np.split(gates, 2, -1)
    new = np.concatenate([x, reset * h], -1) @ params["candidate"]["kernel"] + params["candidate"]["bias"]
    return keep * h + (1 - keep) * np.tanh(new)


def step_gru(self, deter, stoch, action):
    return self(deter, deter, stoch, self.action_term(action))


@pytest.mark.parametrize("formula", [norm_gru, gru, gru_reset_before], ids=lambda formula: formula.__name__)
def test_other_cells_follow_their_formulas(formula):
    nets = NetsConfig(norm="none", activation="elu")
    cell = GRU(formula.__name__, *WIDTHS.values(), nets=nets)
    rng = np.random.default_rng(0)
    deter, stoch, action = (
        rng.normal(size=(4, WIDTHS[name])).astype(np.float32) for name in ("deter", "stoch", "action")
    )
    shapes = jax.eval_shape(lambda key: cell.init(key, deter, stoch, action, method=step_gru)["params"], KEY)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    after, again = cell.apply({"params": params}, deter, stoch, action, method=step_gru)
    dense = params["embed"]["dense"]
    x = np.concatenate([stoch, action], -1) @ dense["kernel"] + dense["bias"]
    expected = formula(params, np.where(x > 0, x, np.expm1(x)), deter)
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(after, again)


def test_an_mlp_as_the_recurrence():
    nets = NetsConfig(norm="none", activation="elu")
    cell = RecurrentMLP(*WIDTHS.values(), layers=2, nets=nets)
    rng = np.random.default_rng(0)
    deter, stoch, action = (rng.normal(size=(4, width)).astype(np.float32) for width in (6, 4, 3))
    shapes = jax.eval_shape(lambda key: cell.init(key, deter, stoch, action, method=step_gru)["params"], KEY)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    x = np.concatenate([deter, stoch, action], -1)
    for layer in (params["embed"], params["mlp"]["hidden_0"], params["mlp"]["hidden_1"]):
        x = x @ layer["dense"]["kernel"] + layer["dense"]["bias"]
        x = np.where(x > 0, x, np.expm1(x))
    expected = np.tanh(x @ params["out"]["kernel"] + params["out"]["bias"])
    after, again = cell.apply({"params": params}, deter, stoch, action, method=step_gru)
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(after, again)


def test_initial_values_of_other_cells():
    """Keras begins with an orthogonal recurrent kernel, TensorFlow 1 with gates of bias 1."""
    wide = dict(deter=60, hidden=50, stoch=4, action=3)
    inputs = [jnp.zeros((1, wide[name])) for name in ("deter", "stoch", "action")]
    nets = NetsConfig(norm="none", init="glorot")
    keras, first = (
        GRU(kind, *wide.values(), nets=nets).init(KEY, *inputs, method=step_gru)["params"]
        for kind in ("gru", "gru_reset_before")
    )
    kernel = keras["from_state"]["kernel"]
    np.testing.assert_allclose(kernel @ kernel.T, np.eye(60), atol=1e-5)
    np.testing.assert_array_equal(first["gates"]["bias"], np.ones(120))
    np.testing.assert_array_equal(first["candidate"]["bias"], np.zeros(60))
    limit = np.sqrt(6 / (110 + 60))
    assert 0.98 * limit < np.abs(first["candidate"]["kernel"]).max() <= limit
