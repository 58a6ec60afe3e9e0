"""What the losses count: schedules of the KL and of free nats, and scales that the model learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import KEY, MIXED, quick_jit, random_batch, tiny, tiny_config

from dreamer_jax.agent import loss_scales, make_agent
from dreamer_jax.config.loading import replace
from dreamer_jax.config.schema import KLConfig
from dreamer_jax.models.balance import free_nats, kl_factor, make_balance

TINY = tiny()
LOSSES = {name: jnp.full((2, 3), 1.0 + i) for i, name in enumerate(loss_scales(TINY.config, MIXED))}


def test_schedules_of_the_kl():
    linear = KLConfig(schedule="linear", schedule_updates=4, beta=2.0)
    np.testing.assert_allclose([kl_factor(linear, jnp.int32(i)) for i in range(6)], [0, 0.5, 1, 1.5, 2, 2])
    cyclic = KLConfig(schedule="cyclic", schedule_updates=4)
    np.testing.assert_allclose([kl_factor(cyclic, jnp.int32(i)) for i in range(9)], [0, 0.5, 1, 1, 0, 0.5, 1, 1, 0])
    assert kl_factor(KLConfig(), jnp.int32(3)) is None
    assert kl_factor(KLConfig(beta=0.5), jnp.int32(3)) == 0.5


def test_free_nats_may_change():
    falling = KLConfig(free_nats=3.0, free_nats_final=1.0, free_nats_updates=4)
    np.testing.assert_allclose([free_nats(falling, jnp.int32(i)) for i in (0, 1, 4, 9)], [3, 2.5, 1, 1])
    assert free_nats(KLConfig(), jnp.int32(3)) == 1


def test_a_schedule_touches_the_kl_alone():
    config = replace(TINY.config, {"kl.schedule": "linear", "kl.schedule_updates": 4})
    scales = loss_scales(config, MIXED)
    balance = make_balance(config, MIXED, scales)
    parts = {name: scale * float(LOSSES[name].mean()) for name, scale in scales.items()}
    kl = parts["dyn"] + parts["rep"]
    for step, factor in ((0, 0), (1, 0.25), (9, 1)):
        expected = sum(parts.values()) - (1 - factor) * kl
        np.testing.assert_allclose(balance.total({}, jnp.int32(step), LOSSES), expected, rtol=1e-6)
        np.testing.assert_allclose(balance.metrics({}, jnp.int32(step))["scale/kl"], factor)


def test_learnt_scales():
    config = replace(TINY.config, {"loss.balance": "learned"})
    scales = loss_scales(config, MIXED)
    balance = make_balance(config, MIXED, scales)
    params = {"balance": {"observation": jnp.float32(0.5), "reward": jnp.float32(-1.0), "kl": jnp.float32(2.0)}}
    mean = {name: float(x.mean()) for name, x in LOSSES.items()}
    groups = {
        "observation": sum(mean[name] for name in MIXED.observation),
        "reward": mean["rew"],
        "kl": (scales["dyn"] * mean["dyn"] + scales["rep"] * mean["rep"]) / (scales["dyn"] + scales["rep"]),
    }
    rest = {name: scales[name] * mean[name] for name in ("con", "policy", "value", "repval")}
    expected = sum(rest.values())
    expected += sum(
        x * np.exp(-params["balance"][g]) + np.log1p(np.exp(params["balance"][g])) for g, x in groups.items()
    )
    np.testing.assert_allclose(balance.total(params, jnp.int32(0), LOSSES), expected, rtol=1e-6)
    # The minimum of L exp(-s) + ln(1 + exp(s)) over s: what the part counts then falls as its loss grows.
    s = np.linspace(-6, 6, 20_001)
    best = {x: s[np.argmin(x * np.exp(-s) + np.log1p(np.exp(s)))] for x in (0.1, 1.0, 10.0)}
    for x, where in best.items():
        gradient = jax.grad(
            lambda s, x=x: balance.total({"balance": dict.fromkeys(groups, s)}, 0, {"rew": jnp.array(x)})
        )
        np.testing.assert_allclose(gradient(jnp.float32(where)), 0, atol=1e-3)
    assert best[0.1] < best[1.0] < best[10.0]


@pytest.mark.parametrize("order", [pytest.param("joint", marks=pytest.mark.slow), "model_first"])
def test_an_update_learns_them(order):
    settings = {"loss.balance": "learned", "optimizer.order": order, "optimizer.warmup": 0}
    config = replace(tiny_config(), settings | {"behavior.replay_value_grad": order == "joint"})
    agent = make_agent(config, MIXED)
    state = agent.init(KEY)
    after, metrics, _ = quick_jit(agent.update)(state, KEY, random_batch(MIXED, config, size=2))
    assert {name: float(metrics[f"scale/{name}"]) for name in ("observation", "reward", "kl")} == {
        "observation": 1.0,
        "reward": 1.0,
        "kl": 1.0,
    }
    moved = jax.tree.map(lambda a, b: float(b - a), state.params["model"]["balance"], after.params["model"]["balance"])
    assert all(change != 0 for change in moved.values()), moved
    assert moved["observation"] > 0  # its loss is above its minimum at s = 0, so that it counts less
