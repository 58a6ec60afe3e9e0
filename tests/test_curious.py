"""Windows drawn by curiosity: priorities by hand, what is drawn how often, checkpoints, and a whole agent."""

import numpy as np
import pytest
from agents import KEY, MIXED, quick_jit, random_batch, tiny_config
from hypothesis import given
from hypothesis import strategies as st
from test_smoothing import SPEC

from dreamer_jax.agent import loss_scales, make_agent
from dreamer_jax.replay import Replay
from dreamer_jax.replay.curious import Curiosity, SumTree
from dreamer_jax.types import MODEL_LOSS, TimeStep

CURIOSITY = Curiosity(novelty=100.0, decay=0.5, exponent=0.5, floor=0.01)
E, T = 2, 3


def ring(folder, rows, capacity=40, held_out=0.0):
    options = dict(num_envs=E, batch_length=T, online=False, seed=0, curiosity=CURIOSITY)
    replay = Replay(folder, SPEC, {}, capacity=capacity * E, validation_fraction=held_out, **options)
    return fill(replay, range(rows))


def fill(replay, rows):
    none = np.zeros(E, bool)
    for row in rows:
        x, first = np.full((E, 1), row, np.float32), none | (row % 9 == 0)
        timestep = TimeStep({"x": x}, np.zeros(E, np.float32), first, none, none)
        replay.append(timestep, {"action": np.zeros(E, np.int32)}, {})
    return replay


@given(st.lists(st.floats(0, 1e4, allow_subnormal=False), min_size=1, max_size=40), st.integers(0, 99))
def test_a_sum_tree_draws_in_proportion(weights, seed):
    tree = SumTree(len(weights))
    tree.set(np.arange(len(weights)), np.array(weights))
    drawn = tree.draw(np.random.default_rng(seed), 4000)
    if not sum(weights):
        assert not drawn.size
        return
    chances = np.array(weights) / sum(weights)
    counts = np.bincount(drawn, minlength=len(weights)) / 4000
    np.testing.assert_allclose(counts, chances, atol=6 * 0.5 / np.sqrt(4000))
    assert not counts[chances == 0].any()


def test_priorities_decide_and_evicted_rows_are_gone(tmp_path):
    replay = ring(tmp_path, 50)  # rows 10 to 49 are kept
    index = replay.sample(3000, 0)[1]
    assert index[:, 1].min() == 10 and index[:, 1].max() == 49 - T and set(index[:, 0]) == {0, 1}
    loss = np.full((1, T), 9.0, np.float32)
    for _ in range(20):  # window with records 21, 22, 23 of environment 1
        replay.write_back(np.array([[1, 20]]), {MODEL_LOSS: loss})
    expected = 100 * 0.5**20 + 9.01**0.5
    fresh = 100 + 0.01**0.5
    ends = replay._curious
    np.testing.assert_allclose(ends._sums._tree[ends._sums._leaves + (23 % 40) * E + 1], expected, rtol=1e-6)
    index = replay.sample(20_000, 1)[1]
    seen = (index == [1, 20]).all(1).sum()  # drawn by its last record
    whole = 2 * (40 - T) * fresh - 3 * (fresh - expected)
    np.testing.assert_allclose(seen / 20_000, expected / whole, rtol=0.35)
    # Reports are drawn as ever, all windows alike.
    index = replay.sample(20_000, 2, online=False)[1]
    np.testing.assert_allclose((index == [1, 20]).all(1).mean(), 1 / (2 * (40 - T)), rtol=0.2)


@pytest.mark.parametrize("rows", [60, 150])
def test_what_is_held_out_has_no_priority(tmp_path, rows):
    """Else it would stay new for ever, and nearly all draws would be in vain."""
    replay = ring(tmp_path, rows, capacity=100, held_out=0.3)
    assert any(replay.column("held_out", env, replay.rows).any() for env in range(E))

    def chances():
        tree = replay._curious._sums
        return tree._tree[tree._leaves :].copy()

    index = replay.sample(500, 0)[1]
    assert replay._wholly(index, False).all()
    every = np.array([[env, row] for env in range(E) for row in replay.rows[:-T]])
    assert np.count_nonzero(chances()) == replay._wholly(every, False).sum()
    before, state = chances(), replay.snapshot(rows)
    replay.committed(rows)
    replay.restore(state, rows)
    np.testing.assert_array_equal(chances(), before)


def test_a_record_twice_in_a_batch_counts_twice(tmp_path):
    replay = ring(tmp_path, 20)
    replay.write_back(np.array([[0, 4], [0, 5]]), {MODEL_LOSS: np.ones((2, T), np.float32)})
    assert replay._curious.visits[0, 4:10].tolist() == [0, 1, 2, 2, 1, 0] and not replay._curious.visits[1].any()


@pytest.mark.parametrize("rows", [15, 70])
def test_they_come_back_with_a_checkpoint(tmp_path, rows):
    """Bit for bit: the same windows are drawn, whatever was learnt and appended after it."""
    replay, rng = ring(tmp_path, rows), np.random.default_rng(0)

    def learn(counter):
        index = replay.sample(8, counter)[1]
        replay.write_back(index, {MODEL_LOSS: rng.exponential(size=(8, T)).astype(np.float32)})

    for counter in range(30):
        learn(counter)
    state = replay.snapshot(rows)
    replay.committed(rows)
    expected = [replay.sample(50, counter)[1] for counter in range(5)]
    fill(replay, range(rows, rows + 9))
    for counter in range(30, 40):
        learn(counter)
    replay.close()
    again = Replay(
        tmp_path, SPEC, {}, num_envs=E, capacity=40 * E, batch_length=T, online=False, seed=0, curiosity=CURIOSITY
    )
    again.restore(state, rows)
    for counter, index in enumerate(expected):
        np.testing.assert_array_equal(again.sample(50, counter)[1], index)
    again.close()
    # Without them, as where the setting was another one, all windows are new.
    plain = {name: value for name, value in state.items() if not name.startswith("curious/")}
    again = Replay(
        tmp_path, SPEC, {}, num_envs=E, capacity=40 * E, batch_length=T, online=False, seed=0, curiosity=CURIOSITY
    )
    again.restore(plain, rows)
    assert not again._curious.visits.any() and len(again.sample(50, 0)[1]) == 50
    again.close()


def test_an_update_hands_out_the_models_loss():
    config = tiny_config(replay__sampling="curious")
    agent, batch = make_agent(config, MIXED), random_batch(MIXED, config)
    state = quick_jit(agent.init)(KEY)
    _, metrics, latents = quick_jit(agent.update)(state, KEY, batch)
    loss, scales = latents[MODEL_LOSS], loss_scales(config, MIXED)
    assert loss.shape == batch.reward.shape
    expected = sum(scales[n] * metrics[f"loss/{n}"] for n in scales if n not in ("policy", "value", "repval"))
    np.testing.assert_allclose(loss.mean(), expected, rtol=1e-5)
