"""Windows of ended episodes: which can be drawn, how often, and what stands before their first record."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_replay import LATENTS, SPEC, record

from dreamer_jax.replay import Replay
from dreamer_jax.replay.episodes import NEWEST

T = 3
pytestmark = pytest.mark.usefixtures("blocks")


def make(directory, *, num_envs=1, rows=200, latents=LATENTS, seed=0, ends="skipped", **options):
    sizes = dict(num_envs=num_envs, capacity=rows * num_envs, batch_length=T)
    return Replay(directory, SPEC, latents, **sizes, online=False, seed=seed, sampling="episodes", ends=ends, **options)


def add(replay, first, last):
    """A record whose flags [E] are given; what else it holds follows from its row."""
    row, num_envs = replay.rows.stop, replay.num_envs
    first, last = np.array(first, bool), np.array(last, bool)
    replay.append(*record(row, num_envs, first=first, last=last))


def play(replay, *lengths):
    """Episodes of so many records in each stream at once."""
    for length in lengths:
        for step in range(length):
            add(replay, [step == 0] * replay.num_envs, [step == length - 1] * replay.num_envs)


def drawn(replay, batches=100, size=50, **options):
    """First records (not those before them) of many windows, and how often each was drawn."""
    index = np.concatenate([replay.sample(size, counter, **options)[1] for counter in range(batches)]) + [0, 1]
    windows, counts = np.unique(index, axis=0, return_counts=True)
    return {tuple(window): int(count) for window, count in zip(windows.tolist(), counts, strict=True)}


def unlikely(counts, shares):
    """Chi-square of ``counts``, as so many standard deviations above its mean."""
    assert counts.keys() == shares.keys()
    total, degrees = sum(counts.values()), len(shares) - 1
    square = sum((counts[key] - total * share) ** 2 / (total * share) for key, share in shares.items())
    return (square - degrees) / np.sqrt(2 * degrees)


def test_every_episode_alike_then_every_start(tmp_path):
    replay = make(tmp_path, ends="uniform")
    play(replay, T, 5)  # at rows 0 and 3
    assert replay.windows == 1 + 3
    assert unlikely(drawn(replay), {(0, 0): 1 / 2, **{(0, row): 1 / 6 for row in (3, 4, 5)}}) < 4


def test_what_is_said_of_episodes(tmp_path):
    replay = make(tmp_path, num_envs=2, rows=40)
    assert replay.missing(1) == "no episode has ended yet"
    play(replay, 2, 1)
    assert replay.missing(1) == "none of 4 ended episodes has 3 records, the longest has 2"
    play(replay, T)
    assert replay.missing(5) == "2 of 5 windows in replay (train.start_windows)"
    assert not replay.episodes.few() and not replay.may_run_dry
    play(replay, *[1] * 6)
    assert not replay.episodes.few()
    play(replay, 1)
    assert replay.episodes.few() == (
        "replay.sampling episodes: all updates draw from 2 of 20 ended episodes; the others have less than 3 records "
        "(train.batch_length)"
    )
    columns = {name: [replay.column(name, env, replay.rows) for env in (0, 1)] for name in ("is_first", "is_last")}
    flags = {name: np.stack(both, 1) for name, both in columns.items()}
    replay.episodes.rebuild(replay.rows, flags)
    assert (replay.episodes.ended, replay.episodes.long, replay.episodes.longest) == (20, 2, T)
    play(replay, *[1] * 40)
    assert replay.may_run_dry and replay.missing(1) == "no ended episode of 3 records is whole in replay"


def test_the_last_start_is_skipped_if_wanted(tmp_path):
    replay = make(tmp_path, ends="skipped")
    play(replay, T, 2, 5, T + 1, 13)  # at rows 0, 3, 5, 10, 14
    assert replay.windows == 1 + 0 + 2 + 1 + 10
    shares = {(0, 0): 1 / 4, (0, 10): 1 / 4}
    shares |= {(0, row): 1 / 4 / 2 for row in (5, 6)} | {(0, row): 1 / 4 / 10 for row in range(14, 24)}
    assert unlikely(drawn(replay), shares) < 4


def test_ends_are_drawn_more_often_if_wanted(tmp_path):
    replay = make(tmp_path, ends="prioritized")
    play(replay, T, 8)  # at rows 0 and 3
    assert replay.windows == 1 + 6
    # Of the numbers 0 to 8 those from 5 on give start 5, the last.
    shares = {(0, 0): 1 / 2, **{(0, 3 + start): 1 / 2 / 9 for start in range(5)}, (0, 8): 1 / 2 * 4 / 9}
    assert unlikely(drawn(replay), shares) < 4


def test_a_share_is_from_the_newest_episodes(tmp_path):
    replay = make(tmp_path, recent=0.3)
    play(replay, *[T] * 12)
    shares = {(0, T * episode): 0.7 / 12 + (0.3 / NEWEST if episode >= 12 - NEWEST else 0) for episode in range(12)}
    assert unlikely(drawn(replay), shares) < 4
    newest = {replay.sample(5, counter)[1][k, 1] for counter in range(100) for k in range(2)}  # 1.5 of 5, rounded
    assert newest == {T * episode - 1 for episode in range(12 - NEWEST, 12)}
    assert {replay.sample(5, counter)[1][2, 1] for counter in range(200)} > newest


def test_only_recent_ones_while_there_are_few(tmp_path):
    replay = make(tmp_path, recent=1.0)
    play(replay, T, T)
    assert drawn(replay, 4).keys() == {(0, 0), (0, 3)}


def test_nothing_before_an_episode_has_ended(tmp_path):
    replay = make(tmp_path)
    for step in range(10):
        add(replay, [step == 0], [False])
        assert replay.windows == 0
        with pytest.raises(ValueError, match="no episode of at least 3 records has ended yet"):
            replay.sample(2, 0)
    add(replay, [False], [True])
    assert replay.windows == 8 and drawn(replay, 10).keys() == {(0, row) for row in range(8)}


def test_draws_follow_from_seed_and_counter(tmp_path):
    a, b, c = (make(tmp_path / str(number), seed=number // 2, recent=0.5) for number in (2, 3, 4))
    for replay in (a, b, c):
        play(replay, *[9] * 9)
    first = a.sample(8, 7)[1]
    a.sample(8, 8)
    assert (a.sample(8, 7)[1] == first).all() and (b.sample(8, 7)[1] == first).all()
    assert (a.sample(8, 8)[1] != first).any() and (c.sample(8, 7)[1] != first).any()


@st.composite
def lives(draw):
    """Flags (first, last) of some rows [rows, E]: whole and abandoned episodes, and records outside of any."""
    num_envs, count = draw(st.integers(1, 3)), draw(st.integers(1, 60))
    flags = st.sampled_from([(False, False)] * 20 + [(False, True)] * 3 + [(True, False)] * 3 + [(True, True)])
    return np.array(
        draw(st.lists(st.lists(flags, min_size=num_envs, max_size=num_envs), min_size=count, max_size=count))
    )


def whole(flags, rows):
    """Windows (environment, first record) within an ended episode that is in the ring, by looking at every row."""
    found = set()
    for env in range(flags.shape[1]):
        for first in rows:
            if not flags[first, env, 0]:
                continue
            stop = first
            while stop in rows and not flags[stop, env, 1] and (stop == first or not flags[stop, env, 0]):
                stop += 1
            if stop in rows:
                length = stop - first + int(stop == first or not flags[stop, env, 0])
                found |= {(env, first + k) for k in range(max(length - T, length == T))}
    return found


@settings(max_examples=60)
@given(lives(), st.integers(T + 1, 30), st.booleans())
def test_windows_are_within_episodes_that_are_whole_and_ended(tmp_path_factory, flags, rows, mark):
    replay = make(tmp_path_factory.mktemp("ring"), num_envs=flags.shape[1], rows=rows, latents={}, mark_first=mark)
    for row in flags:
        timestep, action, _ = record(replay.rows.stop, len(row), first=row[:, 0], last=row[:, 1])
        replay.append(timestep, action, {})
        possible = whole(flags, replay.rows)
        assert replay.windows == len(possible)
    if not possible:
        return
    assert drawn(replay, 20).keys() == possible
    batch, index = replay.sample(20, 0)
    assert batch.context is None
    for b, (env, before) in enumerate(index):
        for t in range(T):
            row = before + 1 + t
            assert batch.observation["clock"][b, t].tolist() == [env, row]
            assert batch.is_first[b, t] == (flags[row, env, 0] or (mark and t == 0))
            assert batch.is_last[b, t] == flags[row, env, 1]
            if not flags[row, env, 0]:
                led_to_it = record(row - 1, flags.shape[1])[1]
                assert all((batch.prev_action[k][b, t] == value[env]).all() for k, value in led_to_it.items())


def test_what_lies_before_an_episode_never_matters(tmp_path):
    replay = make(tmp_path, rows=8)
    for row in range(13):  # rows 5 to 12 are left
        timestep, action, latents = record(row, 1, first=row in (5, 9), last=row in (8, 12))
        outside = row in (4, 8, 12)  # the last records of episodes, one of which took the place of row 4
        action["move"] = action["move"] * np.float32("nan" if outside else 1)
        latents["deter"] = latents["deter"] * (np.nan if outside else 1)
        replay.append(timestep, action, latents)
    starts = drawn(replay, 4).keys()
    assert starts == {(0, 5), (0, 9)}
    batch, _ = replay.sample(20, 0)
    assert batch.is_first[:, 0].all()
    assert np.isfinite(batch.prev_action["move"]).all()
    assert np.isfinite(batch.context["deter"].astype(np.float32)).all()


def test_an_episode_at_the_start_of_the_run_has_nothing_before_it(tmp_path):
    replay = make(tmp_path, num_envs=2)
    play(replay, T)
    batch, index = replay.sample(8, 0)
    assert (index[:, 1] == -1).all() and batch.is_first[:, 0].all() and not batch.is_first[:, 1:].any()
    assert (batch.observation["clock"][..., 1] == np.arange(T)).all()
    latents = {"deter": np.ones((8, T, 4)), "stoch": np.ones((8, T, 3), np.uint8)}
    replay.write_back(index, latents)
    for env in set(index[:, 0]):
        assert (replay.column("latents/deter", env, range(T)) == 1).all()


def test_an_episode_is_gone_with_its_first_record(tmp_path):
    replay = make(tmp_path, num_envs=2, rows=12)
    play(replay, 4, 5)
    assert drawn(replay).keys() == {(env, row) for env in range(2) for row in (0, 4, 5)}
    for left in (10, 11, 12, 13, 14):
        add(replay, [left == 10] * 2, [False] * 2)
    assert replay.rows.start == 2 and drawn(replay).keys() == {(env, row) for env in range(2) for row in (4, 5)}
    add(replay, [False] * 2, [False] * 2)
    add(replay, [False] * 2, [False] * 2)
    assert replay.rows.start == 4 and replay.windows == 4
    add(replay, [False] * 2, [False] * 2)
    assert replay.rows.start == 5 and replay.windows == 0


@pytest.mark.parametrize("sampling", ["windows", "episodes"])
def test_the_first_record_is_marked_if_wanted(tmp_path, sampling):
    sizes = dict(num_envs=1, capacity=200, batch_length=T, online=False, seed=0, sampling=sampling)
    plain, marked = (Replay(tmp_path / str(mark), SPEC, {}, **sizes, mark_first=mark) for mark in (False, True))
    for replay in (plain, marked):
        for row in range(20):
            replay.append(*record(row, 1, first=row == 0, last=row == 19)[:2], {})
    (one, index), (other, same) = plain.sample(30, 0), marked.sample(30, 0)
    assert (index == same).all() and (one.is_first[:, 0] == (index[:, 1] == -1)).all()
    assert other.is_first[:, 0].all() and (one.is_first[:, 1:] == other.is_first[:, 1:]).all()
    assert (one.is_last == other.is_last).all()


def test_windows_in_an_episode_begin_with_the_latents_before_them(tmp_path):
    replay = make(tmp_path)
    play(replay, 7)
    batch, index = replay.sample(40, 0)
    later = index[:, 1] >= 0
    assert 0 < later.sum() < 40
    for b in np.flatnonzero(later):
        expected = record(index[b, 1], 1)[2]
        assert batch.context["deter"][b].tobytes() == expected["deter"][0].tobytes()
        assert batch.context["stoch"][b].tobytes() == expected["stoch"][0].tobytes()


@pytest.mark.parametrize("fraction", [0.0, 0.3])
@pytest.mark.parametrize("until", [10, 31, 97, 140])
def test_restored_is_as_never_stopped(tmp_path, until, fraction):
    """Checkpoints within episodes, before and after the ring has wrapped, with records that came after them."""
    options = dict(num_envs=3, rows=50, ends="prioritized", recent=0.4, validation_fraction=fraction)
    rng = np.random.default_rng(3)
    last = rng.random((200, 3)) < 0.15
    first = np.concatenate([np.ones((1, 3), bool), last[:-1]]) | (rng.random((200, 3)) < 0.02)  # some abandoned
    one, other = make(tmp_path / "one", **options), make(tmp_path / "other", **options)
    for row in range(until + 40):
        add(one, first[row], last[row])
        if row < until:
            add(other, first[row], last[row])
    state = other.snapshot(1)
    for row in range(until, until + 13):  # undone
        add(other, ~first[row], ~last[row])
    other.close()
    other = make(tmp_path / "other", **options)
    other.restore(state, 1)
    for row in range(until, until + 40):
        add(other, first[row], last[row])
    assert one.windows == other.windows > 10
    for counter in range(5):
        np.testing.assert_array_equal(one.sample(30, counter)[1], other.sample(30, counter)[1])


def test_held_out_episodes_are_never_trained_on_and_there_when_asked_for(tmp_path):
    replay = make(tmp_path, num_envs=2, rows=400, validation_fraction=0.25, recent=0.5)
    with pytest.raises(ValueError, match="no held-out episode of at least 3 records has ended yet"):
        replay.sample(2, 0, held_out=True)
    play(replay, *[7] * 50)
    held = np.stack([replay.column("held_out", env, replay.rows) for env in range(2)])
    episodes = {(env, row) for env in range(2) for row in range(0, 350, 7)}
    training, other = drawn(replay), drawn(replay, held_out=True)
    assert {(env, row - row % 7) for env, row in training} == {(e, row) for e, row in episodes if not held[e, row]}
    kept = {(e, row) for e, row in episodes if held[e, row]}
    assert {(env, row - row % 7) for env, row in other} == kept and len(kept) > 8
    assert replay.windows == 4 * (len(episodes) - len(kept))
    assert unlikely(other, {(e, row + k): 1 / len(kept) / 4 for e, row in kept for k in range(4)}) < 4  # none newest


def test_held_out_episodes_are_forgotten_with_the_others(tmp_path):
    replay = make(tmp_path, num_envs=2, rows=150, validation_fraction=0.4)
    play(replay, *[7] * 50)
    gone = set()
    while len(gone) < 2:
        for held_out in {False, True} - gone:
            try:
                index = replay.sample(20, 0, held_out=held_out)[1]
            except ValueError:
                gone.add(held_out)
            else:
                assert (index[:, 1] + 1 >= replay.rows.start).all()
        add(replay, [False] * 2, [False] * 2)
    assert replay.rows.start in range(350 - 7, 350)
