"""Any command line and any settings file: status 0, or one line and status 2. And what ``config`` takes can be built.

Commands are found in the parser and settings in the schema, so that new ones are tried without a word here. Whatever
takes long is cut off where validation ends (``Validated``).
"""

import argparse
import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Literal, get_args, get_origin

import jax
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from trainer import SETTINGS, flags, make_toy, tiny_run

from dreamer_jax.agent import make_agent
from dreamer_jax.cli import main
from dreamer_jax.cli.parser import make_parser
from dreamer_jax.config.loading import load
from dreamer_jax.config.presets import PRESETS, SIZES
from dreamer_jax.config.schema import FIELDS, ConfigError
from dreamer_jax.envs.preview import Preview
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.training import bench, checkpoint, evaluate, predictions, program_cache, together, train
from dreamer_jax.training.memory import check_room
from dreamer_jax.training.preflight import example_batch, ring_plan
from dreamer_jax.types import TimeStep

EXAMPLES, MANY = 300, 10_000
SECTIONS = sorted({name.partition(".")[0] for name in FIELDS if "." in name})


class Validated(BaseException):
    """A command has found nothing to complain of; what would follow takes long."""


# --- what people type


HOSTILE = [
    *("", " ", "null", "~", "nan", "inf", "-inf", "1e400", "-1e400", "1e-400", "1e99999999", "9" * 5000, "-0", "0x10"),
    *("1_000", "١٢", "1.0", "1.5", "-1", "0", "65537", str(2**31), str(2**63), str(2**64), "1e15", "3.5e38", "True"),
    *(
        "yes",
        "on",
        "a b",
        "a\nb",
        "a\tb\r\x1b[31m",
        "\0",
        "\udcff",
        "\U0001f600",
        "a" * 300,
        "x" * 100_000,
        "%s%n",
        "{0}",
    ),
    *("[1, 2]", "{a: b}", "&a b", "*a", "!!python/object/apply:os.system [touch pwned]", "$HOME", "`touch pwned`", "#"),
    *(
        "~nobody-at-all",
        "~/x",
        "../../..",
        "/",
        "/dev/null",
        "/dev/full",
        "/proc/self/mem",
        "--",
        "-",
        "--help",
        "=",
        ",",
    ),
    *("0..3", "3..0", "0,0", "1..1e9", "kl.rep=0.1,0.3", "kl.rep=0.1..1", "seed=1,2", "env.task=", "size=1m,own", "=1"),
    *(
        "policy",
        "recorded",
        "none",
        "a:b",
        "gym/",
        "gym/Nothing-v0",
        "dmc/",
        "atari/../x",
        "probe/echo",
        "x/y/z",
        "worlds:",
    ),
]
ANY = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(max_size=12),
    st.text(st.characters(codec=None), max_size=6),
    st.integers().map(str),
    st.floats().map(repr),
)


def proper(name):
    """Text of a value that a setting may have by itself."""
    kind, _, low, high = FIELDS[name]
    if name in ("preset", "size"):
        return st.sampled_from([*(PRESETS if name == "preset" else SIZES)])
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if kind is bool:
        return st.sampled_from(["true", "false"])
    if kind is int:
        return st.one_of(
            st.sampled_from([low, high]), st.integers(low, min(high, low + 40)), st.integers(low, high)
        ).map(str)
    if kind is float:
        near = st.floats(low, min(high, 10.0))
        return st.one_of(st.sampled_from([low, high]), near, st.floats(low, high)).map(lambda x: repr(float(x)))
    return st.sampled_from(["probe/echo", "worlds:World", "gym/CartPole-v1", "none", "dmc_proprio", "anything"])


NAMES = st.sampled_from(sorted(FIELDS))
MISSPELT = st.one_of(
    NAMES.map(lambda name: name.replace("_", "-")),
    NAMES.map(lambda name: name[:-1]),
    NAMES.map(lambda name: name.rpartition(".")[2]),
    st.sampled_from([*SECTIONS, "logdir", "task", "steps", "num-envs", "configs", "run.steps", "", ".", "a.b.c"]),
    st.text(max_size=8),
)


def words(name, value):
    return st.sampled_from([[f"--{name}", value], [f"--{name}={value}"]])


def mostly(usual, *others):
    """One of ``usual`` in half of the cases."""
    return st.booleans().flatmap(lambda chosen: usual if chosen else st.one_of(*others))


SETTING = mostly(
    NAMES.flatmap(lambda name: proper(name).flatmap(lambda value: words(name, value))),
    NAMES.flatmap(lambda name: ANY.flatmap(lambda value: words(name, value))),
    MISSPELT.flatmap(lambda name: ANY.flatmap(lambda value: words(name, value))),
    NAMES.map(lambda name: [f"--{name}"]),
    ANY.map(lambda word: [word]),
)
PATHS = mostly(
    st.just("run"),
    st.sampled_from(["x.yaml", "run/config.yaml", "empty", "absent", "absent/below", "file", "loop", "new", "new.gif"]),
    ANY,
)
SEVERAL = st.sampled_from(["0..1", "3", "0,2", "kl.rep=0.1,0.3", "size=own,1m", "optimizer.learning_rate=1e-5..1e-3"])


def own_flag(action):
    """Words that give a flag of a command, or one of its arguments."""
    if action.nargs == 0:
        return st.just([action.option_strings[-1]])
    if action.choices is not None:
        value = mostly(st.sampled_from(sorted(action.choices)), ANY)
    elif action.dest in ("seeds", "sweep"):
        value = mostly(SEVERAL, ANY)
    elif getattr(action.type, "__name__", "") in ("_positive", "_natural"):
        value = mostly(st.integers(0, 30).map(str), ANY)
    elif action.dest == "task":
        value = mostly(proper("env.task"), ANY)
    elif action.dest in FIELDS:
        value = mostly(proper(action.dest), ANY)
    else:
        value = PATHS
    value = st.lists(value, min_size=1, max_size=2) if action.nargs == "+" else value.map(lambda one: [one])
    if action.option_strings:
        return value.map(lambda given: [action.option_strings[-1], *given])
    return value


def subparsers():
    (found,) = (action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    return found.choices


def command_lines(name, sub):
    """Of one command: its arguments, any of its flags, and settings, in any order."""
    arguments = [own_flag(action) for action in sub._actions if not action.option_strings]
    optional = [
        own_flag(action) for action in sub._actions if action.option_strings and "--help" not in action.option_strings
    ]
    parts = st.lists(
        st.one_of(*optional, *([SETTING, SETTING] if sub.get_default("takes_settings") else [])), max_size=4
    )
    usual = st.just([["--env.task", "probe/echo"], ["--cache", "none"]] if name == "train" else [])
    return st.tuples(*arguments, usual, parts).map(
        lambda found: [name, *(word for one in [*found[:-2], *found[-2], *found[-1]] for word in one)]
    )


COMMANDS = subparsers()
COMMAND_LINES = st.sampled_from([*COMMANDS, "config", "train", ""]).flatmap(
    lambda name: (
        command_lines(name, COMMANDS[name])
        if name
        else st.lists(st.one_of(ANY, st.sampled_from(list(COMMANDS))), max_size=3)
    )
)


# --- what people write


def scalar(value):
    """YAML that stands for ``value``, or nearly."""
    return st.sampled_from(
        [
            value,
            value,
            f"'{value}'",
            json.dumps(value),
            f"!!str {value}",
            f"&a {value}",
            f"|\n    {value}",
            f"{value}  # so",
        ]
    )


ODD = st.sampled_from(
    ["*a", "[1, 2]", "{a: b}", "!mine x", "!!python/name:os.system", "null", "", "!!binary aGk=", "<<", "- 1"]
)
LINE = NAMES.flatmap(
    lambda name: st.one_of(proper(name).flatmap(scalar), ANY.flatmap(scalar), ODD).map(lambda value: (name, value))
)


def render(lines):
    """A file with a section for each run of lines of the same one."""
    text, current = "", ""
    for name, value in lines:
        section, _, field = name.rpartition(".")
        if section and section != current:
            text += f"{section}:\n"
        current = section
        text += f"{'  ' if section else ''}{field}: {value}\n"
    return text


def spoil(text, place, junk):
    cut = int(place * len(text))
    return text[:cut] + junk + text[cut + 1 :]


WRITTEN = st.lists(LINE, max_size=6).map(render)
FILES = st.one_of(
    WRITTEN.map(lambda text: text.encode(errors="replace")),
    WRITTEN.map(lambda text: text.encode("utf-16", errors="replace")),
    st.builds(spoil, WRITTEN, st.floats(0, 1), st.text(max_size=3)).map(lambda text: text.encode(errors="replace")),
    st.binary(max_size=60),
    st.sampled_from(
        [
            *(b"[" * 2000, b"{a: " * 2000, b"- " * 2000, b"%YAML 9.9\n---\nseed: 1\n", b"seed: 1\n---\nseed: 2\n"),
            *(
                b"\xef\xbb\xbfseed: 1\n",
                b"\tseed: 1\n",
                b'seed: "\\UFFFFFFFF"\n',
                b"env: &a\n  env: *a\n",
                b"? [1]\n: 2\n",
            ),
            *(
                b"&a [*a]",
                b"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n",
                b"!!set {seed}\n",
                b"1: 2\n",
                b"seed: 1\nseed: 1\n",
            ),
            *(
                b"env: {<<: {task: a}}\n",
                b"null\n",
                b"---\n...\n",
                b"env:\nrssm:\n",
                b'env: {task: "\\ud800"}\n',
                b"\0",
            ),
        ]
    ),
)


# --- what comes of it


@pytest.fixture(scope="module")
def run_dir(process, tmp_path_factory):
    """Of a run of the toy."""
    place = tmp_path_factory.mktemp("lines") / "run"
    assert process.run(flags(tiny_run(train__frames=40, train__report_frames=0), place), place.with_suffix(".log")) == 0
    return place


@pytest.fixture(scope="module")
def cut_off():
    """Commands end where the long part begins."""

    def validated(*args, **options):
        raise Validated

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))  # worlds:...
        patch.setattr(train, "open_run", validated)
        patch.setattr(train, "make_agent", make_toy)
        patch.setattr(checkpoint, "make_agent", make_toy)
        patch.setattr(together, "train_together", validated)
        patch.setattr(evaluate, "evaluate", validated)
        patch.setattr(evaluate, "film_episode", validated)
        patch.setattr(predictions, "draw", validated)
        patch.setattr(bench, "update_speed", validated)
        patch.setattr(jax.distributed, "initialize", lambda *args, **options: validated())
        patch.setattr(program_cache, "collect_rarely", lambda: None)
        yield


@pytest.fixture(scope="module")
def place(run_dir, cut_off, tmp_path_factory):
    """Makes a folder with a few things in it, for each example anew."""
    parent = tmp_path_factory.mktemp("places")

    def fresh(file, with_run):
        folder = parent / "here"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "empty").mkdir(parents=True)
        (folder / "x.yaml").write_bytes(file)
        (folder / "file").write_text("mine")
        (folder / "loop").symlink_to("loop")
        if with_run:
            shutil.copytree(run_dir, folder / "run")
        return folder

    return fresh


def tree(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def outcome(arguments, folder):
    """Status, stdout and stderr of a command in ``folder``; the status is None if it was cut off."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HOME", str(folder))
            try:
                status = main(arguments)
            except SystemExit as ended:
                status = ended.code
            except Validated:
                status = None
        out.flush()
        err.flush()
    return status, out.buffer.getvalue().decode(), err.buffer.getvalue().decode()


def check_line(place, arguments, file):
    folder = place(file, any("run" in word.split("/") for word in arguments))
    before = tree(folder)
    status, out, err = outcome(arguments, folder)
    event(f"{arguments[0] if arguments and arguments[0] in COMMANDS else 'no command'}: {status}")
    assert "Traceback" not in err
    if status == 2:
        assert err.startswith("dreamer-jax: ") and err.count("\n") == 1 and err.endswith("\n"), err
        assert out == "" and len(err) < 10_000
        assert tree(folder) == before
    else:
        assert status in (0, None), err
    assert not (folder / "pwned").exists() and not (folder / "~").exists()
    if status == 0 and arguments[0] == "config" and "--help" not in arguments:
        (folder / "again.yaml").write_text(out, encoding="utf-8", newline="")
        assert outcome(["config", "--config", "again.yaml"], folder)[:2] == (0, out)


def many(examples):
    return settings(
        max_examples=examples,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )


CASES = given(arguments=COMMAND_LINES, file=FILES)


@CASES
@many(EXAMPLES)
def test_any_command_line(place, arguments, file):
    check_line(place, arguments, file)


@pytest.mark.slow
@CASES
@many(MANY)
def test_many_command_lines(place, arguments, file):
    check_line(place, arguments, file)


# --- what config takes can be built


VECTOR, IMAGE = ArraySpec((3,), "float32"), ArraySpec((32, 48, 3), "uint8")
SPECS = [
    EnvSpec({"eye": VECTOR}, {"arm": ArraySpec((2,), "float32")}),
    EnvSpec({"eye": VECTOR, "hour": ArraySpec((), "int32", 4)}, {"leg": ArraySpec((), "int32", 3)}),
    EnvSpec({"image": IMAGE}, {"arm": ArraySpec((2,), "float32"), "leg": ArraySpec((), "int32", 3)}),
]
SMALL = [(name, str(value).lower() if isinstance(value, bool) else str(value)) for name, value in SETTINGS.items()]
SMALL += [
    ("encoder.depth", "2"),
    ("decoder.depth", "2"),
    ("decoder.blocks", "2"),
    ("planner.candidates", "4"),
    ("planner.elites", "2"),
]
CHOICES = [name for name in sorted(FIELDS) if name not in ("env.task", "revision", "benchmark")]
CHANGES = st.lists(
    st.sampled_from(CHOICES).flatmap(lambda name: proper(name).map(lambda value: (name, value))), min_size=1, max_size=8
)


def shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def check_build(tmp, changes, spec):
    """Whatever goes wrong is a ConfigError of one line; no program is compiled."""
    try:
        config = load(overrides=[*SMALL, *changes])
        agent = make_agent(config, spec)
        check_room(config, spec, agent)
        ring_plan(config, tmp, Preview(spec, (), 0.0, 0), agent, 1)
    except ConfigError as error:
        assert str(error) and "\n" not in str(error)
        return
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(agent.init, key)
    num_envs = config.env.num_envs
    carry = jax.eval_shape(lambda params: agent.reset(params, num_envs), state.params)
    seen = {name: jax.ShapeDtypeStruct((num_envs, *leaf.shape), leaf.dtype) for name, leaf in spec.observation.items()}
    flag, number = (jax.ShapeDtypeStruct((num_envs,), kind) for kind in ("bool", "float32"))
    step = TimeStep(seen, number, flag, flag, flag)
    for mode in ("train", "random", config.policy.evaluate):
        after, action, _ = jax.eval_shape(
            lambda *given, mode=mode: agent.policy(*given, mode=mode), state.params, key, carry, step
        )
        assert shapes(after) == shapes(carry)
        assert {name: x.shape for name, x in action.items()} == {
            name: (num_envs, *leaf.shape) for name, leaf in spec.action.items()
        }
    batch = shapes(example_batch(config, spec, agent.latent_spec, config.train.batch_size))
    updated, metrics, _ = jax.eval_shape(agent.update, state, key, batch)
    assert shapes(updated) == shapes(state) and metrics


BUILDS = given(changes=CHANGES, spec=st.sampled_from(SPECS))


@BUILDS
@many(12)
def test_what_config_takes_can_be_built(tmp_path_factory, changes, spec):
    check_build(tmp_path_factory.getbasetemp(), changes, spec)


@pytest.mark.slow
@BUILDS
@many(500)
def test_much_that_config_takes_can_be_built(tmp_path_factory, changes, spec):
    check_build(tmp_path_factory.getbasetemp(), changes, spec)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CHOICES if FIELDS[name].kind not in (bool, str)])
def test_every_extreme_can_be_built(tmp_path, name):
    kind, _, low, high = FIELDS[name]
    for value in get_args(kind) if get_origin(kind) is Literal else (kind(low), kind(high)):
        for spec in SPECS[1:]:
            check_build(tmp_path, [(name, str(value))], spec)
