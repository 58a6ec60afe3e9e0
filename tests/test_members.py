"""Several agents updated by one program learn what each learns by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import MIXED, random_batch, tiny
from test_parallel import CONFIG, ROWS, SURE, assert_close, named

from dreamer_jax.agent import make_agent
from dreamer_jax.config.loading import replace
from dreamer_jax.config.sweep import numbers_of
from dreamer_jax.optim import make_optimizer
from dreamer_jax.training.members import Program
from dreamer_jax.training.parallel import Updates

UPDATES = 3
CONFIGS = [
    replace(CONFIG, {"seed": seed, "optimizer.learning_rate": rate, "kl.rep": rep})
    for seed, rate, rep in ((0, 4e-5, 0.1), (1, 4e-5, 0.3), (2, 1e-4, 0.1))
]


@pytest.fixture(scope="module")
def learnt():
    """Metrics, parameters and a first gradient of every member: together, and of each alone."""
    agents = [make_agent(config, MIXED) for config in CONFIGS]
    keys = [jax.random.key(config.seed) for config in CONFIGS]
    batches = [
        [
            jax.tree.map(lambda x: x[None], random_batch(MIXED, CONFIG, 10 * k + i, size=ROWS))
            for i in range(len(agents))
        ]
        for k in range(UPDATES)
    ]

    def begun():
        start = tiny().state
        start = start.replace(opt_state=make_optimizer(CONFIG.optimizer).init(start.params))
        return [jax.tree.map(jnp.array, start) for _ in agents]  # each gives its own away

    program = Program(lambda numbers: make_agent(replace(CONFIG, numbers), MIXED), numbers_of(CONFIGS))
    states, together = begun(), [{} for _ in agents]
    for k in range(UPDATES):
        found = program.call(states, keys, batches[k], program.numbers)
        states = [state for state, _ in found]
        for i, (state, results) in enumerate(found):
            together[i] |= described(k, state, program.packing.unpack(np.asarray(results))[0])
    alone = []
    for i, (agent, state) in enumerate(zip(agents, begun(), strict=True)):
        updates, mine = Updates(agent, 1), {}
        for k in range(UPDATES):
            state, results = updates(state, keys[i], batches[k][i])
            mine |= described(k, state, updates.fetch(results)[0])
        alone.append(mine)
    return together, alone


def described(k, state, metrics):
    """Copies, since the next update takes the memory."""
    found = {f"{k}/{name}": np.array(value) for name, value in metrics.items()}
    found |= {f"{k}/params/{i}": np.array(x) for i, x in enumerate(jax.tree.leaves(state.params))}
    found |= {f"{k}/moments/{name}": np.array(x) for name, x in state.moments.items()}
    if k == 0:
        square = jax.tree.leaves(state.opt_state[1].nu)
        found |= {f"grads/{i}": np.sqrt(np.array(x) / (1 - CONFIG.optimizer.beta2)) for i, x in enumerate(square)}
    return found


@pytest.mark.parametrize("member", range(len(CONFIGS)))
def test_a_first_update_is_that_of_each_alone(learnt, member):
    together, alone = (found[member] for found in learnt)
    for starts, rtol, atol in (
        (("0/loss", "0/kl", "0/ret", "0/adv", "0/opt", "0/moments"), 1e-5, 1e-5),
        (("grads",), 0, 3e-5),
    ):
        assert_close(named(together, *starts), named(alone, *starts), rtol=rtol, atol=atol)
    shares = []
    for name, value in named(alone, "0/params").items():
        size = alone[name.replace("0/params", "grads")]
        sure = size > SURE * size.max()  # elsewhere rounding decides which way a first step goes
        shares.append(sure.mean())
        np.testing.assert_allclose(together[name][sure], value[sure], rtol=1e-6, atol=1e-6)
    assert np.mean(shares) > 0.9


@pytest.mark.parametrize("member", range(len(CONFIGS)))
def test_updates_that_follow(learnt, member):
    together, alone = (found[member] for found in learnt)
    for k in range(1, UPDATES):
        starts = f"{k}/loss", f"{k}/moments", f"{k}/opt/grad_norm"
        assert_close(named(together, *starts), named(alone, *starts), rtol=2e-3, atol=2e-4)


def test_members_differ(learnt):
    together, _ = learnt
    assert len({found["1/loss/total"].tobytes() for found in together}) == len(CONFIGS)
