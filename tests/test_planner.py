"""Plans by the cross-entropy method: in models whose best actions are known, and in a whole agent."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import KEY, MIXED, assert_trees_equal, bundle, quick_jit, random_batch, random_timestep, tiny_config

from dreamer_jax.agent import LOSSES, loss_scales, make_agent
from dreamer_jax.behaviors import planner
from dreamer_jax.behaviors.plan_search import Fit, draw_plans, first_fit, make_refit, split_leaves
from dreamer_jax.behaviors.planner import make_planner, make_search, score_plans
from dreamer_jax.config.schema import PlannerConfig
from dreamer_jax.distributions import draw_noise
from dreamer_jax.interfaces import Dynamics, WorldModel
from dreamer_jax.models.rssm import RSSMState
from dreamer_jax.models.world_model import make_world_model
from dreamer_jax.specs import ArraySpec, EnvSpec

# Names out of order, one of several axes.
SPEC = EnvSpec(MIXED.observation, {"motors": ArraySpec((2,), "float32"), "arms": ArraySpec((2, 2), "float32")})
E, A, J, H = 3, 6, 60, 4
CEM = {"planner__candidates": J, "planner__horizon": H, "planner__iterations": 3, "planner__elites": 7}
THOROUGH = {"planner__candidates": 400, "planner__elites": 40, "planner__iterations": 12}
TARGETS = np.random.default_rng(0).uniform(-0.9, 0.9, (E, A)).astype(np.float32)


def planned(**changes):
    return tiny_config(behavior__method="planner", cont__label="none", **CEM | changes)


def turn(deter, stoch, action):
    """How far the action is from ``deter``, and at the next step from another one."""
    return jnp.roll(deter, 1, -1), action - deter


def fake(reward, after=turn, luck=0.0):
    """A model without parameters, whose rewards are ``reward(deter, stoch)``, with noise in its states."""

    def imagine_step(params, noise, state, action):
        deter, stoch = after(state.deter, state.stoch, action)
        return RSSMState(deter, stoch + luck * (0 if noise is None else noise))

    dynamics = bundle(
        Dynamics,
        noise=lambda key, rows, length: draw_noise(key, rows, (*length, A), "normal"),
        to_scan_carry=lambda state: state,
        features=lambda state: (state.deter, state.stoch),
        feature_widths=(A, A),
    )
    predict = lambda params, feat: (reward(*feat), jnp.full(feat[0].shape[:-1], 0.5))  # noqa: E731
    return bundle(WorldModel, dynamics=dynamics, imagine_step=imagine_step, predict=predict)


def quadratic(deter, stoch):
    """Highest at a ``turn`` by exactly ``deter``."""
    return -jnp.square(stoch).sum(-1)


def plans(config, model, deter, rows=None, key=KEY):
    """First actions [E, A]."""
    behavior = make_planner(config, SPEC, model)
    rows = np.arange(len(deter)) if rows is None else np.asarray(rows)
    state = RSSMState(jnp.asarray(deter), jnp.zeros((len(deter), A)))
    _, action = quick_jit(lambda state: behavior.act({"model": {}}, key, rows, state, (), "mode"))(state)
    return np.concatenate([np.reshape(action[name], (len(deter), -1)) for name in sorted(action)], -1)


# --- models that are known


@pytest.mark.parametrize("at_once", (8, 2, 1))
def test_the_optimum_of_every_environment_is_found(monkeypatch, at_once):
    """Each has its own, the first action's is not the second's, and batches need not divide."""
    monkeypatch.setattr(planner, "AT_ONCE", at_once)
    np.testing.assert_allclose(plans(planned(**THOROUGH), fake(quadratic), TARGETS), TARGETS, atol=0.05)


def test_every_reward_counts_alike():
    """The first action is rewarded once for being x, then H - 1 times for being y."""
    x, y = -0.9, 0.9

    def after(deter, stoch, action):
        first = deter[..., :1] == 0
        return deter + 1, jnp.where(first, action, stoch)

    def reward(deter, stoch):
        return -jnp.square(stoch - jnp.where(deter == 1, x, y)).sum(-1)

    found = plans(planned(**THOROUGH), fake(reward, after), np.zeros((1, A), np.float32))
    np.testing.assert_allclose(found, (x + (H - 1) * y) / H, atol=0.02)


def test_actions_stay_within_bounds():
    """What is fitted is clipped as what is tried."""
    found = plans(planned(**THOROUGH), fake(quadratic), np.full((1, A), 3, np.float32))
    assert (np.abs(found) <= 1).all() and (found > 0.9).all()


@pytest.mark.parametrize("iterations", (0, 1, 3))
def test_an_iteration_by_hand(iterations):
    """Draws, clipping, sums over the horizon, the elites' mean and variance; nothing is kept of earlier draws."""
    row, target = 5, TARGETS[0]
    mean, std = np.zeros((H, A)), np.ones((H, A))
    for number in range(iterations):
        plan_key, luck_key = jax.random.split(jax.random.fold_in(KEY, number))
        draws, luck = (
            np.asarray(draw_noise(key, np.array([row]), (J, H, A), "normal")[0], np.float64)
            for key in (plan_key, luck_key)
        )
        tried = np.clip(mean + std * draws, -1, 1)
        goals = np.stack([np.roll(target, step) for step in range(H)])
        scores = -np.square(tried - goals + 0.1 * luck).sum((-1, -2))
        elites = tried[np.argsort(-scores)[:7]]
        mean, std = elites.mean(0), np.sqrt(np.square(elites - elites.mean(0)).mean(0) + 1e-6)
    found = plans(planned(planner__iterations=iterations), fake(quadratic, luck=0.1), target[None], rows=[row])
    np.testing.assert_allclose(found[0], mean[0], atol=1e-4)


def test_plans_of_one_elite_still_differ():
    """By a deviation of 0.001, beside what the elite was."""
    once, twice = (plans(planned(planner__iterations=n, planner__elites=1), fake(quadratic), TARGETS) for n in (1, 2))
    within = np.abs(once) < 1
    assert within.sum() > A and (once != twice)[within].all() and (np.abs(once - twice) < 0.005).all()


def test_the_score_of_a_plan():
    """The sum of its rewards, of any number of plans and steps, whatever else is planned beside it."""
    tried = np.random.default_rng(1).uniform(-1, 1, (5, 3, A)).astype(np.float32)
    start = RSSMState(jnp.asarray(TARGETS[0]), jnp.zeros(A))
    scores = score_plans(fake(quadratic), {"model": {}}, KEY, jnp.int32(2), start, tried)
    goals = np.stack([np.roll(TARGETS[0], step) for step in range(3)])
    np.testing.assert_allclose(scores, -np.square(tried - goals).sum((-1, -2)), rtol=1e-5)


def test_noise_belongs_to_the_environment():
    """A row alone plans what it plans among others; two rows in one state plan differently."""
    model, config = fake(quadratic, luck=0.5), planned()
    together = plans(config, model, TARGETS)
    for row in range(E):
        np.testing.assert_array_equal(plans(config, model, TARGETS[row : row + 1], rows=[row])[0], together[row])
    twins = plans(config, model, TARGETS[[0, 0]])
    assert (twins[0] != twins[1]).all()
    assert (plans(config, model, TARGETS, key=jax.random.PRNGKey(1)) != together).all()


def test_leaves_of_a_vector():
    vector = np.arange(2 * A).reshape(2, A)
    leaves = split_leaves(vector, SPEC.action)
    assert list(leaves) == ["motors", "arms"]
    np.testing.assert_array_equal(leaves["arms"][1], [[6, 7], [8, 9]])
    np.testing.assert_array_equal(leaves["motors"][1], [10, 11])
    np.testing.assert_array_equal(make_world_model(tiny_config(), SPEC).action_vector(leaves), vector)


# --- a whole agent

CONFIG = planned()
AGENT = make_agent(CONFIG, SPEC)


@pytest.fixture(scope="module")
def state():
    return quick_jit(AGENT.init)(KEY)


def test_only_the_model_learns(state):
    batch = random_batch(SPEC, CONFIG)
    update = quick_jit(AGENT.update)
    first, _, _ = update(state, KEY, batch)
    second, metrics, latents = update(first, KEY, batch)
    assert set(second.params) == {"model"} and second.slow == {}
    chex.assert_trees_all_equal_shapes_and_dtypes(second, state)
    assert_trees_equal(second.moments, state.moments)
    scales = loss_scales(CONFIG, SPEC)
    assert set(scales) == {"dyn", "rep", "rew", *SPEC.observation} and set(scales) < {*LOSSES, *SPEC.observation}
    total = sum(scale * metrics[f"loss/{name}"] for name, scale in scales.items())
    np.testing.assert_allclose(metrics["loss/total"], total, rtol=1e-5)
    changed = jax.tree.map(lambda old, new: (np.asarray(old) != new).any(), first.params, second.params)
    assert sum(jax.tree.leaves(changed)) > 0.7 * len(jax.tree.leaves(changed))  # heads that start at 0 hold some back
    assert latents["deter"].shape == (*batch.reward.shape, CONFIG.rssm.deter)


def test_a_decision(state):
    """The same in each mode, of the form that environments take, and what the next step is told."""
    timestep = random_timestep(SPEC, size=E)
    new = AGENT.reset(state.params, E)
    results = [
        quick_jit(lambda mode=mode: AGENT.policy(state.params, KEY, new, timestep, mode))()
        for mode in ("train", "sample", "mode")
    ]
    carry, action, latents = results[0]
    for other in results[1:]:
        assert_trees_equal(other, results[0])
    assert {name: (x.shape, str(x.dtype)) for name, x in action.items()} == dict(
        motors=((E, 2), "float32"), arms=((E, 2, 2), "float32")
    )
    assert all((np.abs(x) <= 1).all() and (x != 0).all() for x in action.values())
    assert_trees_equal(carry.prev_action, action)
    np.testing.assert_array_equal(latents["deter"], carry.latent.deter.astype(jnp.bfloat16))


def test_plans_are_made_from_the_latent(state):
    """Rewards of the real model decide, those of the state that the environment is in."""
    params = jax.tree.map(lambda x: x + 0.3 * np.random.default_rng(x.size).normal(size=x.shape), state.params)
    behavior = make_planner(CONFIG, SPEC, make_world_model(CONFIG, SPEC))
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: make_world_model(CONFIG, SPEC).dynamics.initial(2))
    latent = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    act = quick_jit(lambda rows, latent: behavior.act(params, KEY, rows, latent, (), "mode")[1])
    together = act(np.array([3, 3]), latent)
    assert all((np.asarray(x[0]) != x[1]).any() for x in together.values())
    alone = act(np.array([3]), jax.tree.map(lambda x: x[1:], latent))
    for name, x in alone.items():
        np.testing.assert_allclose(x[0], together[name][1], atol=1e-5)


def test_dreams_by_plans(state):
    seen = random_batch(SPEC, CONFIG)
    dream = quick_jit(lambda key: AGENT.dream(state.params, key, seen, None, 2))(KEY)
    assert dream.reward.shape == (seen.reward.shape[0], seen.reward.shape[1] + 2)


# --- searching


def test_path_integral_by_hand():
    rng = np.random.default_rng(3)
    tried, scores = rng.uniform(-1, 1, (J, H, A)).astype(np.float32), rng.normal(size=J).astype(np.float32)
    refit = make_refit(PlannerConfig(method="mppi", elites=7, temperature=0.3, min_std=0.5))
    found = refit(first_fit(SPEC.action, H), tried, jnp.asarray(scores))
    best = np.argsort(-scores)[:7]
    weight = np.exp(scores[best] / 0.3)[:, None, None]
    mean = (weight * tried[best]).sum(0) / weight.sum()
    std = np.sqrt((weight * (tried[best] - mean) ** 2).sum(0) / weight.sum())
    np.testing.assert_allclose(found.mean, mean, atol=1e-5)
    np.testing.assert_allclose(found.std, np.clip(std, 0.5, 1), atol=1e-5)
    assert (std < 0.5).any() and (std > 0.5).any()


def test_choices_are_drawn_by_their_chances():
    specs = {"number": ArraySpec((), "float32"), "choice": ArraySpec((2,), "int32", 3)}
    fit = first_fit(specs, 2)
    np.testing.assert_allclose(fit.mean[0], [1 / 3] * 6 + [0])
    chances = np.array([[0.2, 0.8, 0.0], [0.5, 0.25, 0.25]])
    fit = Fit(fit.mean.at[1, :6].set(chances.reshape(-1)), fit.std)
    plans = draw_plans(specs, fit, jax.random.normal(KEY, (20_000, 2, 7)))
    classes = np.asarray(plans[..., :6]).reshape(-1, 2, 2, 3)
    assert (classes.sum(-1) == 1).all() and set(np.unique(classes)) == {0, 1}
    np.testing.assert_allclose(classes[:, 0].mean(0), np.full((2, 3), 1 / 3), atol=0.02)
    np.testing.assert_allclose(classes[:, 1].mean(0), chances, atol=0.02)
    leaves = split_leaves(plans[0, 1], specs)
    assert leaves["choice"].shape == (2,) and leaves["choice"].dtype == np.int32 and leaves["number"].shape == ()
    np.testing.assert_array_equal(leaves["choice"], classes[0, 1].argmax(-1))


@pytest.mark.parametrize("method", ["cem", "mppi"])
def test_choices_are_planned(method):
    """Reward 1 in each step for the class that the state names."""
    spec = EnvSpec(MIXED.observation, {"choice": ArraySpec((), "int32", A)})
    config = planned(planner__method=method, **THOROUGH)
    reward = lambda deter, stoch: (stoch * (deter == deter.max(-1, keepdims=True))).sum(-1)  # noqa: E731
    behavior = make_planner(config, spec, fake(reward, lambda deter, stoch, action: (deter, action)))
    state = RSSMState(jnp.asarray(TARGETS), jnp.zeros((E, A)))
    act = quick_jit(lambda state: behavior.act({"model": {}}, KEY, np.arange(E), state, (), "mode")[1])
    np.testing.assert_array_equal(act(state)["choice"], TARGETS.argmax(-1))


def test_mppi_finds_the_optimum():
    config = planned(**THOROUGH | {"planner__method": "mppi", "planner__temperature": 2.0})
    np.testing.assert_allclose(plans(config, fake(quadratic), TARGETS), TARGETS, atol=0.1)


def test_the_next_search_begins_with_the_plan_of_the_last_one():
    """Without an iteration it is that plan itself, a step later; a new episode begins with zeros."""
    config = planned(planner__iterations=0, planner__warm_start=True)
    behavior = make_planner(config, SPEC, fake(quadratic))
    before = np.random.default_rng(0).uniform(-1, 1, (E, H, A)).astype(np.float32)
    state = RSSMState(jnp.asarray(TARGETS), jnp.zeros((E, A)))
    carry, action = behavior.act({"model": {}}, KEY, np.arange(E), state, jnp.asarray(before), "mode")
    np.testing.assert_allclose(action["motors"], before[:, 0, 4:])
    np.testing.assert_allclose(carry[:, :-1], before[:, 1:])
    np.testing.assert_array_equal(carry[:, -1], behavior.initial(E)[:, -1])
    assert not np.asarray(behavior.initial(E)).any()


def test_what_a_last_state_is_worth():
    """With a value rewards count by the chance of coming so far, here a half for each step; and so does the value."""
    tried = np.random.default_rng(1).uniform(-1, 1, (5, 3, A)).astype(np.float32)
    start = RSSMState(jnp.asarray(TARGETS[0]), jnp.zeros(A))
    worth = lambda feat: feat[1].sum(-1)  # noqa: E731
    scores = score_plans(fake(quadratic), {"model": {}}, KEY, jnp.int32(2), start, tried, value=worth)
    moves = tried - np.stack([np.roll(TARGETS[0], step) for step in range(3)])
    expected = -(np.square(moves).sum(-1) * [1, 0.5, 0.25]).sum(-1) + moves[:, -1].sum(-1) / 8
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_rewards_count_by_the_chance_of_coming_so_far_where_ends_are_predicted():
    tried = np.random.default_rng(1).uniform(-1, 1, (5, 3, A)).astype(np.float32)
    start = RSSMState(jnp.asarray(TARGETS[0]), jnp.zeros(A))
    moves = tried - np.stack([np.roll(TARGETS[0], step) for step in range(3)])
    for ends, weight in ((True, [1, 0.5, 0.25]), (False, [1, 1, 1])):
        scores = score_plans(fake(quadratic), {"model": {}}, KEY, jnp.int32(2), start, tried, ends=ends)
        np.testing.assert_allclose(scores, -(np.square(moves).sum(-1) * weight).sum(-1), rtol=1e-5)


def test_latents_may_be_the_most_likely_ones():
    tried = np.zeros((2, 3, A), np.float32)
    start = RSSMState(jnp.asarray(TARGETS[0]), jnp.zeros(A))
    same, other = (
        score_plans(fake(quadratic, luck=0.5), {"model": {}}, KEY, jnp.int32(2), start, tried, sampled=sampled)
        for sampled in (False, True)
    )
    assert same[0] == same[1] and other[0] != other[1]


# --- plans beside a policy


BESIDE = tiny_config(**CEM, behavior__act="planner", planner__value=True, planner__policy_plans=5)


@pytest.mark.slow
def test_an_actor_critic_may_act_by_plans():
    """It learns as without; some candidates are the policy's, in each iteration, and the critic has its say."""
    agent, plain = make_agent(BESIDE, MIXED), make_agent(tiny_config(), MIXED)
    state = quick_jit(agent.init)(KEY)
    assert_trees_equal(state, quick_jit(plain.init)(KEY))
    batch = random_batch(MIXED, BESIDE)
    assert_trees_equal(*(quick_jit(one.update)(state, KEY, batch)[0] for one in (agent, plain)))
    timestep = random_timestep(MIXED, size=E)
    _, action, _ = quick_jit(lambda: agent.policy(state.params, KEY, agent.reset(state.params, E), timestep))()
    assert {name: (x.shape, str(x.dtype)) for name, x in action.items()} == {
        name: ((E, *leaf.shape), leaf.dtype) for name, leaf in MIXED.action.items()
    }
    params = jax.tree.map(lambda x: x + 0.3 * np.random.default_rng(x.size).normal(size=x.shape), state.params)
    model = make_world_model(BESIDE, MIXED)
    start = jax.tree.map(lambda x: x[0], model.dynamics.initial(1))
    search = make_search(BESIDE, MIXED, model)
    found = quick_jit(
        lambda params: search(params, KEY, jnp.int32(1), start, first_fit(MIXED.action, H).mean, keep=True)
    )
    tried = found(params)
    width = sum(leaf.width for leaf in MIXED.action.values())
    assert tried.plans.shape == (3, J, H, width) and tried.scores.shape == (3, J)
    np.testing.assert_array_equal(tried.plans[0, -5:], tried.plans[2, -5:])
    assert (tried.plans[0, :-5] != tried.plans[2, :-5]).any()
    louder = params | {"critic": jax.tree.map(lambda x: 3 * x, params["critic"])}
    assert (found(louder).scores != tried.scores).any()
