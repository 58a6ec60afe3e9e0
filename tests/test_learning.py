"""The certificate of learning: what it finds in curves made by hand."""

import json
import sys

import learning
import numpy as np
import pytest

GROUP = 100


def recorded(path, areas, *, noise=0.0, seed=0, groups=6, task="dmc/walker_walk"):
    """A file of one run for each area: two episodes a group, whose mean is the area plus noise."""
    rng = np.random.default_rng(seed)
    seeds = {}
    for number, area in enumerate(areas):
        scores = area + noise * rng.normal(size=groups)
        episodes = [
            [GROUP * (i + 1) - shift, float(s + d)] for i, s in enumerate(scores) for shift, d in ((7, -5), (0, 5))
        ]
        seeds[str(number)] = episodes
    path.write_text(
        json.dumps({"task": task, "source": "by hand", "settings": "", "group_frames": GROUP, "seeds": seeds})
    )
    return path


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
    one = learning.compare("dmc/walker_walk", *(side["dmc/walker_walk"] for side in sides))
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
    assert "| dmc/walker_walk | 600 | 3 + 3 | 12.0 | 12.0 | 0.0 |" in table.read_text()
    assert picture.stat().st_size > 5000


def test_sides_without_a_common_task_are_refused(tmp_path, monkeypatch, capsys):
    ours = recorded(tmp_path / "a.json", [10, 12])
    theirs = recorded(tmp_path / "b.json", [10, 12], task="dmc/cartpole_balance")
    monkeypatch.setattr(sys, "argv", ["learning", "--ours", str(ours), "--theirs", str(theirs), "--margin", "1"])
    with pytest.raises(SystemExit):
        learning.main()
    assert "no task in common" in capsys.readouterr().err
