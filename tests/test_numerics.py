"""Settings of JAX that change numbers do not reach a run, and a run leaves them to whatever shares the process."""

import contextlib
import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trainer import make_toy, tiny_run

from dreamer_jax.agent import make_agent
from dreamer_jax.cli import main
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.numerics import FIXED, fixed_numerics, left_aside, process_numerics
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.training import multi_run as together
from dreamer_jax.training import train
from dreamer_jax.training.multi_run import Member, train_together
from dreamer_jax.training.preflight import example_batch

OTHERS = {
    "jax_enable_x64": True,
    "jax_numpy_rank_promotion": "raise",
    "jax_numpy_dtype_promotion": "strict",
    "jax_default_matmul_precision": "highest",
    "jax_default_prng_impl": "rbg",
    "jax_threefry_partitionable": False,
    "jax_softmax_custom_jvp": True,
    "jax_disable_jit": True,
    "jax_transfer_guard": "disallow",
}
"""Each of them changes a run's numbers, or ends it."""
SPEC = EnvSpec(
    {"eye": ArraySpec((3,), "float32")}, {"arm": ArraySpec((2,), "float32"), "leg": ArraySpec((), "int32", 3)}
)


@pytest.fixture
def process_has():
    """Sets what the whole process has; afterwards all is as before."""
    before = dict(jax.config.values)

    def sets(values):
        for name, value in values.items():
            jax.config.update(name, value)

    yield sets
    sets({name: before[name] for name in [*OTHERS, "jax_random_seed_offset"]})


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # worlds:...
    monkeypatch.setattr(train, "make_agent", make_toy)
    monkeypatch.setattr(together, "make_agent", make_toy)


def programs():
    """What is compiled of an agent, as text."""
    config = tiny_run()
    with fixed_numerics():
        agent = make_agent(config, SPEC)
        key = jax.eval_shape(lambda: jax.random.key(0))
        state = jax.eval_shape(agent.init, key)
        batch = example_batch(config, SPEC, agent.latent_spec, config.train.batch_size)
        lowered = jax.jit(agent.init).lower(key), jax.jit(agent.update).lower(state, key, batch)
    return [program.as_text() for program in lowered]


def test_programs_are_the_same_whatever_the_process_has(process_has):
    before = programs()
    process_has(OTHERS)
    assert programs() == before


def trained(run_dir, **changes):
    """State and scores of a short run of the toy, and what it said."""
    stream = io.StringIO()
    config = tiny_run(train__frames=80, **changes)
    state = train.train(config, run_dir, loggers=(), stream=stream)
    return leaves(state), (run_dir / "scores.jsonl").read_text(), stream.getvalue()


def leaves(state):
    return [(np.asarray(x).tobytes(), x.dtype) for x in jax.tree.leaves(state)]


def test_a_run_is_the_same_whatever_the_process_has(process_has, toy, tmp_path):
    state, scores, said = trained(tmp_path / "before")
    assert "not used" not in said
    process_has(OTHERS)
    again = trained(tmp_path / "after")
    assert again[:2] == (state, scores)
    (line,) = (line for line in again[2].splitlines() if line.startswith("not used"))
    assert line.startswith("not used, because numbers would depend on it: JAX_ENABLE_X64=True, JAX_NUMPY_RANK_PROM")
    members = [Member(tiny_run(train__frames=80, seed=seed), tmp_path / f"seed{seed}") for seed in (0, 1)]
    first, _ = train_together(members, loggers=(), stream=io.StringIO())
    assert leaves(first) == state


def test_an_environment_has_what_it_has_set_and_the_run_has_not(process_has, toy, tmp_path):
    process_has({})
    state, scores, said = trained(tmp_path / "here", env__task="worlds:Doubles")
    assert "JAX_ENABLE_X64=True" in said and jax.config.jax_enable_x64
    elsewhere = trained(tmp_path / "elsewhere", env__task="worlds:Doubles", env__vectorization="async")
    assert elsewhere[:2] == (state, scores)
    assert {dtype.itemsize for _, dtype in state} == {4}


def test_threads_and_nesting(process_has):
    process_has({"jax_enable_x64": True})
    seen = []

    def look():
        seen.append(jnp.zeros(()).dtype.itemsize)

    with fixed_numerics(), fixed_numerics():
        look()
        with process_numerics():
            look()
            with fixed_numerics():
                look()
            with process_numerics():
                look()
        with pytest.raises(KeyError), process_numerics():
            raise KeyError
        look()
        another = threading.Thread(target=look)
        another.start()
        another.join()
    look()
    assert seen == [4, 8, 4, 8, 4, 8, 8]


def test_what_is_fixed_is_what_jax_has_by_default():
    assert left_aside() == ""
    jax.config.update("jax_debug_nans", True)
    try:
        with fixed_numerics():
            assert jax.config.jax_debug_nans and left_aside() == ""
    finally:
        jax.config.update("jax_debug_nans", False)
    assert {f"jax_{name}" for name in FIXED} >= OTHERS.keys() - {"jax_transfer_guard"}


def test_what_no_thread_can_have_for_itself_is_refused(process_has, tmp_path):
    process_has({"jax_random_seed_offset": 7})
    with pytest.raises(ConfigError, match="^JAX_RANDOM_SEED_OFFSET: got 7, with which no run is what it should be"):
        train.train(tiny_run(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "variable, words",
    [
        ("JAX_PLATFORMS=cuda", "JAX_PLATFORMS: got 'cuda', which JAX can't use here ("),
        ("JAX_PLATFORMS=nothing", "JAX_PLATFORMS: got 'nothing', which JAX can't use here ("),
        ("JAX_ENABLE_X64=perhaps", "JAX can't read one of its variables: invalid truth value 'perhaps'"),
    ],
)
def test_variables_that_jax_cannot_use_are_one_line(variable, words, tmp_path):
    name, _, value = variable.partition("=")
    command = ["-m", "dreamer_jax", "train", "--env.task", "probe/echo", "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, *command], env={**os.environ, name: value}, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"dreamer-jax: {words}") and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "run").exists()


def test_evaluating_is_fixed_too(process_has, monkeypatch, tmp_path, toy):
    trained(tmp_path / "run")
    from dreamer_jax.runs import load as loading

    monkeypatch.setattr(loading, "make_agent", make_toy)
    command = ["evaluate", str(tmp_path / "run"), "--episodes", "2", "--cache", "none", "--json"]

    answers = []
    for values in ({}, OTHERS):
        process_has(values)
        with contextlib.redirect_stdout(io.StringIO()) as text:
            assert main(command) == 0
        answers.append(text.getvalue())
    assert answers[0] == answers[1] != ""
