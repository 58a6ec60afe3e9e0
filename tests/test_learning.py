"""The certificate of learning: what it finds in curves and metrics made by hand."""

import json
import sys

import learning
import learning_metrics
import numpy as np
import pytest

from dreamer_jax.config.loading import dump, load
from dreamer_jax.specs import ArraySpec, EnvSpec

GROUP = 100
TASK = "dmc/walker_walk from states"


def recorded(path, areas, *, noise=0.0, seed=0, groups=6, task=TASK):
    """A file of one run for each area: two episodes a group, whose mean is the area plus noise."""
    rng = np.random.default_rng(seed)
    seeds = {}
    for number, area in enumerate(areas):
        scores = area + noise * rng.normal(size=groups)
        episodes = [
            [GROUP * (i + 1) - shift, float(s + d)] for i, s in enumerate(scores) for shift, d in ((7, -5), (0, 5))
        ]
        seeds[str(number)] = episodes
    path.write_text(json.dumps({"tasks": {task: {"group_frames": GROUP, "settings": {}, "seeds": seeds}}}))
    return path


def recorded_metrics(path, *seeds, updates=(0, 10, 20)):
    """A file of one run for each of ``seeds``, its metrics."""
    content = {"updates": list(updates), "tasks": {TASK: {str(number): each for number, each in enumerate(seeds)}}}
    path.write_text(json.dumps(content))
    return path


def run_of_ours(run_dir, lines, area=100):
    """A run directory with these lines of metrics, whose returns are all ``area``."""
    run_dir.mkdir()
    spec = EnvSpec({"seen": ArraySpec((5,), "float32")}, {"action": ArraySpec((1,), "float32")})
    (run_dir / "config.yaml").write_text(dump(load(overrides=[("env.task", "dmc/walker_walk")])))
    (run_dir / "env.json").write_text(json.dumps({"spec": spec.as_json()}))
    scores = [
        {"task": "dmc/walker_walk", "method": "ours", "seed": 0, "env_frames": GROUP * n, "score": area}
        for n in range(1, 7)
    ]
    for name, rows in (("scores", scores), ("metrics", lines)):
        (run_dir / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run_dir


def line(updates, loss, **others):
    return {"grad_steps": updates, "seconds": 1, "env_frames": 600, "train/loss/total": loss} | others


def verdict(tmp_path, ours, theirs, margin):
    sides = [
        learning.read_side([recorded(tmp_path / f"{name}.json", areas)]) for name, areas in (("a", ours), ("b", theirs))
    ]
    (task,) = sides[0]
    return learning.verdict(learning.compare(task, sides[0][task], sides[1][task]), margin)


def test_areas_and_their_difference(tmp_path):
    found = verdict(tmp_path, [100, 110, 120], [90, 100, 110], 50)
    assert found["ours"] == [100, 110, 120] and found["theirs"] == [90, 100, 110] and found["difference"] == 10
    assert (found["frames"], found["groups"]) == (600, 6)
    low, high = found["ci95"]
    assert -10 < low < 10 < high < 30 and low <= found["ci90"][0] <= found["ci90"][1] <= high
    assert found["verdict"] == "equivalent within 50"


@pytest.mark.parametrize(
    ("ours", "theirs", "margin", "words"),
    [
        ([500, 505, 510, 495, 500], [502, 500, 505, 498, 500], 20, "equivalent within 20"),
        ([500, 505, 510, 495, 500], [602, 600, 605, 598, 600], 20, "different"),
        ([300, 700, 500], [550, 350, 650], 20, "undecided"),
    ],
)
def test_verdicts(tmp_path, ours, theirs, margin, words):
    assert verdict(tmp_path, ours, theirs, margin)["verdict"] == words


def test_the_permutation_test_is_exact_for_few_seeds(tmp_path):
    # All of ours above all of theirs: 2 of the 20 ways to deal six seeds out are as extreme, one on either side.
    assert verdict(tmp_path, [10, 11, 12], [1, 2, 3], 5)["p"] == pytest.approx(2 / 20)


def test_only_groups_that_every_run_has_count(tmp_path):
    long, short = tmp_path / "long.json", tmp_path / "short.json"
    recorded(long, [10, 20], groups=9), recorded(short, [10, 20], groups=4)
    sides = learning.read_side([long]), learning.read_side([short])
    one = learning.compare(TASK, *(side[TASK] for side in sides))
    assert one.ours.shape == one.theirs.shape == (2, 4) and not np.isnan(one.ours).any()


def test_the_program(tmp_path, monkeypatch, capsys):
    ours, theirs = recorded(tmp_path / "a.json", [10, 12, 14]), recorded(tmp_path / "b.json", [11, 12, 13])
    table, picture = tmp_path / "table.md", tmp_path / "curves.png"
    words = [
        "learning",
        "--ours",
        ours,
        "--theirs",
        theirs,
        "--margin",
        "10",
        "--output",
        picture,
        "--certificate",
        table,
    ]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    learning.main()
    (found,) = json.loads(capsys.readouterr().out)["tasks"]
    assert found["verdict"] == "equivalent within 10"
    assert f"| {TASK} | 600 | 3 + 3 | 12.0 | 12.0 | 0.0 |" in table.read_text()
    assert picture.stat().st_size > 5000


def test_sides_without_a_common_task_are_refused(tmp_path, monkeypatch, capsys):
    ours = recorded(tmp_path / "a.json", [10, 12])
    theirs = recorded(tmp_path / "b.json", [10, 12], task="dmc/cartpole_balance from states")
    monkeypatch.setattr(sys, "argv", ["learning", "--ours", str(ours), "--theirs", str(theirs), "--margin", "1"])
    with pytest.raises(SystemExit):
        learning.main()
    assert "no task in common" in capsys.readouterr().err


def test_a_single_seed_is_refused(tmp_path, monkeypatch, capsys):
    ours, theirs = recorded(tmp_path / "a.json", [10]), recorded(tmp_path / "b.json", [10, 12])
    monkeypatch.setattr(sys, "argv", ["learning", "--ours", str(ours), "--theirs", str(theirs), "--margin", "1"])
    with pytest.raises(SystemExit, match="2"):
        learning.main()
    assert f"{TASK}: 1 and 2 seeds; each side needs two or more" in capsys.readouterr().err


def test_recorded_runs_of_the_reference_are_the_other_side_by_default(tmp_path, monkeypatch, capsys):
    ours = recorded(tmp_path / "a.json", [100, 102], groups=300)
    monkeypatch.setattr(sys, "argv", ["learning", "--ours", str(ours), "--margin", "1"])
    learning.main()
    (found,) = json.loads(capsys.readouterr().out)["tasks"]
    assert found["task"] == TASK and found["frames"] == 28_056 and len(found["theirs"]) >= 3 and "metrics" not in found


def test_means_over_ranges_that_end_within_a_line():
    # Updates 1 to 4 are 1 each, 5 to 10 are 3 each, 11 and 12 are 9 each.
    logged = learning_metrics.Logged(np.array([4, 10, 12]), {"x": np.array([1.0, 3.0, 9.0])})
    means = learning_metrics.means_over(logged, np.array([0, 2, 6, 11, 12, 13]))["x"]
    np.testing.assert_allclose(means, [1, (1 + 1 + 3 + 3) / 4, (4 * 3 + 9) / 5, 9, np.nan])


def test_lines_of_the_reference_end_where_the_numbers_of_its_updates_say(tmp_path):
    rows = [
        {"train/opt/updates": np.mean(range(1, 193)), "train/opt/loss": 5.0, "train/loss/rew": 2.0, "fps/train": 3.0}
    ]
    rows += [{"step": 4004, "episode/score": 7.0}]
    rows += [{"train/opt/updates": np.mean(range(193, 361)), "train/opt/loss": 4.0, "train/loss/rew": None}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = learning_metrics.read_reference(tmp_path / "metrics.jsonl")
    assert found.ends.tolist() == [192, 360]
    np.testing.assert_equal(found.means, {"loss/total": [5, 4], "loss/rew": [2, np.nan]})


def test_metrics_side_by_side(tmp_path, monkeypatch, capsys):
    rest = {"train/val": 7.0, "train/rew": 1.0}
    steady = [line(5, 1.0, **rest), {"grad_steps": 5, "seconds": 1, "env_frames": 600}, line(15, 2.0, **rest)]
    steady += [line(25, 4.0, **rest), line(25, 99.0, **rest)]
    ours = [run_of_ours(tmp_path / f"run-{number}", steady, 100 + number) for number in range(4)]
    theirs = [
        {"loss/total": [1.5 + 0.1 * n, 30.0 + n], "val": [6.9 + 0.1 * n, 7.0 + n], "rew": [1, 1]} for n in (-1, 0, 1, 2)
    ]
    files = (
        recorded(tmp_path / "scores.json", [100, 101, 102, 103]),
        recorded_metrics(tmp_path / "metrics.json", *theirs),
    )
    table, pictures = tmp_path / "table.md", tmp_path / "pictures"
    words = ["learning", "--ours", *ours, "--theirs", *files, "--margin", "5", "--updates", "0", "10", "20", "30"]
    words += ["--certificate", table, "--metrics-output", pictures, "--metrics", "loss/*", "val"]
    monkeypatch.setattr(learning_metrics, "RECORDED", np.array([0, 10, 20]))
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    learning.main()
    (found,) = json.loads(capsys.readouterr().out)["tasks"]
    entries = {(entry["metric"], *entry["updates"]): entry for entry in found["metrics"]}
    assert entries.keys() == {(name, *ends) for name in ("loss/total", "val") for ends in ((0, 10), (10, 20))}
    # Without the one in flight updates 1 to 4 are 1 each, 5 to 14 are 2 each, 15 to 24 are 4 each.
    assert entries["loss/total", 0, 10]["ours"] == [1.6] * 4 and entries["loss/total", 10, 20]["ours"] == [3.2] * 4
    assert entries["loss/total", 10, 20]["theirs"] == [29, 30, 31, 32]
    assert entries["loss/total", 10, 20]["difference"] == -27.3
    assert entries["loss/total", 10, 20]["p"] == pytest.approx(2 / 70, abs=1e-4)  # of 8 over 4 seeds, on either side
    assert entries["val", 0, 10]["p"] > 0.3
    text = table.read_text()
    assert f"{TASK}: means over updates, ours / theirs, ± standard deviation over seeds (4 + 4); " in text
    assert "bold: p < 0.05 (1 of 4)\n\n| metric | 1 to 10 | 11 to 20 |\n" in text
    assert "| loss/total | 1.6 ± 0 / 1.55 ± 0.13 | **3.2 ± 0 / 30.5 ± 1.3** |\n" in text
    assert [path.name for path in pictures.iterdir()] == ["dmc_walker_walk_from_states.png"]
    from matplotlib.image import imread

    pixels = imread(pictures / "dmc_walker_walk_from_states.png")[..., :3]
    for colour in ((31, 119, 180), (255, 127, 14)):  # tab:blue, tab:orange
        assert (np.abs(pixels * 255 - colour).max(-1) < 3).sum() > 100


def test_first_updates_without_curves(tmp_path, monkeypatch, capsys):
    ours = [run_of_ours(tmp_path / f"run-{n}", [line(13, 1.0 + n), line(25, 4.0), line(25, 4.0)], 100) for n in (0, 1)]
    theirs = tmp_path / "metrics.json"
    means = {"0": {"loss/total": [1.0, 4.0]}, "1": {"loss/total": [2.0, 5.0]}}
    theirs.write_text(json.dumps({"updates": [0, 12, 24], "tasks": {TASK: means}}))
    words = ["learning", "--metrics-only", "--ours", *ours, "--theirs", theirs, "--updates", "0", "12", "24"]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    learning.main()
    (found,) = json.loads(capsys.readouterr().out)["tasks"]
    assert [entry["difference"] for entry in found["metrics"]] == [0, -0.5] and "verdict" not in found


def test_a_single_seed_has_no_p_value(tmp_path):
    one = learning_metrics.together(
        TASK,
        *(learning_metrics.read_all([recorded_metrics(tmp_path / "a.json", {"val": [1, 2]})])[TASK],) * 2,
        np.arange(0, 21, 10),
    )
    entries = learning_metrics.numbers(one, learning.p_value)
    assert [entry["p"] for entry in entries] == [None, None]
    table = learning_metrics.as_table(TASK, entries)
    assert "| val | 1 / 1 | 2 / 2 |" in table and "(0 of 0)" in table


def test_what_leaves_nothing_to_compare_is_refused(tmp_path):
    logged = learning_metrics.read_all([recorded_metrics(tmp_path / "a.json", {"val": [1, 2]})])[TASK]
    with pytest.raises(SystemExit, match=r"no metric in common is called los\*; there are \['val'\]"):
        learning_metrics.together(TASK, logged, logged, np.array([0, 20]), ["los*"])
    with pytest.raises(SystemExit, match="has made 20 updates, and the first range ends at 500"):
        learning_metrics.together(TASK, logged, logged, np.array([0, 500]))
