"""The probe with a hidden layer."""

from dataclasses import replace

import numpy as np
import pytest

from dreamer_jax.evaluation import mlp_probe
from dreamer_jax.evaluation.episodes import Records
from dreamer_jax.evaluation.mlp_probe import MLPProbe, fit_mlp, reduce_features, train_members
from dreamer_jax.evaluation.probes import fit_ridge, score

SMALL = MLPProbe(hidden=32, seeds=2, epochs=60, learning_rate=1e-2)


def records(features, targets):
    return Records(features, targets, np.arange(len(features)) // 20, np.arange(len(features)) % 20)


def bent(seed, rows=600):
    x = np.random.default_rng(seed).normal(size=(rows, 3))
    return records(x, np.stack([np.abs(x[:, 0]), 5 + 3 * x[:, 1] * x[:, 2]], 1))


def weights(features, targets, members=1, hidden=2):
    shapes = {
        "inner": (features, hidden),
        "inner_bias": (hidden,),
        "outer": (hidden, targets),
        "outer_bias": (targets,),
    }
    return {name: np.zeros((members, *shape), np.float32) for name, shape in shapes.items()}


def test_it_reads_what_no_line_can():
    parts = [bent(seed) for seed in range(3)]
    linear, bend = (
        score(fit(*parts[:2]), parts[2]).each.value for fit in (fit_ridge, lambda *x: fit_mlp(*x, settings=SMALL))
    )
    assert (np.abs(linear) < 0.05).all() and (bend > 0.9).all()


def test_it_keeps_the_epoch_that_was_best_in_validation():
    """Few rows in noise are learnt by heart: validation gets better, and then worse."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 8))
    y = x[:, :1] + 0.5 * rng.normal(size=(90, 1))
    train, validation = records(x[:30], y[:30]), records(x[30:], y[30:])

    def fitted(epochs):
        settings = MLPProbe(hidden=16, seeds=1, epochs=epochs, patience=99, learning_rate=0.02)
        probe = fit_mlp(train, validation, settings=settings)
        return np.square(probe.predict(validation.features)[0] - y[30:]).mean(), int(probe.chosen["epochs"])

    error, best = fitted(30)
    assert 2 < best < 25 and fitted(best) == (error, best)
    shorter, _ = fitted(best - 1)
    assert shorter > error


@pytest.mark.parametrize(("patience", "best"), [(3, 0), (99, 100)])
def test_it_stops_when_it_has_not_been_better_for_a_while(patience, best):
    """Both biases move by 0.1 a step towards 10 and -1. In validation they should reach 10 and 12.

    The squares, 100 + 144 at first, grow until the second has arrived at 81 + 169, and shrink from there.
    """
    x, y, held = np.ones((1, 1), np.float32), np.float32([[10, -1]]), np.float32([[10, 12]])
    settings = MLPProbe(hidden=2, epochs=100, patience=patience, learning_rate=0.1)
    _, at = train_members(weights(1, 2), np.zeros((1, 100, 1, 1), np.int32), (x, y), (x, held), settings)
    assert at.tolist() == [best]


def test_adams_first_step():
    """Moments over their corrections are the gradient and its square, so that each weight moves by the rate."""
    x, y = np.ones((1, 1), np.float32), np.array([[3.0, -0.5]], np.float32)
    settings = MLPProbe(hidden=2, epochs=1, learning_rate=0.1)
    found, at = train_members(weights(1, 2), np.zeros((1, 1, 1, 1), np.int32), (x, y), (x, y), settings)
    np.testing.assert_allclose(found["outer_bias"], [[0.1, -0.1]], rtol=1e-5)
    assert at.tolist() == [1] and not np.any(found["inner"])  # behind weights of 0 there is no gradient


def test_it_begins_at_the_mean_in_training():
    part = bent(0)
    unmoved = part._replace(targets=np.broadcast_to(part.targets.mean(0), part.targets.shape))
    probe = fit_mlp(part, unmoved, settings=MLPProbe(seeds=2))  # so that nothing else can be better in validation
    assert probe.chosen == {"epochs": 0}
    np.testing.assert_allclose(probe.predict(part.features[:3]), np.broadcast_to(part.targets.mean(0), (2, 3, 2)))
    np.testing.assert_allclose(probe.mean, part.targets.mean(0))


def test_members_differ_and_a_seed_repeats_them():
    parts = bent(0), bent(1)
    settings = replace(SMALL, batch_size=600, epochs=3)  # so that the order of rows makes no difference
    one, again, other = (fit_mlp(*parts, seed=seed, settings=settings).predict(parts[1].features) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert one.shape == (2, 600, 2) and np.abs(one[0] - one[1]).max() > 0.2 and np.abs(one - other).max() > 0.2


def test_every_epoch_has_each_row_once_in_an_order_of_its_own(monkeypatch):
    seen = []

    def spy(weights, order, *rest):
        seen.append(order)
        return train_members(weights, order, *rest)

    monkeypatch.setattr(mlp_probe, "train_members", spy)
    fit_mlp(bent(0), bent(1), settings=replace(SMALL, epochs=4, batch_size=200))
    (order,) = seen
    assert order.shape == (2, 4, 3, 200)
    flat = order.reshape(8, 600)
    np.testing.assert_array_equal(np.sort(flat), np.broadcast_to(np.arange(600), (8, 600)))
    assert len({tuple(each) for each in flat}) == 8


def test_wide_features_are_reduced_to_their_first_components():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)) @ rng.normal(size=(4, 30)) + 0.01 * rng.normal(size=(200, 30))
    reduced = reduce_features(x, 4)(x)
    _, values, directions = np.linalg.svd((x - x.mean(0)) / x.std(0), full_matrices=False)
    expected = ((x - x.mean(0)) / x.std(0)) @ directions[:4].T * np.sqrt(200 * 4 / np.square(values[:4]).sum())
    np.testing.assert_allclose(np.abs(reduced), np.abs(expected), rtol=1e-6, atol=1e-9)
    assert np.square(reduced).mean() == pytest.approx(1)
    np.testing.assert_allclose(reduce_features(x, 30)(x), (x - x.mean(0)) / x.std(0))


def test_wide_features_are_enough_to_read_what_made_them():
    hidden = [bent(seed) for seed in range(3)]
    mix = np.random.default_rng(9).normal(size=(3, 40))
    train, validation, test = (part._replace(features=part.features @ mix) for part in hidden)
    settings = MLPProbe(hidden=32, seeds=1, epochs=60, learning_rate=1e-2, components=3)
    assert score(fit_mlp(train, validation, settings=settings), test).least > 0.85
