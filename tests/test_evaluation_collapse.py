"""What latents tell, in cases that can be worked out."""

import numpy as np
import pytest

from dreamer_jax.config.schema import RSSMConfig
from dreamer_jax.evaluation.collapse import Errors, class_bounds, class_use, judge, latent_use
from dreamer_jax.models import latents

SURE = 200.0


@pytest.mark.parametrize(
    ("classes", "expected"),
    [(16, (0.0785, 2.7726, 2.694, 7.295)), (32, (0.0878, 3.4657, 3.378, 7.98)), (64, (0.0961, 4.1589, 4.063, 8.667))],
)
def test_bounds_of_mixed_classes(classes, expected):
    """Entropies of p = 0.99 + 0.01 / K beside K - 1 of q = 0.01 / K, and (p - q) ln(p / q)."""
    np.testing.assert_allclose(class_bounds(classes, 0.01), expected, atol=1e-3)


def test_bounds_without_mixing():
    assert class_bounds(8, 0.0) == (0, np.log(8), np.log(8), np.inf)


def test_bounds_are_reached():
    """By logits that leave no doubt, and by none."""
    kind = latents.categorical(RSSMConfig(stoch=2, classes=32, unimix=0.01))
    one, other, any_ = (np.zeros((3, 2, 32), np.float32) for _ in range(3))
    one[..., 0], other[..., 5] = SURE, SURE
    bounds = class_bounds(32, 0.01)
    sure = latent_use(kind, {"logits": one}, {"logits": any_}, free_nats=1.0)
    assert sure.entropy_posterior == pytest.approx(bounds.least_entropy, abs=1e-5)
    assert sure.entropy_prior == pytest.approx(bounds.most_entropy, abs=1e-5)
    np.testing.assert_allclose(sure.kl_each, bounds.kl_to_uniform, rtol=1e-5)
    assert sure.kl == pytest.approx(2 * bounds.kl_to_uniform, rel=1e-5)
    apart = latent_use(kind, {"logits": one}, {"logits": other}, free_nats=1.0)
    np.testing.assert_allclose(apart.kl_each, bounds.kl_to_other, rtol=1e-5)


def test_kl_is_summed_over_latents_before_it_is_compared_with_free_nats():
    """Two of 0.6 nats each are not below 1 nat together."""
    kind = latents.gaussian(RSSMConfig(latent="gaussian", stoch=2))
    mean = np.full((2, 5, 2), 1.2**0.5, np.float32)
    mean[0, 0] = 0
    zero, one = np.zeros_like(mean), np.ones_like(mean)
    use = latent_use(kind, {"mean": mean, "std": one}, {"mean": zero, "std": one}, free_nats=1.0)
    np.testing.assert_allclose(use.kl_each, 0.6 * 0.9, rtol=1e-5)  # half the squared mean
    assert use.kl == pytest.approx(1.2 * 0.9, rel=1e-5) and use.below_free_nats == pytest.approx(0.1)
    assert use.entropy_posterior == pytest.approx(0.5 * np.log(2 * np.pi * np.e), rel=1e-5)


def test_gaussian_latents_are_active_whose_mean_varies():
    kind = latents.gaussian(RSSMConfig(latent="gaussian", stoch=3))
    mean = np.zeros((2, 50, 3), np.float32)
    mean[1, :, 1], mean[1, :, 2] = 0.19, 0.21  # variances 0.009 and 0.011, around the limit of 0.01
    stats = {"mean": mean, "std": np.ones_like(mean)}
    use = latent_use(kind, stats, stats, free_nats=1.0)
    np.testing.assert_array_equal(use.active, [False, False, True])
    assert use.active_share == pytest.approx(1 / 3) and use.kl == 0


def test_information_and_classes_in_use():
    """Latents that tell four groups of records apart, say nothing, and are always the same."""
    logits = np.zeros((4, 10, 3, 8), np.float32)
    for group in range(4):
        logits[group, :, 0, group] = SURE
    logits[..., 2, 3] = SURE
    found = class_use(logits, unimix=0.0)
    np.testing.assert_allclose(found.information, [np.log(4), 0, 0], atol=1e-5)
    np.testing.assert_allclose(found.perplexity, [4, 8, 1], rtol=1e-5)
    # Mixed with 1 % of uniform, four classes have (0.99 + 0.04 / 8) / 4 each, and four others 0.01 / 8.
    p, q = 0.99 / 4 + 0.01 / 8, 0.01 / 8
    mean = -4 * p * np.log(p) - 4 * q * np.log(q)
    mixed = class_use(logits, unimix=0.01)
    assert mixed.perplexity[0] == pytest.approx(np.exp(mean), rel=1e-4)
    assert mixed.information[0] == pytest.approx(mean - class_bounds(8, 0.01).least_entropy, rel=1e-4)


def test_verdicts():
    """Collapsed with less than a tenth of the latents active, and no error a hundredth higher without them."""
    kind = latents.categorical(RSSMConfig(stoch=20, classes=4, unimix=0.01))
    logits = np.zeros((2, 10, 20, 4), np.float32)
    logits[0, :, 0, 0] = logits[1, :, 0, 1] = SURE
    prior = {"logits": np.zeros_like(logits)}
    few = latent_use(kind, {"logits": logits}, prior, free_nats=1.0)
    assert few.active.sum() == 1 and 1 < few.kl < 1.4
    same = Errors([2.0, 5.0], [2.019, 5.0], [2.0, 5.04], [2.01, 5.0])
    assert judge(few, same, free_nats=1.0) == judge(few, same, free_nats=3.0) == "collapsed"
    for name in ("permuted", "prior", "deterministic"):
        missed = same._replace(**{name: [2.0, 5.051]})
        assert judge(few, missed, free_nats=1.0) == "used"
        assert judge(few, missed, free_nats=3.0) == "predictable"
    logits[0, :, 1, 0] = logits[1, :, 1, 1] = SURE
    many = latent_use(kind, {"logits": logits}, prior, free_nats=1.0)
    assert many.active_share == 0.1 and judge(many, same, free_nats=1.0) == "used"
