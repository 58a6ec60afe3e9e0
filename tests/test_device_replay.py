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
from dreamer_jax.replay.curious import make_curiosity
from dreamer_jax.replay.device import BEFORE, PRIORITY, VISITS, WITH, make_device_replay
from dreamer_jax.replay.plan import plan_on_device
from dreamer_jax.replay.smoothing import make_kernel
from dreamer_jax.types import MODEL_LOSS

ENVS, LENGTH, BATCH = 3, 4, 5


class SameNumbers:
    """Gives the host's ring what the device draws: attempt ``n`` is of ``fold_in(key, n)``."""

    def __init__(self, key):
        self.key, self.attempt = key, -1

    def integers(self, low, high, size=None):
        self.attempt += 1
        shape = np.broadcast_shapes(np.shape(low), np.shape(high)) if size is None else (size,)
        return np.asarray(jax.random.randint(jax.random.fold_in(self.key, self.attempt), shape, low, high), np.int64)


@pytest.fixture
def pair(tmp_path, monkeypatch):
    monkeypatch.setattr(host.np.random, "default_rng", lambda words: SameNumbers(jax.random.key(words[1])))

    def make(rows=24, **options):
        shared, config = dict(num_envs=ENVS, batch_length=LENGTH), ReplayConfig(**options)
        names = "online validation_fraction sampling ends recent mark_first".split()
        given = {name: getattr(config, name) for name in names} | {"smoothing": make_kernel(config)}
        ring = make_device_replay(SPEC, LATENTS, config, rows=rows, **shared)
        return Replay(tmp_path / "ring", SPEC, LATENTS, capacity=rows * ENVS, seed=0, **shared, **given), ring

    return make


def episodes(row, salt=0):
    """Records of episodes of other lengths in each stream, some of which are abandoned."""
    timestep, action, latents = record(row, ENVS, salt=salt)
    first = np.array([row % 5 == 0, row % 9 == 2 or row == 0, row % 7 == 0])
    last = np.array([row % 5 == 4, row % 18 == 1, row % 7 == 6])
    return timestep.replace(is_first=first, is_last=last, is_terminal=last & (row % 2 == 0)), action, latents


def compare(batch, other, rounded=()):
    for name in rounded:
        np.testing.assert_allclose(getattr(batch, name), getattr(other, name), rtol=1e-5, atol=1e-6)
        batch, other = (tree.replace(**{name: np.zeros(())}) for tree in (batch, other))
    leaves, others = (jax.tree.leaves(jax.device_get(tree)) for tree in (batch, other))
    assert len(leaves) == len(others)
    assert all(same(np.asarray(a), np.asarray(b)) for a, b in zip(leaves, others, strict=True))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(dict(online=True), marks=pytest.mark.slow),
        pytest.param(dict(online=False, mark_first=True), marks=pytest.mark.slow),
        dict(online=True, validation_fraction=0.25),
        dict(sampling="episodes", recent=0.4, validation_fraction=0.25),
        pytest.param(dict(sampling="episodes", ends="skipped"), marks=pytest.mark.slow),
        pytest.param(dict(sampling="episodes", ends="prioritized", mark_first=True), marks=pytest.mark.slow),
        dict(online=True, smoothing="gaussian", smoothing_sigma=1.0),
        pytest.param(dict(online=False, smoothing="ema"), marks=pytest.mark.slow),
    ],
    ids="online uniform held_out episodes skipped prioritized gaussian ema".split(),
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
        if row < 20 or row % 3:
            continue
        assert device.windows(ring) == replay.windows
        for kind in (dict(), dict(online=False), dict(held_out=True)):
            counter += 1
            ring, batch, index, enough = sample(ring, jax.random.key(counter), BATCH, **kind)
            try:
                expected, place = replay.sample(BATCH, counter, **kind)
            except ValueError:
                assert not enough and (kind.get("held_out") or replay.windows == 0)
                continue
            assert enough and (np.asarray(index) == place).all()
            compare(batch, expected, rounded=("reward",) if "smoothing" in options else ())
            held += kind.get("held_out", False)
            latents = jax.tree.map(lambda x: x[:BATCH], episodes(0, salt=counter)[2])
            latents = {name: np.stack([np.resize(x, (LENGTH, *x.shape[1:]))] * BATCH) for name, x in latents.items()}
            ring = write_back(ring, index, latents)
            replay.write_back(place, latents)
        queued.append(replay.queued)
        assert ring.taken == replay.state()["taken"]
    assert (max(queued) > 0) == options.get("online", True)
    assert (held > 0) == ("validation_fraction" in options)
    for name, array in ring.fields.items():
        if name in (BEFORE, WITH):
            continue
        for env in range(ENVS):
            there = np.asarray(array)[np.asarray(replay.rows) % len(array), env].view(device.fields[name].dtype)
            assert same(there, replay.column(name, env, replay.rows))


@quickly()
@pytest.mark.parametrize("validation_fraction", [0.0, 0.25])
def test_windows_are_drawn_by_priority(tmp_path, validation_fraction):
    """The same priorities as the host's after the same batches, and windows as often as these say."""
    config = ReplayConfig(
        online=False, sampling="curious", curious_novelty=3.0, validation_fraction=validation_fraction
    )
    rows, shared = 300, dict(num_envs=ENVS, batch_length=LENGTH)  # more than one block
    curiosity = make_curiosity(config)
    given = dict(online=False, sampling="curious", validation_fraction=validation_fraction, curiosity=curiosity)
    replay = Replay(tmp_path / "ring", SPEC, LATENTS, capacity=rows * ENVS, seed=0, **shared, **given)
    device = make_device_replay(SPEC, LATENTS, config, rows=rows, **shared)
    append, write_back = jax.jit(device.append), jax.jit(device.write_back)
    sample = jax.jit(device.sample, static_argnums=2, static_argnames="online")
    ring, rng = device.init(), np.random.default_rng(0)
    for row in range(340):
        replay.append(*episodes(row))
        ring = append(ring, *episodes(row))
        if row % 4 == 0 and row > 2 * LENGTH:
            ring, _, index, enough = sample(ring, jax.random.key(row), BATCH)
            latents = {name: np.zeros((BATCH, LENGTH, *leaf.shape), leaf.dtype) for name, leaf in LATENTS.items()}
            latents[MODEL_LOSS] = rng.normal(size=(BATCH, LENGTH)).astype(np.float32)
            assert enough
            ring = write_back(ring, index, latents)
            replay.write_back(np.asarray(index, np.int64), latents)
    known, slots = replay._curious, np.arange(40, 340) % rows
    expected = np.where(known.seen >= LENGTH + 1, curiosity.priority(known.visits, known.loss.astype(float)), 0)
    expected[:, slots[:LENGTH]] = 0  # windows that begin before the ring
    assert (known.visits == np.asarray(ring.fields[VISITS]).T).all() and known.visits.max() > 1
    np.testing.assert_allclose(np.asarray(ring.fields[PRIORITY]).T, expected, rtol=1e-5)
    _, _, index, enough = sample(ring, jax.random.key(9), 60_000)
    env, row = np.asarray(index).T
    assert enough and row.min() >= 40 and row.max() == 339 - LENGTH
    drawn = np.zeros_like(expected)
    np.add.at(drawn, (env, (row + LENGTH) % rows), 1)
    chance = 60_000 * expected / expected.sum()
    assert (drawn[chance == 0] == 0).all() and (np.abs(drawn - chance) < 5.5 * np.sqrt(chance) + 1).all()
    # Reports look at all alike.
    _, _, index, _ = sample(ring, jax.random.key(9), 4000, online=False)
    assert len(np.unique(np.asarray(index), axis=0)) > 600


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
    device = make_device_replay(SPEC, LATENTS, ReplayConfig(online=False), num_envs=ENVS, rows=6, batch_length=LENGTH)
    ring = replace(device.init(), rows=9)
    index = np.array([[1, 1], [2, 4]], np.int32)  # rows 2 to 5 and 5 to 8, of which 3 to 8 are kept
    ones = {"deter": np.ones((2, LENGTH, 4), np.float32), "stoch": np.full((2, LENGTH, 3), 255, np.uint8)}
    stored = np.asarray(device.write_back(ring, index, ones).fields["latents/stoch"])[..., 0]
    assert (stored == 255).T.tolist() == [[False] * 6, [False] * 3 + [True] * 3, [True] * 3 + [False, False, True]]


def test_it_is_planned_and_refused():
    sizes = dict(num_envs=2, batch_length=4)
    config = ReplayConfig(capacity=1000)
    plan = plan_on_device(config, SPEC, LATENTS, **sizes, total_records=10_000, free=10**6)
    ring = make_device_replay(SPEC, LATENTS, config, num_envs=2, rows=plan.records // 2, batch_length=4)
    arrays = jax.eval_shape(ring.init).fields.values()
    assert plan.records == 1000 and plan.total_bytes == sum(x.size * x.dtype.itemsize for x in arrays)
    assert plan_on_device(config, SPEC, LATENTS, **sizes, total_records=100, free=None).records == 100
    with pytest.raises(ConfigError, match=r"on the device, but 20 kB free there; set replay.capacity"):
        plan_on_device(config, SPEC, LATENTS, **sizes, total_records=10_000, free=20_000)
    with pytest.raises(ConfigError, match="a window needs 5"):
        plan_on_device(ReplayConfig(capacity=8), SPEC, LATENTS, **sizes, total_records=10_000, free=None)
    with pytest.raises(ConfigError, match=r"replay.capacity: 2,\d+,\d+,\d+ records are more than a device counts"):
        plan_on_device(ReplayConfig(capacity=2**31), SPEC, LATENTS, **sizes, total_records=2**33, free=None)
