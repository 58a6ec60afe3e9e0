"""What is packed in a compiled function comes back on the host, bit for bit."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamer_jax.devices.packing import Packing, fetch

DTYPES = [np.float32, np.int32, np.uint8, np.int8, np.bool_, ml_dtypes.bfloat16, np.float16]


def some(seed, dtype, *shape):
    values = np.random.default_rng(seed).integers(0, 100, shape)
    return (values % 2 if dtype == np.bool_ else values).astype(dtype)


LEAVES = st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=2)), min_size=1, max_size=6)


@given(LEAVES, st.integers(0, 2), st.data())
def test_a_tree_comes_back(leaves, axes, data):
    packing = Packing(axes)
    pack = jax.jit(packing.pack)
    for _ in range(2):  # other lengths of the leading axes
        lead = data.draw(st.lists(st.integers(1, 4), min_size=axes, max_size=axes))
        tree = {f"leaf{i}": (some(i, dtype, *lead, *shape),) for i, (dtype, shape) in enumerate(leaves)}
        packed = fetch(pack(tree))
        assert packed.dtype == np.uint8 and packed.shape[:-1] == tuple(lead)
        again = packing.unpack(packed)
        assert jax.tree.structure(again) == jax.tree.structure(tree)
        for mine, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(tree), strict=True):
            assert mine.dtype == theirs.dtype and mine.shape == theirs.shape
            np.testing.assert_array_equal(mine, theirs)
            assert mine.flags.aligned and (not mine.size or np.shares_memory(mine, packed))


def test_results_of_a_loop_are_unpacked_together():
    packing = Packing(0)

    def step(carry, x):
        return carry, packing.pack({"half": x.astype(jnp.bfloat16), "whole": x, "flag": x[0] > 2})

    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    _, packed = jax.jit(lambda x: jax.lax.scan(step, 0, x))(x)
    tree = packing.unpack(fetch(packed))
    np.testing.assert_array_equal(tree["whole"], x)
    np.testing.assert_array_equal(tree["half"], x.astype(ml_dtypes.bfloat16))
    assert tree["flag"].tolist() == [False, True, True, True]


def test_not_a_number_keeps_its_bits():
    packing, value = Packing(0), np.array([np.nan, -np.nan, np.inf, -0.0], np.float32)
    assert packing.unpack(fetch(jax.jit(packing.pack)([value])))[0].tobytes() == value.tobytes()


def test_leading_axes_must_agree():
    with pytest.raises(TypeError):
        jax.jit(Packing(1).pack)([np.zeros((2, 3)), np.zeros((3, 3))])
