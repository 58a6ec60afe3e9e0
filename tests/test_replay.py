"""The ring: windows, the online queue, write-back, alignment, growth, plans and export."""

import os
from functools import partial
from types import SimpleNamespace

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamer_jax.config.schema import ConfigError, ReplayConfig
from dreamer_jax.replay import Replay, align, clear, export_episodes, open_read_only, plan, record_bytes, storage
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import TimeStep

SPEC = EnvSpec(
    {
        "clock": ArraySpec((2,), "int32"),  # (environment, row): tells where a record came from
        "camera/front": ArraySpec((2, 2, 3), "uint8"),
    },
    {"move": ArraySpec((3,), "float32"), "press": ArraySpec((), "int32", classes=5)},
)
LATENTS = {"deter": ArraySpec((4,), "bfloat16"), "stoch": ArraySpec((3,), "uint8")}
pytestmark = pytest.mark.usefixtures("blocks")


def make(directory, *, num_envs=2, rows=10, length=3, latents=LATENTS, online=False, seed=0):
    return Replay(
        directory,
        SPEC,
        latents,
        num_envs=num_envs,
        capacity=rows * num_envs,
        batch_length=length,
        online=online,
        seed=seed,
    )


def record(row, num_envs, first=False, last=False, salt=0):
    """Content that follows from the row and the environment alone."""
    envs = np.arange(num_envs)
    flag = np.zeros(num_envs, bool)
    timestep = TimeStep(
        observation={
            "clock": np.stack([envs, np.full(num_envs, row)], 1).astype(np.int32),
            "camera/front": (envs[:, None] * 7 + row + np.arange(12)).reshape(num_envs, 2, 2, 3).astype(np.uint8),
        },
        reward=(row + envs / 8).astype(np.float32),
        is_first=flag | first,
        is_last=flag | last,
        is_terminal=flag | last,
    )
    action = {
        "move": (row + envs[:, None] / 4 + np.arange(3)).astype(np.float32),
        "press": ((row + envs) % 5).astype(np.int32),
    }
    latents = {
        "deter": (np.float32(row + salt) / 3 + envs[:, None] + np.arange(4)).astype(ml_dtypes.bfloat16),
        "stoch": (row + envs[:, None] + np.arange(3) + salt).astype(np.uint8),
    }
    return timestep, action, latents


def fill(replay, count, num_envs=2, episode=5):
    for _ in range(count):
        row = replay.rows.stop
        replay.append(*record(row, num_envs, first=row % episode == 0, last=row % episode == episode - 1))


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(2, 5), st.integers(0, 9), st.integers(0, 40), st.integers(0, 2**31))
def test_windows_are_consecutive_records_of_one_stream(tmp_path_factory, num_envs, length, extra, count, seed):
    rows = length + 1 + extra
    replay = make(tmp_path_factory.mktemp("ring"), num_envs=num_envs, rows=rows, length=length, seed=seed)
    fill(replay, count, num_envs)
    held = min(count, rows)
    assert replay.rows == range(count - held, count)
    assert replay.windows == num_envs * max(0, held - length)
    if not replay.windows:
        with pytest.raises(ValueError, match="no window"):
            replay.sample(2, 0)
        return
    batch, index = replay.sample(16, 3)
    assert index.dtype == np.int64 and index.shape == (16, 2)
    for b, (env, start) in enumerate(index):
        assert count - held <= start and start + length < count
        for t in range(length):
            row = start + 1 + t
            timestep, _, _ = record(row, num_envs)
            for name, value in timestep.observation.items():
                assert same(batch.observation[name][b, t], value[env])
            assert batch.reward[b, t] == timestep.reward[env]
            assert batch.is_first[b, t] == (row % 5 == 0) and batch.is_last[b, t] == (row % 5 == 4)
            led_to_it = record(row - 1, num_envs)[1]
            assert all(same(batch.prev_action[name][b, t], value[env]) for name, value in led_to_it.items())
        before = record(start, num_envs)[2]
        assert same(batch.context["deter"][b], before["deter"][env])
        assert same(batch.context["stoch"][b], before["stoch"][env])


def test_uniform_over_all_windows_at_any_offset(tmp_path):
    replay = make(tmp_path, num_envs=3, rows=9, length=3)
    fill(replay, 14, 3)
    index = np.concatenate([replay.sample(200, counter)[1] for counter in range(90)])
    windows, counts = np.unique(index, axis=0, return_counts=True)
    assert [tuple(window) for window in windows] == [(e, s) for e in range(3) for s in range(5, 11)]
    expected = len(index) / len(windows)
    assert np.sum((counts - expected) ** 2 / expected) < 40.8  # 17 degrees of freedom: once in 1000 seeds


def test_sampling_follows_from_seed_and_counter(tmp_path):
    a, b, c = (make(tmp_path / str(seed), seed=seed // 2, rows=50) for seed in (2, 3, 4))
    for replay in (a, b, c):
        fill(replay, 40)
    first = a.sample(8, 7)[1]
    a.sample(8, 8)
    assert (a.sample(8, 7)[1] == first).all() and (b.sample(8, 7)[1] == first).all()
    assert (a.sample(8, 8)[1] != first).any() and (c.sample(8, 7)[1] != first).any()


def test_batches_are_copies(tmp_path):
    replay = make(tmp_path, rows=4)
    fill(replay, 4)
    batch, _ = replay.sample(2, 0)
    before = batch.observation["clock"].copy()
    fill(replay, 4)
    assert (batch.observation["clock"] == before).all()


def test_online_queue_is_in_order_without_overlap_and_drops_what_is_evicted(tmp_path):
    replay = make(tmp_path, rows=10, length=3, online=True)
    fill(replay, 7)
    assert replay.queued == 2
    fill(replay, 1)
    assert replay.queued == 4
    uniform = replay.sample(6, 0, online=False)[1]
    assert replay.queued == 4
    index = replay.sample(3, 0)[1]
    assert index.tolist() == [[0, 0], [1, 0], [0, 4]]
    index = replay.sample(6, 0)[1]
    assert index[0].tolist() == [1, 4] and (index[1:] == uniform[1:]).all() and replay.queued == 0
    fill(replay, 13)  # rows 11..20 are left: of the queued windows 8..11, 12..15, 16..19 the first is gone
    assert replay.rows == range(11, 21)
    assert replay.sample(4, 0)[1].tolist() == [[0, 12], [1, 12], [0, 16], [1, 16]]


def test_write_back_is_seen_and_skips_evicted_rows(tmp_path):
    replay = make(tmp_path, rows=6, length=3)
    fill(replay, 6)
    index = np.array([[1, 0], [0, 2], [1, 7]])  # of the last one rows 9 and 10 don't exist yet
    fill(replay, 3)  # rows 0..2 are gone; their slots hold rows 6..8
    latents = {
        "deter": np.arange(36).reshape(3, 3, 4).astype(ml_dtypes.bfloat16),
        "stoch": np.arange(27).reshape(3, 3, 3).astype(np.uint8),
    }
    replay.write_back(index, latents)
    for env in range(2):
        for row in replay.rows:
            expected = {name: value[env] for name, value in record(row, 2)[2].items()}
            for b, (e, start) in enumerate(index):
                if e == env and 1 <= row - start <= 3:
                    expected = {name: value[b, row - start - 1] for name, value in latents.items()}
            for name, value in expected.items():
                assert same(replay.column(f"latents/{name}", env, range(row, row + 1))[0], value), (env, row)
    batch, index = replay.sample(64, 0)
    seen = batch.context["deter"][(index == [0, 3]).all(1)]
    assert len(seen) and (seen == latents["deter"][1, 0]).all()


def test_without_latents_there_is_no_context(tmp_path):
    replay = make(tmp_path, latents={})
    for row in range(6):
        replay.append(*record(row, 2)[:2], {})
    batch, index = replay.sample(2, 0)
    assert batch.context is None
    replay.write_back(index, {})


@pytest.mark.parametrize("mark", [False, True])
@pytest.mark.parametrize("kind", ["numpy", "jax", "traced"])
def test_align_shifts_actions_and_ends_abandoned_episodes(kind, mark):
    window = {
        "observation": {"x": np.arange(6)[None]},
        "action": {"a": 10 * np.arange(6)[None]},
        "latents": {"deter": np.arange(6)[None, :, None], "stoch": -np.arange(6)[None, :, None]},
        "reward": np.arange(6.0)[None],
        "is_first": np.array([[1, 0, 0, 1, 0, 0]], bool),
        "is_last": np.array([[0, 0, 0, 0, 0, 1]], bool),
        "is_terminal": np.zeros((1, 6), bool),
    }
    before = window["is_last"].copy()
    rows = partial(align, mark_first=mark)
    batch = rows(window) if kind == "numpy" else (jax.jit(rows) if kind == "traced" else rows)(jax.device_put(window))
    assert isinstance(batch.is_last, np.ndarray if kind == "numpy" else jax.Array)
    assert batch.observation["x"].tolist() == [[1, 2, 3, 4, 5]]
    assert batch.prev_action["a"].tolist() == [[0, 10, 20, 30, 40]]
    assert batch.reward.tolist() == [[1, 2, 3, 4, 5]]
    assert batch.is_first.astype(int).tolist() == [[mark, 0, 1, 0, 0]]
    assert batch.is_last.astype(int).tolist() == [[0, 1, 0, 0, 1]]
    assert batch.context["deter"].tolist() == [[0]] and batch.context["stoch"].tolist() == [[0]]
    assert (window["is_last"] == before).all()


def test_episode_numbers_are_per_stream(tmp_path):
    replay = make(tmp_path)
    firsts = [(1, 1), (0, 0), (0, 1), (1, 0), (1, 0)]
    for row, first in enumerate(firsts):
        timestep, action, latents = record(row, 2)
        replay.append(timestep.replace(is_first=np.array(first, bool)), action, latents)
    assert [replay.column("episode", env, range(5)).tolist() for env in range(2)] == [[0, 0, 0, 1, 2], [0, 0, 1, 1, 1]]
    assert replay.column("episode_step", 0, range(5)).tolist() == [0, 1, 2, 0, 0]
    assert replay.column("episode_step", 1, range(5)).tolist() == [0, 1, 0, 1, 2]


def test_wrong_records_are_refused(tmp_path):
    replay = make(tmp_path)
    timestep, action, latents = record(0, 2)
    with pytest.raises(ValueError, match="action/press"):
        replay.append(timestep, {"move": action["move"]}, latents)
    with pytest.raises(ValueError, match="camera"):
        picture = timestep.observation["camera/front"] / 255
        replay.append(timestep.replace(observation=timestep.observation | {"camera/front": picture}), action, latents)
    with pytest.raises(ValueError, match="reward"):
        replay.append(timestep.replace(reward=np.zeros(1, np.float32)), action, latents)
    assert len(replay.rows) == 0


def test_resuming_with_a_larger_capacity_grows_the_ring_unless_it_has_wrapped(tmp_path):
    replay = make(tmp_path, rows=6)
    fill(replay, 6)
    state = replay.snapshot(1)
    fill(replay, 2)  # wraps after the checkpoint: undone below
    replay.close()
    replay = make(tmp_path, rows=9)
    replay.restore(state, 1)
    assert replay.capacity == 18 and replay.rows == range(6)
    fill(replay, 4)
    assert replay.rows == range(1, 10)
    assert replay.column("observation/clock", 1, range(1, 10))[:, 1].tolist() == list(range(1, 10))
    state = replay.snapshot(2)
    replay.close()
    replay = make(tmp_path, rows=20)
    replay.restore(state, 2)
    assert replay.capacity == 18
    assert replay.column("observation/clock", 1, range(1, 10))[:, 1].tolist() == list(range(1, 10))


def test_an_existing_ring_is_never_silently_overwritten(tmp_path):
    fill(make(tmp_path), 4)
    replay = make(tmp_path)
    for use in (lambda: fill(replay, 1), lambda: replay.sample(1, 0), lambda: replay.snapshot(1)):
        with pytest.raises(ConfigError, match="earlier run"):
            use()
    with pytest.raises(ConfigError, match="replay can't go back to checkpoint 1"):
        replay.restore(replay.state(), 1)
    (tmp_path / "notes.bin").write_text("not ours")
    clear(tmp_path)
    assert os.listdir(tmp_path) == ["notes.bin"]
    fill(make(tmp_path), 1)


def test_another_layout_is_refused_with_what_differs(tmp_path):
    make(tmp_path)
    with pytest.raises(ConfigError, match="2 environments, now 3"):
        make(tmp_path, num_envs=3)
    with pytest.raises(ConfigError, match=r"latents/deter bfloat16\[4\], now float32\[4\]; .*stoch .* now int32"):
        make(tmp_path, latents={"deter": ArraySpec((4,), "float32"), "stoch": ArraySpec((3,), "int32")})
    with pytest.raises(ConfigError, match=r"latents/deter .* now absent"):
        make(tmp_path, latents={})
    os.truncate(tmp_path / "reward.bin", 3)
    with pytest.raises(ConfigError, match=r"reward\.bin: damaged"):
        make(tmp_path)


def test_a_full_disk_is_an_error_before_anything_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "RESERVE_BYTES", 1)
    monkeypatch.setattr(storage, "BLOCK", 2)
    replay = make(tmp_path)
    fill(replay, 2)

    def full(descriptor, offset, length):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match="can't reserve"):
            fill(replay, 1)
    assert replay.rows == range(2)
    fill(replay, 1)
    assert replay.column("observation/clock", 0, range(3))[:, 1].tolist() == [0, 1, 2]


def planned(directory, total=10**9, num_envs=4, **settings):
    config = ReplayConfig(**settings)
    return plan([directory], config, SPEC, LATENTS, num_envs=num_envs, batch_length=7, total_records=total)


def test_plan_takes_the_smallest_limit(tmp_path, monkeypatch):
    assert record_bytes(SPEC, LATENTS) == 8 + 12 + 12 + 4 + 8 + 3 + 4 + 3 + 4 + 4
    free = SimpleNamespace(f_bavail=71_000_000, f_frsize=1000)
    monkeypatch.setattr(os, "statvfs", lambda path: free)
    assert planned(tmp_path / "not/yet", capacity=1001).records == 1000
    assert planned(tmp_path, total=101).records == 104
    assert planned(tmp_path, total=1).records == 4 * 8
    assert planned(tmp_path, capacity_gb=0.0001).records == 100_000 // 248 * 4
    line = planned(tmp_path, capacity=500_000).line
    assert line == "replay: 62 B a record x 500,000 records = 31 MB on disk (71 GB free)"
    for refused in ({"capacity": 31}, {"capacity_gb": 1e-6}):
        with pytest.raises(ConfigError, match=f"{next(iter(refused))}: room for . records of each of 4 env.* needs 8"):
            planned(tmp_path, **refused)


def test_plan_refuses_what_the_disk_cannot_hold_and_counts_what_is_there(tmp_path, monkeypatch, blocks):
    replay = make(tmp_path, num_envs=4, rows=5000, length=7)
    fill(replay, 1, 4)  # reserves all: 62 bytes x 20,000, and the rest of the last block
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=1, f_frsize=200_000))
    assert planned(tmp_path, capacity=20_000).total_bytes == {1: 1_240_000, 3: 1_240_248, 256: 1_269_760}[blocks]
    with pytest.raises(ConfigError, match=r"62 B .* 20,000 records = 1.2[47] MB on disk, but 200 kB free there"):
        planned(tmp_path / "other", capacity=20_000)


def test_export_writes_whole_and_cut_episodes_without_changing_the_ring(tmp_path):
    replay = make(tmp_path / "ring", rows=12)
    fill(replay, 18, episode=5)  # rows 6..17: the tail of episode 1, episode 2, the start of episode 3
    state = replay.snapshot(4)
    fill(replay, 3)
    replay.write_back(np.array([[0, 15]]), {"deter": np.ones((1, 3, 4)), "stoch": np.ones((1, 3, 3), np.uint8)})
    replay.close()
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "ring").iterdir()}
    view = open_read_only(tmp_path / "ring", state, 4, batch_length=3)
    assert view.sample(2, 0)[0].reward.shape == (2, 3)
    assert export_episodes([view], tmp_path / "out") == 6
    with pytest.raises(ConfigError, match="reading only"):
        fill(view, 1)
    after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "ring").iterdir()}
    assert before == after
    expected = {1: (range(6, 10), True, False), 2: (range(10, 15), False, False), 3: (range(15, 18), False, True)}
    names = [f"env{env:03d}-episode{episode:06d}.npz" for env in range(2) for episode in expected]
    assert sorted(os.listdir(tmp_path / "out")) == names
    for env in range(2):
        for episode, (rows, start_missing, end_missing) in expected.items():
            data = np.load(tmp_path / "out" / f"env{env:03d}-episode{episode:06d}.npz")
            assert (data["env"], data["episode"]) == (env, episode)
            assert (data["start_missing"], data["end_missing"]) == (start_missing, end_missing)
            records = [record(row, 2, first=row % 5 == 0, last=row % 5 == 4) for row in rows]
            for name in SPEC.observation:
                stacked = np.stack([timestep.observation[name][env] for timestep, _, _ in records])
                assert same(data[f"observation/{name}"], stacked)
            for name in SPEC.action:
                assert same(data[f"action/{name}"], np.stack([action[name][env] for _, action, _ in records]))
            for name in ("reward", "is_first", "is_last", "is_terminal"):
                assert same(data[name], np.stack([getattr(timestep, name)[env] for timestep, _, _ in records]))
    with pytest.raises(FileExistsError, match=r"env000-episode000001\.npz"):
        export_episodes([view], tmp_path / "out")
