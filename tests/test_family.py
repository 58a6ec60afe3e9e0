"""The page about the family is what its program prints, and what it says of options is true."""

import re
import shlex
from pathlib import Path

import family
import pytest

from dreamer_jax.cli.parser import make_parser
from dreamer_jax.cli.settings import pairs, settings
from dreamer_jax.config.loading import load
from dreamer_jax.config.named import BENCHMARKS, PRESETS
from dreamer_jax.config.schema import FIELDS, flatten

PAGE = (Path(__file__).parents[1] / "docs" / "family.md").read_text()
ROWS = [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in PAGE.splitlines() if line.startswith("| `")]
OPTIONS = {row[0].strip("`"): row[1:] for row in ROWS if row[0].strip("`") in FIELDS}


def test_the_page_is_what_the_program_prints():
    assert family.page() == PAGE, "python benchmarks/family.py > docs/family.md"


def test_a_row_has_what_each_preset_has():
    assert OPTIONS["kl.dyn"] == ["1", "1", "0.8", "0.5", "1", "1", FIELDS["kl.dyn"].meaning.replace("|", r"\|")]
    assert OPTIONS["policy.dist"][:4] == ["–", "tanh_normal", "trunc_normal", "normal"]
    assert OPTIONS["optimizer.learning_rate"][4:6] == ["4e-5"] * 2 and OPTIONS["kl.free_average"][:2] == ["no", "yes"]
    assert OPTIONS["size"][:6] == ["own", "own", "own", "small", "12m", "1m"]
    assert OPTIONS["replay.capacity"][:3] == ["5,000,000", "5,000,000", "2,000,000"]


def test_every_option_in_which_presets_differ_has_one_row():
    configs = [load(preset) for preset in family.COLUMNS]
    dead = [family.without_effect(config) for config in configs]
    values = {
        name: {flatten(config)[name] for config, gone in zip(configs, dead, strict=True) if name not in gone}
        for name in FIELDS
    }
    differing = {name for name, found in values.items() if len(found) > 1} - {"preset", "revision"}
    assert set(OPTIONS) == differing and sum(row[0].strip("`") in differing for row in ROWS) == len(differing)
    assert {name for name in PRESETS if "_paper" not in name} == set(family.COLUMNS)


@pytest.mark.parametrize(
    ("preset", "idle", "busy"),
    [
        (
            "planet",
            "policy.dist value.units behavior.gradient loss.policy optimizer.actor_learning_rate",
            "planner.elites",
        ),
        (
            "planet",
            "rssm.classes rssm.unimix cont.units nets.bias",
            "rssm.std replay.recent behavior.method cont.label",
        ),
        ("dreamer_v1", "planner.horizon cont.start loss.cont value.slow_rate", "behavior.start policy.init_std"),
        ("dreamer_v2", "rssm.min_std nets.bias", "cont.start value.slow_rate policy.min_std behavior.starts loss.cont"),
        ("dreamer_v3", "behavior.start replay.recent policy.init_std", "behavior.starts value.slow_rate nets.bias"),
    ],
)
def test_options_without_effect(preset, idle, busy):
    dead = family.without_effect(load(preset))
    assert set(idle.split()) <= dead and not set(busy.split()) & dead and dead <= set(FIELDS)


def test_what_papers_say_otherwise():
    (changes,) = re.findall(r"- `dreamer_v2_paper`, on top of `dreamer_v2`: (.*)\.\n", PAGE)
    assert changes.split("; ") == [
        "behavior.discount_horizon 200 instead of 100",
        "train.train_ratio 625 instead of 160",
        "train.batch_size 50 instead of 16",
    ]
    assert all(f"- `{name}`, on top of" in PAGE for name in PRESETS if "_paper" in name)


def test_every_benchmark_of_earlier_agents_is_there_with_its_preset():
    named = [name for names in family.EARLIER.values() for name in names]
    assert sorted(named) == sorted(name for name in BENCHMARKS if re.search(r"_(2019|202[01])$", name))
    for preset, names in family.EARLIER.items():
        for name in names:
            assert f"| `--preset {preset} --benchmark {name}` | {BENCHMARKS[name].meaning} |" in PAGE


def test_commands_and_flags_can_be_used():
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    quoted = re.findall(r"`dreamer-jax (train [^`]*)`", PAGE)
    commands = [line.removeprefix("dreamer-jax ") for line in block.splitlines()] + quoted
    assert len(commands) == 4
    for words in map(shlex.split, commands):
        options, rest = make_parser().parse_known_args(words)
        settings(options, pairs(rest))
    for name in re.findall(r"`(\w+\.\w+)`", family.DIFFERENCES):
        assert name in FIELDS


def test_planet_updates_a_hundred_times_an_episode():
    rows = [row for row in ROWS if row[0].startswith("`dmc/")]
    assert len(rows) == 7
    for task, repeat, flags in rows:
        options, rest = make_parser().parse_known_args(
            ["train", "--preset", "planet", "--env.task", task.strip("`"), *shlex.split(flags.strip("`"))]
        )
        config = settings(options, pairs(rest))
        train, decisions = config.train, 1000 // config.env.action_repeat
        assert config.env.action_repeat == int(repeat) and train.update_every == decisions
        assert train.update_every * train.train_ratio / (train.batch_size * train.batch_length) == 100
        assert train.prefill == 5 * decisions
    assert flatten(config) == flatten(load("planet"))  # walker_walk, the last, is what the preset is made for
