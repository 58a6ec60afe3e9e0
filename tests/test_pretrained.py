"""The trained agents that come with the repository: small, whole, and as good as their cards say."""

import json
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

import dreamer_jax
import pretrained

ROOT = Path(__file__).parents[1]
AGENTS = [pretrained.FILES / f"{name}.zip" for name in pretrained.AGENTS]


def test_the_page_is_of_these_agents():
    assert sorted(pretrained.FILES.glob("*.zip")) == sorted(AGENTS)
    assert pretrained.PAGE.read_text() == pretrained.page()


@pytest.mark.parametrize("path", AGENTS, ids=lambda path: path.stem)
def test_an_agent_is_small_and_its_card_is_of_its_log(path):
    assert path.stat().st_size <= 2e6
    with zipfile.ZipFile(path) as file:
        card = json.loads(file.read("card.json"))
        rows = [json.loads(line) for line in file.read("scores.jsonl").splitlines()]
        metrics = [json.loads(line) for line in file.read("metrics.jsonl").splitlines()]
    assert card["licence"] == pretrained.LICENCE and card["task"] == rows[0]["task"]
    frames = max(row["env_frames"] for row in rows)
    late = [row["score"] for row in rows if row["env_frames"] > 0.9 * card["frames"]]
    assert card["score"]["value"] == pytest.approx(np.mean(late))
    assert 0.9 * card["frames"] < frames <= card["frames"] and metrics[-1]["grad_steps"] > 500


@pytest.mark.parametrize("path", AGENTS, ids=lambda path: path.stem)
def test_an_agent_can_be_loaded(path):
    agent, state = dreamer_jax.load(path)
    assert int(state.step) > 500 and jax.tree.leaves(agent.reset(state.params, 2))


def test_a_name_that_is_none(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["pretrained", "x"])
    with pytest.raises(SystemExit, match="2"):
        pretrained.main()
    assert "x: must be of dreamer_v3_cartpole_balance" in capsys.readouterr().err
