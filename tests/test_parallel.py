"""Updates compiled for one device and for two give the same numbers."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
from agents import KEY, QUICK, random_batch, tiny_config

from dreamer_jax.agent import make_agent
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.training.parallel import AXIS, Updates, replicate, unreplicate

UPDATES, ROWS = 2, 4
SPEC = EnvSpec({"vector": ArraySpec((3,), "float32")}, {"action": ArraySpec((2,), "float32")})

BOTH = """
import sys
import numpy as np
import test_parallel
for devices in (1, 2):
    np.savez(f"{sys.argv[1]}/{devices}.npz", **test_parallel.learn(devices))
"""


def learn(devices: int) -> dict[str, np.ndarray]:
    """Two updates in one dispatch: losses, latents, moments, and the squared gradients of the optimiser."""
    config = tiny_config(optimizer__warmup=0)
    agent = make_agent(config, SPEC, axis_name=AXIS if devices > 1 else None)
    batches = [random_batch(SPEC, config, seed, size=ROWS) for seed in range(UPDATES)]
    stacked = jax.tree.map(lambda *xs: np.stack(xs), *batches)
    state = replicate(jax.jit(agent.init)(KEY), devices)
    updates = Updates(agent, devices)
    state, results = updates(state, KEY, updates.put(stacked))
    metrics, latents = updates.fetch(results)
    if devices > 1:
        for x in jax.tree.leaves(state):
            np.testing.assert_array_equal(*(np.asarray(shard.data) for shard in x.addressable_shards))
        state = unreplicate(state)
    losses = {name: value for name, value in metrics.items() if name.startswith("loss/")}
    squares = jax.tree.leaves(state.opt_state[1].nu)
    return {
        **losses,
        **{name: np.asarray(x) for name, x in state.moments.items()},
        **{f"square{i}": np.asarray(x) for i, x in enumerate(squares)},
        "step": np.asarray(state.step),
        "stoch": latents["stoch"],
        "deter": np.asarray(latents["deter"], np.float32),
    }


def test_one_device_equals_two(tmp_path):
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    flags = " ".join(f"--{k}={v}" for k, v in {**QUICK, "xla_force_host_platform_device_count": 2}.items())
    environment = {**os.environ, "XLA_FLAGS": flags, "NPROC": "16", "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", BOTH, str(tmp_path)], env=environment, check=True)
    one, two = (np.load(tmp_path / f"{devices}.npz") for devices in (1, 2))
    assert set(one) == set(two) and one["step"] == UPDATES
    assert one["loss/rew"].shape == (UPDATES,) and one["stoch"].shape[:2] == (UPDATES, ROWS)
    for name, value in one.items():
        # The second update follows a first step that is a sign, hence not the last digits.
        np.testing.assert_allclose(two[name], value, rtol=2e-3, atol=2e-4 * np.abs(value).max(), err_msg=name)


THREE = (
    "import jax; from dreamer_jax.training.parallel import check_devices; check_devices(3); print(jax.device_count())"
)


def test_a_cpu_becomes_as_many_devices_as_are_wanted():
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    found = subprocess.run([sys.executable, "-c", THREE], env=environment, check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["3"]
