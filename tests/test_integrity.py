"""Files that people may edit and disks may damage are held against the newest checkpoint that can be read."""

import json

import numpy as np
import pytest
from trainer import make_toy, tiny_run

from dreamer_jax.config.loading import dump, replace
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.directory import write_run
from dreamer_jax.runs.facts import describe, newest, place, steps
from dreamer_jax.runs.integrity import check_lines, lines_lost, read_run, read_settings, read_spec
from dreamer_jax.runs.metrics import RunLog
from dreamer_jax.training.preflight import env_spec

CONFIG = tiny_run(seed=3)
COUNTERS = {"agent_steps": 0, "env_frames": 0, "grad_steps": 0}


@pytest.fixture
def run(tmp_path):
    """A run with a checkpoint after two lines of metrics and one after three, and a fourth line."""
    spec = env_spec(CONFIG)
    write_run(tmp_path, CONFIG, spec)
    state = make_toy(CONFIG, spec).init(np.zeros(2, np.uint32))
    checkpoints = Checkpoints(tmp_path, keep=2)
    with RunLog(tmp_path, method="dreamer_v3", task="probe/count", seed=3, loggers=()) as log:
        for step in range(4):
            log(COUNTERS | {"agent_steps": step}, {"loss": step / 3})
            if step in (1, 2):
                checkpoints.save(
                    step, state, np.ones(1), {"a": np.ones(1)}, log.state() | describe(CONFIG, spec, given=False)
                )
                assert checkpoints.completed(wait=True) == step
    checkpoints.close()
    return tmp_path


def rewrite(path, before, after):
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


def test_what_is_intact_is_read(run):
    assert read_run(run) == (CONFIG, env_spec(CONFIG))
    assert lines_lost(run) == [] and steps(run) == [1, 2] and newest(run)[0] == 2
    for name in ("metrics.jsonl", "scores.jsonl", "other.jsonl"):
        check_lines(run / name)


def test_settings_that_are_not_those_of_the_checkpoint_are_named(run):
    (run / "config.yaml").write_text(dump(replace(CONFIG, {"train.frames": 999, "train.save_minutes": 5.0})))
    assert read_settings(run).train.frames == 999  # a run may go on with others
    (run / "config.yaml").write_text(dump(replace(CONFIG, {"seed": 4, "kl.rep": 0.3})))
    with pytest.raises(ConfigError, match="edited or damaged: seed is 4 and was 3; kl.rep is 0.3 and was"):
        read_run(run)
    (run / "config.yaml").write_text("")
    with pytest.raises(ConfigError, match=r" and \d+ more when checkpoint 2 was saved; put back what it was"):
        read_run(run)
    (run / "config.yaml").write_text("seed: x\n")
    with pytest.raises(ConfigError, match=r"config.yaml:1: seed: got 'x', expected a whole number; put back what it w"):
        read_run(run)


def test_settings_that_another_version_has_or_lacks_do_not_matter(run):
    path = place(run, 2) / "facts" / "metadata"
    content = json.loads(path.read_text())
    settings = content["facts"]["settings"]
    del settings["kl.rep"]
    path.write_text(json.dumps(content | {"facts": content["facts"] | {"settings": settings | {"old.one": 1}}}))
    (place(run, 2) / "checksums.json").unlink()
    assert read_settings(run) == CONFIG


def test_other_shapes_are_named(run):
    path = run / "env.json"
    rewrite(path, '"versions"', '"visions"')  # for people alone
    assert read_spec(run) == env_spec(CONFIG)
    rewrite(path, '"float32"', '"int32"')
    with pytest.raises(ConfigError, match=r"env.json: damaged: other observations or actions than when checkpoint 2"):
        read_spec(run)
    for text in ("", "[]", '{"spec": {}}', '{"spec": 3}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"env.json: damaged \(.*remove it and go on with train, which writes it"):
            read_spec(run)


def test_lines_up_to_the_checkpoint_are_as_they_were(run):
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]) + lines[3][:9])  # torn
    check_lines(path)
    path.write_text("".join([*lines[:2], lines[2].replace("6", "7"), lines[3]]))
    with pytest.raises(ConfigError, match="metrics.jsonl: damaged: not what it was when checkpoint 2 was saved"):
        check_lines(path)
    path.write_text("".join(lines[:2]))
    with pytest.raises(ConfigError, match=r"metrics.jsonl: damaged: shorter than what it was when checkpoint 2 was"):
        check_lines(path)
    path.unlink()
    with pytest.raises(ConfigError, match=r"metrics.jsonl: can't be read \(No such file"):
        check_lines(path)
    assert lines_lost(run) == [f"{path}: missing, though it was there at checkpoint 2; begun again"]


def test_an_earlier_checkpoint_speaks_where_the_newest_is_damaged(run):
    rewrite(place(run, 2) / "facts" / "metadata", "seed", "sead")
    assert newest(run)[0] == 1
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], lines[2].replace("6", "7"), lines[3]]))
    check_lines(path)  # only that one knew of the third line
    rewrite(place(run, 1) / "facts" / "metadata", "seed", "sead")
    assert newest(run) == (0, {})
    assert read_run(run)[0] == CONFIG
