"""Updates compiled for 1, 2, 4 and 8 devices that share the same batch give the same numbers."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from agents import KEY, MIXED, many_devices, random_batch, tiny, tiny_config

from dreamer_jax.agent import make_agent
from dreamer_jax.config.schema import Config
from dreamer_jax.devices.data_parallel import Updates, axis_of
from dreamer_jax.optim import make_optimizer

DEVICES, ROWS = (1, 2, 4, 8), 16
UPDATES = (1, 1, 1, 2)
"""Of each dispatch: three alone, then two together."""
# Not clipped: that would hide a gradient that is too large. From the first update on at the whole rate.
CONFIG = tiny_config(optimizer__agc=0.0, optimizer__warmup=0)
RATE, SURE = CONFIG.optimizer.learning_rate, 2e-6
"""A first step of LaProp is a sign, which digits decide where a gradient is less than this of its tensor's largest."""

ALL = """
import sys
import numpy as np
import test_data_parallel
for devices in test_data_parallel.DEVICES:
    np.savez(f"{sys.argv[1]}/{devices}.npz", **test_data_parallel.learn(devices))
"""


def learn(devices: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
    """What ``follow`` finds of a batch that so many devices share. ``rows`` of each are this process's."""
    return follow(Updates(make_agent(CONFIG, MIXED, axis_name=axis_of(devices)), devices), CONFIG, KEY, rows=rows)


def follow(
    updates: Updates, config: Config, key: jax.Array, first: int = 0, rows: slice = slice(None)
) -> dict[str, np.ndarray]:
    """Several dispatches: results, moments, parameters, gradients of the first; are replicas equal, buffers gone?

    The gradients are the update's own, with the others' shares in them: LaProp's first mean square has their size,
    its first mean their sign.
    """
    optimizer, state = make_optimizer(config.optimizer), tiny().state
    state = updates.place(jax.device_put(state.replace(opt_state=optimizer.init(state.params))))
    batches = iter(random_batch(MIXED, config, seed, size=ROWS) for seed in range(first, first + sum(UPDATES)))
    found = {}
    for call, together in enumerate(UPDATES):
        batch = jax.tree.map(lambda *xs: np.stack(xs)[:, rows], *(next(batches) for _ in range(together)))
        before, batch = state, jax.block_until_ready(updates.put(batch))
        state, results = jax.block_until_ready(updates(before, key, batch))
        metrics, latents = updates.fetch(results)
        # Copied, since the next update takes its memory.
        whole = jax.tree.map(np.array, updates.taken(state))
        found |= {f"{call}/{name}": value for name, value in metrics.items()}
        found |= {f"{call}/moments/{name}": value for name, value in whole.moments.items()}
        found |= {f"{call}/latents/{name}": np.asarray(value, np.float32) for name, value in latents.items()}
        found[f"{call}/given_away"] = np.array([x.is_deleted() for x in jax.tree.leaves(before)])
        found[f"{call}/replicas"] = np.array([same(x) for x in jax.tree.leaves(state)])
        if call == 0:
            square, mean = (jax.tree.leaves(x) for x in (whole.opt_state[1].nu, whole.opt_state[2].ema))
            sizes = [np.sqrt(x / (1 - config.optimizer.beta2)) for x in square]
            found |= {f"grads/{i}": size * np.sign(x) for i, (size, x) in enumerate(zip(sizes, mean, strict=True))}
            found |= {f"params/{i}": x for i, x in enumerate(jax.tree.leaves(whole.params))}
    return found | {"step": whole.step, "metrics": np.array(list(metrics))}


def same(x: jax.Array) -> bool:
    """Bit for bit, on all devices."""
    first, *others = (np.asarray(shard.data).tobytes() for shard in x.addressable_shards)
    return all(other == first for other in others)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """What ``learn`` found, by number of devices."""
    path = tmp_path_factory.mktemp("devices")
    subprocess.run([sys.executable, "-c", ALL, str(path)], env=many_devices(max(DEVICES)), check=True)
    return {devices: dict(np.load(path / f"{devices}.npz")) for devices in DEVICES}


def named(found, *starts):
    """The arrays whose names begin so."""
    return {name: value for name, value in found.items() if name.startswith(starts)}


def assert_close(found, right, rtol, atol):
    """``atol`` is relative to each array's largest."""
    assert found.keys() == right.keys() and right
    for name, value in right.items():
        largest = np.abs(value).max()
        np.testing.assert_allclose(found[name], value, rtol=rtol, atol=atol * largest, err_msg=name)


others = pytest.mark.parametrize("devices", DEVICES[1:])


@others
def test_losses_and_metrics_of_one_update(learnt, devices):
    one = {name: learnt[1][f"0/{name}"] for name in learnt[1]["metrics"]}
    assert len(named(one, "loss/")) == 11 and one["loss/total"].shape == (1,) and len(one) > 30
    assert_close({name: learnt[devices][f"0/{name}"] for name in one}, one, rtol=1e-5, atol=1e-5)


@others
def test_gradients(learnt, devices):
    one = named(learnt[1], "grads")
    assert len(one) > 50 and all(np.abs(grad).max() > 1e-9 for grad in one.values())
    assert_close(named(learnt[devices], "grads"), one, rtol=0, atol=3e-5)


@others
def test_parameters_after_a_step_where_its_sign_is_sure(learnt, devices):
    shares = []
    for name, value in named(learnt[1], "params").items():
        size = np.abs(learnt[1][name.replace("params", "grads")])
        sure = size > SURE * size.max()
        shares.append(sure.mean())
        np.testing.assert_allclose(learnt[devices][name][sure], value[sure], rtol=1e-6, atol=RATE / 100, err_msg=name)
    assert np.mean(shares) > 0.9


@others
def test_the_range_of_returns(learnt, devices):
    one = named(learnt[1], "0/moments")
    assert one["0/moments/high"] - one["0/moments/low"] > 1e-3
    assert_close(named(learnt[devices], "0/moments"), one, rtol=1e-5, atol=0)


@others
def test_latents_are_in_the_order_of_the_rows(learnt, devices):
    one = named(learnt[1], "0/latents")
    assert one["0/latents/stoch"].shape[:2] == (1, ROWS)
    assert_close(named(learnt[devices], "0/latents"), one, rtol=0, atol=1e-2)  # bfloat16


@others
def test_updates_that_follow(learnt, devices):
    """After a step that is a sign, hence not the last digits."""
    assert learnt[devices]["step"] == learnt[1]["step"] == sum(UPDATES)
    starts = [f"{call}/{kind}" for call in range(1, len(UPDATES)) for kind in ("loss", "moments", "opt/grad_norm")]
    assert_close(named(learnt[devices], *starts), named(learnt[1], *starts), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("devices", DEVICES)
def test_replicas_stay_equal_and_old_states_are_given_away(learnt, devices):
    for call in range(len(UPDATES)):
        assert learnt[devices][f"{call}/replicas"].all(), call
        assert learnt[devices][f"{call}/given_away"].all(), call


THREE = """
import jax
from dreamer_jax.devices.data_parallel import check_devices
check_devices(3)
print(jax.device_count())
"""


def test_a_cpu_becomes_as_many_devices_as_are_wanted():
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    found = subprocess.run([sys.executable, "-c", THREE], env=environment, check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["3"]


AS_MANY_AS_CAN = """
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.devices.data_parallel import check_devices, want_devices
want_devices(8)
print([check_devices(0, size) for size in (16, 12, 8, 7, 2, 1)])
for devices, size in ((5, 16), (8, 8), (9, 18)):
    try:
        check_devices(devices, size)
    except ConfigError as error:
        print(error)
"""


def test_as_many_devices_share_a_batch_as_can_do_so_in_equal_parts_of_two_or_more():
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    found = subprocess.run(
        [sys.executable, "-c", AS_MANY_AS_CAN], env=environment, check=True, capture_output=True, text=True
    )
    many, uneven, single, missing = found.stdout.splitlines()
    assert many == "[8, 6, 4, 1, 1, 1]"
    assert "5 x cpu are 5 devices, which leaves 3.2 of train.batch_size 16 windows to each" in uneven
    assert "8 x cpu are 8 devices, which leaves 1 of train.batch_size 8 windows to each" in single
    assert missing == "train.devices: got 9, JAX finds 8 (cpu)"
