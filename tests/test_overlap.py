"""Where the training loop waits for its device: a decision for each step, results of an update once the next one runs.

Everything that compiled functions give is replaced by something that can be handed on, but whose content nobody
gets without leaving a trace. What is not foreseen here, such as a calculation outside of them, is an error.
"""

import io
from collections import Counter
from itertools import pairwise

import jax
import numpy as np
import pytest
from trainer import make_toy, tiny_run

import dreamer_jax
from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.training.preflight import env_spec


class Remote:
    """An array that may not be there yet."""

    def __init__(self, array, origin, events):
        self.array, self.origin, self.events = array, origin, events
        self.shape, self.dtype, self.size, self.ndim = array.shape, array.dtype, array.size, array.ndim

    def read(self, *args, **kwargs):
        self.events.append(("wait for", self.origin))
        return np.asarray(self.array)

    __array__ = block_until_ready = item = tolist = __len__ = __iter__ = __getitem__ = read
    __float__ = __int__ = __bool__ = __index__ = read

    def copy_to_host_async(self):
        self.events.append(("ask for", self.origin))

    def copy(self):
        return Remote(self.array.copy(), self.origin, self.events)


def unwrapped(tree):
    return jax.tree.map(lambda x: x.array if isinstance(x, Remote) else x, tree)


class Compiled:
    def __init__(self, call, name, events):
        self.call, self.name, self.events = call, name, events

    def __call__(self, *args):
        self.events.append(("dispatch", self.name))
        if self.name == "updates":
            state, _, batches = args
            assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(batches)), "the batch has not been sent ahead"
        results = jax.tree.map(lambda x: Remote(x, self.name, self.events), self.call(*unwrapped(args)))
        if self.name == "updates":
            assert all(x.array.is_deleted() for x in jax.tree.leaves(state.params)), "the old state still takes memory"
        return results

    def eval_shape(self, *args):
        return self.call.eval_shape(*args)

    def lower(self, *args):
        return Lowered(self.call.lower(*unwrapped(args)), self.name, self.events)


class Lowered(Compiled):
    def compile(self, options):
        return Compiled(self.call.compile(), self.name, self.events)


@pytest.fixture
def events(monkeypatch):
    found, jit, save = [], jax.jit, Checkpoints.save

    def saving(*args):
        found.append(("save", "begins"))
        save(*args)
        found.append(("save", "goes on by itself"))

    monkeypatch.setattr(Checkpoints, "save", saving)
    monkeypatch.setattr(jax, "jit", lambda f, **options: Compiled(jit(f, **options), f.__name__, found))
    return found


def train(run_dir, **changes):
    config = tiny_run(**changes)
    dreamer_jax.train(config, run_dir, agent=make_toy(config, env_spec(config)), loggers=(), stream=io.StringIO())


DECIDE, DECISION = [("dispatch", "policy"), ("ask for", "policy")], ("wait for", "policy")
UPDATE, RESULTS = [("dispatch", "updates"), ("ask for", "updates")], ("wait for", "updates")
STEP = [*DECIDE, *UPDATE, DECISION, RESULTS]
"""The results are those of the update before."""


@pytest.mark.parametrize(
    "ratio, per_dispatch, expected",
    [
        (4.0, 1, [STEP]),
        (8.0, 2, [STEP]),
        (12.0, 1, [[*STEP, *UPDATE, RESULTS, *UPDATE, RESULTS]]),
        (2.0, 1, [STEP, [*DECIDE, DECISION]]),
    ],
    ids=["an update a step", "two in a dispatch", "three a step", "every second step"],
)
def test_what_a_step_waits_for(tmp_path, events, ratio, per_dispatch, expected):
    """One transfer for each decision and one for each dispatch; metrics, written at every step, need none."""
    train(tmp_path, train__train_ratio=ratio, train__updates_per_dispatch=per_dispatch)
    begins = [number for number, event in enumerate(events) if event == DECIDE[0]]
    passes = [events[start:stop] for start, stop in pairwise(begins)]
    # The first pass has the trials, and before the first update of the run nothing is known ahead.
    steady = passes[[number for number, seen in enumerate(passes) if UPDATE[0] in seen][2] :]
    assert len(steady) > 80
    for number, seen in enumerate(steady):
        assert seen == expected[number % len(expected)]


def test_only_a_checkpoint_reads_the_state(tmp_path, events):
    train(tmp_path, train__save_frames=40)
    inside, outside, saving = Counter(), Counter(), False
    for kind, what in events:
        if kind == "save":
            saving = what == "begins"
        else:
            (inside if saving else outside)[kind, what] += 1
    saves, leaves = events.count(("save", "begins")), 7
    assert saves == 240 / 40 + 1
    assert inside["wait for", "updates"] + inside["wait for", "init"] == leaves * saves
    assert outside["wait for", "init"] == 1  # how many updates there were
    assert outside["wait for", "updates"] == outside["dispatch", "updates"] + 2 * leaves  # two trials are measured
    assert outside["wait for", "policy"] == outside["dispatch", "policy"]
