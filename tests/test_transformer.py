"""A transformer in the place of the recurrence: a window at once is its steps, and sees nothing that it may not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import KEY, MIXED, B, T, assert_trees_equal, quick_jit, random_batch, random_timestep, tiny_config

from dreamer_jax.agent import make_agent
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.models.transformer import make_transformer

TOKENS, A, S, K = 7, 3, 5, 6
SETTINGS = dict(rssm__backbone="transformer", rssm__transformer_layers=2, rssm__heads=4)
RNG = np.random.default_rng(0)
NOISE = RNG.uniform(size=(B, T, S)).astype(np.float32)
ACTION, SEEN = (RNG.normal(size=(B, T, width)).astype(np.float32) for width in (A, TOKENS))
FIRST = np.zeros((B, T), bool)
FIRST[0, 3] = FIRST[1, 0] = FIRST[2, 5] = FIRST[2, 6] = True


def made(memory=5, **changes):
    dynamics = make_transformer(tiny_config(**SETTINGS | dict(rssm__memory=memory) | changes), tokens=TOKENS, action=A)
    rng = np.random.default_rng(1)
    draw = lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32)  # noqa: E731
    return dynamics, jax.tree.map(draw, jax.eval_shape(dynamics.init, KEY))


def named(action, tokens, first):
    return dict(prev_action=action, tokens=tokens, is_first=first)


def step_by_step(dynamics, params, state):
    """States [B, T, ...] and what their latents were drawn from."""
    found, step = [], quick_jit(dynamics.posterior)
    for t in range(T):
        state, stats = step(params, NOISE[:, t], state, **named(ACTION[:, t], SEEN[:, t], FIRST[:, t]))
        found.append((state, stats))
    return jax.tree.map(lambda *xs: np.stack(xs, 1), *found)


def assert_close(left, right, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol), left, right)


def before(dynamics, params, count=3):
    """A state some steps into an episode, one row of which has just begun."""
    state = dynamics.initial(B)
    for t in range(count):
        first = np.array([False, t == count - 1, False])
        state, _ = dynamics.posterior(params, NOISE[:, t], state, **named(ACTION[:, t], SEEN[:, t], first))
    return state


@pytest.mark.parametrize("memory", [2, 5, 30])
@pytest.mark.parametrize("latent", ["categorical", "gaussian"])
def test_a_window_at_once_is_its_steps(memory, latent):
    dynamics, params = made(memory, rssm__latent=latent)
    for state in (dynamics.initial(B), before(dynamics, params)):
        states, stats = quick_jit(dynamics.observe)(params, NOISE, state, **named(ACTION, SEEN, FIRST))
        each, theirs = step_by_step(dynamics, params, state)
        assert_close((states.deter, states.stoch, stats), (each.deter, each.stoch, theirs))
        starts = dynamics.starts(states)
        np.testing.assert_array_equal(starts.filled, each.filled)
        shown = starts.filled[..., None, None, None]
        assert_close(starts.memory * shown, each.memory * shown)
        assert_close(dynamics.features(states), dynamics.features(each))


def test_imagined_steps_are_what_a_window_would_have_been():
    """From record 1 on, by the recorded actions, with the latents put back that were observed."""
    dynamics, params = made(4)
    nowhere = np.zeros((B, T), bool)
    states, _ = dynamics.observe(params, NOISE, dynamics.initial(B), **named(ACTION, SEEN, nowhere))
    state = jax.tree.map(lambda x: x[:, 1], dynamics.starts(states))
    for t in range(2, T):
        state, stats = dynamics.prior(params, NOISE[:, t], state, ACTION[:, t])
        assert_close(state.deter, states.deter[:, t])
        assert_close(stats, jax.tree.map(lambda x, t=t: x[:, t], dynamics.prior_stats(params, states)))
        state = state.replace(stoch=states.stoch[:, t])


@pytest.mark.parametrize("layers_and_memory", [(1, 2), (1, 3), (2, 2), (3, 10)])
def test_what_a_record_sees(layers_and_memory):
    """By gradient, of L layers: as many steps of its episode as one sees, L - 1 times one less, and nothing else."""
    layers, each = layers_and_memory
    memory = each + (layers - 1) * (each - 1)
    dynamics, params = made(each, rssm__latent="gaussian", rssm__transformer_layers=layers)
    first = np.zeros((1, T), bool)
    first[0, 4] = True
    noise = RNG.normal(size=(1, T, S)).astype(np.float32)

    def deter(tokens, action):
        state = dynamics.initial(1)
        return dynamics.observe(params, noise, state, **named(action, tokens, first))[0].deter[0] @ np.arange(36)

    by_tokens, by_action = quick_jit(jax.jacobian(deter, (0, 1)))(SEEN[:1], ACTION[:1])
    for by, later in ((by_tokens, 1), (by_action, 0)):  # a latent is looked at from the step after it on
        found = np.abs(by[:, 0]).max(-1) > 0
        for t in range(T):
            for s in range(T):
                step = s + later
                near = t - memory < step <= t and (step >= 4) == (t >= 4)
                # Nothing leads to the first record of an episode.
                assert found[t, s] == (near and not first[0, step]), (later, t, s)


def test_an_agent_with_it():
    config = tiny_config(**SETTINGS, rssm__memory=4, optimizer__warmup=0)
    agent, batch = make_agent(config, MIXED), random_batch(MIXED, config).replace(context=None)
    assert agent.latent_spec == {}
    state = quick_jit(agent.init)(KEY)
    after, metrics, latents = quick_jit(agent.update)(state, KEY, batch)
    assert latents == {} and all(np.isfinite(x) for x in metrics.values())
    moved = jax.tree.map(
        lambda a, b: bool((a != b).any()), state.params["model"]["rssm"], after.params["model"]["rssm"]
    )
    assert all(jax.tree.leaves(moved))
    _, dreamt = quick_jit(agent.report)(after, KEY, batch)
    assert dreamt.reward.shape == batch.reward.shape
    carry, act = agent.reset(after.params, 4), quick_jit(agent.policy)
    for step in range(6):
        before = carry
        carry, action, stored = act(after.params, KEY, carry, random_timestep(MIXED, step))
    assert stored == {} and action["motors"].shape == (4, 2)
    assert bool(carry.latent.filled.all()) and (carry.latent.memory[:, -2] == before.latent.memory[:, -1]).all()


def test_imagination_begins_anew_in_every_record():
    """Each start has a memory of its own: the first record of an episode sees itself alone."""
    dynamics, params = made(4)
    states, _ = dynamics.observe(params, NOISE, dynamics.initial(B), **named(ACTION, SEEN, FIRST))
    filled = np.asarray(dynamics.starts(states).filled)
    counts = [[1, 2, 3, 1, 2, 3, 4], [1, 2, 3, 4, 4, 4, 4], [1, 2, 3, 4, 4, 1, 1]]
    np.testing.assert_array_equal(filled.sum(-1), counts)
    assert (filled[..., -1]).all() and (np.diff(filled.astype(int), axis=-1) >= 0).all()


@pytest.mark.parametrize(
    "changes, why",
    [
        (dict(rssm__heads=5), "rssm.heads: got 5, must divide rssm.deter 36"),
        (dict(rssm__initial="learned"), "rssm.initial: learned begins a recurrent state"),
    ],
)
def test_what_does_not_go_with_it(changes, why):
    with pytest.raises(ConfigError, match=why):
        tiny_config(**SETTINGS | changes)


def test_rows_and_windows_do_not_know_of_each_other():
    dynamics, params = made(4)
    whole, _ = dynamics.observe(params, NOISE, dynamics.initial(B), **named(ACTION, SEEN, FIRST))
    alone, _ = dynamics.observe(params, NOISE[1:2], dynamics.initial(1), **named(ACTION[1:2], SEEN[1:2], FIRST[1:2]))
    assert_close(alone.deter[0], whole.deter[1])
    elsewhere = jax.tree.map(jnp.ones_like, dynamics.initial(B))
    everything = np.ones((B, T), bool)
    run = quick_jit(dynamics.observe)
    left, right = (run(params, NOISE, s, **named(ACTION, SEEN, everything)) for s in (elsewhere, dynamics.initial(B)))
    assert_trees_equal((left[0].deter, left[1]), (right[0].deter, right[1]))
