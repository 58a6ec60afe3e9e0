"""Layers, strict reading, one-line errors, and YAML that loads back to what was dumped."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import dreamer_jax
from dreamer_jax.config.checks import check
from dreamer_jax.config.loading import CUSTOM, RESUMABLE, algorithm, difference, dump, load, replace, width_name
from dreamer_jax.config.named import BENCHMARKS, PRESETS, SIZES, size_settings
from dreamer_jax.config.schema import FIELDS, Config, ConfigError, flatten

PACKAGED = Path(dreamer_jax.__file__).parent / "config"
SECTIONS = ", ".join(sorted({name.partition(".")[0] for name in FIELDS if "." in name}))
CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write x.yaml in the current directory, so that messages begin with its bare name."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="x.yaml"):
        Path(name).write_text(text, encoding="utf-8")
        return name

    return write


# --- layers


def test_defaults_are_the_default_preset_at_its_size():
    changed = {name for name, _, _ in difference(Config(), load())}
    assert changed == {"revision"}


def test_later_layers_win(write):
    first = write("size: 25m\nenv: {num_envs: 3, action_repeat: 3}\n", "first.yaml")
    second = write("env:\n  action_repeat: 4\n", "second.yaml")
    config = load("dreamer_v3_paper_dmc", None, [first, second], [("train.train_ratio", "8"), ("seed", "1")])
    assert (config.preset, config.policy.unimix) == ("dreamer_v3_paper_dmc", 0.01)  # preset over defaults
    assert (config.size, config.rssm.deter, config.value.units) == ("25m", 3072, 384)  # file over the preset's size
    assert (config.env.num_envs, config.env.action_repeat) == (3, 4)  # right file over left file and preset
    assert (config.train.train_ratio, config.seed) == (8.0, 1)  # flags over all


def test_file_names_preset_and_caller_overrides_it(write):
    name = write("preset: dreamer_v3_paper_dmc\nsize: 25m\n")
    assert load(files=[name]).env.action_repeat == 2
    assert load(files=[name]).size == "25m"
    assert load(preset="dreamer_v3", size="1m", files=[name]) == load()
    assert load(files=[name], overrides=[("preset", "dreamer_v3"), ("size", "1m")]) == load()
    assert load(preset="dreamer_v3_paper_dmc").size == "12m"


def test_widths_of_a_file_win_over_its_size(write):
    config = load(files=[write("rssm:\n  deter: 1024\nsize: 12m\n")])
    assert (config.rssm.deter, config.rssm.hidden) == (1024, 256)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_files_load(path):
    assert load(files=[path]).revision


def test_empty_files_and_sections_change_nothing(write):
    assert load(files=[write("# nothing\n"), write("env:\n", "y.yaml")]) == load()


# --- presets and sizes


@pytest.mark.parametrize(
    ("size", "deter", "units", "classes"),
    [("1m", 512, 64, 4), ("12m", 2048, 256, 16), ("50m", 4096, 512, 32), ("400m", 12288, 1536, 96)],
)
def test_sizes_set_every_width(size, deter, units, classes):
    config = load(size=size)
    assert (config.rssm.deter, config.rssm.hidden, config.rssm.classes) == (deter, units, classes)
    assert {value for name, value in flatten(config).items() if name.endswith(".units")} == {units}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_valid_and_say_their_revision(preset):
    entry = PRESETS[preset]
    assert load(preset).revision == entry.meaning
    assert entry.size in SIZES
    assert set(entry.settings) | set(size_settings(entry.size)) <= set(FIELDS)
    for name, value in entry.settings.items():
        kind = FIELDS[name].kind
        assert value in get_args(kind) if get_origin(kind) is Literal else type(value) is kind


RECORDED = json.loads((Path(__file__).parent / "fixtures" / "named_settings.json").read_text())


def test_everything_named_is_recorded():
    words = " ".join(RECORDED).split()
    assert set(words) >= {*PRESETS, *SIZES, *BENCHMARKS}


@pytest.mark.parametrize("command", RECORDED)
def test_what_is_named_stays_what_it_is(command):
    """The recording holds what differs from ``Config()``, so that a new option with its default changes nothing."""
    words = iter(command.replace("--", "").split())
    config = load(overrides=list(zip(words, words, strict=True)))
    assert {name: value for name, _, value in difference(Config(), config)} == RECORDED[command]


def test_files_say_where_their_values_come_from():
    """A value without a comment is the exception."""
    lines = [line for path in PACKAGED.glob("presets/*.yaml") for line in path.read_text().splitlines()]
    values = [line for line in lines if line.startswith("  ")]
    assert len(values) > 150 and sum(" # " in line for line in values) > 0.7 * len(values)


MEANT_FOR = {"_2019": "dreamer_v1", "_2020": "dreamer_v2", "_2021": "dreamer_v2"}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmarks_are_valid_and_come_between_preset_and_size(name, write):
    entry = BENCHMARKS[name]
    for field, value in entry.settings.items():
        assert type(value) is FIELDS[field].kind or value in get_args(FIELDS[field].kind)
    preset = next((preset for end, preset in MEANT_FOR.items() if name.endswith(end)), Config.preset)
    config = load(preset, overrides=[("benchmark", name)])
    assert {field: flatten(config)[field] for field in entry.settings} == entry.settings
    assert config.size == (entry.size or PRESETS[config.preset].size)
    assert config.rssm.deter == (size_settings(config.size) | entry.settings).get("rssm.deter", config.rssm.deter)
    other = load(next(reversed(PRESETS)), overrides=[("benchmark", name)])
    assert {field: flatten(other)[field] for field in entry.settings} == entry.settings
    small = load(preset, files=[write(f"benchmark: {name}\nsize: 25m\ntrain: {{frames: 7}}\n")])
    assert (small.size, small.rssm.deter, small.train.frames) == ("25m", 3072, 7)
    assert load(files=[write(dump(config))]) == config


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("preset", PRESETS)
def test_dump_loads_back(preset, size, write):
    config = load(preset, size)
    assert load(files=[write(dump(config))]) == config


def test_widths_go_by_their_size_unless_one_is_changed():
    assert width_name(load(size="12m")) == "12m" and width_name(load(preset="dreamer_v1")) == "own"
    assert width_name(load(size="12m", overrides=[("rssm.deter", "8")])) == CUSTOM
    assert width_name(load(size="12m", overrides=[("seed", "8")])) == "12m"


def test_dump_names_every_field_with_its_meaning():
    text = dump(load())
    for name, field in FIELDS.items():
        leaf = name.rpartition(".")[2]
        assert any(
            line.strip().startswith(f"{leaf}: ") and line.endswith(f"# {field.meaning}") for line in text.split("\n")
        )


def test_dump_reads_the_same_in_plain_yaml():
    nested = dataclasses.asdict(config := load())
    assert yaml.safe_load(dump(config)) == nested


# --- strict reading


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("optimizer.learning_rate", "1e-4", 1e-4),
        ("train.train_ratio", "512", 512.0),
        ("train.frames", "5e6", 5_000_000),
        ("train.frames", "1_000", 1000),
        ("seed", "9007199254740993", 9007199254740993),  # not a float
        ("replay.online", "false", False),
        ("env.task", "on", "on"),
        ("env.task", "12", "12"),
        ("dtype", "bfloat16", "bfloat16"),
    ],
)
def test_text_is_read_as_the_field_s_type(field, text, value, write):
    section, _, leaf = field.rpartition(".")
    name = write(f"{section}: {{{leaf}: {text}}}" if section else f"{leaf}: {text}")
    for config in (load(files=[name]), load(overrides=[(field, text)])):
        found = flatten(config)[field]
        assert found == value
        assert type(found) is type(value)


BAD_FILES = {
    "rssm:\n\n  detr: 4": "x.yaml:3: rssm.detr: unknown field; did you mean 'rssm.deter'?",
    "rsm:\n  deter: 4": "x.yaml:1: rsm: unknown field; did you mean 'rssm'?",
    "env:\n  batch_size: 4": "x.yaml:2: env.batch_size: unknown field; did you mean 'train.batch_size'?",
    "env:\n  vectorization: gauss": "x.yaml:2: env.vectorization: got 'gauss', expected one of auto, sync, async",
    "rssm:\n  deter: 8\n  deter: 8": "x.yaml:3: rssm.deter: set twice in this file",
    "rssm: {deter: 8}\nrssm: {stoch: 8}": "x.yaml:2: rssm: set twice in this file",
    "rssm: {deter: 8}\nrssm.deter: 8": "x.yaml:2: rssm.deter: set twice in this file",
    "seed: 2.5": "x.yaml:1: seed: got '2.5', expected a whole number",
    "seed: 1e999999999": "x.yaml:1: seed: got '1e999999999', expected a whole number",
    "seed: nan": "x.yaml:1: seed: got 'nan', expected a whole number",
    "seed: -1": "x.yaml:1: seed: got -1, must be at least 0",
    "kl: {rep: .inf}": "x.yaml:1: kl.rep: got '.inf', expected a number",
    "kl: {rep: inf}": "x.yaml:1: kl.rep: got 'inf', expected a number",
    "kl: {rep: ten}": "x.yaml:1: kl.rep: got 'ten', expected a number",
    "replay: {online: on}": "x.yaml:1: replay.online: got 'on', expected true or false",
    "env:\n  task:": "x.yaml:2: env.task: got nothing, expected text",
    "env: {task: null}": "x.yaml:1: env.task: got nothing, expected text",
    "env: {task: ~}": "x.yaml:1: env.task: got nothing, expected text",
    "env: {task: !!null x}": "x.yaml:1: env.task: got nothing, expected text",
    "env: {task: ''}": "x.yaml:1: env.task: got '', expected a name",
    "seed: null": "x.yaml:1: seed: got nothing, expected a whole number",
    "dtype: Null": "x.yaml:1: dtype: got nothing, expected one of auto, float32, bfloat16",
    "env: {task: !!python/name:os.system x}": (
        "x.yaml:1: env.task: got something tagged !!python/name:os.system, expected text"
    ),
    "env: !!python/object:os.x {task: a}": (
        "x.yaml:1: env: got something tagged !!python/object:os.x, expected a section"
    ),
    "!!set {seed, dtype}": "x.yaml:1: expected settings such as 'seed: 1', got something tagged !!set",
    "seed: !mine 1": "x.yaml:1: seed: got something tagged !mine, expected a whole number",
    "env: &a {env: *a}": "x.yaml:1: env.env: unknown field; did you mean 'env.num_envs'?",
    "seed: *a": "x.yaml:1: not valid YAML: found undefined alias 'a'",
    'seed: "\\UFFFFFFFF"': "x.yaml: not valid YAML: Python int too large to convert to C int",
    'env: {task: "\\ud800"}': r"x.yaml:1: env.task: got '\ud800', expected text",
    "env: {task: [a, b]}": "x.yaml:1: env.task: got a list, expected text",
    "env: walker": "x.yaml:1: env: a section has no value of its own; set its fields, such as 'env.task'",
    "env": "x.yaml:1: expected settings such as 'seed: 1', got text",
    "env: {task: {a: b}}": "x.yaml:1: env.task: got a section, expected text",
    "- env": "x.yaml:1: expected settings such as 'seed: 1', got a list",
    "env: {task: a": "x.yaml:1: not valid YAML: expected ',' or '}', but got '<stream end>'",
    "a: 1\n---\nb: 2": "x.yaml:2: not valid YAML: but found another document",
    "seed: \x07": "x.yaml:1: not valid YAML: special characters are not allowed",
    "? [a]\n: 1": f"x.yaml:1: (a list): unknown field; sections are {SECTIONS}",
    "preset: dreamer": f"x.yaml:1: preset: got 'dreamer', expected one of {', '.join(PRESETS)}",
    "size: 2m": f"x.yaml:1: size: got '2m', expected one of {', '.join(SIZES)}",
    "seed: 1\nrssm:\n  deter: 100": "x.yaml:3: rssm.deter: rssm.blocks: got 8, must divide rssm.deter 100",
    "value: {bins: 4}": "x.yaml:1: value.bins: got 4, must be odd, so that one bin is exactly 0",
}


@pytest.mark.parametrize(("text", "message"), BAD_FILES.items(), ids=[text.replace("\n", " ") for text in BAD_FILES])
def test_errors_in_files(text, message, write):
    with pytest.raises(ConfigError) as error:
        load(files=[write(text)])
    assert str(error.value) == message


BAD_FLAGS = {
    ("rssm.detr", "4"): "--rssm.detr: unknown field; did you mean 'rssm.deter'?",
    ("task", "a"): "--task: unknown field; did you mean 'env.task'?",
    ("env", "a"): "--env: a section has no value of its own; set its fields, such as 'env.task'",
    ("env.num_envs", "0"): "--env.num_envs: got 0, must be at least 1",
    ("num-envs", "3"): "--num-envs: unknown field; did you mean 'env.num_envs'?",
    ("env.task", "a\udc80"): r"--env.task: got 'a\udc80', expected text",
    ("env.num_envs", ""): "--env.num_envs: got '', expected a whole number",
    ("train.devices", "3"): "--train.devices: got 3, must divide train.batch_size 16",
    ("train.devices", "16"): "--train.devices: got 16, one row of train.batch_size 16 each; two or more are needed",
    ("train.batch_size", "5"): None,
    ("policy.min_std", "2"): "--policy.min_std: got 2.0, must be at most policy.max_std 1.0",
    ("size", "2m"): f"--size: got '2m', expected one of {', '.join(SIZES)}",
}


@pytest.mark.parametrize(("flag", "message"), BAD_FLAGS.items(), ids=[" ".join(flag) for flag in BAD_FLAGS])
def test_errors_in_flags(flag, message):
    if message is None:
        load(overrides=[flag])
        return
    with pytest.raises(ConfigError) as error:
        load(overrides=[flag])
    assert str(error.value) == message


def test_errors_about_files_themselves(write, tmp_path):
    write("", "walker.yaml")
    Path("latin.yaml").write_bytes(b"\xff\xfe\x00")
    Path("folder").mkdir()
    Path("deep.yaml").write_text("[" * 1500)
    for name, message in {
        "a\0b": "a\0b: no file can have this name",
        "a\ud800": "a\ud800: no file can have this name",
        "~who/x": "~who/x: ~who is nobody's home directory here; a folder of that name is ./~who",
        "deep.yaml": "deep.yaml: not settings: nested far too deeply",
        "./~": f"{tmp_path}/~: no such file",
        "walkr.yaml": "walkr.yaml: no such file; did you mean 'walker.yaml'?",
        "folder/z.yaml": "folder/z.yaml: no such file",
        "latin.yaml": "latin.yaml: can't be read: it is not UTF-8 text",
        "folder": "folder: can't be read: Is a directory",
    }.items():
        with pytest.raises(ConfigError) as error:
            load(files=[name])
        assert str(error.value) == message


def test_unknown_preset_of_a_caller():
    with pytest.raises(ConfigError) as error:
        load(preset="dreamer_v9")
    assert str(error.value) == f"preset: got 'dreamer_v9', expected one of {', '.join(PRESETS)}"


def test_check_refuses_a_choice_that_python_let_through():
    with pytest.raises(ConfigError, match=r"^dtype: got 'float64', expected one of auto, float32, bfloat16$"):
        check(dataclasses.replace(Config(), dtype="float64"))


# --- comparing and resuming


def test_difference_names_fields_and_both_values():
    changed = replace(Config(), {"seed": 3, "kl.rep": 0.5})
    assert difference(Config(), changed) == [("seed", 0, 3), ("kl.rep", 0.1, 0.5)]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_speaks_of_deepmind_control_where_that_is_what_is_trained(preset):
    config = load(preset)
    assert algorithm(config) == config.revision == PRESETS[preset].meaning
    other = {"image": "state", "state": "image"}[config.env.observation]
    for changed in ({"env.task": "gym/CartPole-v1"}, {"env.observation": other}, {"benchmark": "dmc_vision"}):
        said = algorithm(replace(config, changed))
        assert config.revision.startswith(said) and "DMC" not in said and said == said.rstrip(", ")
        assert re.search("danijar|google|arXiv", said) and (said == config.revision or "DMC" in config.revision)


def test_resumable_fields_exist():
    assert set(FIELDS) >= RESUMABLE


# --- round trip of anything valid


NAMED = {"preset": PRESETS, "benchmark": BENCHMARKS, "size": SIZES}


def values(name):
    kind, _, low, high = FIELDS[name]
    if name in NAMED:
        return st.sampled_from(sorted(NAMED[name]))
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if kind is bool:
        return st.booleans()
    if kind is int:
        return st.integers(low, high if high is not None else 10**18)
    if kind is float:
        return st.floats(low, high, allow_nan=False, allow_infinity=False)
    return st.text(st.characters(exclude_categories=["Cs"]))


def valid(config):
    try:
        return bool(check(config))
    except ConfigError:
        return False


@given(st.data())
def test_any_valid_config_survives_dump_and_load(tmp_path_factory, data):
    names = data.draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=8, unique=True))
    config = replace(load(), {name: data.draw(values(name), label=name) for name in names})
    if not valid(config):  # relations between fields
        return
    path = tmp_path_factory.mktemp("round") / "x.yaml"
    path.write_text(dump(config), encoding="utf-8", newline="")
    loaded = load(files=[path])
    assert loaded == config
    assert [type(value) for value in flatten(loaded).values()] == [type(value) for value in flatten(config).values()]
