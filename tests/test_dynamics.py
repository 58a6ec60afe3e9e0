"""Dynamics from outside whose state is a window of what came before: nobody else knows what it is made of."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import KEY, MIXED, B, H, T, assert_trees_equal, quick_jit, random_batch, random_timestep, tiny_config
from flax import struct

from dreamer_jax.agent import make_agent
from dreamer_jax.interfaces import Dynamics
from dreamer_jax.models.latents import make_latent
from dreamer_jax.models.world_model import make_world_model
from dreamer_jax.ops.sequence import mask_first, scan_time

WINDOW, WIDTH = 3, 9


@struct.dataclass
class Memory:
    """The last entries, newest first, and the latent."""

    entries: Any  # [N, WINDOW, WIDTH]
    latent: Any  # [N, S, K]


@struct.dataclass
class Watched:
    """What a window of records leaves: an entry for each of them, instead of a state."""

    entry: Any  # [B, T, WIDTH]
    latent: Any
    summary: Any  # [B, T, WIDTH]
    age: Any  # [B, T] records since the episode began
    before: Any  # [B, T, WINDOW, WIDTH] entries from before the window, the same in every row


def make_window(config, /, *, tokens, action, dtype):
    """``h_t`` is the mean of the last entries, of which each is made of a latent and an action."""
    kind = make_latent(config.rssm)
    flat = int(np.prod(kind.shape))

    def init(key):
        shapes = {
            "entry": (flat + action, WIDTH),
            "prior": (WIDTH, kind.outputs),
            "posterior": (WIDTH + tokens, kind.outputs),
        }
        keys = jax.random.split(key, len(shapes))
        return {name: jax.random.normal(k, shape) / 3 for k, (name, shape) in zip(keys, shapes.items(), strict=True)}

    def initial(size):
        return Memory(jnp.zeros((size, WINDOW, WIDTH)), jnp.zeros((size, *kind.shape)))

    def recall(params, state, action):
        entry = jnp.tanh(jnp.concatenate([state.latent.reshape(len(action), -1), action], -1) @ params["entry"])
        return jnp.concatenate([entry[:, None], state.entries[:, :-1]], 1)

    def prior(params, noise, state, action):
        entries = recall(params, state, action)
        stats = kind.stats(entries.mean(1) @ params["prior"])
        return Memory(entries, kind.sample(stats, noise)), stats

    def posterior(params, noise, state, *, prev_action, tokens, is_first):
        state = jax.tree.map(lambda x: mask_first(x, is_first), state)
        entries = recall(params, state, mask_first(prev_action, is_first))
        stats = kind.stats(jnp.concatenate([entries.mean(1), tokens], -1) @ params["posterior"])
        return Memory(entries, kind.sample(stats, noise)), stats

    def observe(params, noise, state, *, prev_action, tokens, is_first):
        def one(carry, now):
            (state, age), (noise, action, token, first) = carry, now
            state, stats = posterior(params, noise, state, prev_action=action, tokens=token, is_first=first)
            age = jnp.where(first, 0, age + 1)
            return (state, age), (state.entries[:, 0], state.latent, state.entries.mean(1), age, stats)

        old = jnp.full(len(is_first), WINDOW)
        _, (*watched, stats) = scan_time(one, (state, old), (noise, prev_action, tokens, is_first))
        before = jnp.broadcast_to(state.entries[:, None], (*is_first.shape, WINDOW, WIDTH))
        return Watched(*watched, before), stats

    def starts(seen):
        length = seen.age.shape[1]
        line = jnp.concatenate([seen.before[:, 0, ::-1], seen.entry], 1)  # oldest first
        place = WINDOW + jnp.arange(length)[:, None] - jnp.arange(WINDOW)
        entries = jnp.where(jnp.arange(WINDOW)[:, None] <= seen.age[..., None, None], line[:, place], 0)
        return Memory(entries, seen.latent)

    def features(state):
        summary = state.summary if isinstance(state, Watched) else state.entries.mean(-2)
        return summary, state.latent.reshape(*summary.shape[:-1], -1)

    return Dynamics(
        init=init,
        initial=initial,
        start=lambda params, size: initial(size),
        noise=kind.noise,
        prior=prior,
        posterior=posterior,
        observe=observe,
        prior_stats=lambda params, seen: kind.stats(seen.summary @ params["prior"]),
        starts=starts,
        to_scan_carry=lambda state: state,
        features=features,
        redraw=lambda seen, stats, noise: seen.replace(latent=kind.sample(stats, noise)),
        exchange=lambda seen, other: seen.replace(latent=other.latent),
        compress=lambda state: {"entries": state.entries.astype(jnp.bfloat16), "latent": kind.compress(state.latent)},
        expand=lambda stored: Memory(jnp.float32(stored["entries"]), kind.expand(jnp.asarray(stored["latent"]))),
        latent=kind,
        feature_widths=(WIDTH, flat),
    )


CONFIG = tiny_config(kl__overshooting=3, optimizer__warmup=0)
MODEL = make_world_model(CONFIG, MIXED, dynamics=make_window)
AGENT = make_agent(CONFIG, MIXED, dynamics=make_window)


@pytest.fixture(scope="module")
def state():
    return AGENT.init(KEY)


@pytest.fixture(scope="module")
def batch(state):
    """Windows whose context was stored by acting."""
    return random_batch(MIXED, CONFIG).replace(context=jax.tree.map(np.asarray, acted(state)[2][-1]))


def acted(state):
    """Carries, actions and latents of some decisions."""
    policy, carry, found = quick_jit(AGENT.policy), AGENT.reset(state.params, B), []
    for step in range(4):
        timestep = random_timestep(MIXED, seed=step, size=B).replace(is_first=np.full(B, step == 0))
        carry, action, latents = policy(state.params, jax.random.fold_in(KEY, step), carry, timestep)
        found.append((carry, action, latents))
    return list(zip(*found, strict=True))


def test_replay_keeps_what_the_dynamics_yield(state):
    carries, actions, latents = acted(state)
    assert {name: leaf.shape for name, leaf in AGENT.latent_spec.items()} == {
        "entries": (WINDOW, WIDTH),
        "latent": (5,),
    }
    for name, leaf in AGENT.latent_spec.items():
        assert latents[-1][name].shape == (B, *leaf.shape) and str(latents[-1][name].dtype) == leaf.dtype
    assert actions[-1]["motors"].shape == (B, 2)
    assert np.asarray(carries[-1].latent.entries).any(-1).all()  # four decisions fill it


def test_starts_are_the_states_that_a_loop_of_steps_comes_to(state, batch):
    """They need the records before, those before the window, and nothing from before an episode."""
    params, dynamics = state.params["model"], MODEL.dynamics
    noise = dynamics.noise(KEY, np.arange(B), (T,))
    tokens, action = MODEL.encode(params, batch.observation), MODEL.action_vector(batch.prev_action)
    before = dynamics.expand(batch.context)
    inputs = {"prev_action": action, "tokens": tokens, "is_first": jnp.asarray(batch.is_first)}
    starts = dynamics.starts(dynamics.observe(params["rssm"], noise, before, **inputs)[0])
    for t in range(T):
        now = {name: x[:, t] for name, x in inputs.items()}
        before, _ = dynamics.posterior(params["rssm"], noise[:, t], before, **now)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[:, t], b, rtol=1e-4, atol=1e-5), starts, before)  # noqa: B023


def test_it_learns(state, batch):
    after, metrics, latents = quick_jit(AGENT.update)(state, KEY, batch)
    assert np.isfinite(metrics["loss/total"]) and metrics["loss/overshooting"] > 0
    both = (each.params["model"]["rssm"] for each in (state, after))
    assert not any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), *both)))
    assert {name: x.shape[2:] for name, x in latents.items()} == {"entries": (WINDOW, WIDTH), "latent": (5,)}
    # A window goes on from what an update stored.
    again = quick_jit(AGENT.update)(after, KEY, batch.replace(context={name: x[:, -1] for name, x in latents.items()}))
    assert np.isfinite(again[1]["loss/total"])


def test_it_is_reported_and_dreams(state, batch):
    metrics, dream = quick_jit(AGENT.report)(state, KEY, batch)
    assert metrics["kl"] > 0 and dream.reward.shape == (B, T)
    ahead = {name: x[:, 3:] for name, x in batch.prev_action.items()}
    seen = jax.tree.map(lambda x: x[:, :3], batch.replace(context=None)).replace(context=batch.context)
    own, given = (AGENT.dream(state.params, KEY, seen, actions, T - 3) for actions in (None, ahead))
    assert_trees_equal(jax.tree.map(lambda x: x[:, :3], own), jax.tree.map(lambda x: x[:, :3], given))
    assert own.reward.shape == (B, T) and H > 1
