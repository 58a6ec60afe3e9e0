"""How many updates a run is said to make, and in which words; that it does so is tested with the learner."""

import pytest
from trainer import tiny_run

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.training.schedule import forecast, in_words

EPISODES = dict(replay__sampling="episodes", replay__online=False)


def expected(*, capacity=40_000, time_limit=0, **changes):
    return forecast(tiny_run(**changes), capacity, time_limit)


def test_what_stands_in_the_way_of_all_updates_is_said():
    have = "train.frames 240 are 240 agent steps"
    assert expected().updates == 1 + (240 - 16) // 2 and not expected().notes
    for changes, updates, note in [
        (dict(train__prefill=240), 1, None),
        (dict(train__prefill=242), 0, f"the first 242 agent steps act at random (train.prefill), {have}"),
        (dict(train__start_windows=232), 1, None),
        (dict(train__start_windows=233), 0, f"233 windows (train.start_windows) take 242 agent steps, {have}"),
        (dict(train__start_windows=0), 1 + (240 - 16) // 2, None),
        (dict(train__train_ratio=1e-9), 1, None),
        (dict(train__train_ratio=1e-9, train__updates_per_dispatch=2), 0, "1 are due, and 2 are made at a time"),
        (dict(train__pretrain=5, train__train_ratio=1e-9, train__updates_per_dispatch=2), 4, None),
        (dict(train__frames=480, env__action_repeat=2, train__prefill=242), 0, "the first 242 agent steps act at"),
    ]:
        found = expected(**changes)
        assert found.updates == updates, changes
        assert not found.notes if note is None else found.notes[0].startswith(f"no updates: {note}"), found
    assert expected(train__train_ratio=0.0) == (240, 0, ("train.train_ratio is 0: no updates",))


def test_windows_and_episodes_in_words():
    ended = "windows of 4 records (train.batch_length) come from ended episodes of as many or more; "
    assert expected(**EPISODES).notes == (ended + "how long they are here is not known",)
    known = ended + "here they end after 10 actions at the latest, which are 11 records"
    assert expected(time_limit=10, **EPISODES).notes == (known,)
    small = "episodes of more than 10 records are never drawn: so many of each environment are kept at a time"
    assert expected(capacity=20, time_limit=10, **EPISODES, train__start_windows=1).notes == (known, small)
    assert len(expected(capacity=22, time_limit=10, **EPISODES, train__start_windows=1).notes) == 1
    assert expected(time_limit=3, **EPISODES).updates == 1 + (240 - 14) // 2  # at most: no window needs a record before


@pytest.mark.parametrize(
    "changes, line",
    [
        (
            dict(time_limit=2, **EPISODES),
            "train.batch_length: got 4, but an episode of 'probe/continuous_target' has at most 3 records (a time "
            "limit of 2 actions), and replay.sampling episodes draws from none that is shorter than a window; "
            "set it to at most 3, or replay.sampling to windows",
        ),
        (
            dict(capacity=16, train__start_windows=9),
            "replay.capacity: 8 records of each of 2 environments never hold more than 8 windows, updates begin with 9 "
            "(train.start_windows, or batch_size x batch_length)",
        ),
        (
            dict(capacity=16, train__start_windows=11, **EPISODES),
            "replay.capacity: 8 records of each of 2 environments ",
        ),
    ],
)
def test_what_could_never_learn_is_refused(changes, line):
    with pytest.raises(ConfigError) as error:
        expected(**changes)
    assert str(error.value).startswith(line)
    changes["train__train_ratio"] = 0.0  # nothing is to be learnt
    assert expected(**changes).updates == 0


def test_what_is_just_enough_is_not_refused():
    assert expected(capacity=16, train__start_windows=8).updates
    assert expected(capacity=16, train__start_windows=10, **EPISODES).updates
    # A short run fills no large ring: going on for longer will do.
    assert expected(capacity=240, train__start_windows=500).notes[0].startswith("no updates: 500 windows")


def test_in_words():
    config = tiny_run(train__prefill=50, train__update_every=20)
    words = in_words(config, forecast(config, 40_000, 0), {"grad_steps": 30}, update_seconds=20.0)
    assert words.startswith("50 agent steps of random actions, then 10 updates every 20 agent steps (20 frames); 240 ")
    usual = in_words(tiny_run(), expected(), {"grad_steps": 0}, update_seconds=1.0)
    assert usual == (
        "an update every 2 agent steps (2 frames); 240 frames are 240 agent steps and 113 updates of 2 x 4 records; "
        "at 1000 ms an update, 2 minutes of updates are left"
    )
    many = in_words(tiny_run(**EPISODES), expected(**EPISODES), {"grad_steps": 0}, update_seconds=60.0)
    assert "240 agent steps and at most 114 updates of" in many and many.endswith("1.9 hours of updates are left")
