"""Train ratio and prefill: the same on the host and in a trace."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax.config.schema import TrainConfig
from dreamer_jax.ops.train_ratio import in_prefill, least_windows, updates_after

STEPS = np.concatenate([np.arange(300), [999, 1000, 4_999_999, 5_000_000]]).astype(np.int32)


def update_counts(**settings):
    """Of the host and of a trace, for all of ``STEPS``."""
    train = TrainConfig(**{"pretrain": 0} | settings)
    traced = jax.jit(lambda steps: updates_after(train, steps))(STEPS)
    assert traced.dtype == jnp.int32
    return [updates_after(train, int(step)) for step in STEPS], traced


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (dict(train_ratio=1024.0, batch_size=16, batch_length=64), lambda n: n),
        (dict(train_ratio=512.0, batch_size=16, batch_length=64), lambda n: n // 2),
        (dict(train_ratio=32.0, batch_size=5, batch_length=10, pretrain=7), lambda n: 7 + 32 * n // 50),
        (dict(train_ratio=20.0, batch_size=2, batch_length=5, update_every=8), lambda n: 2 * (n - n % 8)),
        (dict(train_ratio=0.3, batch_size=1, batch_length=1), lambda n: 3 * n // 10),  # 0.3 in binary is less
        (dict(train_ratio=0.29, batch_size=1, batch_length=1), lambda n: 29 * n // 100),
    ],
)
def test_updates_are_a_whole_number_of_a_share_of_steps(settings, expected):
    host, traced = update_counts(**settings)
    assert host == [expected(int(step)) for step in STEPS]
    np.testing.assert_array_equal(traced, host)


def test_a_prefill_ends_with_its_last_step():
    train = TrainConfig(prefill=20)
    assert [in_prefill(train, step) for step in (19, 20)] == [True, False]
    np.testing.assert_array_equal(jax.jit(lambda step: in_prefill(train, step))(np.arange(22)), np.arange(22) < 20)


def test_windows_before_the_first_update():
    assert least_windows(TrainConfig(batch_size=3, batch_length=7)) == 21
    assert least_windows(TrainConfig(start_windows=5)) == 5
