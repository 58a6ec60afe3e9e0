"""A checkpoint of one number of processes restores on another: every stream goes on somewhere, nothing is lost."""

import io
import shutil

import jax
import numpy as np
import pytest
from trainer import make_toy, tiny_run

from dreamer_jax.processes.group import ProcessGroup
from dreamer_jax.processes.shards import below, gather, reshard, shard
from dreamer_jax.replay.reshard import delete_other_rings, ring_folder
from dreamer_jax.runs.checkpoint import Checkpoints, read_replays
from dreamer_jax.runs.restore import Restore
from dreamer_jax.training.preflight import env_spec
from dreamer_jax.training.train import train

ENVS, CAPACITY = 4, 80
CONFIG = tiny_run(env__num_envs=ENVS, train__batch_size=8, train__batch_length=4, replay__capacity=CAPACITY)


class One(ProcessGroup):
    """One of several processes, of which there is no other."""

    def __init__(self, part, parts):
        self.process_index, self.process_count = part, parts


@pytest.fixture(scope="module", params=[40, 140], ids="{} frames".format)
def run(request, tmp_path_factory):
    """A run of one process, before its ring wrapped and after."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    config = tiny_run(
        env__num_envs=ENVS,
        train__batch_size=8,
        train__frames=request.param,
        replay__capacity=CAPACITY,
        replay__validation_fraction=0.0,
    )
    agent = make_toy(config, env_spec(config))
    train(config, run_dir, agent=agent, loggers=(), stream=io.StringIO())
    return config, run_dir, agent


def arrays_of(run_dir):
    checkpoints = Checkpoints(run_dir)
    step = checkpoints.latest()
    arrays, facts = checkpoints.restore_arrays(step)
    checkpoints.close()
    return step, arrays, facts


def restored(run, part, parts, notes):
    """What process ``part`` gets of a run."""
    config, run_dir, agent = run
    spec, peers = env_spec(config), One(part, parts)
    checkpoints = Checkpoints(run_dir)
    shapes = jax.eval_shape(agent.init, jax.random.key(0))
    restore = Restore(config, run_dir, spec, agent, CAPACITY, peers)
    found = restore.checkpoint(checkpoints, checkpoints.latest(), shapes, notes.append)
    checkpoints.close()
    return found


def flight(arrays):
    """Stream, row and latents of every record that was in flight."""
    index, latents = arrays["learner/flight/index"], below(arrays, "learner/flight/latents")
    for k, windows in enumerate(index):
        for b, (env, row) in enumerate(windows):
            for t in range(CONFIG.train.batch_length):
                yield env, row + 1 + t, {name: value[k, b, t] for name, value in latents.items()}


@pytest.mark.parametrize("parts", [2, 4])
def test_streams_are_dealt_out(run, parts):
    _, run_dir, _ = run
    step, arrays, facts = arrays_of(run_dir)
    assert facts["processes"] == 1 and "learner/next/index" in arrays
    (whole,) = read_replays(run_dir)
    flown = {(env, row): latents for env, row, latents in flight(arrays) if row in whole.rows}
    assert flown
    each, carries = ENVS // parts, []
    for part in range(parts):
        notes = []
        found = restored(run, part, parts, notes)
        assert f"of one process: {ENVS} streams of {len(whole.rows)} records are dealt out to {parts}" in notes[0]
        ring = found.replay
        assert ring.rows == whole.rows and ring.num_envs == each
        for stream in range(each):
            env = part * each + stream
            for field in whole.fields:
                mine, theirs = ring.column(field, stream, ring.rows), whole.column(field, env, whole.rows)
                for row in whole.rows:
                    if field.startswith("latents/") and (env, row) in flown:
                        theirs[row - whole.rows.start] = flown[env, row][field.removeprefix("latents/")]
                assert mine.tobytes() == theirs.tobytes(), (env, field)
        assert found.arrays["envs/episode"].tolist() == arrays["envs/episode"][part * each :][:each].tolist()
        assert found.arrays["stats/score"].shape == (each,)
        assert not any("next" in name or "flight" in name for name in found.arrays)
        assert found.facts["agent_steps"] == step
        batch, index = ring.sample(4, 0)  # it can be used
        assert batch.reward.shape == (4, 4) and index[:, 0].max() < each
        ring.append(*record(ring))
        ring.close()
        carries.append(found.carry.latent["deter"])
        assert ring_folder(run_dir, part, parts).is_dir()
    again = restored(run, 0, 1, [])
    again.replay.close()
    np.testing.assert_array_equal(np.concatenate(carries), again.carry.latent["deter"])
    delete_other_rings(run_dir, 1)
    assert [path.name for path in run_dir.glob("replay*")] == ["replay"]


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_streams_of_two_processes_are_dealt_out(run, parts, tmp_path):
    config, run_dir, agent = run
    folder = tmp_path / "run"
    shutil.copytree(run_dir, folder)
    shares, state, streams = [], None, []
    for part in range(2):
        found = restored((config, folder, agent), part, 2, [])
        ring = found.replay
        ring.append(*record(ring))
        step = found.facts["agent_steps"] + ENVS
        replay = {f"replay/{name}": x for name, x in ring.snapshot(step).items()}
        shares.append((found.arrays | replay, found.carry))
        state, facts = found.state, {**found.facts, "agent_steps": step, "processes": 2}
        streams += [ring.column("reward", env, ring.rows) for env in range(ring.num_envs)]
        ring.close()
    checkpoints = Checkpoints(folder, keep=2)
    carry = jax.tree.map(lambda *xs: np.concatenate(xs), *(carry for _, carry in shares))
    checkpoints.save(step, state, carry, gather([arrays for arrays, _ in shares], ENVS), facts)
    checkpoints.completed(wait=True)
    checkpoints.close()
    rows = read_replays(folder)[1].rows
    assert [len(ring.fields) > 8 for ring in read_replays(folder)] == [True, True]
    for part in range(parts):
        notes = []
        ring = restored((config, folder, agent), part, parts, notes).replay
        assert bool(notes) == (parts != 2) and ring.rows == rows
        if notes:
            assert f"of 2 processes: {ENVS} streams of {len(rows)} records" in notes[0]
        for stream in range(ring.num_envs):
            right = streams[part * ring.num_envs + stream]
            assert ring.column("reward", stream, ring.rows).tobytes() == right.tobytes()
        ring.close()


def record(ring):
    """A time step, action and latents that fit."""
    from dreamer_jax.replay.storage import numpy_dtype
    from dreamer_jax.types import TimeStep

    zeros = {
        name: np.zeros((ring.num_envs, *leaf.shape), numpy_dtype(leaf.dtype)) for name, leaf in ring.fields.items()
    }
    parts = [below(zeros, part) for part in ("observation", "action", "latents")]
    return TimeStep(parts[0], *(zeros[k] for k in ("reward", "is_first", "is_last", "is_terminal"))), *parts[1:]


@pytest.mark.parametrize("parts", [2, 4])
def test_shares_join_to_the_whole(run, parts):
    _, arrays, _ = arrays_of(run[1])
    # Each process has its own.
    arrays = arrays | {"replay/taken": np.arange(parts), "replay/checksums": np.arange(2 * parts).reshape(parts, 2)}
    arrays |= {"envs/length": np.array([1, 0, 5, 2]), "envs/action/action": np.arange(8)}
    shares = [shard(arrays, part, parts, ENVS) for part in range(parts)]
    assert [mine["replay/taken"] for mine in shares] == list(range(parts))
    assert np.concatenate([mine["envs/action/action"] for mine in shares]).tolist() == list(range(8))
    assert [len(mine["envs/action/action"]) for mine in shares] == {2: [1, 7], 4: [1, 0, 5, 2]}[parts]
    assert all(mine["learner/next/index"][..., 0].max() < ENVS for mine in shares)
    joined = gather(shares, ENVS)
    assert joined.keys() == arrays.keys()
    for name, value in arrays.items():
        assert joined[name].tobytes() == value.tobytes() and joined[name].dtype == value.dtype, name


def test_windows_of_a_batch_that_is_dropped_are_queued_again():
    arrays = {
        "learner/next/index": np.zeros((1, 8, 2), np.int64),
        "replay/taken": np.array([21, 30]),  # of 2 environments each
        "replay/rows": np.asarray(100),
    }
    for parts in (1, 4):
        dealt = reshard(arrays, 2, parts, ENVS)
        # Four of a process's windows may be in that batch: numbers from 17 on, whose round is 8.
        assert np.atleast_1d(dealt["replay/taken"]).tolist() == [8 * ENVS // parts] * parts
        assert dealt.keys() == {"replay/taken", "replay/rows"}
