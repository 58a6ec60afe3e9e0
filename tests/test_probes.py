"""The probes give the returns that they promise."""

import numpy as np
import pytest

from dreamer_jax.envs import probes


def returns(name, policy, episodes):
    env, totals = probes.make(name), []
    for seed in range(episodes):
        observation, _ = env.reset(seed=seed)
        assert env.observation_space.contains(observation)
        seen, total, over = [observation], 0.0, False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(policy(seen))
            assert env.observation_space.contains(observation)
            seen.append(observation)
            total, over = total + reward, terminated or truncated
        totals.append(total)
    return float(np.mean(totals))


BEST = {
    "delayed_reward": lambda seen: int(seen[0][0] > 0),
    "action_reward": lambda seen: int(seen[-1][0]),
    "continuous_target": lambda seen: seen[-1],
    "memory": lambda seen: int(seen[0][0] > 0),
    "long_memory": lambda seen: int(seen[0][0] > 0),
}


@pytest.mark.parametrize("name", probes.PROBES)
def test_optimal_and_random_returns(name):
    probe = probes.PROBES[name]
    probe.action.seed(0)
    idle = np.zeros(probe.action.shape)
    assert returns(name, BEST.get(name, lambda seen: idle), 20) == pytest.approx(probe.optimal, abs=1e-6)
    assert returns(name, lambda seen: probe.action.sample(), 600) == pytest.approx(probe.random, abs=0.15)


def test_ends():
    for name, end in (("time_limit", (False, True)), ("terminal_reward", (True, False))):
        env = probes.make(name)
        env.reset(seed=0)
        steps = []
        while not steps or not any(steps[-1][1:]):
            steps.append(env.step(0)[1:4])
        assert steps[-1][1:] == end
    assert [reward for reward, *_ in steps] == [0, 0, 0, 1]
