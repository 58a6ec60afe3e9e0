"""Which episodes serve for what, and rows of other episodes."""

import numpy as np
import pytest

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.evaluation.episodes import Records, other_episodes, split_episodes

SOURCES = ["random"] * 20 + ["ou"] * 12 + ["policy"] * 3


def rows(lengths):
    episode = np.repeat(np.arange(len(lengths)), lengths)
    return episode, np.concatenate([np.arange(length) for length in lengths])


def test_each_source_is_split_60_20_20():
    split = split_episodes(SOURCES)
    assert sorted(np.concatenate(split)) == list(range(35))
    counts = [[sum(SOURCES[i] == name for i in part) for part in split] for name in ("random", "ou", "policy")]
    assert counts == [[12, 4, 4], [7, 3, 2], [1, 1, 1]]  # of 12: two rounds of five, then two more


def test_a_split_depends_on_its_seed_alone():
    one, again, other = (split_episodes(SOURCES, seed) for seed in (3, 3, 4))
    assert all(map(np.array_equal, one, again)) and not np.array_equal(one.test, other.test)
    assert not np.array_equal(one.test, np.sort(one.test)[::-1]) and not np.array_equal(one.train[:12], np.arange(12))


def test_too_few_episodes_can_not_be_split():
    with pytest.raises(ConfigError, match="episodes: got 4 of 2 sources"):
        split_episodes(["a", "a", "b", "b"])


def test_partners_are_whole_other_episodes_at_the_same_steps():
    episode, step = rows([7] * 5)
    shuffled = np.random.default_rng(1).permutation(len(episode))
    episode, step = episode[shuffled], step[shuffled]
    own, other = other_episodes(episode, step, np.random.default_rng(0))
    np.testing.assert_array_equal(own, np.arange(35))
    np.testing.assert_array_equal(np.sort(other), np.arange(35))  # each row once
    np.testing.assert_array_equal(step[own], step[other])
    partners = [set(episode[other[episode[own] == i]]) for i in range(5)]
    assert all(len(partner) == 1 and i not in partner for i, partner in enumerate(partners))


def test_partners_of_episodes_of_different_lengths():
    episode, step = rows([2, 5, 3])
    for seed in range(6):
        own, other = other_episodes(episode, step, np.random.default_rng(seed))
        assert (episode[own] != episode[other]).all() and (step[own] == step[other]).all()
        # Nothing but the second episode has steps 3 and 4, its rows 5 and 6.
        np.testing.assert_array_equal(own, [0, 1, 2, 3, 4, 7, 8, 9])
        assert other[own == 4] == 9 and other[own == 9] == 4  # step 2 is in two episodes only


def test_pairings_are_drawn_anew():
    episode, step = rows([3] * 6)
    rng = np.random.default_rng(0)
    drawn = {tuple(other_episodes(episode, step, rng)[1]) for _ in range(10)}
    assert len(drawn) > 5


def test_a_single_episode_has_no_partner():
    own, other = other_episodes(*rows([4]), np.random.default_rng(0))
    assert own.size == other.size == 0


def test_a_step_that_comes_twice_is_refused():
    with pytest.raises(ValueError, match="two rows of the same step"):
        other_episodes(np.array([0, 0, 1]), np.array([1, 1, 0]), np.random.default_rng(0))


def test_exchanged_records_keep_their_features():
    episode, step = rows([3, 2])
    records = Records(np.arange(5.0)[:, None], 10 * np.arange(5.0)[:, None], episode, step)
    exchanged = records.exchanged(np.random.default_rng(0))
    np.testing.assert_array_equal(exchanged.features[:, 0], [0, 1, 3, 4])
    np.testing.assert_array_equal(exchanged.targets[:, 0], [30, 40, 0, 10])
    np.testing.assert_array_equal(records.of(np.array([1])).features[:, 0], [3, 4])
