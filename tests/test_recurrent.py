"""The block GRU against a plain formula: repeated inputs, one product for each block."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax.nets.recurrent import BlockGRU, enter_blocks

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
        return call(deter, blocks, stoch, call(action, method="action_share"), method="__call__")[of]

    inputs = [jnp.zeros((1, sizes[name])) for name in ("deter", "stoch", "action")]
    return run, jax.eval_shape(lambda key: cell.init(key, *inputs, method=touch)["params"], KEY)


def touch(self, deter, stoch, action):
    return self(deter, enter_blocks(deter, self.blocks), stoch, self.action_share(action))


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
