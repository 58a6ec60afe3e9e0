"""The programs and patches of the tutorials run, and are as small as the pages say."""

import re
import shutil
import subprocess

import pytest
from pages import ROOT, run

EXAMPLES = ROOT / "examples"
TRAIN = "-m dreamer_jax train --config configs/debug.yaml --train.frames 400 --train.eval_frames 0 --logger none"
PATCHES = {
    "own_loss": (
        [],
        "learnt = state.params['model']['uncertainty'].values(); "
        "assert len(learnt) == 3 and all(x != 0 for x in learnt)",
    ),
    "own_latent": (
        ["--rssm.latent", "simplex"],
        "import jax; from dreamer_jax.models.latents import simplex; from dreamer_jax.config.schema import RSSMConfig; "
        "z = simplex(RSSMConfig()).sample({'logits': jax.random.normal(jax.random.key(0), (3, 32, 4))}, None); "
        "assert (z > 0).all() and abs(z.sum(-1) - 1).max() < 1e-6; "
        "assert agent.latent_spec['stoch'].dtype == 'bfloat16'",
    ),
    "own_planner": (
        "--behavior.method planner --planner.candidates 20 --planner.elites 5 --planner.iterations 2 "
        "--planner.method best --planner.narrowing 0.7".split(),
        "assert not state.params.keys() & {'actor', 'critic'}; "
        "assert '  narrowing: 0.7 ' in open('run/config.yaml').read()",
    ),
}
"""By name: flags that switch a patch on, and what then holds of ``agent`` and ``state`` after training."""


def test_every_patch_is_tried_and_shown():
    assert {path.stem for path in EXAMPLES.glob("*.patch")} == set(PATCHES)
    for name in PATCHES:
        page = (ROOT / "docs" / "tutorials" / f"{name}.md").read_text()
        assert f"--8<--\nexamples/{name}.patch\n--8<--" in page and f"git apply examples/{name}.patch" in page
        assert f"[`examples/{name}.patch`](../../examples/{name}.patch)" in page


@pytest.mark.parametrize("name", PATCHES)
def test_a_patch_applies_is_small_and_works(name, tmp_path):
    patch = EXAMPLES / f"{name}.patch"
    changed = re.findall(r"^[+-](?![+-]{2} ).*$", patch.read_text(), flags=re.MULTILINE)
    files = re.findall(r"^\+\+\+ b/(.*)$", patch.read_text(), flags=re.MULTILINE)
    assert len(changed) <= 20 and len(files) <= 2
    for folder in ("dreamer_jax", "configs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(["git", "apply", patch], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, f"{patch.name} does not fit the code any more: {done.stderr}"
    for file in files:
        assert (tmp_path / file).read_text() != (ROOT / file).read_text()
    flags, holds = PATCHES[name]
    run([*TRAIN.split(), "--run-dir", "run", *flags], tmp_path, tmp_path)
    run(["-c", f"import dreamer_jax; agent, state = dreamer_jax.load('run'); {holds}"], tmp_path, tmp_path)


def test_a_whole_training_in_one_scan_and_the_film_of_its_dream(tmp_path):
    code = """
import sys; sys.path.insert(0, 'examples')
import jax, numpy as np, one_scan
from flax import serialization
rewards, state = jax.jit(one_scan.train, static_argnums=1)(jax.random.key(0), 240)
assert rewards.shape == (240,) and np.isfinite(rewards).all() and (rewards <= 0).all()
assert np.flatnonzero(rewards == 0).tolist() == [100, 201]  # the records that begin the next two episodes
open(sys.argv[1], 'wb').write(serialization.to_bytes(state.params))
print(int(state.step))
"""
    enough = 128 + 16  # windows and their length: every step from there on has an update
    assert run(["-c", code, f"{tmp_path}/params.msgpack"], ROOT) == f"{240 - enough}\n"
    said = run(["examples/film.py", f"{tmp_path}/params.msgpack", f"{tmp_path}/film.gif"], ROOT)
    assert re.search(r"kB; same actions, angle off by degrees: \d+ after 5, \d+ after 15, \d+ after 40", said)
    from PIL import Image

    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames > 100 and film.size == (540, 272)


def test_the_pendulum_swings_as_gymnasiums_does():
    code = """
import sys; sys.path.insert(0, 'examples')
import gymnasium, jax.numpy as jnp, numpy as np, one_scan
env = gymnasium.make('Pendulum-v1').unwrapped
env.reset(seed=0)
rng, state, rewards = np.random.default_rng(0), env.state.copy(), []
mine = jnp.tile(jnp.float32(state), (one_scan.ENVS, 1))
for _ in range(50):
    push = rng.uniform(-1, 1)
    theirs = sum(env.step(np.array([2 * push], np.float32))[1] for _ in range(2))
    mine, reward = one_scan.swing(mine, {'torque': jnp.full((one_scan.ENVS, 1), push)})
    np.testing.assert_allclose(reward, theirs, rtol=1e-3)
np.testing.assert_allclose(mine[0], env.state, rtol=1e-3)
"""
    run(["-c", code], ROOT)
