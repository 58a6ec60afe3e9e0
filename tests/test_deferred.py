"""A scan whose weight gradients are taken afterwards equals the plain one."""

import operator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import KEY, equations, quick_jit, random_batch, tiny

from dreamer_jax.models import rssm
from dreamer_jax.models.world_model import make_world_model
from dreamer_jax.ops.deferred import scan_weights_apart, use_weight


def step(params, carry, now):
    x, gate = now
    half = use_weight(jnp.matmul, carry, params["kernel"][:, : carry.shape[-1]])  # part of a weight
    half += carry @ params["unannounced"] + x * params["bias"]  # the bias is used in both ways
    carry = jnp.where(gate, 0, jnp.tanh(use_weight(operator.add, half + x, params["bias"])))
    return carry, use_weight(operator.mul, carry**2, params["scale"])


def plain(step, params, carry, inputs):
    return jax.lax.scan(lambda carry, now: step(params, carry, now), carry, inputs)


@pytest.mark.parametrize(("length", "rows", "width"), [(3, 2, 4), (7, 5, 6)])
def test_values_and_gradients_are_those_of_a_scan(length, rows, width):
    rng = np.random.default_rng(width)
    params = {"kernel": (width, 2 * width), "unannounced": (width, width), "bias": (width,), "scale": (width,)}
    params = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in params.items()}
    carry, xs = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((rows, width), (length, rows, width)))
    gate = jnp.asarray(rng.uniform(size=(length, 1, 1)) > 0.7)
    weights = rng.normal(size=(length, rows, width))

    def value_and_grads(scan):
        def total(params, carry, xs):
            last, outputs = scan(step, params, carry, (xs, gate))
            return (outputs * weights).sum() + (last**3).sum()

        return jax.value_and_grad(total, (0, 1, 2))(params, carry, xs)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        *map(value_and_grads, (scan_weights_apart, plain)),
    )


@pytest.mark.parametrize(("size", "length"), [(3, 6), (2, 9)])
def test_the_world_model_has_the_gradients_of_a_plain_scan(size, length, monkeypatch):
    agent = tiny()
    batch = random_batch(agent.spec, agent.config, size=size, length=length)

    def grads():
        def total(params):
            losses, _ = agent.model.loss(params, KEY, np.arange(size), batch)
            return sum(loss.mean() for loss in losses.values())

        return quick_jit(jax.grad(total))(agent.state.params["model"])

    apart = grads()
    monkeypatch.setattr("dreamer_jax.models.rssm.scan_weights_apart", plain)
    for a, b in zip(jax.tree.leaves(apart), jax.tree.leaves(grads()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-6 * max(1, float(np.abs(b).max())))


def observed(model, batch):
    """A function of the model's parameters through the posteriors of ``batch``."""

    def total(params):
        _, aux = model.loss(params, KEY, np.arange(len(batch.reward)), batch)
        return (aux.posterior.deter**2).sum() + sum((x**2).sum() for x in aux.posterior_stats.values())

    return total


def test_ordinary_layers_in_the_recurrent_part_have_the_gradients_of_a_plain_scan(monkeypatch):
    class WithDense(rssm.RSSMNetworks):
        def setup(self):
            super().setup()
            self.in_cell = nn.Dense(self.config.deter // self.config.blocks)
            self.in_prior, self.in_posterior = nn.Dense(self.config.deter), nn.Dense(self.config.deter)

        def next_deter(self, deter, cell, stoch, action_term):
            return super().next_deter(deter, cell + self.in_cell(cell), stoch, action_term)

        def prior_stats(self, deter):
            return super().prior_stats(deter + self.in_prior(deter))

        def posterior_stats(self, deter, token_term):
            return super().posterior_stats(deter + self.in_posterior(deter), token_term)

    monkeypatch.setattr(rssm, "RSSMNetworks", WithDense)
    config, spec, batch = tiny().config, tiny().spec, tiny().batch
    model = make_world_model(config, spec)
    params = jax.jit(model.init)(KEY)

    def grads():
        def total(params):
            losses, _ = model.loss(params, KEY, np.arange(len(batch.reward)), batch)
            return observed(model, batch)(params) + sum(loss.mean() for loss in losses.values())

        return quick_jit(jax.grad(total))(params)["rssm"]

    apart = grads()
    monkeypatch.setattr(rssm, "scan_weights_apart", plain)
    wanted = grads()
    for name in ("in_cell", "in_prior", "in_posterior"):
        assert np.abs(wanted[name]["kernel"]).max() > 1e-3
    for a, b in zip(jax.tree.leaves(apart), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-6 * max(1, float(np.abs(b).max())))


def test_the_backward_loop_has_no_weight_gradient():
    agent = tiny()
    total = observed(agent.model, agent.batch)
    params = agent.state.params["model"]
    shapes = {x.shape for x in jax.tree.leaves(params["rssm"])}
    loops = [eqn for eqn in equations(jax.make_jaxpr(jax.grad(total))(params).jaxpr) if eqn.primitive.name == "scan"]
    backward = [eqn for eqn in loops if eqn.params["reverse"]]
    assert len(backward) == 1
    carried = backward[0].outvars[: backward[0].params["num_carry"]]
    assert not {x.aval.shape for x in carried} & {shape for shape in shapes if len(shape) > 1}
