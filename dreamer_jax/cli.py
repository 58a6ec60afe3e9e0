"""The commands. Nothing heavy is imported before a command needs it, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from dreamer_jax.config.benchmarks import BENCHMARKS
from dreamer_jax.config.loading import dump
from dreamer_jax.config.loading import load as load_config
from dreamer_jax.config.presets import PRESETS, SIZES
from dreamer_jax.config.schema import FIELDS, Config, ConfigError

FAILED = 2

SETTINGS_HELP = """\
Every setting can be a flag, such as --env.num_envs 4 or --train.train_ratio 512;
`dreamer-jax config` prints them all with their meanings and what your flags make of them.
Later wins: preset, benchmark, size, YAML files from left to right, flags.
"""
CACHE_HELP = "where compiled programs are kept (default ~/.cache/dreamer_jax/compiled); none: nowhere"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, 2 for anything a person can mend, or 128 + a signal's number."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own notes
    logging.basicConfig(format="dreamer-jax: %(message)s")
    logging.getLogger("absl").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(tensorflow_probability|jax|distrax|tfp)")
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    try:
        if not options.takes_settings and rest:
            parser.error(f"{options.command}: unrecognized arguments: {' '.join(rest)}")
        return options.run(options, _pairs(rest)) or 0
    except Exception as error:
        status, message = _explain(error)
        if message is None:
            raise
        print(f"dreamer-jax: {message}", file=sys.stderr)
        return status


def _explain(error: Exception) -> tuple[int, str | None]:
    """Exit status and the line for a person; no line for what is a fault of ours."""
    if isinstance(error, ConfigError | FileExistsError):
        return FAILED, str(error)
    if isinstance(error, OSError) and error.errno:
        where = f"{error.filename}: " if error.filename else ""
        return FAILED, f"{where}{error.strerror}"
    if "dreamer_jax.training.train" in sys.modules:
        from dreamer_jax.envs.wrappers import EnvironmentFailed
        from dreamer_jax.training.interrupt import Stopped
        from dreamer_jax.training.learner import NotFinite

        if isinstance(error, Stopped):
            return error.status, f"{error}; the same command goes on from there"
        if isinstance(error, EnvironmentFailed | NotFinite):
            return FAILED, str(error)
    return 1, None


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(FAILED, f"dreamer-jax: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("dreamer-jax", description="Dreamer world-model agents in JAX.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, run: Any, meaning: str, *, settings: bool = False, compiles: bool = False
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=meaning,
            description=meaning[0].upper() + meaning[1:] + ".",
            epilog=SETTINGS_HELP + _presets() if settings else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.set_defaults(run=run, takes_settings=settings)
        if settings:
            sub.add_argument("--config", nargs="+", action="extend", default=[], metavar="FILE.yaml", help="YAML files")
            sub.add_argument("--preset", metavar="NAME", help=f"named settings (default {Config.preset})")
            sub.add_argument("--benchmark", metavar="NAME", help="named settings of a benchmark")
            sub.add_argument("--size", metavar="SIZE", help="model size (default: the preset's)")
        if compiles:
            sub.add_argument("--cache", metavar="DIR", help=CACHE_HELP)
        return sub

    sub = command("train", _train, "train an agent, or go on with a run", settings=True, compiles=True)
    sub.add_argument("--run-dir", type=Path, help="where everything is written (default runs/TASK-PRESET-SIZE-SEED)")
    sub.add_argument("--seed", metavar="N", help=f"the run's one seed (default {Config.seed})")
    sub.add_argument("--env.task", metavar="TASK", dest="task", help=f"{FIELDS['env.task'].meaning}")
    sub.add_argument(
        "--logger",
        action="append",
        choices=["tensorboard", "wandb", "none"],
        help="besides the JSON files (default tensorboard)",
    )
    sub.add_argument("--profile", action="store_true", help="trace a few updates into the run's folder profile/")

    sub = command(
        "import-reference",
        _import_reference,
        "begin a run with parameters of the reference code",
        settings=True,
        compiles=True,
    )
    sub.add_argument("params", type=Path, metavar="PARAMS.npz", help="its tensors under their own names")
    sub.add_argument("--out", type=Path, required=True, metavar="RUN_DIR", help="the run's directory")
    sub.add_argument("--seed", metavar="N", help=f"the run's one seed (default {Config.seed})")
    sub.add_argument("--env.task", metavar="TASK", dest="task", help=f"{FIELDS['env.task'].meaning}")

    sub = command("evaluate", _evaluate, "play a trained agent in fresh environments", compiles=True)
    sub.add_argument("run_dir", type=Path)
    sub.add_argument("--episodes", type=_positive, default=20, help="default 20")
    sub.add_argument(
        "--mode", choices=["sample", "mode"], help="sampled or greedy actions (default: the run's policy.evaluate)"
    )
    sub.add_argument("--seed", type=int, help="of the environments; never those of training (default: the run's)")
    sub.add_argument("--checkpoint", type=int, help="agent steps of the checkpoint (default: the newest)")
    sub.add_argument("--video", type=Path, metavar="FILE.gif", help="film one more episode")
    sub.add_argument("--json", action="store_true", help="print one JSON object")

    sub = command("plot", _plot, "draw return against frames, seeds grouped")
    sub.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN_DIR")
    sub.add_argument("--output", type=Path, default=Path("returns.png"), help="PNG file (default returns.png)")
    sub.add_argument("--minutes", type=_numbers, help="also mark these minutes of training, such as 2,5,15")

    sub = command("compare", _compare, "compare returns with published ones on the same task")
    sub.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN_DIR")
    sub.add_argument("--to", required=True, metavar="METHOD", help="published method, such as dreamerv3")
    sub.add_argument("--output", type=Path, default=Path("compare.png"), help="picture (default compare.png)")
    sub.add_argument("--json", action="store_true", help="print one JSON object")

    sub = command(
        "check-env", _check_env, "step an environment and say what an agent would see, or what is wrong", settings=True
    )
    sub.add_argument("task", metavar="TASK", help=FIELDS["env.task"].meaning)
    sub.add_argument("--steps", type=_positive, default=1000, help="random steps (default 1000)")

    sub = command("export", _export, "write a run's stored episodes as npz files")
    sub.add_argument("run_dir", type=Path)
    sub.add_argument("--output", type=Path, help="folder (default RUN_DIR/episodes)")

    sub = command("dream", _dream, "draw what a run's world model predicts from a few recorded steps", compiles=True)
    sub.add_argument("run_dir", type=Path)
    sub.add_argument(
        "--actions", default="recorded", metavar="WHAT", help="recorded (default), policy, or FILE.npz with your own"
    )
    sub.add_argument("--context", type=_positive, default=5, help="records that it sees first (default 5)")
    sub.add_argument("--length", type=_positive, default=45, help="records that it imagines then (default 45)")
    sub.add_argument("--output", type=Path, help="folder of the pictures (default RUN_DIR/dreams)")
    sub.add_argument("--seed", type=int, default=0, help="which windows (default 0)")
    sub.add_argument("--checkpoint", type=int, help="agent steps of the checkpoint (default: the newest)")
    sub.add_argument("--json", action="store_true", help="print one JSON object")

    sub = command("bench", _bench, "measure how fast updates and decisions are on this machine", compiles=True)
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

    command("config", _config, "print all settings, as preset, files and flags make them", settings=True)
    return parser


def _settings(options: argparse.Namespace, pairs: list[tuple[str, str]]) -> Config:
    named = {
        "preset": options.preset,
        "benchmark": options.benchmark,
        "size": options.size,
        "seed": getattr(options, "seed", None),
    }
    named["env.task"] = getattr(options, "task", None)
    given = [(name, value) for name, value in named.items() if value is not None]
    return load_config(files=options.config, overrides=given + pairs)


def _start_quickly(options: argparse.Namespace) -> None:
    """What a command compiles is there when it is called again. To be called once all is imported."""
    from dreamer_jax.training.program_cache import collect_rarely, default_folder, keep_programs

    collect_rarely()
    if options.cache == "none":
        return
    problem = keep_programs(Path(options.cache) if options.cache else default_folder())
    if problem:
        print(f"dreamer-jax: {problem}", file=sys.stderr)


def _train(options: argparse.Namespace, pairs: list[tuple[str, str]]) -> None:
    config = _settings(options, pairs)
    run_dir = options.run_dir or Path("runs", _run_name(config))
    from dreamer_jax.training.train import train

    _start_quickly(options)
    loggers = [name for name in options.logger or ["tensorboard"] if name != "none"]
    train(config, run_dir, loggers=loggers, profile=options.profile)


def _import_reference(options: argparse.Namespace, pairs: list[tuple[str, str]]) -> None:
    config = _settings(options, pairs)
    from dreamer_jax.reference import from_reference, read_reference
    from dreamer_jax.training.preflight import env_spec
    from dreamer_jax.training.train import begin

    _start_quickly(options)
    arrays = read_reference(options.params)
    try:
        state = from_reference(arrays, config, env_spec(config))
    except ConfigError as error:
        raise ConfigError(f"{options.params}: {error}") from error
    begin(config, options.out, state)
    print(f"{len(arrays)} tensors in {options.out}; `dreamer-jax train` with the same settings goes on from there")


def _run_name(config: Config) -> str:
    task = "".join(c if c.isalnum() or c in "-_." else "-" for c in config.env.task)
    return f"{task}-{config.preset}-{config.size}-{config.seed}"


def _evaluate(options: argparse.Namespace, _: list[tuple[str, str]]) -> None:
    from dreamer_jax.training.acting import make_act
    from dreamer_jax.training.checkpoint import Checkpoints, load, read_run
    from dreamer_jax.training.evaluate import evaluate, film_episode
    from dreamer_jax.training.pictures import check_film, save_film
    from dreamer_jax.training.statistics import format_summary, summary

    _start_quickly(options)
    config, _spec = read_run(options.run_dir)
    agent, state = load(options.run_dir, options.checkpoint)
    checkpoints = Checkpoints(options.run_dir)
    checkpoint = checkpoints.latest() if options.checkpoint is None else options.checkpoint
    checkpoints.close()
    seed = config.seed if options.seed is None else options.seed
    mode = options.mode or config.policy.evaluate
    if options.video is not None:
        check_film(options.video)

    def report(count: int, score: float) -> None:
        if sys.stderr.isatty():
            print(f"\repisode {count}/{options.episodes}: {score:.1f}   ", end="", file=sys.stderr, flush=True)

    act = make_act(agent, mode)
    if options.video is not None:  # first, because not everything can be filmed
        frames, rate = film_episode(agent, act, state.params, config.env, seed=seed)
        save_film(frames, options.video, rate)
    scores = evaluate(agent, act, state.params, config.env, episodes=options.episodes, seed=seed, after_episode=report)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    result = {
        "run": str(options.run_dir),
        "task": config.env.task,
        "checkpoint": checkpoint,
        "frames": (checkpoint or 0) * config.env.action_repeat,
        "mode": mode,
        "seed": seed,
        **summary(scores),
        "scores": scores,
    }
    if options.video is not None:
        result["video"] = str(options.video)
    if options.json:
        print(json.dumps(result))
    else:
        actions = "sampled" if mode == "sample" else "greedy"
        print(f"{config.env.task} after {result['frames']:,} frames, {actions} actions")
        print(format_summary(result))
        print(result["video"]) if "video" in result else None


def _plot(options: argparse.Namespace, _: list[tuple[str, str]]) -> None:
    from dreamer_jax.training.plot import plot_runs

    print(plot_runs(options.run_dirs, options.output, marks_minutes=options.minutes))


def _compare(options: argparse.Namespace, _: list[tuple[str, str]]) -> None:
    from dreamer_jax.training.compare import as_json, as_text, compare, draw

    comparisons = compare(options.run_dirs, options.to)
    picture = draw(comparisons, options.output)
    if options.json:
        print(json.dumps({**as_json(comparisons), "picture": str(picture)}))
    else:
        print(f"{as_text(comparisons)}\n{picture}")


def _check_env(options: argparse.Namespace, pairs: list[tuple[str, str]]) -> None:
    config = _settings(options, pairs)
    from dreamer_jax.envs.check import check_env

    print(check_env(replace(config.env, task=options.task), options.steps))


def _export(options: argparse.Namespace, _: list[tuple[str, str]]) -> None:
    from dreamer_jax.replay.export import export_episodes
    from dreamer_jax.training.checkpoint import read_replays

    folder = options.output or options.run_dir / "episodes"
    count = export_episodes(read_replays(options.run_dir), folder)
    print(f"{count} episodes in {folder}")


def _dream(options: argparse.Namespace, _: list[tuple[str, str]]) -> None:
    from dreamer_jax.training.checkpoint import read_run
    from dreamer_jax.training.predictions import describe, dream_run

    _start_quickly(options)
    latents = read_run(options.run_dir)[0].rssm.stoch
    metrics, drawn = dream_run(
        options.run_dir,
        options.output or options.run_dir / "dreams",
        actions=options.actions,
        context=options.context,
        length=options.length,
        checkpoint=options.checkpoint,
        seed=options.seed,
    )
    if options.json:
        print(json.dumps({"metrics": metrics, "pictures": {name: str(path) for name, path in drawn.items()}}))
    else:
        print("\n".join([*([describe(metrics, latents)] if metrics else []), *map(str, drawn.values())]))


def _bench(options: argparse.Namespace, _: list[tuple[str, str]]) -> None:
    from dreamer_jax.training.bench import bench, in_words

    _start_quickly(options)
    settings = {
        "preset": options.preset,
        "size": options.size,
        "dtype": options.dtype,
        "train.batch_size": options.batch_size,
        "train.batch_length": options.batch_length,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    records = []
    for record in bench(
        options.observation, options.num_envs, options.repeats, given, lambda text: print(text, file=sys.stderr)
    ):
        records.append(record)
        if options.json:
            print(json.dumps(record), flush=True)
    if not options.json:
        print(in_words(records))


def _config(options: argparse.Namespace, pairs: list[tuple[str, str]]) -> None:
    print(dump(_settings(options, pairs)), end="")


def _pairs(rest: Sequence[str]) -> list[tuple[str, str]]:
    """``--name value`` and ``--name=value`` as pairs.

    Raises:
      ConfigError: something else is there, or a flag has no value.
    """
    pairs, words = [], list(rest)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise ConfigError(f"{word}: expected a flag, such as --env.task dmc/walker_walk")
        name, equals, value = word[2:].partition("=")
        if not equals:
            if not words or words[0].startswith("--"):
                load_config(overrides=[(name, "")]) if name not in FIELDS else None  # says what name was meant
                raise ConfigError(f"{word}: expected a value")
            value = words.pop(0)
        pairs.append((name, value))
    return pairs


def _presets() -> str:
    width = max(map(len, PRESETS))
    lines = [f"  {name:<{width}}  {preset.meaning}" for name, preset in PRESETS.items()]
    return "\n".join(["\npresets:", *lines, f"benchmarks: {', '.join(BENCHMARKS)}", f"sizes: {', '.join(SIZES)}"])


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {text}, must be at least 1")
    return number


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = [math.nan]
    if not all(number > 0 for number in numbers):
        raise argparse.ArgumentTypeError(f"got {text}, expected numbers above 0 with commas, such as 2,5,15")
    return numbers


def _version() -> str:
    from importlib import metadata

    return metadata.version("dreamer-jax")
