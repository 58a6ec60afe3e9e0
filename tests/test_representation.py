"""Learning without a decoder: both losses by hand, on several devices, and in a whole agent."""

import subprocess
import sys
from functools import partial

import jax
import numpy as np
import pytest
from agents import KEY, MIXED, many_devices, quick_jit, random_batch, tiny_config

from dreamer_jax.agent import loss_scales, make_agent
from dreamer_jax.models.representation import contrast, make_representation, redundancy
from dreamer_jax.nets.transformer import CausalTransformer

RNG = np.random.default_rng(0)
MINE, GIVEN = RNG.normal(size=(12, 5)).astype(np.float32), RNG.normal(2, 3, size=(12, 5)).astype(np.float32)


ACTION, FIRST = RNG.normal(size=(3, 4, 2)).astype(np.float32), np.zeros((3, 4), bool)


def test_redundancy_by_hand():
    correlations = np.corrcoef(MINE.T, GIVEN.T)[:5, 5:]
    own = np.diagonal(correlations)
    rest = correlations[~np.eye(5, dtype=bool)]
    np.testing.assert_allclose(redundancy(MINE, GIVEN, 0.1), ((1 - own) ** 2).sum() + 0.1 * (rest**2).sum(), rtol=1e-5)
    np.testing.assert_allclose(redundancy(3 * GIVEN - 1, GIVEN, 0.0), 0, atol=1e-6)  # scale and place do not matter


def test_redundancy_of_some_rows_is_that_of_these_alone():
    weights = np.arange(12) % 3 > 0
    alone = redundancy(MINE[weights], GIVEN[weights], 0.1)
    np.testing.assert_allclose(redundancy(MINE, GIVEN, 0.1, weights=weights.astype(np.float32)), alone, rtol=1e-5)


def test_a_prediction_sees_its_episode_so_far_and_its_action():
    """By gradient: which records' features and actions the predicted tokens of each next record depend on."""
    config = tiny_config(
        representation__kind="next_embedding", representation__transformer_units=8, representation__transformer_heads=2
    )
    made = CausalTransformer((5, 2), 8, 2, 2)
    feat, action, first = RNG.normal(size=(1, 6, 5)), RNG.normal(size=(1, 6, 2)), np.zeros((1, 6), bool)
    first[0, 3] = True
    params = made.init(KEY, first, feat, action)
    hidden = jax.jacobian(lambda feat, action: made.apply(params, first, feat, action)[0] @ np.arange(8), (0, 1))
    seen = np.array([[t - s >= 0 and (s >= 3) == (t >= 3) for s in range(6)] for t in range(6)])
    for by in hidden(feat, action):
        np.testing.assert_array_equal(np.abs(by[:, 0]).max(-1) > 0, seen)
    model = make_representation(config, (5,), 2, 3, dtype="float32", axis_name=None)
    weights = model.init(KEY)
    tokens, first = RNG.normal(size=(1, 6, 3)).astype(np.float32), np.zeros((1, 6), bool)
    pull = jax.grad(lambda feat, action: model.loss(weights, tokens, (feat,), action, first).mean(), (0, 1))(
        feat, action
    )
    for by, last in zip(
        pull, (5, 0), strict=True
    ):  # the last record's features, and what led to the first, predict none
        used = np.abs(by[0]).max(-1) > 0
        assert not used[last] and used.sum() == 5


def test_contrast_by_hand():
    logits = MINE @ GIVEN.T
    expected = np.log(np.exp(logits - logits.max()).sum(1)) + logits.max() - np.diagonal(logits)
    np.testing.assert_allclose(contrast(MINE, GIVEN), expected, rtol=1e-4, atol=1e-4)


def check_devices() -> None:
    """Both losses and their gradients by ``MINE`` on two devices are those of the whole batch on one."""
    for loss in (lambda *x, **k: redundancy(*x, 0.1, **k)), (lambda *x, **k: contrast(*x, **k).mean()):
        found = []
        for count in (1, 2):
            each = jax.pmap(jax.value_and_grad(partial(loss, axis_name="d")), axis_name="d")
            value, grad = each(*(x.reshape(count, -1, 5) for x in (MINE, GIVEN)))
            found.append((value.mean(), np.asarray(grad).reshape(12, 5) / count))
        np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-5)
        np.testing.assert_allclose(found[1][1], found[0][1], atol=1e-6)
        assert np.abs(found[0][1]).max() > 1e-3


def test_a_batch_on_two_devices_is_one_batch():
    code = "import test_representation; test_representation.check_devices()"
    done = subprocess.run([sys.executable, "-c", code], env=many_devices(2), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["redundancy", "contrastive", "next_embedding"])
def test_nothing_flows_into_the_tokens_compared_with(kind):
    config = tiny_config(representation__kind=kind)
    made = make_representation(config, (5,), 2, 5, dtype="float32", axis_name=None)
    tokens, feat = GIVEN.reshape(3, 4, 5), MINE.reshape(3, 4, 5)
    loss = jax.grad(
        lambda tokens, feat: made.loss(made.init(KEY), tokens, (feat,), ACTION, FIRST).mean(), argnums=(0, 1)
    )
    by_tokens, by_features = loss(tokens, feat)
    assert not by_tokens.any() and by_features.any()


@pytest.mark.parametrize("kind", ["redundancy", "contrastive", "next_embedding"])
def test_an_agent_without_a_decoder(kind):
    config = tiny_config(representation__kind=kind, representation__scale=0.5, optimizer__warmup=0)
    agent, batch = make_agent(config, MIXED), random_batch(MIXED, config)
    state = quick_jit(agent.init)(KEY)
    assert "decoder" not in state.params["model"] and "representation" in loss_scales(config, MIXED)
    after, metrics, _ = quick_jit(agent.update)(state, KEY, batch)
    assert np.isfinite(metrics["loss/representation"]) and not metrics.keys() & {f"loss/{n}" for n in MIXED.observation}
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.params["model"], after.params["model"])
    assert all(any(jax.tree.leaves(moved[part])) for part in ("encoder", "rssm", "projector"))
    report, dreamt = quick_jit(agent.report)(after, KEY, batch)
    assert dreamt.observation == {} and dreamt.reward.shape == batch.reward.shape
    assert "return_error" in report and not any("_error/" in name or name == "elbo" for name in report)
