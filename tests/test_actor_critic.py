"""Losses of actor and critic by hand, and who learns from which."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import KEY, MIXED, ROWS, B, D, H, K, S, T, assert_trees_equal, largest, quick_jit, tiny, tiny_config

from dreamer_jax.behaviors.actor_critic import CPU_CHUNK_ROWS, CPU_CHUNK_UNITS, chunk_rows
from dreamer_jax.models.heads import Head
from dreamer_jax.models.rssm import RSSMState
from dreamer_jax.ops.returns import lambda_return, replay_return
from dreamer_jax.ops.transforms import symexp_bins, twohot_loss
from dreamer_jax.specs import ArraySpec, EnvSpec

TINY = tiny()
N = B * T
BINS = symexp_bins(255)
RNG = np.random.default_rng(0)
POSTERIOR = RSSMState(
    RNG.uniform(-1, 1, (B, T, D)).astype(np.float32),
    np.eye(K, dtype=np.float32)[RNG.integers(K, size=(B, T, S))],
)
MOMENTS = {"low": np.float32(-10), "high": np.float32(20)}
STATE = TINY.state.replace(moments=MOMENTS)
PARAMS = STATE.params
NAMES = ("policy", "value", "repval")


def program(behavior):
    """Losses and details of imagination."""

    def loss(params, state, key, rows, posterior, batch):
        losses, aux = behavior.loss(params, state, key, rows, posterior=posterior, batch=batch)
        return losses, aux.details, aux

    return quick_jit(loss)


loss = program(TINY.behavior)


@pytest.fixture(scope="module")
def result():
    return loss(PARAMS, STATE, KEY, ROWS, POSTERIOR, TINY.batch)


def gradient_program(behavior):
    """(weights) -> gradient of the weighted mean losses to parameters and posterior."""

    def total(params, posterior, weights):
        losses, _ = behavior.loss(params, STATE, KEY, ROWS, posterior=posterior, batch=TINY.batch)
        return sum(weights[name] * value.mean() for name, value in losses.items())

    return quick_jit(jax.grad(total, (0, 1)))


def only(name):
    return {other: np.float32(other == name) for other in NAMES}


@pytest.fixture(scope="module")
def gradient():
    return gradient_program(TINY.behavior)


# --- values


def test_shapes(result):
    losses, aux, whole = result
    assert {name: x.shape for name, x in losses.items()} == dict(policy=(B, T), value=(B, T), repval=(B, T - 1))
    assert aux.targets.returns.shape == aux.targets.advantage.shape == (N, H)
    assert {x.shape for x in whole.metrics.values()} == {()}


def test_weights_include_the_continuation_of_the_start(result):
    path = result[1].imagined
    np.testing.assert_allclose(result[1].targets.credit.cumulative_discount, np.cumprod(path.discount, 1), rtol=1e-5)
    np.testing.assert_allclose(result[1].targets.credit.cumulative_discount[:, 0], path.discount[:, 0])
    assert (np.asarray(path.discount[:, 0]) < 0.95).any()


@pytest.mark.parametrize(("label", "start"), [("soft", "recorded"), ("hard", "recorded"), ("hard", "predicted")])
def test_what_knows_nothing_of_the_discount_leaves_the_start_undiscounted(label, start):
    """251910d and 8fa35f8: the weight of a start is 1, or 0 if it is terminal, and only then come discounts."""
    loss = quick_jit(tiny(cont__label=label, cont__start=start).behavior.loss)
    details = loss(PARAMS, STATE, KEY, ROWS, posterior=POSTERIOR, batch=TINY.batch)[1].details
    weight = details.targets.credit.cumulative_discount
    assert set(np.unique(weight[:, 0])) <= {0, 1}
    if start == "recorded":
        np.testing.assert_array_equal(weight[:, 0], ~TINY.batch.is_terminal.reshape(-1))
    later = np.cumprod(details.imagined.discount[:, 1:], 1)
    np.testing.assert_allclose(weight[:, 1:], weight[:, :1] * later, rtol=1e-5)


def test_returns_use_the_online_critic(result):
    path, aux = result[1].imagined, result[1]
    np.testing.assert_allclose(
        aux.targets.returns, lambda_return(path.reward, path.discount, 0.95, aux.predictions.value), rtol=1e-4
    )
    assert not np.allclose(aux.predictions.value, aux.predictions.slow_value, rtol=0.1)


def test_range_of_returns_is_updated_before_it_is_used(result):
    _, aux, whole = result
    low, high = np.percentile(aux.targets.returns, [5, 95])
    expected = {"low": 0.99 * -10 + 0.01 * low, "high": 0.99 * 20 + 0.01 * high}
    for name, value in expected.items():
        np.testing.assert_allclose(whole.moments[name], value, rtol=1e-4)
    scale = max(1, expected["high"] - expected["low"])
    assert scale != 30
    np.testing.assert_allclose(aux.targets.scale, scale, rtol=1e-4)
    advantage = (aux.targets.returns - aux.predictions.value[:, :-1]) / scale
    np.testing.assert_allclose(aux.targets.advantage, advantage, rtol=1e-3, atol=1e-5 * largest(advantage))


def test_policy_loss(result):
    """The log-probability at t meets the advantage at t; leaves are summed."""
    losses, aux, _ = result
    action = jax.tree.map(lambda x: np.asarray(x)[:, :-1], aux.imagined.action)
    motors = {name: np.asarray(x) for name, x in aux.learnt.policy["motors"].items()}
    square = ((action["motors"] - motors["mean"]) / motors["std"]) ** 2
    log_prob = (-0.5 * square - np.log(motors["std"]) - 0.5 * np.log(2 * np.pi)).sum(-1)
    entropy = (0.5 * np.log(2 * np.pi * np.e) + np.log(motors["std"])).sum(-1)
    logits = np.asarray(aux.learnt.policy["choice"]["logits"])[:, :, 0]
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    log_prob += (log_probs * action["choice"][:, :, 0]).sum(-1)
    entropy += -(np.exp(log_probs) * log_probs).sum(-1)
    expected = -aux.targets.credit.cumulative_discount[:, :-1] * (log_prob * aux.targets.advantage + 3e-4 * entropy)
    np.testing.assert_allclose(
        losses["policy"], expected.mean(1).reshape(B, T), rtol=1e-3, atol=1e-5 * largest(expected)
    )


def test_value_loss(result):
    """Towards the return and towards the slow critic, weighted."""
    losses, aux, _ = result
    critic = Head((D, S * K), 1, 16, 255, 0.0)
    logits = jax.jit(critic.apply)({"params": PARAMS["critic"]}, *aux.imagined.features)[:, :-1]
    both = twohot_loss(logits, aux.targets.returns, BINS) + twohot_loss(
        logits, aux.predictions.slow_value[:, :-1], BINS
    )
    expected = (aux.targets.credit.cumulative_discount[:, :-1] * both).mean(1).reshape(B, T)
    np.testing.assert_allclose(losses["value"], expected, rtol=1e-3)


def test_replay_value_loss(result):
    losses, aux, _ = result
    batch, replayed = TINY.batch, aux.replayed
    bootstrap = aux.targets.returns[:, 0].reshape(B, T)
    flags = jnp.asarray(batch.is_last), jnp.asarray(batch.is_terminal)
    target = replay_return(jnp.asarray(batch.reward), *flags, bootstrap, discount=1 - 1 / 333, lambda_=0.95)
    np.testing.assert_allclose(replayed.returns, target, rtol=1e-4)
    # a termination is worth its own reward, a time limit is worth what follows
    np.testing.assert_allclose(target[0, 1], batch.reward[0, 2], rtol=1e-5)
    np.testing.assert_allclose(target[1, 3], batch.reward[1, 4] + (1 - 1 / 333) * bootstrap[1, 4], rtol=1e-5)
    logits = replayed.logits[:, :-1]
    both = twohot_loss(logits, target, BINS) + twohot_loss(logits, replayed.slow_value[:, :-1], BINS)
    np.testing.assert_allclose(losses["repval"], both * ~batch.is_last[:, :-1], rtol=1e-4)


def test_a_new_critic():
    """Exactly zero everywhere, and 2 ln 255 on every record but the last of an episode."""
    critic = jax.tree.map(np.copy, PARAMS["critic"])
    critic["out"] = jax.tree.map(np.zeros_like, critic["out"])  # as init leaves it
    state = STATE.replace(params={**PARAMS, "critic": critic}, slow=critic)
    losses, aux, _ = loss(state.params, state, KEY, ROWS, POSTERIOR, TINY.batch)
    assert not largest((aux.predictions.value, aux.predictions.slow_value, aux.replayed.value))
    np.testing.assert_allclose(losses["repval"], 2 * np.log(255) * ~TINY.batch.is_last[:, :-1], rtol=1e-6)


def test_rows_keep_their_losses_wherever_they_are_computed(result):
    rows = np.array([2, 0, 2])
    take = lambda tree: jax.tree.map(lambda x: x[rows], tree)  # noqa: E731
    shuffled, aux, _ = loss(PARAMS, STATE, KEY, rows, take(POSTERIOR), take(TINY.batch))
    by_row = lambda x: np.asarray(x).reshape(B, T, *x.shape[1:])  # noqa: E731
    path, whole = aux.imagined, result[1].imagined
    assert_trees_equal(by_row(path.action["choice"]), by_row(whole.action["choice"])[rows])
    np.testing.assert_allclose(shuffled["value"], np.asarray(result[0]["value"])[rows], rtol=1e-3)
    np.testing.assert_allclose(shuffled["repval"], np.asarray(result[0]["repval"])[rows], rtol=1e-3)


# --- gradients


@pytest.mark.parametrize(("name", "learner"), (("policy", "actor"), ("value", "critic"), ("repval", "critic")))
def test_each_loss_trains_one_network(gradient, name, learner):
    by_params, by_posterior = gradient(PARAMS, POSTERIOR, only(name))
    assert {part for part, grad in by_params.items() if largest(grad) > 0} == {learner}
    assert all(largest(leaf) > 0 for leaf in jax.tree.leaves(by_params[learner]))
    assert (largest((by_posterior.deter, by_posterior.stoch)) > 0) == (name == "repval")


def test_replay_value_loss_without_gradient_to_the_model():
    gradient = gradient_program(tiny(behavior__replay_value_grad=False).behavior)
    by_params, by_posterior = gradient(PARAMS, POSTERIOR, only("repval"))
    assert largest(by_posterior) == 0
    assert largest(by_params["critic"]) > 0


# --- a few rows at a time


def test_chunks_change_memory_and_nothing_else(result, gradient):
    few = tiny(behavior__chunk_rows=3)
    assert (H * N) % 3 == 0
    chunked = program(few.behavior)(PARAMS, STATE, KEY, ROWS, POSTERIOR, TINY.batch)
    for a, b in zip(jax.tree.leaves(chunked), jax.tree.leaves(result), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    weights = {name: np.float32(1) for name in NAMES}
    grads = (program(PARAMS, POSTERIOR, weights) for program in (gradient_program(few.behavior), gradient))
    for a, b in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6 + 1e-3 * np.abs(b).max())


def test_rows_of_a_chunk_depend_on_the_device(monkeypatch):
    wide = tiny_config(value__units=CPU_CHUNK_UNITS + 1)
    pictures = EnvSpec({"image": ArraySpec((16, 16, 3), "uint8")}, MIXED.action)
    assert chunk_rows(TINY.config, MIXED) == CPU_CHUNK_ROWS
    assert chunk_rows(tiny_config(behavior__chunk_rows=7), MIXED) == 7
    assert chunk_rows(wide, MIXED) == 0
    assert chunk_rows(wide, pictures) == CPU_CHUNK_ROWS
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert chunk_rows(TINY.config, MIXED) == 0
