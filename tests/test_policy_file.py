"""A policy in a file is the policy of the run, to a program that knows JAX alone."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from pages import ROOT
from trainer import tiny_run

from dreamer_jax.agent import make_agent
from dreamer_jax.cli import main
from dreamer_jax.devices.acting import make_act
from dreamer_jax.runs.load import load
from dreamer_jax.training.preflight import env_spec
from dreamer_jax.training.train import begin
from dreamer_jax.types import TimeStep

ENVS, STEPS = 3, 4
PLAY = """
import sys
import numpy as np
{page}
seen = np.load("seen.npz")
actions = []
for number in range({steps}):
    observation = {{name: seen[name][number] for name in facts["observation"]}}
    carry, action = step(params, jnp.uint32(7), jnp.uint32(number), carry, observation, seen["is_first"][number])
    actions.append(np.asarray(action["action"]))
np.save("actions.npy", actions)
assert not {{"dreamer_jax", "flax", "optax", "distrax"}} & sys.modules.keys()
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One that has done nothing yet."""
    run_dir, config = tmp_path_factory.mktemp("policy") / "run", tiny_run()
    begin(config, run_dir, jax.jit(make_agent(config, env_spec(config)).init)(jax.random.key(3)))
    return run_dir


@pytest.mark.parametrize("mode", ["sample", "mode"])
def test_its_actions_are_the_runs(run, tmp_path, capsys, mode):
    """Also across the beginning of an episode, in a process that imports JAX alone, as the page does it."""
    words = ["export-policy", str(run), "--out", str(tmp_path / "policy.zip"), "--envs", str(ENVS), "--mode", mode]
    assert main(words) == 0
    assert re.search(r"policy.zip: .* MB, 3 x probe/continuous_target, for cpu, cuda, tpu", capsys.readouterr().out)
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(STEPS, ENVS, 1)).astype(np.float32)
    first = np.arange(STEPS)[:, None] == np.array([0, 0, 2])
    first[0] = True
    np.savez(tmp_path / "seen.npz", observation=seen, is_first=first)
    (page,) = re.findall(
        r"```python\n(.*?carry = reset\(params\))", (ROOT / "docs/how_to/policy_file.md").read_text(), re.S
    )
    subprocess.run([sys.executable, "-c", PLAY.format(page=page, steps=STEPS)], cwd=tmp_path, check=True)
    agent, state = load(run)
    act, carry, flags = make_act(agent, mode), agent.reset(state.params, ENVS), np.zeros(ENVS, bool)
    expected = []
    for number in range(STEPS):
        timestep = TimeStep({"observation": seen[number]}, np.zeros(ENVS, np.float32), first[number], flags, flags)
        carry, action, _ = act(state.params, jax.random.key(7), number, carry, timestep)
        expected.append(action["action"])
    assert np.load(tmp_path / "actions.npy").tobytes() == np.stack(expected).tobytes()
    with zipfile.ZipFile(tmp_path / "policy.zip") as file:
        facts = json.loads(file.read("facts.json"))
    assert facts["mode"] == mode and facts["action"] == {"action": {"shape": [1], "dtype": "float32", "classes": None}}


def test_what_is_there_stays(run, tmp_path, capsys):
    out = tmp_path / "policy.zip"
    out.write_text("mine")
    assert main(["export-policy", str(run), "--out", str(out)]) == 2
    assert "policy.zip exists already; choose another name" in capsys.readouterr().err and out.read_text() == "mine"
    assert main(["export-policy", str(run), "--out", str(Path("nowhere") / "x.zip")]) == 2
    assert "--out: nowhere is no folder" in capsys.readouterr().err
