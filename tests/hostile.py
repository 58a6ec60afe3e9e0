"""Strategies for what people type on a command line and write into settings files: sensible but for one place, mostly.

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

NUMBERS = """nan inf -inf 1e400 -1e400 1e-400 1e99999999 -0 0x10 1_000 ١٢ 1.0 1.5 -1 0 65537 1e15 3.5e38""".split()
NUMBERS += [*map(str, (2**31, 2**63, 2**64)), "9" * 5000]
WORDS = (
    """null True yes on policy recorded none a:b gym/ gym/Nothing-v0 dmc/ atari/../x probe/echo x/y/z worlds:""".split()
)
CHARACTERS = ["", " ", "a\nb", "a\tb\r\x1b[31m", "\0", "\udcff", "\ud800", "\U0001f600", "\u2028", "a" * 300]
CHARACTERS += ["x" * 100_000]
SYNTAX = [
    "%s%n",
    "{0}",
    "[1, 2]",
    "{a: b}",
    "&a b",
    "*a",
    "!!python/object/apply:os.system [touch pwned]",
    "`touch pwned`",
]
SYNTAX += ["$HOME", "#", "a #b", "--", "-", "--help", "=", ",", "a b"]
PLACES = "~ ~/x ~nobody-at-all ../../.. / /dev/null /dev/full /proc/self/mem loop file file/below empty absent".split()
SWEEPS = (
    "0..3 3..0 0,0 1..1e9 kl.rep=0.1,0.3 kl.rep=0.1..1 seed=1,2 env.task= size=1m,own =1 kl=1 kl.rep= kl.rep".split()
)
HOSTILE = NUMBERS, WORDS, CHARACTERS, SYNTAX, PLACES, SWEEPS
ANY = st.one_of(
    *map(st.sampled_from, HOSTILE),
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
    if name == "benchmark":
        return st.sampled_from(["none", "dmc_proprio"])
    if name == "env.task":
        return st.sampled_from(["probe/echo", "worlds:World", "gym/CartPole-v1"])
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if kind is bool:
        return st.sampled_from(["true", "false"])
    if kind is int:
        ends, near = st.sampled_from([low, high]), st.integers(low, min(high, low + 40))
        return st.one_of(ends, near, st.integers(low, high)).map(str)
    if kind is float:
        ends, near = st.sampled_from([float(low), float(high)]), st.floats(low, min(high, 10.0))
        return st.one_of(ends, near, st.floats(low, high)).map(repr)
    return st.text(max_size=12)


OF_KIND = {kind: [name for name in FIELDS if FIELDS[name].kind is kind] for kind in (bool, int, float, str)}
OF_KIND[Literal] = [name for name in FIELDS if get_origin(FIELDS[name].kind) is Literal]
NAMES = st.sampled_from([*OF_KIND]).flatmap(lambda kind: st.sampled_from(OF_KIND[kind]))
"""Of settings. There are few of some kinds, so that the kind is chosen first."""
SECTIONS = sorted({name.partition(".")[0] for name in FIELDS if "." in name})
MISSPELT = st.one_of(
    NAMES.map(lambda name: name.replace("_", "-")),
    NAMES.map(lambda name: name[:-1]),
    NAMES.map(lambda name: name.rpartition(".")[2]),
    st.sampled_from([*SECTIONS, "logdir", "task", "steps", "num-envs", "configs", "run.steps", "", ".", "a.b.c"]),
    ANY,
)


# --- what people type


def either(proper, hostile):
    """Words for one place of a command line, from a value that is as it should be, or is not."""
    return {False: proper, True: hostile}


def pair(name, values):
    return st.tuples(name, values, st.booleans()).map(
        lambda found: [f"--{found[0]}={found[1]}"] if found[2] else [f"--{found[0]}", found[1]]
    )


ALONE = st.one_of(NAMES.map(lambda name: [f"--{name}"]), ANY.map(lambda word: [word]))
SETTING = either(
    NAMES.flatmap(lambda name: pair(st.just(name), proper(name))),
    st.one_of(pair(NAMES, ANY), pair(NAMES, ANY), pair(MISSPELT, ANY), ALONE),
)
FILE = either(st.just(["--config", "x.yaml"]), ANY.map(lambda path: ["--config", path]))
SEVERAL = st.sampled_from(["0..1", "3", "0,2", "kl.rep=0.1,0.3", "size=own,1m", "optimizer.learning_rate=1e-5..1e-3"])
USUAL = st.sampled_from(["run", "run", "run", "new", "new.gif", "new/below"])


def is_path(action):
    """Its type is a function of its own for paths, or for paths and some words."""
    return getattr(action.type, "__name__", "") in ("_path", "<lambda>")


def positional(command):
    return [action for action in command._actions if not action.option_strings]


def own_flag(action):
    """A flag of a command, or one of its arguments."""
    flag = action.option_strings[-1:]
    if action.nargs == 0:
        return either(st.just(flag), st.just(flag))
    if action.choices is not None:
        value = st.sampled_from(sorted(action.choices))
    elif action.dest in ("seeds", "sweep"):
        value = SEVERAL
    elif getattr(action.type, "__name__", "") in ("_positive", "_natural"):
        value = st.integers(1, 30).map(str)
    elif action.dest == "diff":
        value = proper("preset")
    elif action.dest == "task":
        value = proper("env.task")
    elif action.dest in FIELDS:
        value = proper(action.dest)
    else:
        value = USUAL
    most = 2 if action.nargs == "+" else 1
    return either(
        *(st.lists(one, min_size=1, max_size=most).map(lambda given: [*flag, *given]) for one in (value, ANY))
    )


(_found,) = (action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))
COMMANDS = _found.choices


@st.composite
def command_lines(draw):
    """Arguments and flags of a command, of which mostly one is hostile, or none, or all."""
    name = draw(st.sampled_from([*COMMANDS, "config", "train", ""]))
    if not name:
        return draw(st.lists(st.one_of(ANY, st.sampled_from(list(COMMANDS))), max_size=3))
    actions, settings = COMMANDS[name]._actions, COMMANDS[name].get_default("takes_settings")
    arguments = [own_flag(action) for action in positional(COMMANDS[name])]
    flags = [own_flag(action) for action in actions if action.option_strings and action.dest not in ("help", "config")]
    if settings:
        flags += [SETTING] * len(flags) + [FILE] * (len(flags) // 2)
    parts = [*arguments, *draw(st.lists(st.sampled_from(flags), max_size=4) if flags else st.just([]))]
    wrong = draw(st.integers(-2, len(parts)))
    words = [word for i, part in enumerate(parts) for word in draw(part[i == wrong or wrong == -2])]
    usual = ["--env.task", "probe/echo", "--cache", "none"] if name == "train" else []
    return [name, *usual, *words] if draw(st.booleans()) else [name, *words]


# --- what people write


def scalar(value):
    """YAML that stands for ``value``, or nearly."""
    forms = value, f"'{value}'", json.dumps(value), f"!!str {value}", f"&a {value}", f"|\n    {value}", f"{value}  # so"
    return st.sampled_from(forms)


ODD = """*a; [1, 2]; {a: b}; !mine x; !!python/name:os.system; null; ; !!binary aGk=; <<; - 1""".split("; ")


def lines(values):
    return NAMES.flatmap(lambda name: values(name).map(lambda value: (name, value)))


PROPER = lines(lambda name: proper(name).flatmap(scalar))
WRONG = lines(lambda name: st.one_of(ANY.flatmap(scalar), st.sampled_from(ODD)))


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


def encoded(text):
    return text.encode(errors="replace")


WRITTEN = st.lists(PROPER, max_size=4).map(render)
SPECIAL = [b"[" * 2000, b"{a: " * 2000, b"- " * 2000, b"&a [*a]", b"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", b"\0"]
SPECIAL += [b"%YAML 9.9\n---\nseed: 1\n", b"seed: 1\n---\nseed: 2\n", b"seed: 1\nseed: 1\n", b"---\n...\n", b"null\n"]
SPECIAL += [
    b"\xef\xbb\xbfseed: 1\n",
    b"\tseed: 1\n",
    b'seed: "\\UFFFFFFFF"\n',
    b'env: {task: "\\ud800"}\n',
    b"\xff\xfe",
]
SPECIAL += [
    b"env: &a\n  env: *a\n",
    b"env: {<<: {task: a}}\n",
    b"env:\nrssm:\n",
    b"? [1]\n: 2\n",
    b"!!set {seed}\n",
    b"1: 2\n",
]
FILES = st.one_of(
    WRITTEN.map(encoded),
    WRITTEN.map(encoded),
    st.tuples(WRITTEN, WRONG.map(lambda line: render([line]))).map(lambda both: encoded("".join(both))),
    st.builds(spoil, WRITTEN, st.floats(0, 1), st.text(max_size=3)).map(encoded),
    st.sampled_from(SPECIAL),
    st.binary(max_size=60),
)


def many(examples):
    """So many examples of what is large and slow to make."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    return settings(max_examples=examples, suppress_health_check=checks)
