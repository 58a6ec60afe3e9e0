"""A whole training in one ``lax.scan``: a pendulum written in JAX, a replay of arrays, and updates.

python examples/one_scan.py [STEPS [PARAMS.msgpack]]
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import serialization

from dreamer_jax import load_config, make_agent
from dreamer_jax.replay import align
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import TimeStep

STEPS = 3000
ENVS, LENGTH, ROWS = 4, 100, 4000  # environments, steps of an episode, records kept of each environment
SPEC = EnvSpec({"pendulum": ArraySpec((3,), "float32")}, {"torque": ArraySpec((1,), "float32")})
CONFIG = load_config(files=[Path(__file__).parent.parent / "configs" / "pendulum.yaml"])
AGENT = make_agent(CONFIG, SPEC)


def observe(pendulum):
    """Cosine and sine of the angle from upright, and its speed, from angle and speed [ENVS, 2]."""
    angle, speed = pendulum.T
    return {"pendulum": jnp.stack([jnp.cos(angle), jnp.sin(angle), speed], 1)}


def reset(key):
    """Pendulums at random angles, and the record that begins their episodes."""
    pendulum, false = jax.random.uniform(key, (ENVS, 2), minval=-1) * jnp.array([jnp.pi, 1]), jnp.zeros(ENVS, bool)
    return pendulum, TimeStep(observe(pendulum), jnp.zeros(ENVS), ~false, false, false)


def swing(pendulum, action):
    """The next angles and speeds, and the rewards, of Gymnasium's Pendulum-v1; the torque acts for two of its steps."""
    torque, reward = 2 * jnp.clip(action["torque"][:, 0], -1, 1), 0.0
    angle, speed = pendulum.T
    for _ in range(2):
        upright = (angle + jnp.pi) % (2 * jnp.pi) - jnp.pi
        reward -= upright**2 + 0.1 * speed**2 + 0.001 * torque**2
        speed = jnp.clip(speed + (15 * jnp.sin(angle) + 3 * torque) * 0.05, -8, 8)
        angle += speed * 0.05
    return jnp.stack([angle, speed], 1), reward


def step(pendulum, action, count, key):
    """Swing; after LENGTH steps all begin anew, with a record on which the action has no effect."""
    start, first = reset(key)
    pendulum, reward = swing(pendulum, action)
    begins, last = count % (LENGTH + 1) == 0, count % (LENGTH + 1) == LENGTH
    flags = jnp.zeros(ENVS, bool)
    now = TimeStep(observe(pendulum), reward, flags, flags | last, flags)
    return jax.tree.map(lambda new, old: jnp.where(begins, new, old), (start, first), (pendulum, now))


def windows(ring, count, key):
    """``batch_size`` windows of the last ROWS of ``count`` records, as training rows; record n is ring[n % ROWS]."""
    size, length = CONFIG.train.batch_size, CONFIG.train.batch_length + 1
    env_key, row_key = jax.random.split(key)
    env = jax.random.randint(env_key, (size, 1), 0, ENVS)
    begin = jax.random.randint(row_key, (size, 1), jnp.maximum(0, count - ROWS), count - length + 1)
    rows = (begin + jnp.arange(length)) % ROWS
    return align(jax.tree.map(lambda x: x[rows, env], ring))


def train(key, steps):
    """Train for ``steps`` steps of all environments, an update for each; the mean rewards [steps] and the state."""
    init_key, env_key, key = jax.random.split(key, 3)
    state, (pendulum, timestep) = AGENT.init(init_key), reset(env_key)
    carry = AGENT.reset(state.params, ENVS)

    def record(timestep, action, latents):
        """As replay keeps it: the action is the one taken after the observation of its record."""
        names = ("observation", "reward", "is_first", "is_last", "is_terminal")
        stored = {name: getattr(timestep, name) for name in names}
        return stored | {"action": action, "latents": latents}

    _, action, latents = AGENT.policy(state.params, key, carry, timestep, "train")
    ring = jax.tree.map(lambda x: jnp.zeros((ROWS, *x.shape), x.dtype), record(timestep, action, latents))
    enough = CONFIG.train.start_windows + CONFIG.train.batch_length

    def one(before, count):
        state, pendulum, timestep, carry, ring = before
        act_key, env_key, draw_key, update_key = jax.random.split(jax.random.fold_in(key, count), 4)
        carry, action, latents = AGENT.policy(state.params, act_key, carry, timestep, "train")
        new = record(timestep, action, latents)
        ring = jax.tree.map(lambda rows, row: rows.at[count % ROWS].set(row), ring, new)
        pendulum, timestep = step(pendulum, action, count + 1, env_key)

        def update(state):
            return AGENT.update(state, update_key, windows(ring, count + 1, draw_key))[0]

        state = jax.lax.cond(count >= enough, update, lambda state: state, state)
        return (state, pendulum, timestep, carry, ring), timestep.reward.mean()

    (state, *_), rewards = jax.lax.scan(one, (state, pendulum, timestep, carry, ring), jnp.arange(steps))
    return rewards, state


if __name__ == "__main__":
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else STEPS
    rewards, state = jax.jit(train, static_argnums=1)(jax.random.key(0), steps)
    tenth = max(1, steps // 10)
    for begin in range(0, steps, tenth):
        print(f"steps {begin:5} on: mean reward {rewards[begin : begin + tenth].mean():6.2f}")
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_bytes(serialization.to_bytes(state.params))
