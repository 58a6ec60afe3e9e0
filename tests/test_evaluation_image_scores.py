"""Scores of images against values worked out by hand and plain loops."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from dreamer_jax.evaluation.image_scores import psnr, score_images, ssim_map

C1, C2 = 0.01**2, 0.03**2


def images(seed, *shape):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


def test_grey_images_by_hand():
    """Without contrast SSIM is (2 ab + c1) / (a^2 + b^2 + c1): of 0.2 and 0.6 it is 0.2401 / 0.4001."""
    dark, light = np.full((16, 16, 3), 0.2, np.float32), np.full((16, 16, 3), 0.6, np.float32)
    found = score_images(light, dark, dark)
    assert found.ssim == pytest.approx(0.2401 / 0.4001, abs=1e-4)
    assert found.mse == pytest.approx(0.16) and found.psnr == pytest.approx(-10 * np.log10(0.16))


def test_one_window_by_hand():
    x, y = images(0, 11, 11, 1).astype(np.float64), images(1, 11, 11, 1).astype(np.float64)
    weight = np.array([[np.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2)) for j in range(11)] for i in range(11)])
    mean = lambda image: (image[..., 0] * weight).sum() / weight.sum()  # noqa: E731
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean((x - mx) ** 2), mean((y - my) ** 2), mean((x - mx) * (y - my))
    expected = (2 * mx * my + C1) * (2 * cov + C2) / ((mx**2 + my**2 + C1) * (vx + vy + C2))
    assert ssim_map(x, y) == pytest.approx(expected, abs=1e-5)


def test_every_window_of_an_image_that_is_no_square():
    x, y = images(0, 20, 14, 3).astype(np.float64), images(1, 20, 14, 3).astype(np.float64)
    smooth = lambda image: gaussian_filter(image, (1.5, 1.5, 0), radius=(5, 5, 0))[5:-5, 5:-5]  # noqa: E731
    mx, my = smooth(x), smooth(y)
    vx, vy, cov = smooth(x * x) - mx**2, smooth(y * y) - my**2, smooth(x * y) - mx * my
    expected = (2 * mx * my + C1) * (2 * cov + C2) / ((mx**2 + my**2 + C1) * (vx + vy + C2))
    np.testing.assert_allclose(ssim_map(x, y), expected, atol=1e-5)
    assert ssim_map(x, y).shape == (10, 4, 3)
    assert score_images(x, y, x).ssim == pytest.approx(expected.mean(), abs=1e-5)


def test_limits():
    x = images(0, 3, 24, 24, 3)
    same = score_images(x, x, x)
    np.testing.assert_allclose(same.ssim, 1, atol=1e-5)
    np.testing.assert_array_equal([same.mse, same.psnr], [[0] * 3, [100] * 3])
    negative = score_images(1 - x, x, x)
    assert (negative.ssim < -0.7).all()  # it varies the other way
    assert np.abs(score_images(images(1, 3, 24, 24, 3), x, x).ssim).max() < 0.1
    np.testing.assert_array_equal(score_images(x, 1 - x, x).ssim, score_images(1 - x, x, x).ssim)


def test_decibels_by_hand():
    np.testing.assert_allclose(psnr(np.array([1.0, 0.01, 1e-10, 0.0])), [0, 20, 100, 100], atol=1e-4)


def test_only_what_moves_counts_in_the_foreground():
    last = np.full((32, 32, 3), 0.5, np.float32)
    truth = last.copy()
    truth[8:12, 8:12, 1] += 0.2  # 16 of 1024 pixels, in one channel
    truth[20:, :, :] += 0.04  # not enough to be called moving
    guess = last.copy()
    guess[8:12, 8:12, 1] += 0.1
    found = score_images(guess, truth, last)
    assert found.moving_share == 16 / 1024
    assert found.moving_mse == pytest.approx(0.1**2 / 3, rel=1e-4)
    assert found.mse == pytest.approx((16 * 0.1**2 + 12 * 32 * 3 * 0.04**2) / (1024 * 3), rel=1e-4)
    similar = np.asarray(ssim_map(guess, truth)).mean(-1)
    assert found.moving_ssim == pytest.approx(similar[3:7, 3:7].mean(), abs=1e-5)  # windows begin five pixels in
    truth[20:] = guess[20:] = images(0, 12, 32, 3)  # a background of much contrast that is right
    better = score_images(guess, truth, truth - (truth - last) * (np.arange(32) < 20)[:, None, None])
    assert better.moving_ssim == pytest.approx(found.moving_ssim, abs=1e-4) and better.ssim > found.ssim


def test_where_nothing_moves_there_is_no_foreground():
    x = images(0, 2, 16, 16, 1)
    found = score_images(1 - x, x, x)
    assert np.isnan(found.moving_mse).all() and np.isnan(found.moving_ssim).all() and not found.moving_share.any()


def test_any_leading_axes_and_any_number_of_images():
    predicted, truth, last = images(0, 30, 10, 12, 13, 1), images(1, 30, 10, 12, 13, 1), images(2, 30, 1, 12, 13, 1)
    found = score_images(predicted, truth, last)
    assert all(each.shape == (30, 10) for each in found)
    for at in ((0, 0), (25, 5), (25, 6), (29, 9)):  # 256 images go at once
        alone = score_images(predicted[at], truth[at], last[at[0], 0])
        np.testing.assert_allclose([each[at] for each in found], alone, rtol=1e-5, atol=1e-5)  # SSIM of noise is near 0


def test_images_smaller_than_a_window_are_refused():
    with pytest.raises(ValueError, match="got 10 x 30 pixels; SSIM takes 11 x 11 or more"):
        score_images(images(0, 10, 30, 3), images(0, 10, 30, 3), images(0, 10, 30, 3))
