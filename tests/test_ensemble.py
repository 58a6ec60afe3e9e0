"""Plan2Explore: an ensemble is sure of what it has seen alone; its disagreement is what steps earn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from agents import KEY, MIXED, ROWS, assert_trees_equal, largest, quick_jit, random_batch, tiny_config

from dreamer_jax.agent import make_agent
from dreamer_jax.behaviors.actor_critic import make_actor_critic
from dreamer_jax.behaviors.planner import score_plans
from dreamer_jax.config.loading import load
from dreamer_jax.config.named import PRESETS
from dreamer_jax.models.ensemble import make_ensemble
from dreamer_jax.models.world_model import make_world_model

K, A, W = 4, 2, 5
INPUTS = (3, 2)


def ensemble(**changes):
    config = tiny_config(explore__ensemble=K, explore__ensemble_units=16, **changes)
    return make_ensemble(config, INPUTS, A, W, dtype=jnp.float32)


def some(rng, *axes):
    return tuple(rng.normal(size=(*axes, width)).astype(np.float32) for width in INPUTS), rng.normal(
        size=(*axes, A)
    ).astype(np.float32)


def test_disagreement_and_loss_by_hand():
    made, rng = ensemble(explore__ensemble_layers=0), np.random.default_rng(0)
    params = made.init(KEY)
    feat, action = some(rng, 2, 6)
    kernel, bias = (np.asarray(params["out"][name]) for name in ("kernel", "bias"))
    inputs = np.concatenate([*feat, action], -1)
    predicted = np.einsum("bti,kio->kbto", inputs, kernel) + bias[:, None, None]
    assert predicted.shape == (K, 2, 6, W) and largest(np.std(kernel, 0)) > 0.1
    np.testing.assert_allclose(made.disagree(params, feat, action), predicted.std(0).mean(-1), rtol=1e-5)
    same = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), params)
    assert largest(made.disagree(same, feat, action)) < 1e-6
    tokens, first = rng.normal(size=(2, 6, W)).astype(np.float32), np.zeros((2, 6), bool)
    first[0, 3] = True
    led = np.concatenate([np.zeros((2, 1, A), np.float32), action[:, :-1]], 1)  # the action before a record led to it
    found = made.loss(params, feat, led, first, tokens)
    expected = np.square(predicted[:, :, :-1] - tokens[:, 1:]).mean(-1).sum(0)
    expected[0, 2] = 0
    np.testing.assert_allclose(found[:, 1:], expected, rtol=1e-5)
    assert (found[:, 0] == 0).all()
    pull = jax.grad(lambda feat, tokens: made.loss(params, feat, led, first, tokens).sum(), (0, 1))(feat, tokens)
    assert largest(pull) == 0


def test_it_agrees_on_what_was_seen_alone():
    made, rng = ensemble(), np.random.default_rng(1)
    world = rng.normal(size=(sum(INPUTS) + A, W))

    def draw(shift):
        feat, action = some(rng, 64, 2)
        feat = (np.abs(feat[0]) * shift, feat[1])
        following = np.tanh(np.concatenate([*feat, action], -1) @ world)
        tokens = np.concatenate([np.zeros((64, 1, W)), following[:, :1]], 1).astype(np.float32)
        return feat, np.concatenate([np.zeros((64, 1, A)), action[:, :1]], 1).astype(np.float32), tokens, action

    params, optimizer = made.init(KEY), optax.adam(3e-3)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, feat, led, tokens):
        first = np.zeros((64, 2), bool)
        grads = jax.grad(lambda p: made.loss(p, feat, led, first, tokens).mean())(params)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state

    def unsure(shift):
        feat, _, _, action = draw(shift)
        return float(made.disagree(params, feat, action).mean())

    seen, unseen = unsure(1), unsure(-1)
    for _ in range(400):
        feat, led, tokens, _ = draw(1)
        params, state = step(params, state, feat, led, tokens)
    assert unsure(1) < 0.4 * seen
    assert unsure(-1) > 2.5 * unsure(1) and unsure(-1) > 0.5 * unseen


@pytest.mark.parametrize("gradient", ["reinforce", pytest.param("dynamics", marks=pytest.mark.slow)])
def test_imagined_and_replayed_steps_earn_it(gradient):
    config = tiny_config(
        explore__ensemble=K, explore__task_reward=0.5, explore__disagreement=2.0, behavior__gradient=gradient
    )
    agent, batch = make_agent(config, MIXED), random_batch(MIXED, config)
    model = make_world_model(config, MIXED)
    learner = make_actor_critic(config, MIXED, model)
    state = jax.jit(agent.init)(KEY)
    params = state.params
    posterior = jax.jit(model.observe)(params["model"], KEY, ROWS, batch)
    _, aux = jax.jit(learner.loss)(params, state, KEY, ROWS, posterior=posterior, batch=batch)
    imagined = aux.details.imagined
    own, _ = model.predict(params["model"], imagined.features)
    actions = jnp.concatenate([imagined.action[name].reshape(*own.shape, -1) for name in sorted(imagined.action)], -1)
    feat = tuple(x[:, :-1] for x in imagined.features)
    unsure = model.disagree(params["model"], feat, actions[:, :-1])
    assert float(unsure.min()) > 0
    expected = 0.5 * own + 2.0 * jnp.pad(unsure, ((0, 0), (1, 0)))
    np.testing.assert_allclose(imagined.reward, expected, rtol=1e-4, atol=1e-6)
    # Replayed returns begin with the next record's reward, of what was not known one record before.
    less = tiny_config(explore__ensemble=K, explore__task_reward=0.0, explore__disagreement=0.0 + 1e-9)
    alone = make_actor_critic(less, MIXED, model)
    _, other = jax.jit(alone.loss)(params, state, KEY, ROWS, posterior=posterior, batch=batch)
    returns, without = aux.details.replayed.returns, other.details.replayed.returns
    t = batch.reward.shape[1] - 2
    row = 2  # no end in it
    seen = tuple(x[:, t] for x in model.dynamics.features(posterior))
    led = model.action_vector(jax.tree.map(lambda x: x[:, t + 1], batch.prev_action))
    bonus = 2.0 * model.disagree(params["model"], seen, led) + 0.5 * batch.reward[:, t + 1]
    boot, before = (x.details.targets.returns[:, 0].reshape(3, -1)[row, t + 1] for x in (aux, other))
    discount = 1 - 1 / config.behavior.discount_horizon
    np.testing.assert_allclose(returns[row, t] - discount * boot, bonus[row], rtol=1e-4)
    np.testing.assert_allclose(without[row, t] - discount * before, 0, atol=1e-5)


def test_plans_earn_it():
    config = tiny_config(explore__ensemble=K)
    model = make_world_model(config, MIXED)
    params = {"model": jax.jit(model.init)(KEY)}
    start = jax.tree.map(lambda x: x[0], model.dynamics.initial(1))
    plans = jax.random.uniform(KEY, (5, 3, 8), minval=-1)
    options = dict(row=jnp.int32(0), start=start, plans=plans, sampled=False)
    found = score_plans(model, params, KEY, **options, explore=config.explore)
    total, states = 0.0, jax.tree.map(lambda x: jnp.broadcast_to(x, (5, *x.shape)), start)
    for step in range(3):
        total += model.disagree(params["model"], model.dynamics.features(states), plans[:, step])
        states = model.imagine_step(params["model"], None, states, plans[:, step])
    np.testing.assert_allclose(found, total, rtol=1e-5)


@pytest.mark.parametrize("preset", sorted(name for name in PRESETS if "paper" not in name))
def test_every_preset_explores(preset):
    size = [] if preset == "planet" else [("rssm.deter", "32"), ("rssm.hidden", "16")]
    config = load(preset=preset, overrides=[("explore.ensemble", "3"), ("train.batch_length", "6"), *size])
    agent = make_agent(config, MIXED)
    state = jax.eval_shape(agent.init, KEY)
    batch = random_batch(MIXED, config)
    if not config.replay.context:
        batch = batch.replace(context=None)
    after, metrics, _ = jax.eval_shape(agent.update, state, KEY, batch)
    assert "loss/ensemble" in metrics
    assert_trees_equal(*(jax.tree.map(lambda x: np.array(x.shape), tree.params) for tree in (state, after)))


def test_only_the_ensemble_learns_by_its_loss():
    config = tiny_config(explore__ensemble=K)
    agent, batch = make_agent(config, MIXED), random_batch(MIXED, config)
    state = jax.jit(agent.init)(KEY)

    def only(params):
        return agent.loss(params, state, KEY, batch)[1].losses["ensemble"].mean()

    pull = quick_jit(jax.grad(only))(state.params)
    assert largest(pull["model"].pop("ensemble")) > 0 and largest(pull) == 0
