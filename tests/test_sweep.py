"""Seeds, grids and random points, their names, what is refused, and which of them one program can update."""

import subprocess
import sys

import pytest

from dreamer_jax.config.loading import load
from dreamer_jax.config.schema import FIELDS, ConfigError
from dreamer_jax.config.sweep import SHARED, group_by_program, make_points, parse_seeds, run_name

RATE, REP = "optimizer.learning_rate", "kl.rep"
TASK = [("env.task", "dmc/walker_run")]


def points(*sweeps, flags=(), **options):
    return make_points([], flags, sweeps=sweeps, **options)


def given(*sweeps, **options):
    return [" ".join(text for _, text in point.given) for point in points(*sweeps, **options)]


def test_seeds():
    assert parse_seeds("0..7") == list(range(8)) and parse_seeds("5") == parse_seeds("5..5") == [5]
    assert parse_seeds("0,3,5") == [0, 3, 5] and parse_seeds("4..5,1") == [4, 5, 1]


def test_a_grid_with_seeds_which_vary_fastest():
    found = points(f"{RATE}=1e-5,1e-4", f"{REP}=0.1,0.3", seeds="0..1", flags=TASK)
    assert given(f"{RATE}=1e-5,1e-4", f"{REP}=0.1,0.3", seeds="0..1") == [
        "1e-5 0.1 0", "1e-5 0.1 1", "1e-5 0.3 0", "1e-5 0.3 1", "1e-4 0.1 0", "1e-4 0.1 1", "1e-4 0.3 0", "1e-4 0.3 1"
    ]  # fmt: skip
    last = found[-1]
    assert last.given == ((RATE, "1e-4"), (REP, "0.3"), ("seed", "1"))
    assert last.config == load(overrides=[*TASK, (RATE, "1e-4"), (REP, "0.3"), ("seed", "1")])
    assert last.name == f"dmc-walker_run-dreamer_v3-1m-1-{RATE}=1e-4-{REP}=0.3"


def test_names():
    assert [point.name for point in points(seeds="3,5")] == [run_name(load(overrides=[("seed", s)])) for s in "35"]
    swept = points("env.task=dmc/walker_run,my.module:make", "size=1m,12m", "replay.online=true,false")
    assert swept[0].name == "dmc-walker_run-dreamer_v3-1m-0-replay.online=true"  # task and size stand there anyway
    assert swept[-1].name == "my.module-make-dreamer_v3-12m-0-replay.online=false"
    (escaping,) = points("env.task=../../x/..")
    assert "/" not in escaping.name


def test_random_points():
    sweeps = [f"{RATE}=1e-5..1e-3", "policy.unimix=0..0.5", "rssm.stoch=2..4", f"{REP}=0.1,0.3"]
    found = points(*sweeps, sample=200, sample_seed=1)
    values = [[float(text) for _, text in point.given] for point in found]
    rates, mixes, stochs, reps = zip(*values, strict=True)
    assert all(1e-5 <= rate <= 1e-3 for rate in rates) and all(0 <= mix <= 0.5 for mix in mixes)
    # Half of the rates lie below the geometric mean, of the others below the arithmetic one: 200 draws, 5 deviations.
    assert 65 < sum(rate < 1e-4 for rate in rates) < 135 and 65 < sum(mix < 0.25 for mix in mixes) < 135
    assert set(stochs) == {2, 3, 4} and set(reps) == {0.1, 0.3} and min(map(stochs.count, (2, 3, 4))) > 35
    assert [point.config.optimizer.learning_rate for point in found] == list(rates)


def test_random_points_repeat_and_go_on():
    ten = given(f"{RATE}=1e-5..1e-3", sample=10)
    assert ten == given(f"{RATE}=1e-5..1e-3", sample=10, sample_seed=0) == given(f"{RATE}=1e-5..1e-3", sample=12)[:10]
    assert ten[0] != given(f"{RATE}=1e-5..1e-3", sample=1, sample_seed=1)[0] and len(set(ten)) == 10
    assert sorted(given(f"{REP}=0.1,0.2,0.3", sample=3)) == ["0.1", "0.2", "0.3"]  # never one twice
    narrow = [float(text) for text in given("optimizer.beta2=0.99999991..0.99999994", sample=5)]
    assert all(0.99999991 <= value <= 0.99999994 for value in narrow)
    assert len(given(f"{RATE}=1e-5..1e-3", sample=2, seeds="0..2")) == 6


@pytest.mark.parametrize(
    ("sweeps", "options", "line"),
    [
        ([], {"seeds": ""}, "--seeds: got '', expected whole numbers such as 0..7 or 0,3,5"),
        ([], {"seeds": "1,,2"}, "--seeds: got '1,,2', expected whole numbers such as 0..7 or 0,3,5"),
        ([], {"seeds": "a..b"}, "--seeds: got 'a..b', expected whole numbers such as 0..7 or 0,3,5"),
        ([], {"seeds": "-1"}, "--seeds: got '-1', expected whole numbers such as 0..7 or 0,3,5"),
        ([], {"seeds": "7..0"}, "--seeds: got '7..0', the first of a range must be at most the last: 0..7"),
        ([], {"seeds": "0..3,2"}, "--seeds: got '0..3,2', 2 is there twice"),
        ([], {"seeds": "0..99999999999"}, "--seeds: got '0..99999999999', must be at most 10,000 seeds"),
        ([], {"seeds": "0", "flags": [("seed", "1")]}, "--seeds: seed is given elsewhere on the command line, too"),
        ([f"{REP}=1,2"], {"flags": [(REP, "1")]}, "--sweep kl.rep: kl.rep is given elsewhere on the command line"),
        ([f"{REP}=1,2", f"{REP}=3"], {}, "--sweep kl.rep: kl.rep is given elsewhere on the command line, too"),
        (["seed=1,2"], {}, "--sweep seed: got '1,2', use --seeds, such as --seeds 0..7"),
        ([REP], {}, "--sweep: got 'kl.rep', expected field=value,value such as kl.rep=0.1,0.3"),
        ([f"{REP}=1,,2"], {}, "--sweep: got 'kl.rep=1,,2', expected field=value,value such as kl.rep=0.1,0.3"),
        (["kl.reep=1,2"], {}, "--sweep kl.reep: unknown field; did you mean 'kl.rep'?"),
        (["kl=1,2"], {}, "--sweep kl: a section has no value of its own"),
        ([f"{REP}=1,x"], {}, "--sweep kl.rep: got 'x', expected a number"),
        ([f"{REP}=1,-1"], {}, "--sweep kl.rep: got -1.0, must be at least 0"),
        (["size=1m,3m"], {}, "--sweep size: got '3m', expected one of own, 1m"),
        (["rssm.blocks=8,3"], {}, "--sweep rssm.blocks: got 3, must divide rssm.deter 512"),
        ([f"{REP}=.1,0.1"], {}, "--sweep: kl.rep=.1 and kl.rep=0.1 have the same settings; leave one of them out"),
        (["env.task=a/b,a-b"], {}, "--sweep: env.task=a/b and env.task=a-b have the same directory; leave one of them"),
        ([f"{REP}=0.1..1"], {}, "--sweep kl.rep: got 0.1..1, a range needs --sample N; or list values with commas"),
        ([f"{REP}=1..0.1"], {"sample": 2}, "--sweep kl.rep: got 1..0.1, the first end of a range must be less than"),
        ([f"{REP}=1..x"], {"sample": 2}, "--sweep kl.rep: got '1..x', expected a range between two numbers"),
        (["rssm.stoch=2..4.5"], {"sample": 2}, "--sweep rssm.stoch: got '2..4.5', expected a range between two whole"),
        (["policy.unimix=0..2"], {"sample": 2}, "--sweep policy.unimix: got 2.0, must be at most 1"),
        (["policy.unimix=-1..1"], {"sample": 2}, "--sweep policy.unimix: got -1.0, must be at least 0"),
        (["kl.reep=1..2"], {"sample": 2}, "--sweep kl.reep: unknown field; did you mean 'kl.rep'?"),
        (["dtype=a..b"], {"sample": 1}, "--sweep dtype: got 'a..b', expected one of auto, float32, bfloat16"),
        ([], {"sample": 2}, "--sample: got 2, needs --sweep field=low..high or field=value,value"),
        ([f"{REP}=1,2"], {"sample_seed": 2}, "--sample-seed: got 2, needs --sample N"),
        ([f"{REP}=1,2"], {"sample": 3}, "--sample: got 3, there are only 2 different points"),
        ([f"{REP}=1,2"], {"seeds": "1..9000"}, "--sweep: 18,000 runs, must be at most 10,000"),
    ],
)
def test_mistakes_are_one_line(sweeps, options, line):
    with pytest.raises(ConfigError) as error:
        points(*sweeps, **options)
    assert str(error.value).startswith(line) and "\n" not in str(error.value)


def test_what_one_program_can_update():
    assert {"seed", RATE, REP, "behavior.lambda_", "loss.value"} < SHARED
    assert not SHARED & {"optimizer.warmup", "kl.overshooting", "behavior.discount_horizon", "policy.unimix"}
    assert all(FIELDS[name].kind is float for name in SHARED - {"seed"})

    def groups(*sweeps, **options):
        return [
            [" ".join(text for _, text in point.given) for point in g]
            for g in group_by_program(points(*sweeps, **options))
        ]

    assert groups(f"{RATE}=1e-5,1e-4", f"{REP}=0.1,0.3") == [["1e-5 0.1", "1e-5 0.3", "1e-4 0.1", "1e-4 0.3"]]
    assert groups("rssm.deter=512,256", seeds="0..1") == [["512 0", "512 1"], ["256 0", "256 1"]]
    assert groups(f"{REP}=0.1,0.3", "replay.online=true,false") == [
        ["0.1 true", "0.3 true"],
        ["0.1 false", "0.3 false"],
    ]
    # What is off is not compiled; what is as the model's makes one optimiser of three.
    assert groups("loss.replay_value=0.3,0,0.5") == [["0.3", "0.5"], ["0"]]
    assert groups("optimizer.agc=0.3,0,0.1") == [["0.3", "0.1"], ["0"]]
    assert groups("optimizer.actor_learning_rate=4e-5,8e-5,1e-5") == [["4e-5"], ["8e-5", "1e-5"]]
    # A program that takes both numbers takes them for different ones.
    assert groups(f"{RATE}=1e-5,2e-5", "optimizer.actor_learning_rate=1e-5,2e-5") == [
        ["1e-5 1e-5"],
        ["1e-5 2e-5", "2e-5 1e-5"],
        ["2e-5 2e-5"],
    ]
    assert groups(f"{RATE}=4e-5,8e-5", flags=[("optimizer.actor_learning_rate", "4e-5")]) == [["4e-5"], ["8e-5"]]


def test_nothing_heavy_is_imported():
    program = (
        "import sys, dreamer_jax.config.sweep\nprint([n for n in ('jax', 'numpy', 'gymnasium') if n in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"
