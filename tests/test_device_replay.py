"""The ring of a device gives what the host's gives, bit for bit, for the same records and the same random numbers."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from agents import quickly
from test_replay import LATENTS, SPEC, record, same

from dreamer_jax.config.schema import ConfigError, ReplayConfig
from dreamer_jax.replay import Replay, host
from dreamer_jax.replay.device import make_device_replay
from dreamer_jax.replay.plan import plan_on_device

ENVS, LENGTH, BATCH = 3, 4, 5


class SameNumbers:
    """Gives the host's ring what the device draws: attempt ``n`` is of ``fold_in(key, n)``."""

    def __init__(self, key):
        self.key, self.attempt = key, -1

    def integers(self, low, high, size):
        self.attempt += 1
        return np.asarray(jax.random.randint(jax.random.fold_in(self.key, self.attempt), (size,), low, high), np.int64)


@pytest.fixture
def pair(tmp_path, monkeypatch):
    monkeypatch.setattr(host.np.random, "default_rng", lambda words: SameNumbers(jax.random.key(words[1])))

    def make(rows=24, **options):
        shared = dict(num_envs=ENVS, batch_length=LENGTH, **options)
        ring = make_device_replay(SPEC, LATENTS, rows=rows, **shared)
        return Replay(tmp_path / "ring", SPEC, LATENTS, capacity=rows * ENVS, seed=0, **shared), ring

    return make


def episodes(row, salt=0):
    """Records of episodes of other lengths in each stream, some of which are abandoned."""
    timestep, action, latents = record(row, ENVS, salt=salt)
    first = np.array([row % 5 == 0, row % 9 == 2 or row == 0, row % 7 == 0])
    last = np.array([row % 5 == 4, row % 18 == 1, row % 7 == 6])
    return timestep.replace(is_first=first, is_last=last, is_terminal=last & (row % 2 == 0)), action, latents


def compare(batch, other):
    leaves, others = (jax.tree.leaves(jax.device_get(tree)) for tree in (batch, other))
    assert len(leaves) == len(others)
    assert all(same(np.asarray(a), np.asarray(b)) for a, b in zip(leaves, others, strict=True))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(dict(online=True), marks=pytest.mark.slow),
        pytest.param(dict(online=False, mark_first=True), marks=pytest.mark.slow),
        dict(online=True, validation_fraction=0.25),
    ],
    ids="online uniform held_out".split(),
)
@quickly()
def test_batches_are_the_hosts(pair, options):
    """Windows at any offset and across episodes, the queue, latents that were put back, as the ring wraps."""
    replay, device = pair(rows=64 if "validation_fraction" in options else 24, **options)
    append, write_back = jax.jit(device.append), jax.jit(device.write_back)
    sample = jax.jit(partial(device.sample), static_argnums=2, static_argnames=("online", "held_out"))
    ring, counter, queued, held = device.init(), 0, [], 0
    assert not device.windows(ring)
    for row in range(180):
        replay.append(*episodes(row))
        ring = append(ring, *episodes(row))
        assert device.windows(ring) == replay.windows
        if row < 20 or row % 3:
            continue
        for kind in (dict(), dict(online=False), dict(held_out=True)):
            counter += 1
            ring, batch, index, enough = sample(ring, jax.random.key(counter), BATCH, **kind)
            try:
                expected, place = replay.sample(BATCH, counter, **kind)
            except ValueError:
                assert kind.get("held_out") and not enough
                continue
            assert enough and (np.asarray(index) == place).all()
            compare(batch, expected)
            held += kind.get("held_out", False)
            latents = jax.tree.map(lambda x: x[:BATCH], episodes(0, salt=counter)[2])
            latents = {name: np.stack([np.resize(x, (LENGTH, *x.shape[1:]))] * BATCH) for name, x in latents.items()}
            ring = write_back(ring, index, latents)
            replay.write_back(place, latents)
        queued.append(replay.queued)
        assert ring.taken == replay.state()["taken"]
    assert (max(queued) > 0) == options["online"]
    assert (held > 0) == ("validation_fraction" in options)
    for name, array in ring.fields.items():
        for env in range(ENVS):
            there = np.asarray(array)[np.asarray(replay.rows) % len(array), env]
            assert same(there, replay.column(name, env, replay.rows))


@quickly()
def test_windows_that_have_left_the_ring_leave_the_queue(pair):
    """The first batch is drawn when the ring has wrapped more than once: the queue begins with what is there."""
    replay, device = pair(online=True)
    append, ring = jax.jit(device.append), device.init()
    for row in range(60):
        replay.append(*episodes(row))
        ring = append(ring, *episodes(row))
    ring, batch, index, enough = jax.jit(device.sample, static_argnums=2)(ring, jax.random.key(1), BATCH)
    expected, place = replay.sample(BATCH, 1)
    assert enough and (np.asarray(index) == place).all() and (place[:, 1] >= 60 - 24).all()
    compare(batch, expected)
    assert ring.taken == replay.state()["taken"]


def test_latents_of_evicted_rows_are_left_out():
    device = make_device_replay(SPEC, LATENTS, num_envs=ENVS, rows=6, batch_length=LENGTH, online=False)
    ring = replace(device.init(), rows=9)
    index = np.array([[1, 1], [2, 4]], np.int32)  # rows 2 to 5 and 5 to 8, of which 3 to 8 are kept
    ones = {"deter": np.ones((2, LENGTH, 4), np.float32), "stoch": np.full((2, LENGTH, 3), 255, np.uint8)}
    stored = np.asarray(device.write_back(ring, index, ones).fields["latents/stoch"])[..., 0]
    assert (stored == 255).T.tolist() == [[False] * 6, [False] * 3 + [True] * 3, [True] * 3 + [False, False, True]]


def test_it_is_planned_and_refused():
    sizes = dict(num_envs=2, batch_length=4)
    config = ReplayConfig(capacity=1000)
    plan = plan_on_device(config, SPEC, LATENTS, **sizes, total_records=10_000, free=10**6)
    ring = make_device_replay(SPEC, LATENTS, num_envs=2, rows=plan.records // 2, batch_length=4, online=True)
    arrays = jax.eval_shape(ring.init).fields.values()
    assert plan.records == 1000 and plan.total_bytes == sum(x.size * x.dtype.itemsize for x in arrays)
    assert plan_on_device(config, SPEC, LATENTS, **sizes, total_records=100, free=None).records == 100
    with pytest.raises(ConfigError, match=r"on the device, but 20 kB free there; set replay.capacity"):
        plan_on_device(config, SPEC, LATENTS, **sizes, total_records=10_000, free=20_000)
    with pytest.raises(ConfigError, match="a window needs 5"):
        plan_on_device(ReplayConfig(capacity=8), SPEC, LATENTS, **sizes, total_records=10_000, free=None)
    with pytest.raises(ConfigError, match=r"replay.capacity: 2,\d+,\d+,\d+ records are more than a device counts"):
        plan_on_device(ReplayConfig(capacity=2**31), SPEC, LATENTS, **sizes, total_records=2**33, free=None)
