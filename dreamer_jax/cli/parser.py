"""The commands and their flags."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from dreamer_jax.analysis.protocols import PLAYED, PROTOCOLS
from dreamer_jax.cli import commands, model, runs
from dreamer_jax.cli.errors import FAILED
from dreamer_jax.cli.output import complain
from dreamer_jax.cli.runs import TIMEOUT
from dreamer_jax.cli.settings import with_values
from dreamer_jax.config.named import BENCHMARKS, PRESETS, SIZES
from dreamer_jax.config.paths import path_of
from dreamer_jax.config.reading import parse
from dreamer_jax.config.schema import FIELDS, Config, ConfigError
from dreamer_jax.profiling.data_sheets import ACCELERATORS

SETTINGS_HELP = """\
Every setting can be a flag, such as --env.num_envs 4 or --train.train_ratio 512;
`dreamer-jax config` prints them all with their meanings and what your flags make of them.
Later wins: preset, benchmark, size, YAML files from left to right, flags.
"""
MOST = 2**31 - 1
"""Of numbers on a command line that are no settings."""
CACHE_HELP = "where compiled programs are kept, or none"


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, without the usage before it; a setting's value is none of a command's words."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = with_values(sys.argv[1:] if args is None else args)
        for word in words:
            name, _, value = word.partition("=")
            if value == "--" and name in self._option_string_actions:  # argparse would make it an empty list
                self.error(f"argument {name}: expected one argument")
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        complain(f"{message}; see {self.prog} --help")
        self.exit(FAILED)


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser("dreamer-jax", description="Dreamer world-model agents in JAX.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=_version())
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, run: Any, meaning: str, *, settings: bool = False, compiles: bool = False
    ) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(
            name,
            help=meaning,
            description=meaning[0].upper() + meaning[1:] + ".",
            epilog=SETTINGS_HELP + _presets() if settings else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.set_defaults(run=run, takes_settings=settings, json=False)
        if settings:
            sub.add_argument("--config", nargs="+", action="extend", default=[], metavar="FILE.yaml", help="YAML files")
            sub.add_argument("--preset", metavar="NAME", help=f"named settings (default {Config.preset})")
            sub.add_argument("--benchmark", metavar="NAME", help="named settings of a benchmark")
            sub.add_argument("--size", metavar="SIZE", help="model size (default: the preset's)")
        if compiles:
            sub.add_argument("--cache", type=_path_or("none"), metavar="DIR", help=CACHE_HELP)
        return sub

    sub = command("train", runs.train, "train an agent, or go on with a run", settings=True, compiles=True)
    sub.usage = "dreamer-jax train [FLAGS] [--SETTING VALUE ...]"  # all of them would fill half a screen
    sub.add_argument("--run-dir", type=_path, help="where everything is written (default: in runs)")
    sub.add_argument("--seeds", metavar="A..B", help="several runs, such as 0..7, in folders of --run-dir")
    sub.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="FIELD=V1,V2",
        help="a run for each value, of each field given so; with --sample also FIELD=LOW..HIGH",
    )
    sub.add_argument("--sample", type=_positive, metavar="N", help="N random points of --sweep instead of all")
    sub.add_argument("--sample-seed", type=_natural, metavar="N", help="which ones (default 0)")
    sub.add_argument(
        "--together",
        type=_positive,
        metavar="N",
        help="at most N of them learn at a time, in one program (default: all that can; 1: one after another)",
    )
    sub.add_argument("--print", action="store_true", help="print a command for each run, and train nothing")
    sub.add_argument(
        "--launch", choices=["slurm", "local"], metavar="WHERE", help="slurm or local: hand each run over, as a job"
    )
    sub.add_argument(
        "--job",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of such jobs: timeout_min=240, gpus_per_node=1",
    )
    _begins(sub)
    sub.add_argument(
        "--logger",
        action="append",
        choices=["tensorboard", "wandb", "none"],
        metavar="NAME",
        help="tensorboard (default), wandb or none",
    )
    sub.add_argument("--data", nargs="+", metavar="DIR", help="recorded episodes to learn from; nothing is collected")
    sub.add_argument("--only", metavar="WHAT", help="world_model or behavior learns from --data alone")
    sub.add_argument("--from", dest="start", metavar="RUN_DIR", help="begin with another run's parameters")
    sub.add_argument("--freeze", metavar="PARTS", help="parts that stay as they are, such as encoder,rssm")
    sub.add_argument("--profile", action="store_true", help="trace a few updates into the run's folder profile/")
    shared = sub.add_argument_group("several processes that share one run, each started with the same settings")
    shared.add_argument("--coordinator", metavar="PLACE", help="HOST:PORT of process 0, free there")
    shared.add_argument("--processes", type=_positive, metavar="N", help="how many there are")
    shared.add_argument("--process", type=_natural, metavar="I", help="which one this is, from 0")
    shared.add_argument(
        "--distributed", action="store_true", help="find these three in what Slurm, Open MPI or a TPU says"
    )
    shared.add_argument(
        "--timeout",
        type=_positive,
        metavar="SECONDS",
        help=f"end if all stand still for so long (default {TIMEOUT})",
    )

    sub = command(
        "import-reference",
        commands.import_reference,
        "begin a run with parameters of the reference code",
        settings=True,
        compiles=True,
    )
    sub.add_argument("params", type=_path, metavar="PARAMS.npz", help="its tensors under their own names")
    sub.add_argument("--out", type=_path, required=True, metavar="RUN_DIR", help="the run's directory")
    _begins(sub)

    sub = command("evaluate", commands.evaluate, "play a trained agent in fresh environments", compiles=True)
    sub.set_defaults(takes_settings=True)
    sub.epilog = "Settings that leave the run's parameters as they are can be flags, such as --env.time_limit 500."
    sub.add_argument("run_dir", type=_path)
    sub.add_argument("--episodes", type=_positive, help=f"default {commands.EPISODES}, or the protocol's")
    sub.add_argument("--protocol", choices=PLAYED, metavar="NAME", help=f"a named way to measure: {', '.join(PLAYED)}")
    sub.add_argument(
        "--mode", choices=["sample", "mode"], help="sampled or greedy actions (default: the run's policy.evaluate)"
    )
    sub.add_argument("--seed", type=_natural, help="of the environments; never those of training (default: the run's)")
    sub.add_argument("--checkpoint", type=_natural, help="agent steps of the checkpoint (default: the newest)")
    sub.add_argument("--planner", choices=["cem", "mppi"], help="plan every action in the run's world model")
    sub.add_argument("--plans", type=_path, metavar="FILE.png", help="draw the plans tried for the first action")
    sub.add_argument("--video", type=_path, metavar="FILE.gif", help="film one more episode")
    sub.add_argument("--json", action="store_true", help="print one JSON object")

    sub = command(
        "score", commands.score, "measure runs, or published files of runs, as a named protocol says", compiles=True
    )
    sub.add_argument("sources", nargs="+", type=_path, metavar="RUN_OR_FILE", help="run directories, .json or .json.gz")
    sub.add_argument(
        "--protocol", required=True, choices=PROTOCOLS, metavar="NAME", help=f"one of {', '.join(PROTOCOLS)}"
    )
    sub.add_argument("--output", type=_path, metavar="FILE.png", help="draw performance profiles")
    sub.add_argument("--json", action="store_true", help="print one JSON object")

    sub = command("plot", commands.plot, "draw return against frames, seeds grouped")
    sub.add_argument("run_dirs", nargs="+", type=_path, metavar="RUN_DIR")
    sub.add_argument("--output", type=_path, default=Path("returns.png"), help="PNG file (default returns.png)")
    sub.add_argument("--minutes", type=_numbers, help="also mark these minutes of training, such as 2,5,15")

    sub = command("compare", commands.compare, "compare returns of runs with each other, or with published ones")
    sub.add_argument("run_dirs", nargs="+", type=_path, metavar="RUN_DIR")
    sub.add_argument(
        "--to", metavar="METHOD", help="dreamerv3 or another published method, or reference_small (default: each other)"
    )
    sub.add_argument("--output", type=_path, default=Path("compare.png"), help="picture (default compare.png)")
    sub.add_argument("--json", action="store_true", help="print one JSON object")

    sub = command("report", commands.report, "write one page of all runs in a folder: scores, curves, models, settings")
    sub.add_argument("folder", type=_path, metavar="DIR", help="of run directories")
    sub.add_argument("--out", type=_path, metavar="FILE.html", help="the page (default report.html in it)")
    _published(sub)

    sub = command("dashboard", commands.dashboard, "show that page in a browser on this machine, while runs go on")
    sub.add_argument("folder", type=_path, metavar="DIR", help="of run directories")
    sub.add_argument("--port", type=_natural, default=8765, help="of the address to open (default 8765; 0: any)")
    _published(sub)

    sub = command(
        "check-env",
        commands.check_env,
        "step an environment and say what an agent would see, or what is wrong",
        settings=True,
    )
    sub.add_argument("task", nargs="?", metavar="TASK", help=f"{FIELDS['env.task'].meaning} (default: env.task)")
    sub.add_argument("--steps", type=_positive, default=1000, help="random steps (default 1000)")

    sub = command(
        "collect",
        commands.collect,
        "play whole episodes for a dataset, and say what part of the environment it has seen",
        settings=True,
        compiles=True,
    )
    sub.add_argument("--out", type=_path, required=True, metavar="DATASET", help="its directory")
    sub.add_argument("--episodes", type=_positive, default=100, help="default 100")
    sub.add_argument(
        "--policy",
        type=_path_or("random", "ou"),
        default="random",
        metavar="WHO",
        help="random (default), ou: noise that follows itself, or RUN_DIR",
    )
    sub.add_argument("--noise", type=_share, default=0.3, help="of ou, or beside a run's actions (default 0.3)")
    sub.add_argument("--against", type=_path, metavar="DATASET", help="also compare what both have visited")
    _begins(sub, "of the environments and of the policy")
    sub.add_argument("--json", action="store_true", help="print one JSON object")

    sub = command("export", commands.export, "write the stored episodes of a run or dataset as npz files")
    sub.add_argument("run_dir", type=_path, metavar="RUN_OR_DATASET")
    sub.add_argument("--output", type=_path, help="folder (default: episodes in it)")
    other = sub.add_mutually_exclusive_group()
    other.add_argument("--minari", metavar="NAME", help="make a dataset of Minari of a dataset instead, such as x/y-v0")
    other.add_argument(
        "--stable-worldmodel", type=_path, metavar="FILE", help="make a .h5 file of stable-worldmodel of it instead"
    )

    sub = command("pack", commands.pack, "make a run one file to share: parameters, settings, scores and a card")
    sub.add_argument("run_dir", type=_path)
    sub.add_argument("--out", type=_path, required=True, metavar="FILE.zip", help="the file; nothing is overwritten")
    sub.add_argument("--licence", default="none given", metavar="TEXT", help="that the card names")

    sub = command(
        "export-policy", commands.write_policy, "write a run's policy as one file that JAX alone runs", compiles=True
    )
    sub.add_argument("run_dir", type=_path)
    sub.add_argument("--out", type=_path, required=True, metavar="FILE.zip", help="the file; nothing is overwritten")
    sub.add_argument("--envs", type=_positive, default=1, help="how many it acts in at once (default 1)")
    sub.add_argument("--mode", choices=["sample", "mode"], help="of the actions (default: the run's policy.evaluate)")
    all_of_them = commands.PLATFORMS
    sub.add_argument("--platforms", nargs="+", choices=all_of_them, default=all_of_them, help="default: all")
    sub.add_argument("--checkpoint", type=_natural, help="agent steps of the checkpoint (default: the newest)")

    sub = command(
        "dream", commands.dream, "draw what a run's world model predicts from a few recorded steps", compiles=True
    )
    sub.add_argument("run_dir", type=_path)
    sub.add_argument(
        "--actions",
        type=_path_or("recorded", "policy"),
        default="recorded",
        metavar="WHAT",
        help="recorded (default), policy, or FILE.npz with your own",
    )
    sub.add_argument("--context", type=_positive, default=5, help="records that it sees first (default 5)")
    sub.add_argument("--length", type=_positive, default=45, help="records that it imagines then (default 45)")
    sub.add_argument("--output", type=_path, help="folder of the pictures (default RUN_DIR/dreams)")
    sub.add_argument("--seed", type=_natural, default=0, help="which windows (default 0)")
    sub.add_argument("--checkpoint", type=_natural, help="agent steps of the checkpoint (default: the newest)")
    sub.add_argument("--json", action="store_true", help="print one JSON object")

    sub = command(
        "evaluate-model",
        model.evaluate_model,
        "judge a run's world model: what it knows, how far it sees, what it takes",
        compiles=True,
    )
    sub.add_argument("run_dir", type=_path)
    sub.add_argument("--profile", choices=["quick", "standard", "full"], default="quick", help="default quick")
    sub.add_argument("--data", metavar="DATASET", help="judge on these episodes, with commas, instead of new ones")
    sub.add_argument("--ladder", action="store_true", help="judge every checkpoint on the same episodes")
    sub.add_argument("--output", type=_path, help="folder of the report (default RUN_DIR/model_report)")
    sub.add_argument("--seed", type=_natural, default=0, help="of the episodes and of everything drawn (default 0)")
    sub.add_argument("--checkpoint", type=_natural, help="agent steps of the checkpoint (default: the newest)")
    sub.add_argument("--json", action="store_true", help="print one JSON object")

    sub = command(
        "transfer", model.transfer, "measure what a run's world model is worth for another task", compiles=True
    )
    sub.add_argument("--from", type=_path, required=True, dest="source", metavar="RUN_DIR", help="what has been learnt")
    sub.add_argument("--to", required=True, metavar="TASK", help="a task with the same observations and actions")
    sub.add_argument("--out", type=_path, required=True, metavar="DIR", help="where all runs and the report are kept")
    sub.add_argument("--frames", type=_positive, default=20_000, help="of training in the new task (default 20000)")
    sub.add_argument(
        "--arms",
        nargs="*",
        default=["scratch", "frozen", "model"],
        metavar="ARM",
        help="of scratch, frozen, model, everything (default: the first three)",
    )
    sub.add_argument(
        "--shots",
        nargs="*",
        type=_natural,
        default=[0, 1, 5, 10],
        metavar="N",
        help="episodes from which the reward is learnt (default 0 1 5 10)",
    )
    sub.add_argument("--seeds", type=_positive, default=1, help="runs of each arm (default 1)")
    sub.add_argument("--episodes", type=_positive, default=10, help="fresh ones of each score (default 10)")
    sub.add_argument("--json", action="store_true", help="print one JSON object")

    sub = command("doctor", commands.doctor, "say whether this machine is ready, and what mends it where it is not")
    sub.add_argument("--json", action="store_true", help="print one JSON object")

    sub = command(
        "plan",
        commands.plan,
        "say what a run would take: parameters, arithmetic, memory, disk, hours",
        settings=True,
        compiles=True,
    )
    sub.add_argument("--run-dir", type=_path, default=Path("runs"), help="where its replay would be (default: runs)")
    sub.add_argument(
        "--on",
        choices=ACCELERATORS,
        metavar="DEVICE",
        help="one that is not here: " + ", ".join(ACCELERATORS),
    )
    _begins(sub)
    sub.add_argument("--json", action="store_true", help="print one JSON object")

    sub = command("bench", commands.bench, "measure how fast updates and decisions are on this machine", compiles=True)
    sub.add_argument("--preset", default=Config.preset, metavar="NAME", help=f"default {Config.preset}")
    sub.add_argument("--size", metavar="SIZE", help="model size (default: the preset's)")
    sub.add_argument(
        "--observation", nargs="+", choices=["proprio", "vision", "atari"], default=["proprio"], help="default proprio"
    )
    sub.add_argument("--batch-size", default="16", metavar="N", help="default 16")
    sub.add_argument("--batch-length", default="64", metavar="N", help="default 64")
    sub.add_argument("--dtype", default="auto", metavar="TYPE", help="float32, bfloat16 or auto (default)")
    sub.add_argument("--num-envs", nargs="+", type=_positive, default=[1, 16], metavar="N", help="default 1 16")
    sub.add_argument("--repeats", type=_positive, default=5, help="updates; 100 decisions for each (default 5)")
    sub.add_argument("--json", action="store_true", help="print a JSON object for each measurement")

    sub = command("config", commands.config, "print all settings, as preset, files and flags make them", settings=True)
    sub.add_argument("--diff", metavar="PRESET", help="print instead what would be otherwise with this preset")
    for sub in subparsers.choices.values():
        sub.set_defaults(flags=tuple(name for name in sub._option_string_actions if name.startswith("--")))
    return parser


def _published(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--to", metavar="METHOD", default="dreamerv3", help="whose published curves (default dreamerv3)")


def _begins(sub: argparse.ArgumentParser, seed: str = "the run's one seed") -> None:
    """The two settings that everybody sets, with a line of their own in the help."""
    sub.add_argument("--seed", metavar="N", help=f"{seed} (default {Config.seed})")
    sub.add_argument("--env.task", metavar="TASK", dest="task", help=f"{FIELDS['env.task'].meaning}")


def _presets() -> str:
    width = max(map(len, PRESETS))
    lines = [f"  {name:<{width}}  {preset.meaning}" for name, preset in PRESETS.items()]
    return "\n".join(["\npresets:", *lines, f"benchmarks: {', '.join(BENCHMARKS)}", f"sizes: {', '.join(SIZES)}"])


def _positive(text: str) -> int:
    return _whole(text, least=1)


def _natural(text: str) -> int:
    return _whole(text, least=0)


def _whole(text: str, least: int) -> int:
    number = parse(text, int)
    if not isinstance(number, int) or not least <= number <= MOST:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number from {least} to {MOST}")
    return number


def _share(text: str) -> float:
    number = parse(text, float)
    if not isinstance(number, float) or not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number from 0 to 1")
    return number


def _numbers(text: str) -> list[float]:
    numbers = [parse(part, float) for part in text.split(",")]
    positive = [number for number in numbers if isinstance(number, float) and number > 0]
    if len(positive) < len(numbers):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected numbers above 0 with commas, such as 2,5,15")
    return positive


def _path(text: str) -> Path:
    try:
        return path_of(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _path_or(*words: str) -> Callable[[str], str]:
    """One of these words, or a path."""
    return lambda text: text if text in words else str(_path(text))


def _version() -> str:
    from importlib import metadata

    return metadata.version("dreamer-jax")
