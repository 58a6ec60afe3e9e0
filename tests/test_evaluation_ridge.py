"""Ridge regression against the normal equations."""

import numpy as np
import pytest

from dreamer_jax.evaluation import ridge
from dreamer_jax.evaluation.ridge import fit_linear, principal_axes, standardise


def data(rows=60, features=7, targets=3, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, features)) * np.logspace(-2, 2, features) + rng.normal(size=features)
    y = x @ (rng.normal(size=(features, targets)) / x.std(0)[:, None]) + noise * rng.normal(size=(rows, targets))
    return x, y * [1, 100, 0.01][:targets] + 5


@pytest.mark.parametrize("alpha", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("features", [7, 200], ids=["tall", "wide"])
def test_weights_solve_the_normal_equations(features, alpha, monkeypatch):
    monkeypatch.setattr(ridge, "ALPHAS", (alpha,))
    x, y = data(features=features)
    new = data(features=features, seed=1)[0]
    xs, ys = (x - x.mean(0)) / x.std(0), (y - y.mean(0)) / y.std(0)
    weights = np.linalg.solve(xs.T @ xs + alpha * np.eye(features), xs.T @ ys)
    expected = ((new - x.mean(0)) / x.std(0)) @ weights * y.std(0) + y.mean(0)
    np.testing.assert_allclose(fit_linear(x, y, x, y)(new), expected, rtol=1e-6)


def test_alpha_is_the_best_in_validation(monkeypatch):
    x, y = data(rows=100, features=40, noise=5)
    x, x_held, y, y_held = x[:60], x[60:], y[:60], y[60:]
    chosen, r2 = fit_linear(x, y, x_held, y_held).alpha, {}
    for alpha in (every := ridge.ALPHAS):
        monkeypatch.setattr(ridge, "ALPHAS", (alpha,))
        error = np.square(fit_linear(x, y, x_held, y_held)(x_held) - y_held).sum(0)
        r2[alpha] = (1 - error / np.square(y_held - y.mean(0)).sum(0)).mean()
    assert every == (1e-3, 1e-2, 1e-1, 1, 10, 100, 1e3, 1e4, 1e5)
    assert chosen == max(r2, key=r2.get) and every[0] < chosen < every[-1]
    monkeypatch.setattr(ridge, "ALPHAS", every)
    exact = data(noise=0)
    assert fit_linear(*exact, *exact).alpha == 1e-3


def test_units_do_not_matter():
    x, y = data()
    fitted = fit_linear(x, y, x, y)
    scaled = fit_linear(1000 * x - 7, y / 50 + 3, 1000 * x - 7, y / 50 + 3)
    np.testing.assert_allclose(scaled(1000 * x - 7), fitted(x) / 50 + 3)
    assert scaled.alpha == fitted.alpha


def test_what_never_changes_says_nothing_and_is_predicted_as_it_is():
    x, y = data()
    x[:, 2], y[:, 1] = 3.3, -8
    x[:, 3] = np.float32(1e4) + 1e-4 * x[:, 3]  # rounding
    fitted = fit_linear(x, y, x, y)
    new = x.copy()
    new[:, 2:4] += 100
    np.testing.assert_array_equal(fitted(new), fitted(x))
    np.testing.assert_allclose(fitted(x)[:, 1], -8)


def test_nothing_to_go_by_gives_the_mean():
    _, y = data()
    nothing = np.ones((len(y), 4))
    np.testing.assert_allclose(fit_linear(nothing, y, nothing, y)(nothing[:1])[0], y.mean(0))


@pytest.mark.parametrize("features", [7, 200], ids=["tall", "wide"])
def test_axes_are_those_of_the_singular_values(features):
    x = data(features=features)[0]
    axes = principal_axes(x)
    _, values, directions = np.linalg.svd(standardise(x)(x), full_matrices=False)
    kept = len(axes.squares)
    assert kept == min(features, 59)  # 60 rows less their mean
    np.testing.assert_allclose(axes.squares, values[:kept] ** 2, rtol=1e-8)
    np.testing.assert_allclose(np.abs((axes.directions * directions[:kept].T).sum(0)), 1, rtol=1e-6)
    np.testing.assert_allclose(np.square(axes(x)).sum(0), axes.squares, rtol=1e-6)


def test_standardising_and_back():
    x = data()[0]
    x[:, 0] = 4
    standard = standardise(x)
    np.testing.assert_allclose(standard(x).std(0), [0, 1, 1, 1, 1, 1, 1], atol=1e-12)
    np.testing.assert_allclose(standard.inverse(standard(x)), x)
