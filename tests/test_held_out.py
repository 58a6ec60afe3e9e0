"""Episodes kept from training: whole ones, about as many as asked for, never in a training window."""

import numpy as np
import pytest
from test_replay import LATENTS, SPEC, fill, record

from dreamer_jax.config.schema import ConfigError, ReplayConfig
from dreamer_jax.replay import Replay, export_episodes, open_read_only, plan
from dreamer_jax.replay.held_out import HeldOut

LENGTH, ENVS = 3, 2


def make(directory, *, rows=2000, fraction=0.25, online=True):
    sizes = {"num_envs": ENVS, "capacity": rows * ENVS, "batch_length": LENGTH}
    return Replay(directory, SPEC, LATENTS, **sizes, online=online, seed=0, validation_fraction=fraction)


def flags(replay):
    """Which records of each stream are held out, [rows, E], oldest first."""
    return np.stack([replay.column("held_out", env, replay.rows) for env in range(ENVS)], 1)


@pytest.mark.parametrize(("fraction", "episode"), [(0.1, 5), (0.1, 200), (0.3, 40), (0.5, 7)])
def test_whole_episodes_and_about_so_many(fraction, episode):
    decide, steps = HeldOut(fraction, 3, 9), 40 * max(episode, 60)
    held = np.stack([decide.step(np.full(3, step % episode == 0)) for step in range(steps)])
    by_episode = held[: steps // episode * episode].reshape(-1, episode, 3)
    assert (by_episode == by_episode[:, :1]).all()
    assert not by_episode[0].any()
    assert 0.6 * fraction < held.mean() <= fraction + episode / steps
    # Each block has room for a window and more.
    edges = np.flatnonzero(np.diff(held[:, 0], prepend=False, append=False))
    assert (edges[1::2] - edges[::2])[:-1].min() >= 2 * 9


def test_training_never_touches_them(tmp_path):
    replay = make(tmp_path)
    fill(replay, 400)
    held = flags(replay)
    assert 0.15 < held.mean() < 0.26
    taken = [replay.sample(16, counter)[1] for counter in range(60)]
    assert not any(held[start : start + LENGTH + 1, env].any() for index in taken for env, start in index)
    seen = {(env, row) for index in taken for env, start in index for row in range(start, start + LENGTH + 1)}
    assert len(seen) > 0.9 * (~held).sum()  # and nearly everything else is used


def test_they_are_there_when_asked_for(tmp_path):
    replay = make(tmp_path)
    fill(replay, 30)
    if not flags(replay).any():
        with pytest.raises(ValueError, match="in held-out episodes"):
            replay.sample(4, 0, held_out=True)
    fill(replay, 370)
    held, queued = flags(replay), replay.queued
    batch, index = replay.sample(64, 0, held_out=True)
    assert all(held[start : start + LENGTH + 1, env].all() for env, start in index)
    assert (batch.observation["clock"][:, 0] == index + [0, 1]).all() and replay.queued == queued


def test_without_them_nothing_changes(tmp_path):
    plain, other = (make(tmp_path / name, fraction=0.0) for name in ("a", "b"))
    for replay in (plain, other):
        fill(replay, 50)
    assert "held_out" not in plain.fields
    with pytest.raises(ValueError, match="in held-out episodes"):
        plain.sample(4, 0, held_out=True)
    np.testing.assert_array_equal(plain.sample(16, 5)[1], other.sample(16, 5)[1])


def test_a_checkpoint_remembers(tmp_path):
    one = make(tmp_path / "one")
    fill(one, 150)
    state = one.snapshot(1)
    fill(one, 100)
    expected, sampled = flags(one), one.sample(32, 7)[1]
    one.close()
    two = make(tmp_path / "one")
    two.restore(state, 1)
    fill(two, 100)
    np.testing.assert_array_equal(flags(two), expected)
    np.testing.assert_array_equal(two.sample(32, 7)[1], sampled)


def test_export_tells_them(tmp_path):
    replay = make(tmp_path / "ring")
    fill(replay, 60)
    state = replay.snapshot(1)
    replay.close()
    count = export_episodes([open_read_only(tmp_path / "ring", state, 1)], tmp_path / "out")
    told = [np.load(path)["held_out"] for path in sorted((tmp_path / "out").iterdir())]
    assert count == len(told) == 24 and {len(set(flag)) for flag in told} == {1}
    assert 0 < sum(flag.any() for flag in told) < count


def test_too_small_a_ring_is_refused(tmp_path):
    config = ReplayConfig(capacity=100, validation_fraction=0.1)
    sizes = {"num_envs": ENVS, "batch_length": LENGTH, "total_records": 10_000}
    with pytest.raises(ConfigError, match="replay.validation_fraction: got 0.1, which needs replay.capacity for 160"):
        plan([tmp_path], config, SPEC, LATENTS, **sizes)
    assert plan([tmp_path], ReplayConfig(capacity=400, validation_fraction=0.1), SPEC, LATENTS, **sizes).records == 400


def test_one_byte_a_record(tmp_path):
    assert record(0, ENVS)[0].is_first.shape == (ENVS,)
    sizes = {"num_envs": ENVS, "batch_length": LENGTH, "total_records": 10_000}
    with_them, without = (
        plan([tmp_path], ReplayConfig(capacity=4000, validation_fraction=x), SPEC, LATENTS, **sizes) for x in (0.1, 0.0)
    )
    assert with_them.record_bytes == without.record_bytes + 1
