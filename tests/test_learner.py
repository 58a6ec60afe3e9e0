"""When updates happen, on which batches, and what comes back from them."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trainer import make_toy, tiny_run

from dreamer_jax.devices.data_parallel import Updates
from dreamer_jax.replay.host import Replay
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.training.learner import Learner, NotFinite, arrays_batch, batch_arrays
from dreamer_jax.training.preflight import example_batch
from dreamer_jax.training.schedule import forecast, updates_per_dispatch
from dreamer_jax.types import TimeStep

B, T, E = 2, 4, 2
SPEC = EnvSpec({"eye": ArraySpec((3,), "float32")}, {"arm": ArraySpec((2,), "float32")})
ROOT = jax.random.key(7)


def count(state, key, batch):
    """An update that compiles at once."""
    latents = {"deter": jnp.zeros((B, T, 5), jnp.bfloat16), "stoch": jnp.zeros((B, T, 2), jnp.uint8)}
    return state.replace(step=state.step + 1), {"loss/total": batch.reward.mean()}, latents


class Bench:
    """A learner, the replay it feeds on, and a list of what it does in which order."""

    def __init__(self, folder, *, counting=False, online=False, ring=None, **changes):
        changes = dict(train__batch_size=B, train__batch_length=T, env__num_envs=E, replay__online=online) | changes
        self.config = tiny_run(**changes)
        self.agent = make_toy(self.config, SPEC)
        if counting:
            self.agent = self.agent._replace(update=count)
        ring = dict(num_envs=E, capacity=120, batch_length=T, online=online, seed=1) | (ring or {})
        self.replay = Replay(folder / "replay", SPEC, self.agent.latent_spec, **ring)
        state = jax.jit(self.agent.init)(jax.random.key(0))
        self.learner = Learner(self.config, self.agent, self.replay, state, ROOT, folder / "failures")
        self.events, self.batches, self.metrics, self.steps, self.rng = [], {}, [], 0, np.random.default_rng(0)
        sample, write_back, update = self.replay.sample, self.replay.write_back, self.learner._update

        def spy_sample(size, counter):
            self.batches[counter] = batch, index = sample(size, counter)
            assert size == B
            self.events.append(("sample", counter))
            return batch, index

        def spy_write_back(index, latents):
            back = {k for event, k in self.events if event == "write back"}
            number = min(k for k in self.batches.keys() - back if self.batches[k][1].tobytes() == index.tobytes())
            self.events.append(("write back", number))
            write_back(index, latents)

        def spy_update(state, root, batch):
            assert root is ROOT
            self.events.append(("update", int(state.step)))
            return update(state, root, batch)

        self.replay.sample, self.replay.write_back = spy_sample, spy_write_back
        self.learner._update = spy_update
        self.learner.metrics.add = self.metrics.append

    def act(self, value=None, first=False, last=False):
        """One step of all environments, as the loop does it, without what is due then."""
        eye = self.rng.normal(size=(E, 3)).astype(np.float32) if value is None else np.full((E, 3), value, np.float32)
        flag, first, last = (np.full(E, value) for value in (False, first, last))
        latents = {"deter": self.rng.normal(size=(E, 5)).astype(jnp.bfloat16), "stoch": np.ones((E, 2), np.uint8)}
        arm = self.rng.normal(size=(E, 2)).astype(np.float32)
        self.replay.append(TimeStep({"eye": eye}, np.ones(E, np.float32), first, last, flag), {"arm": arm}, latents)
        self.steps += E

    def step(self, value=None, **flags):
        self.act(value, **flags)
        self.learner.catch_up(self.steps, lambda: False, lambda results: None)


def ready(rows):
    return E * (rows - T)  # windows in a ring that has not wrapped


@pytest.mark.parametrize("per_dispatch", [1, 4])
@pytest.mark.parametrize("ratio", [0.5, 3.0, 4.0, 22.0])
@pytest.mark.parametrize("start", [0, 3, 21])
def test_updates_follow_the_train_ratio(tmp_path, per_dispatch, ratio, start):
    changes = dict(train__train_ratio=ratio, train__start_windows=start, train__updates_per_dispatch=per_dispatch)
    bench = Bench(tmp_path, counting=True, **changes, train__frames=40 * E)
    begin = next(rows for rows in range(100) if ready(rows) >= (start or B * T)) * E
    for _ in range(40):
        bench.step()
        due = 1 + (bench.steps - begin) * Fraction(ratio) // (B * T) if bench.steps >= begin else 0
        done = bench.learner.grad_steps
        assert done == due // per_dispatch * per_dispatch  # at most K - 1 behind
        assert int(bench.learner.state.step) == done
        bench.learner.check()
        assert done == per_dispatch * len(bench.metrics)
    assert bench.learner.grad_steps > 0
    assert bench.learner.grad_steps == forecast(bench.config, bench.replay.capacity, 0).updates
    assert all(metrics["loss/total"].shape == (per_dispatch,) for metrics in bench.metrics)


@pytest.mark.parametrize("per_dispatch", [1, 4])
@pytest.mark.parametrize("ratio, every", [(4.0, 12), (3.0, 10), (0.5, 6), (22.0, 1)])
def test_updates_in_bursts(tmp_path, per_dispatch, ratio, every):
    changes = dict(train__train_ratio=ratio, train__update_every=every, train__updates_per_dispatch=per_dispatch)
    changes |= dict(train__pretrain=5, train__start_windows=1, train__prefill=22, train__frames=40 * E)
    bench = Bench(tmp_path, counting=True, **changes)
    for _ in range(40):
        bench.learner.dispatch_early(bench.steps + E)
        bench.step()
        bursts = (bench.steps - 22) // every
        due = 5 + Fraction(ratio) * bursts * every // (B * T) if bench.steps >= 22 else 0
        assert bench.learner.grad_steps == due // per_dispatch * per_dispatch
    assert bench.learner.grad_steps == forecast(bench.config, bench.replay.capacity, 0).updates > 5


@pytest.mark.parametrize("prefill, windows, begin", [(31, 1, 32), (0, 21, 30), (20, 21, 30)])
def test_neither_prefill_nor_windows_alone_begin_updates(tmp_path, prefill, windows, begin):
    bench = Bench(tmp_path, counting=True, train__prefill=prefill, train__start_windows=windows, train__pretrain=7)
    while not bench.learner.grad_steps:
        bench.step()
    assert (bench.steps, bench.learner.grad_steps) == (begin, 7)


def test_what_updates_wait_for(tmp_path):
    bench = Bench(tmp_path, counting=True, train__prefill=6, train__start_windows=5)
    said = []
    while not bench.learner.grad_steps:
        said.append(bench.learner.waiting(bench.steps))
        bench.step()
    assert said == [
        *(f"{steps} of 6 agent steps of random actions (train.prefill)" for steps in (0, 2, 4)),
        *(f"{windows} of 5 windows in replay (train.start_windows)" for windows in (0, 0, 2, 4)),
    ]
    assert bench.learner.waiting(bench.steps) == ""
    assert Bench(tmp_path / "none", train__train_ratio=0.0).learner.waiting(100) == ""


def test_updates_wait_while_no_long_enough_episode_is_in_the_ring(tmp_path):
    rows, ring = 14, dict(sampling="episodes", capacity=14 * E)
    bench = Bench(tmp_path, counting=True, ring=ring, train__train_ratio=4.0, train__start_windows=1)

    def play(*lengths):
        for length in lengths:
            for step in range(length):
                bench.learner.dispatch_early(bench.steps + E)
                bench.step(first=step == 0, last=step == length - 1)

    play(3, 2)
    none = "none of 4 ended episodes has 4 records, the longest has 3"
    assert (bench.learner.grad_steps, bench.learner.waiting(bench.steps)) == (0, none)
    play(T)
    began, done = bench.steps, bench.learner.grad_steps
    assert done == 1 and bench.learner.waiting(bench.steps) == ""
    play(*[2] * 9)  # of which the last ones push the long episode out of the ring
    paused = bench.learner.grad_steps
    first_row = bench.replay.rows.start
    assert first_row > 5 and len(bench.replay.rows) == rows
    # One more than while it was there: the batch that had been drawn ahead.
    assert done < paused < 1 + (bench.steps - began) * 4 // (B * T)
    assert bench.learner.waiting(bench.steps) == "no ended episode of 4 records is whole in replay"
    again = Bench(tmp_path / "again", counting=True, ring=ring, train__train_ratio=4.0, train__start_windows=1)
    again.learner.restore(bench.learner.saved())
    assert again.learner.saved().keys() == bench.learner.saved().keys()
    play(T)
    assert bench.learner.grad_steps == 1 + (bench.steps - began) * 4 // (B * T)
    assert [event for event in bench.events if event[0] == "sample"] == [
        ("sample", step) for step in range(bench.learner.grad_steps + 1)
    ]


def test_no_updates_without_a_ratio(tmp_path):
    bench = Bench(tmp_path, train__train_ratio=0.0)
    for _ in range(40):
        bench.step()
    assert bench.learner.grad_steps == 0 and bench.events == []


@pytest.mark.parametrize("ratio, expected", [(0.1, 1), (4, 1), (8, 2), (11, 2), (16, 4), (32, 8), (4096, 8)])
def test_updates_per_dispatch_by_default(monkeypatch, ratio, expected):
    settings = dict(env__num_envs=2, train__batch_size=2, train__batch_length=4, train__train_ratio=float(ratio))
    assert updates_per_dispatch(tiny_run(**settings, train__updates_per_dispatch=0)) == 1  # on this CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert updates_per_dispatch(tiny_run(**settings, train__updates_per_dispatch=0)) == expected
    assert updates_per_dispatch(tiny_run(**settings, train__updates_per_dispatch=3)) == 3
    in_bursts = tiny_run(**settings, train__updates_per_dispatch=0, train__update_every=6)
    assert updates_per_dispatch(in_bursts) == {0.1: 1, 4: 2, 8: 4, 11: 8}.get(ratio, 8)


def test_samples_are_one_ahead_and_latents_one_behind(tmp_path):
    bench = Bench(tmp_path, train__train_ratio=4.0, train__start_windows=1)
    for _ in range(9):
        bench.step()
    assert bench.events == [
        ("sample", 0), ("update", 0), ("sample", 1),
        ("update", 1), ("write back", 0), ("sample", 2),
        ("update", 2), ("write back", 1), ("sample", 3),
        ("update", 3), ("write back", 2), ("sample", 4),
        ("update", 4), ("write back", 3), ("sample", 5),
    ]  # fmt: skip


@pytest.mark.parametrize("per_dispatch, ratio", [(1, 2.0), (1, 4.0), (1, 12.0), (2, 8.0)])
def test_running_ahead_only_dispatches_earlier(tmp_path, per_dispatch, ratio):
    changes = dict(train__train_ratio=ratio, train__start_windows=5, train__updates_per_dispatch=per_dispatch)
    one, other = (Bench(tmp_path / name, online=True, **changes) for name in "ab")
    early = 0
    for _ in range(30):
        one.step()
        before = sum(event == "update" for event, _ in other.events)
        other.learner.dispatch_early(other.steps + E)
        early += sum(event == "update" for event, _ in other.events) - before
        other.step()
    assert early
    assert [event for event in one.events if event[0] != "update"] == [
        event for event in other.events if event[0] != "update"
    ]
    assert one.learner.grad_steps == other.learner.grad_steps > 10
    for mine, theirs in zip(jax.tree.leaves(one.learner.state), jax.tree.leaves(other.learner.state), strict=True):
        assert np.asarray(mine).tobytes() == np.asarray(theirs).tobytes()
    for name in one.replay.fields:
        for env in range(E):
            mine, theirs = (bench.replay.column(name, env, bench.replay.rows) for bench in (one, other))
            assert mine.tobytes() == theirs.tobytes()


def test_a_dispatch_takes_its_batches_together(tmp_path):
    bench = Bench(tmp_path, train__train_ratio=8.0, train__start_windows=1, train__updates_per_dispatch=2)
    for _ in range(7):
        bench.step()
    samples = [("sample", 0), ("sample", 1)], [("sample", 2), ("sample", 3)], [("sample", 4), ("sample", 5)]
    assert bench.events[:8] == [*samples[0], ("update", 0), *samples[1], ("update", 2), *bench.events[6:8]]
    assert bench.events[6:10] == [("write back", 0), ("write back", 1), *samples[2]]


@pytest.mark.parametrize("per_dispatch", [1, 2])
def test_each_update_is_on_its_batch_and_its_latents_go_back(tmp_path, per_dispatch):
    changes = dict(train__train_ratio=8.0, train__start_windows=12, train__updates_per_dispatch=per_dispatch)
    bench = Bench(tmp_path, **changes)
    while bench.learner.grad_steps < 8:
        bench.step()
    start, total = jax.jit(bench.agent.init)(jax.random.key(0)), bench.learner.grad_steps
    _, metrics, _ = jax.jit(bench.agent.update)(start, jax.random.fold_in(ROOT, 0), bench.batches[0][0])
    assert bench.metrics[0]["loss/total"][0] == pytest.approx(float(metrics["loss/total"]), abs=1e-4)

    state, update, expected = start, Updates(bench.agent, 1), {}
    for step in range(0, total, per_dispatch):
        batches = [bench.batches[step + k][0] for k in range(per_dispatch)]
        state, results = update(state, ROOT, jax.tree.map(lambda *xs: np.stack(xs), *batches))
        _, latents = update.fetch(results)
        for k in range(per_dispatch if step < total - per_dispatch else 0):  # the last dispatch is still in flight
            for row, (env, first) in enumerate(bench.batches[step + k][1]):
                for t in range(T):
                    expected[int(env), int(first) + 1 + t] = latents["deter"][k, row, t]
    for mine, theirs in zip(jax.tree.leaves(bench.learner.state), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert len(expected) > 8
    for (env, row), deter in expected.items():
        (stored,) = bench.replay.column("latents/deter", env, range(row, row + 1))
        np.testing.assert_array_equal(stored, deter)


def test_stopping_leaves_updates_for_later(tmp_path):
    one, other = (Bench(tmp_path / name, train__train_ratio=24.0, train__start_windows=1) for name in "ab")
    for _ in range(20):
        one.step()
        other.act()
        for limit in (1, 2, 9):  # updates until a stop is asked for
            done = other.learner.grad_steps
            other.learner.catch_up(
                other.steps, lambda done=done, limit=limit: other.learner.grad_steps - done >= limit, lambda _: None
            )
            assert other.learner.grad_steps - done <= limit
    assert one.learner.grad_steps == other.learner.grad_steps > 50
    for mine, theirs in zip(jax.tree.leaves(one.learner.state), jax.tree.leaves(other.learner.state), strict=True):
        assert np.asarray(mine).tobytes() == np.asarray(theirs).tobytes()


@pytest.mark.parametrize("per_dispatch", [1, 4])
def test_a_loss_that_is_not_finite_ends_it(tmp_path, per_dispatch):
    bench = Bench(tmp_path, train__train_ratio=32.0, train__updates_per_dispatch=per_dispatch)
    for _ in range(17):
        bench.step()
    with pytest.raises(NotFinite) as error:
        for _ in range(20):
            bench.step(float("inf"))
    (path,) = (tmp_path / "failures").iterdir()
    first = min(k for k, (batch, _) in bench.batches.items() if not np.isfinite(batch.observation["eye"]).all())
    assert path.name == f"update_{first}.npz"
    assert per_dispatch == 1 or first % per_dispatch  # not the first of its dispatch
    assert str(error.value) == (
        f"update {first}: loss/total is NaN or infinite; the batch is in {path}, "
        "its observation/eye already had such values"
    )
    dumped, batch = np.load(path), batch_arrays(bench.batches[first][0])
    assert set(dumped) == set(batch)
    for name, value in batch.items():
        np.testing.assert_array_equal(dumped[name], value.astype(dumped[name].dtype))
    # It was noticed at the next dispatch, and nothing of its own was kept.
    assert ("write back", first) not in bench.events
    assert first - first % per_dispatch == bench.learner.grad_steps - per_dispatch
    with pytest.raises(NotFinite):
        bench.learner.check()


def test_batches_as_arrays_and_back(tmp_path):
    bench = Bench(tmp_path)
    for _ in range(8):
        bench.act()
    batch, _ = bench.replay.sample(B, 0)
    for one in (batch, batch.replace(context=None)):
        again = arrays_batch(batch_arrays(one))
        assert jax.tree.structure(again) == jax.tree.structure(one)
        for mine, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(one), strict=True):
            assert mine.dtype == theirs.dtype and mine.tobytes() == theirs.tobytes()


def test_the_example_is_what_replay_gives(tmp_path):
    bench = Bench(tmp_path)
    for _ in range(8):
        bench.act()
    batch, _ = bench.replay.sample(B, 0)
    example = example_batch(bench.config, SPEC, bench.agent.latent_spec, bench.config.train.batch_size)
    assert jax.tree.map(lambda x: (x.shape, str(x.dtype)), example) == jax.tree.map(
        lambda x: (x.shape, str(x.dtype)), batch
    )
