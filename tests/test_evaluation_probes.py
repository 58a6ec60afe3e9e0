"""Probes and their controls, on data whose R2 is known."""

from functools import partial

import numpy as np
import pytest
from autoregressions import slow as slow_rows

from dreamer_jax.evaluation.episodes import Records, split_episodes
from dreamer_jax.evaluation.mlp_probe import MLPProbe, fit_mlp
from dreamer_jax.evaluation.probes import Probe, fit_ridge, probe_features, score

EPISODES, LENGTH, D = 40, 50, 4
SPLIT = split_episodes(["random"] * 20 + ["policy"] * 20)
slow = partial(slow_rows, EPISODES, LENGTH)
quick_mlp = partial(fit_mlp, settings=MLPProbe(hidden=64, seeds=2, epochs=40, learning_rate=3e-3))


def records(features, targets):
    episode, step = np.divmod(np.arange(EPISODES * LENGTH), LENGTH)
    return Records(features, targets, episode, step)


def white(width, seed):
    return np.random.default_rng(seed).normal(size=(EPISODES * LENGTH, width))


def test_r2_is_about_the_mean_in_training_by_hand():
    test = Records(np.zeros((4, 1)), np.array([[1.0], [3.0], [5.0], [9.0]]), np.array([0, 0, 1, 1]), np.arange(4))
    members = np.array([[[2.0], [3.0], [5.0], [9.0]], [[1.0], [3.0], [5.0], [6.0]]])  # errors 1 and 9, their mean 5
    found = score(Probe(lambda features: members, np.array([1.0]), {}), test)
    # About 1 the squares are 0, 4, 16 and 64; about the test's own mean of 4.5 they would be 35 in sum.
    assert found.each.value == pytest.approx(1 - 5 / 84) and found.mean.value == pytest.approx(1 - 5 / 84)
    # Resamples: either episode twice (errors 0.5 of 4, 4.5 of 80), or both.
    assert found.mean[1:] == pytest.approx((1 - 0.5 / 4, 1 - 4.5 / 80))


@pytest.mark.parametrize(("fit", "least"), [(fit_ridge, 0.999), (quick_mlp, 0.98)], ids=["ridge", "mlp"])
def test_the_truth_itself_is_read_off(fit, least):
    truth = slow(D, 0)
    found = probe_features(records(truth, truth), SPLIT, fit).score
    assert found.least >= least and found.mean.value >= found.least and found.excluded == ()
    assert found.mean.low <= found.mean.value <= found.mean.high


@pytest.mark.parametrize("fit", [fit_ridge, quick_mlp], ids=["ridge", "mlp"])
def test_noise_says_nothing(fit):
    found = probe_features(records(white(30, 1), slow(D, 0)), SPLIT, fit).score
    assert abs(found.mean.value) <= 0.05 and found.median <= 0.02


def test_a_known_share_of_the_variance():
    """R2 is 1 / (1 + s^2) for the truth in noise of deviation s, if it is white; here 0.8."""
    truth = white(D, 0)
    found = probe_features(records(truth + 0.5 * white(D, 1), truth), SPLIT).score
    np.testing.assert_allclose(found.each.value, 0.8, atol=0.05)
    assert found.median == np.median(found.each.value) != found.mean.value
    assert found.mean.low < 0.8 < found.mean.high
    assert found.mean.high - found.mean.low < (found.each.high - found.each.low).min()


def test_features_of_another_episode_say_nothing():
    truth = slow(D, 0)
    shifted = np.roll(truth.reshape(EPISODES, LENGTH, D), 1, 0).reshape(-1, D)
    assert probe_features(records(shifted, truth), SPLIT).score.mean.value <= 0.02


def test_time_says_nothing_of_stationary_targets():
    step = records(None, None).step[:, None]
    assert probe_features(records(step, slow(D, 0)), SPLIT).score.mean.value <= 0.05


def test_what_time_tells_is_not_selective():
    """Targets that are the same in every episode are read off by the control as well, from the number of the step."""
    steps = np.tile(np.eye(LENGTH), (EPISODES, 1))
    clock = np.tile(white(D, 0)[:LENGTH], (EPISODES, 1))
    timed = probe_features(records(steps, clock), SPLIT)
    assert timed.score.mean.value > 0.99 and abs(timed.selectivity) < 0.01
    truth = slow(D, 0)
    assert probe_features(records(truth, truth), SPLIT).selectivity > 0.95


def test_a_split_by_frames_leaks():
    """Slow features that know nothing of the targets tell one episode from another; of whole episodes that's no use."""
    data = records(slow(60, 1, keep=0.995), slow(D, 0, keep=0.995))
    frames = data._replace(episode=np.arange(len(data.step)), step=np.zeros_like(data.step))
    assert frames.episode.size == EPISODES * LENGTH
    leaking = probe_features(frames, split_episodes(["frame"] * len(data.step))).score.mean.value
    honest = probe_features(data, SPLIT).score.mean.value
    assert leaking > 0.5 and honest < 0.05


def test_targets_that_never_change_are_left_out_and_listed():
    truth = white(D, 0)
    truth[:, 1], truth[:, 3] = 2, 1 + 5e-4 * truth[:, 3]  # variance 2.5e-7
    found = probe_features(records(truth, truth), SPLIT).score
    assert found.excluded == (1, 3) and found.mean.value > 0.999 and found.least > 0.999
    np.testing.assert_array_equal(np.isnan(found.each.value), [False, True, False, True])
    with pytest.raises(ValueError, match="none of them varies"):
        probe_features(records(truth, truth[:, 1:2]), SPLIT)


def test_a_probe_scores_other_features():
    """As it does imagined ones, having been fitted to those of the posterior."""
    truth = white(D, 0)
    data = records(truth, truth)
    probe = probe_features(data, SPLIT).probe
    test = data.of(SPLIT.test)
    assert score(probe, test).mean.value > 0.999
    # The truth in noise as large as itself, and no shrinking for it: R2 is 1 - 1.
    worse = test._replace(features=test.features + white(D, 1)[: len(test.step)])
    assert abs(score(probe, worse).mean.value) < 0.15


@pytest.mark.parametrize("name", ["features", "targets"])
def test_what_is_not_finite_is_refused(name):
    truth = white(D, 0)
    broken = truth.copy()
    broken[3, 1] = np.nan
    with pytest.raises(ValueError, match=f"^{name}: not all finite"):
        probe_features(records(truth, truth)._replace(**{name: broken}), SPLIT)


def test_same_seed_same_scores():
    data = records(slow(6, 1), slow(D, 0))
    one, again = (probe_features(data, SPLIT, quick_mlp, seed=1) for _ in range(2))
    for left, right in ((one.score, again.score), (one.control, again.control)):
        np.testing.assert_array_equal(left.each, right.each)
        assert left.mean == right.mean
