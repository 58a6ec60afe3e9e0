import io
import json
import re
import sys
import types
import weakref

import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.runs.metrics import Episode, EpisodeStats, MetricBuffer, RunLog, read_jsonl, rewind_jsonl
from dreamer_jax.runs.progress import Progress, SharedProgress
from dreamer_jax.types import TimeStep


def record(reward, first=0, last=0):
    reward, first, last = (np.atleast_1d(value) for value in (reward, first, last))
    first, last = np.broadcast_to(first, reward.shape).astype(bool), np.broadcast_to(last, reward.shape).astype(bool)
    return TimeStep({}, reward.astype(np.float32), first, last, np.zeros_like(last))


def counters(agent_steps, repeat=2):
    return {"agent_steps": agent_steps, "env_frames": repeat * agent_steps, "grad_steps": agent_steps // 4}


def open_log(run_dir, loggers=(), resume=None):
    return RunLog(run_dir, method="dreamer_v3", task="probe/count", seed=7, loggers=loggers, resume=resume)


# Episodes


def test_last_reward_counts_and_the_reset_record_adds_no_length():
    stats = EpisodeStats(1)
    assert stats.update(record(0, first=1)) == []
    assert stats.update(record(1)) == []
    assert stats.update(record(2)) == []
    assert stats.update(record(10, last=1)) == [Episode(0, 13.0, 3)]
    assert stats.update(record(0, first=1)) == []
    assert stats.update(record(5, last=1)) == [Episode(0, 5.0, 1)]
    assert stats.recent() == (9.0, 2)


def test_environments_are_apart():
    stats = EpisodeStats(3)
    stats.update(record([0, 0, 0], first=[1, 1, 1]))
    assert stats.update(record([1, 2, 3], last=[0, 1, 0])) == [Episode(1, 2.0, 1)]
    assert stats.update(record([1, 0, 3], first=[0, 1, 0], last=[1, 0, 1])) == [Episode(0, 2.0, 2), Episode(2, 6.0, 2)]


def test_recent_mean_forgets():
    stats = EpisodeStats(1, window=2)
    assert np.isnan(stats.recent()[0]) and stats.recent()[1] == 0
    for score in (100, 3, 5):
        stats.update(record(0, first=1))
        stats.update(record(score, last=1))
    assert stats.recent() == (4.0, 2)


def test_episode_stats_go_on_from_their_state():
    rng = np.random.default_rng(0)
    steps = [record(rng.normal(size=4), *(rng.random((2, 4)) < 0.2)) for _ in range(60)]
    whole, before, after = EpisodeStats(4), EpisodeStats(4), EpisodeStats(4)
    expected = [whole.update(step) for step in steps]
    found = [before.update(step) for step in steps[:30]]
    after.load({name: jnp.asarray(value) if name == "length" else value for name, value in before.state().items()})
    found += [after.update(step) for step in steps[30:]]
    assert found == expected and sum(map(len, expected)) > 10
    assert after.recent() == whole.recent()
    with pytest.raises(ValueError, match="shape"):
        EpisodeStats(5).load(before.state())


# Metrics of updates


def test_every_update_weighs_the_same():
    buffer = MetricBuffer()
    buffer.add({"loss": np.float32(1.0), "norm": np.array(2.0, jnp.bfloat16)})
    buffer.add({"loss": np.array([2.0, 3.0, 6.0], np.float32)})
    assert buffer.take() == {"loss": 3.0, "norm": 2.0}
    assert buffer.take() == {}


def test_means_are_as_exact_as_a_number_can_say():
    buffer = MetricBuffer()
    buffer.add({"loss": np.array([1e8, 1.0], np.float32)})
    buffer.add({"loss": np.float32(-1e8)})
    assert buffer.take() == {"loss": pytest.approx(1 / 3)}


def test_metrics_are_not_kept():
    """They may be views of all that an update gave."""
    buffer, whole = MetricBuffer(), np.ones(1000)
    alive = weakref.ref(whole)
    buffer.add({"loss": whole[:2]})
    del whole
    assert alive() is None and buffer.take() == {"loss": 1.0}


# Files


def test_metric_lines(tmp_path):
    with open_log(tmp_path) as log:
        log(
            counters(8), {"train/z": np.float32(0.1), "fps/policy": 123456.7891, "bad": np.nan, "worse": np.inf, "n": 3}
        )
        log.episodes(counters(12), [Episode(1, 10.0, 5), Episode(3, 20.5, 7)])
        log.episodes(counters(13), [])
        log(counters(16), {"train/z": 1.0})
        log(counters(20), {})
    first, second, third = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert list(json.loads(first)) == [*counters(0), "seconds", "bad", "fps/policy", "n", "train/z", "worse"]
    assert '"bad": null' in first and '"worse": null' in first and '"n": 3' in first
    assert '"fps/policy": 123456.79' in first and '"train/z": 0.1' in first
    second = json.loads(second)
    assert second.items() >= {**counters(16), "episode/score": 15.25, "episode/length": 6.0, "train/z": 1.0}.items()
    assert "episode/score" not in json.loads(third)
    scores = read_jsonl(tmp_path / "scores.jsonl")
    same = {"task": "probe/count", "method": "dreamer_v3", "seed": 7, "agent_steps": 12, "env_frames": 24}
    assert scores == [
        {**same, "env": 1, "episode": 0, "score": 10.0, "length": 5},
        {**same, "env": 3, "episode": 1, "score": 20.5, "length": 7},
    ]


def test_numbers_of_the_environment_join_the_episodes(tmp_path):
    stats = EpisodeStats(2)
    finished = stats.update(record([1, 2], last=[0, 1]), {"achievement_a": np.array([9.0, 1.0]), "speed": np.ones(2)})
    assert finished == [Episode(1, 2.0, 1, {"achievement_a": 1.0, "speed": 1.0})]

    def achieved(a, b):
        return {"achievement_a": float(a), "achievement_b": float(b)}

    with open_log(tmp_path) as log:
        log.episodes(counters(4), [Episode(0, 1.0, 4, achieved(1, 0)), Episode(1, 0.0, 4, achieved(1, 1))])
        log(counters(4), {})
        log.episodes(counters(8), [Episode(0, 1.0, 4, achieved(0, 0))])
        log(counters(8), {})
    with open_log(tmp_path, resume=counters(4)) as log:  # the third episode is lived again
        log.episodes(counters(8), [Episode(0, 1.0, 4, achieved(1, 1))])
        log(counters(8), {})
    lines, scores = read_jsonl(tmp_path / "metrics.jsonl"), read_jsonl(tmp_path / "scores.jsonl")
    assert [line["achievement_b"] for line in scores] == [0.0, 1.0, 1.0]
    assert (lines[0]["episode/achievement_a"], lines[0]["episode/achievement_b"]) == (1.0, 0.5)
    # Over all episodes since the run began, those before the resume included: rates 1 and 2/3.
    for line, second in zip(lines, (50, 200 / 3), strict=True):
        assert line["episode/crafter_score"] == pytest.approx(np.sqrt(101 * (1 + second)) - 1)


def test_lines_are_on_disk_at_once(tmp_path):
    log = open_log(tmp_path)
    log(counters(8), {"loss": 1.0})
    log.episodes(counters(8), [Episode(0, 1.0, 2)])
    assert len(read_jsonl(tmp_path / "metrics.jsonl")) == len(read_jsonl(tmp_path / "scores.jsonl")) == 1
    log.close()


def test_reader_skips_a_torn_last_line_only(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n{"a": 3, "b"')
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}]
    path.write_bytes(b'{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(ConfigError, match=r"lines\.jsonl:2"):
        read_jsonl(path)
    path.write_bytes(b"")
    assert read_jsonl(path) == []


def test_resume_moves_what_lies_beyond_the_checkpoint(tmp_path):
    with open_log(tmp_path) as log:
        for step in (4, 8, 12, 16):
            log(counters(step), {"loss": 1 / step})
            log.episodes(counters(step), [Episode(0, float(step), 4)])
    torn = b'{"agent_steps": 20, "env_fra'
    for name in ("metrics", "scores"):
        with open(tmp_path / f"{name}.jsonl", "ab") as file:
            file.write(torn)
    before = {name: (tmp_path / f"{name}.jsonl").read_bytes() for name in ("metrics", "scores")}

    with open_log(tmp_path, resume={**counters(8), "seconds": 100.0}) as log:
        assert 100.0 <= log.seconds < 160.0
        for name, text in before.items():
            kept = (tmp_path / f"{name}.jsonl").read_bytes()
            moved = (tmp_path / f"{name}.superseded.jsonl").read_bytes()
            assert kept + moved == text + b"\n"
            assert [row["agent_steps"] for row in read_jsonl(tmp_path / f"{name}.jsonl")] == [4, 8]
        log(counters(12), {})
        log.episodes(counters(12), [Episode(0, 1.0, 4)])
    assert [row["agent_steps"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [4, 8, 12]
    assert read_jsonl(tmp_path / "metrics.jsonl")[-1]["seconds"] >= 100.0
    assert [row["episode"] for row in read_jsonl(tmp_path / "scores.jsonl")] == [0, 1, 2]

    moved = (tmp_path / "scores.superseded.jsonl").read_bytes()
    with open_log(tmp_path, resume=counters(8)):
        assert (tmp_path / "scores.superseded.jsonl").read_bytes().startswith(moved)
        assert len(read_jsonl(tmp_path / "scores.jsonl")) == 2
    assert not list(tmp_path.glob("*.tmp"))


def test_fresh_start_moves_everything(tmp_path):
    with open_log(tmp_path) as log:
        log(counters(0), {})
        log(counters(4), {})
    with open_log(tmp_path) as log:
        assert log.seconds < 60
    assert read_jsonl(tmp_path / "metrics.jsonl") == []
    assert len(read_jsonl(tmp_path / "metrics.superseded.jsonl")) == 2


@pytest.mark.parametrize("checkpoint", [{}, {"seconds": 30.0}], ids=["without seconds", "with fewer"])
def test_seconds_go_on_from_the_last_line_if_the_checkpoint_has_fewer(tmp_path, checkpoint):
    (tmp_path / "metrics.jsonl").write_text(
        '{"agent_steps": 4, "seconds": 50.0}\n{"agent_steps": 8, "seconds": 90.0}\n'
    )
    with open_log(tmp_path, resume=counters(4) | checkpoint) as log:
        assert 50.0 <= log.seconds < 80.0


def test_rewind_repairs_a_last_line_that_lacks_only_its_end(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"agent_steps": 4}\n{"agent_steps": 8}')
    assert rewind_jsonl(path, 8) == 2
    assert path.read_bytes() == b'{"agent_steps": 4}\n{"agent_steps": 8}\n'
    assert not (tmp_path / "metrics.superseded.jsonl").exists()
    assert rewind_jsonl(tmp_path / "absent.jsonl", 8) == 0


# Loggers


def test_any_callable_is_a_logger(tmp_path):
    seen = []
    with open_log(tmp_path, loggers=[lambda step, metrics: seen.append((step, metrics))]) as log:
        log(counters(4), {"b": 1.0, "a": 2.0})
    assert seen == [(counters(4), {"a": 2.0, "b": 1.0})]


def test_unknown_logger_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="'tensorbord', expected one of tensorboard, wandb"):
        open_log(tmp_path, loggers=["tensorbord"])


def test_tensorboard_has_environment_frames_on_its_axis(tmp_path):
    from tensorboardX.event_file_writer import EventsWriter  # noqa: F401  (the package is there)
    from tensorboardX.proto.event_pb2 import Event

    def events(path):
        data, found = path.read_bytes(), []
        while data:
            size = int.from_bytes(data[:8], "little")
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
        return found

    with open_log(tmp_path, loggers=["tensorboard"]) as log:
        log(counters(10), {"train/loss/rec": 0.5, "bad": np.nan})
    with open_log(tmp_path, loggers=["tensorboard"], resume=counters(10)) as log:
        log(counters(20), {"train/loss/rec": 0.25})
    first, second = sorted(tmp_path.glob("events.out.tfevents*"), key=lambda path: path.name[-1])
    points = {value.tag: (event.step, value.simple_value) for event in events(first) for value in event.summary.value}
    assert points == {
        "train/loss/rec": (20, 0.5), "counters/agent_steps": (20, 10), "counters/grad_steps": (20, 2)
    }  # fmt: skip
    restarts = [event.step for event in events(second) if event.HasField("session_log")]
    assert restarts == [21]  # events from here on are hidden, the one at the checkpoint stays


def test_wandb_missing_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"pip install 'dreamer-jax\[wandb\]'"):
        open_log(tmp_path, loggers=["wandb"])


def test_wandb_keeps_its_page_and_logs_the_counters(tmp_path, monkeypatch):
    calls = []

    class FakeRun:
        def define_metric(self, name, step_metric=None):
            calls.append(("axis", name, step_metric))

        def log(self, row):
            calls.append(("log", row))

        def finish(self):
            calls.append(("finish",))

    def init(**settings):
        calls.append(("init", settings["id"], settings["resume"]))
        return FakeRun()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    for _ in range(2):
        with open_log(tmp_path, loggers=["wandb"], resume=counters(4)) as log:
            log(counters(8), {"train/x": 1.0})
    half = len(calls) // 2
    assert calls[:half] == calls[half:]
    assert ("log", {**counters(8), "train/x": 1.0}) in calls and ("axis", "*", "env_frames") in calls
    assert calls[-1] == ("finish",)


# Progress


ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def make_progress(stream):
    now = [0.0]
    return Progress(10_000, stream=stream, clock=lambda: now[0]), now


def test_plain_progress_is_rare_and_says_everything():
    stream = io.StringIO()
    progress, now = make_progress(stream)
    for second in range(0, 61):
        now[0] = float(second)
        step = {"agent_steps": 10 * second, "env_frames": 20 * second, "grad_steps": 5 * second}
        progress.update(step, (12.34, 3) if second > 30 else (np.nan, 0))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[1] == "600/10,000 frames (6 %) | return – | 150 updates | 20 frames/s, 5.0 updates/s | 0:07:50 left"
    assert "return 12.3 (mean of 3)" in lines[2]


def test_what_updates_wait_for_stands_in_the_place_of_their_number():
    progress, _ = make_progress(io.StringIO())
    progress.update({"env_frames": 100, "grad_steps": 0}, waiting="no episode has ended yet")
    assert progress.line() == "100/10,000 frames (1 %) | return – | no updates yet: no episode has ended yet"
    progress.update({"env_frames": 100, "grad_steps": 7}, waiting="none is left")
    assert progress.line().endswith("| 7 updates, none now: none is left")
    progress.update({"env_frames": 100, "grad_steps": 7})
    assert progress.line().endswith("| 7 updates")
    joint = SharedProgress(10_000, ["a", "b"], stream=io.StringIO())
    joint.of(1).update({}, waiting="one of them waits")
    joint.of(0).update({"env_frames": 100, "grad_steps": 0})
    assert joint.line().endswith("no updates yet: one of them waits")


def test_rates_are_recent():
    progress, now = make_progress(io.StringIO())
    frames = 0
    for second in range(200):
        now[0] = float(second)
        frames += 100 if second < 100 else 10
        progress.update({"env_frames": frames, "grad_steps": 0})
    assert "10 frames/s" in progress.line()


def test_state_takes_the_place_of_the_rates_and_is_left_out_of_them():
    stream = io.StringIO()
    progress, now = make_progress(stream)
    progress.state("compiling update …")
    assert stream.getvalue() == "compiling update …\n"
    progress.update({"env_frames": 100, "grad_steps": 0})
    now[0] = 100.0
    progress.state("")
    progress.update({"env_frames": 100, "grad_steps": 0})
    now[0] = 110.0
    progress.update({"env_frames": 400, "grad_steps": 20})
    assert progress.line().endswith("30 frames/s, 2.0 updates/s | 0:05:20 left")


def on_terminal(monkeypatch, columns=60):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "JUPYTER_COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm-256color")
    return Terminal()


def test_terminal_line_is_rewritten_within_the_width(monkeypatch):
    stream = on_terminal(monkeypatch, columns=60)
    progress, now = make_progress(stream)
    for second in range(5):
        now[0] = float(second)
        progress.update({"env_frames": 1000 * second, "grad_steps": second}, (1.0, 1))
    progress.note("saved")
    progress.close()
    written = stream.getvalue()
    shown = [ANSI.sub("", part).rstrip() for part in re.split("[\r\n]", written)]
    assert all(len(part) <= 60 for part in shown)
    assert shown.count("saved") == 1
    assert shown[0].startswith("━") and "0/10,000 frames (0 %)" in shown[0]
    last = " ".join(part.strip(" ━╺") for part in shown[shown.index("saved") + 1 :])
    assert "4,000/10,000 frames (40 %)" in last and "1,000 frames/s" in last and "left" in last
    assert written.endswith("\x1b[?25h")  # the cursor can be seen


def test_terminal_without_colours_has_none(monkeypatch):
    stream = on_terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    progress, _ = make_progress(stream)
    progress.update({"env_frames": 5000, "grad_steps": 1})
    progress.close()
    assert "5,000/10,000 frames" in stream.getvalue() and "\x1b[3" not in stream.getvalue()


def test_dumb_terminal_gets_plain_lines(monkeypatch):
    stream = on_terminal(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    progress, _ = make_progress(stream)
    progress.state("compiling update …")
    progress.close()
    assert stream.getvalue() == "compiling update …\ncompiling update …\n"


def test_notes_and_states_are_not_markup(monkeypatch):
    for stream in (io.StringIO(), on_terminal(monkeypatch)):
        progress, _ = make_progress(stream)
        progress.note("env.task: [red]x[/red] and a [bold] bracket")
        progress.state("[red]looking[/red]")
        progress.close()
        shown = ANSI.sub("", stream.getvalue())
        assert "env.task: [red]x[/red] and a [bold] bracket\n" in shown and "[red]looking[/red]" in shown
