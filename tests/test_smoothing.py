"""Rewards spread over the steps around them: each kernel by hand, episodes, and the ends of the ring."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d

from dreamer_jax.config.schema import ReplayConfig
from dreamer_jax.replay import Replay
from dreamer_jax.replay.smoothing import make_kernel
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import TimeStep

SPEC = EnvSpec({"x": ArraySpec((1,), "float32")}, {"action": ArraySpec((), "int32", 2)})
KINDS = ("gaussian", "ema", "uniform")


def alone(config: ReplayConfig, rewards: np.ndarray) -> np.ndarray:
    """Smoothed rewards of one episode, worked out step by step."""
    last = len(rewards) - 1
    match config.smoothing:
        case "gaussian":
            return gaussian_filter1d(rewards.astype(np.float64), config.smoothing_sigma, mode="nearest")
        case "uniform":
            half = config.smoothing_width // 2
            taken = [[rewards[min(max(t + i, 0), last)] for i in range(-half, half + 1)] for t in range(len(rewards))]
            return np.mean(taken, 1)
        case "ema":
            smoothed = [float(rewards[0])]
            for reward in rewards[1:]:
                smoothed.append((1 - config.smoothing_share) * smoothed[-1] + config.smoothing_share * reward)
            return np.array(smoothed)


def ring(folder, config, streams, lengths, capacity, batch_length=4):
    """A ring of streams [E, rows] of rewards whose episodes have these lengths."""
    num_envs, rows = streams.shape
    replay = Replay(
        folder,
        SPEC,
        {},
        num_envs=num_envs,
        capacity=capacity * num_envs,
        batch_length=batch_length,
        online=False,
        seed=0,
        smoothing=make_kernel(config),
    )
    firsts = np.zeros(rows, bool)
    firsts[np.cumsum([0, *lengths])[:-1]] = True
    for row in range(rows):
        flag = np.full(num_envs, row + 1 == rows or firsts[row + 1])
        timestep = TimeStep(
            {"x": np.full((num_envs, 1), row, np.float32)},
            reward=streams[:, row],
            is_first=np.full(num_envs, firsts[row]),
            is_last=flag,
            is_terminal=flag,
        )
        replay.append(timestep, {"action": np.zeros(num_envs, np.int32)}, {})
    return replay


@pytest.mark.parametrize("kind", KINDS)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=5), lost=st.integers(0, 20), seed=st.integers(0, 99))
def test_batches_have_the_rewards_of_whole_episodes(kind, lengths, lost, seed, tmp_path_factory):
    """Of those that the ring still has whole; nothing comes from another episode or another environment."""
    rows = sum(lengths)
    kept = max(rows - lost, 6)
    rng, config = np.random.default_rng(seed), ReplayConfig(smoothing=kind)
    streams = rng.normal(size=(2, rows)).astype(np.float32)
    with_ring = tmp_path_factory.mktemp("ring")
    if rows < 6:
        return
    replay = ring(with_ring, config, streams, lengths, kept)
    oldest, begins = rows - kept, np.cumsum([0, *lengths])
    expected = np.concatenate(
        [
            [alone(config, stream[max(begin, oldest) : end]) for stream in streams]
            for begin, end in itertools.pairwise(begins)
            if end > oldest
        ],
        1,
    )
    batch, index = replay.sample(20, 0)
    for reward, (env, start) in zip(batch.reward, index, strict=True):
        np.testing.assert_allclose(reward, expected[env, start - oldest + 1 :][:4], atol=1e-5)
    np.testing.assert_array_equal(replay.column("reward", 1, replay.rows), streams[1, oldest:])
    replay.close()


def test_what_is_smoothed_adds_up():
    """Away from the ends nothing of a reward is lost, and by ema nothing comes before it."""
    for kind in KINDS:
        kernel = make_kernel(ReplayConfig(smoothing=kind))
        np.testing.assert_allclose(kernel.weights.sum(), 1)
        assert (kernel.after == 0) == (kind == "ema")
    assert make_kernel(ReplayConfig()) is None
    kernel = make_kernel(ReplayConfig(smoothing="ema", smoothing_share=1.0))
    assert kernel.offsets.tolist() == [0] and kernel.weights.tolist() == [1]
