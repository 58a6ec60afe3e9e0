"""Strategies for what people type on a command line and write into settings files, sensible or not.

Commands are found in the parser and settings in the schema, so that new ones are tried without a word here.
"""

import argparse
import json
from typing import Literal, get_args, get_origin

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from dreamer_jax.cli.parser import make_parser
from dreamer_jax.config.named import PRESETS, SIZES
from dreamer_jax.config.schema import FIELDS

SECTIONS = sorted({name.partition(".")[0] for name in FIELDS if "." in name})


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


def many(examples):
    """So many examples of what is large and slow to make."""
    return settings(
        max_examples=examples,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
