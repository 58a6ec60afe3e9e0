"""What each command does. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from dreamer_jax.cli.errors import FAILED
from dreamer_jax.cli.output import counted, say
from dreamer_jax.cli.quick_start import start_computing
from dreamer_jax.cli.settings import named, settings
from dreamer_jax.config.loading import difference, dump, load, write
from dreamer_jax.config.schema import FIELDS, ConfigError
from dreamer_jax.terminal import render, table

if TYPE_CHECKING:
    from dreamer_jax.analysis.protocols import Protocol

PLATFORMS = ("cpu", "cuda", "tpu")
"""That a policy is written for."""
EPISODES = 20
"""That an evaluation plays where nothing says how many."""


def import_reference(options: argparse.Namespace, pairs: list[tuple[str, str]]) -> None:
    config = settings(options, pairs)
    from dreamer_jax.reference import from_reference, read_reference
    from dreamer_jax.training.preflight import env_spec
    from dreamer_jax.training.train import begin

    start_computing(options)
    out = options.out.absolute()  # environments may change the working directory
    arrays = read_reference(options.params)
    try:
        state = from_reference(arrays, config, env_spec(config))
    except ConfigError as error:
        raise ConfigError(f"{options.params}: {error}") from error
    begin(config, out, state)
    print(f"{len(arrays)} tensors in {options.out}; `dreamer-jax train` with the same settings goes on from there")


def evaluate(options: argparse.Namespace, pairs: list[tuple[str, str]]) -> None:
    from dreamer_jax.analysis.pictures import check_film, save_film
    from dreamer_jax.analysis.plans import draw_search, search_first
    from dreamer_jax.analysis.plot import check_picture
    from dreamer_jax.analysis.protocols import evaluation_protocol
    from dreamer_jax.analysis.statistics import describe, summary
    from dreamer_jax.devices.acting import make_act
    from dreamer_jax.runs.checkpoint import Checkpoints
    from dreamer_jax.runs.integrity import read_run
    from dreamer_jax.runs.load import load, overridden
    from dreamer_jax.training.evaluate import check_environment, evaluate, evaluation_envs, film_episode

    start_computing(options)
    config, spec = read_run(options.run_dir)
    if options.planner is not None:
        beside = [("behavior.act", "planner")] if config.behavior.method == "actor_critic" else []
        pairs = [*beside, ("planner.method", options.planner), *pairs]
    if pairs:
        config = overridden(options.run_dir, pairs)
        check_environment(config, spec, pairs)
    agent, state = load(options.run_dir, options.checkpoint, overrides=pairs)
    checkpoints = Checkpoints(options.run_dir)
    checkpoint = checkpoints.latest() if options.checkpoint is None else options.checkpoint
    checkpoints.close()
    seed = config.seed if options.seed is None else options.seed
    mode, protocol = options.mode or config.policy.evaluate, None
    if options.protocol is not None:
        protocol = evaluation_protocol(options.protocol, config.env.task)
        options.episodes, mode = options.episodes or protocol.episodes, options.mode or protocol.mode
        if (options.episodes, mode) != (protocol.episodes, protocol.mode):
            raise ConfigError(
                f"--protocol: {options.protocol} has {protocol.episodes} episodes, --mode {protocol.mode}"
            )
    options.episodes = options.episodes or EPISODES
    if options.video is not None:
        check_film(options.video)
        options.video = options.video.absolute()  # environments may change the working directory

    plans = config.behavior.method == "planner" or config.behavior.act == "planner"
    if options.plans is not None:
        check_picture(options.plans)
        options.plans = options.plans.absolute()
        if not plans:
            raise ConfigError(f"--plans: got {options.plans}, but the run's actions are a policy's; add --planner cem")
        if not config.planner.iterations:
            raise ConfigError("planner.iterations: got 0, --plans needs at least 1")

    act = make_act(agent, mode)
    if options.video is not None:  # first, because not everything can be filmed
        frames, rate = film_episode(agent, act, state.params, config.env, seed=seed)
        save_film(frames, options.video, rate)
    envs = evaluation_envs(config.env, options.episodes, seed, lambda text: print(text, file=sys.stderr))
    if options.plans is not None:
        found = search_first(config, spec, state.params, envs.reset(episode=0), seed=seed)
        draw_search(found, spec, options.plans)
    with closing(envs), counted("episode", options.episodes) as report:
        scores = evaluate(agent, act, state.params, envs, episodes=options.episodes, seed=seed, after_episode=report)
    result = {
        "run": str(options.run_dir),
        "task": config.env.task,
        "checkpoint": checkpoint,
        "frames": 0 if config.offline.data else (checkpoint or 0) * config.env.action_repeat,
        "mode": mode,
        "seed": seed,
        **({} if protocol is None else {"protocol": options.protocol}),
        **summary(scores),
        "scores": scores,
    }
    pictures = {name: str(path) for name in ("video", "plans") if (path := getattr(options, name)) is not None}
    result |= pictures | ({"planner": config.planner.method} if plans else {})
    if options.json:
        print(json.dumps(result), file=options.answers)
    else:
        chosen = "sampled" if mode == "sample" else "greedy"
        actions = f"planned ({config.planner.method})" if plans else chosen
        age = f"{checkpoint:,} updates" if config.offline.data else f"{result['frames']:,} frames"
        head = [f"{config.env.task} after {age}, {actions} actions"]
        if protocol is not None:
            head.append(f"{options.protocol}: {protocol.meaning}")
            if protocol.frames not in (None, result["frames"]):
                head.append(f"the protocol's number is that of {protocol.frames:,} frames; this is another")
        print(render([*head, *describe(result), *pictures.values()]))


def score(options: argparse.Namespace, _: list[tuple[str, str]]) -> None:
    from dreamer_jax.analysis import score
    from dreamer_jax.training.evaluate import play_run

    start_computing(options)

    def play(run_dir: Path, protocol: Protocol) -> list[float]:
        with counted(f"episode of {run_dir.name}", protocol.episodes) as report:
            return play_run(run_dir, protocol.episodes, protocol.mode, say, after_episode=report)

    output = None if options.output is None else options.output.absolute()  # environments may change the directory
    methods = score.score([source.absolute() for source in options.sources], options.protocol, play)
    picture = [] if output is None else [str(score.draw(methods, options.protocol, output))]
    if options.json:
        print(json.dumps(score.as_json(methods, options.protocol) | {"picture": picture}), file=options.answers)
    else:
        print(render([*score.describe(methods, options.protocol), *picture]))


def plot(options: argparse.Namespace, _: list[tuple[str, str]]) -> None:
    from dreamer_jax.analysis.plot import plot_runs

    print(plot_runs(options.run_dirs, options.output, marks_minutes=options.minutes))


def compare(options: argparse.Namespace, _: list[tuple[str, str]]) -> None:
    from dreamer_jax.analysis import compare, ranking

    if options.to is None:
        tables = ranking.rank(options.run_dirs)
        picture = ranking.draw(tables, options.output)
        found, answer = ranking.as_json(tables), ranking.describe(tables)
    else:
        comparisons = compare.compare(options.run_dirs, options.to)
        picture = compare.draw(comparisons, options.output)
        found, answer = compare.as_json(comparisons), compare.describe(comparisons)
    if options.json:
        print(json.dumps({**found, "picture": str(picture)}), file=options.answers)
    else:
        print(render([*answer, str(picture)]))


def report(options: argparse.Namespace, _: list[tuple[str, str]]) -> None:
    from dreamer_jax.reporting.report import write_report

    print(render([*write_report(options.folder, options.out or options.folder / "report.html", options.to)]))


def dashboard(options: argparse.Namespace, _: list[tuple[str, str]]) -> None:
    from dreamer_jax.reporting.dashboard import REFRESH, Dashboard

    with Dashboard(options.folder, options.to, options.port) as server:
        print(f"{server.address} shows {options.folder}, anew every {REFRESH} s; Ctrl-C ends it", flush=True)
        server.serve_forever()


def check_env(options: argparse.Namespace, pairs: list[tuple[str, str]]) -> None:
    config = settings(options, pairs)
    from dreamer_jax.envs.check import check_env

    print(render(check_env(config, options.steps)))


def collect(options: argparse.Namespace, pairs: list[tuple[str, str]]) -> None:
    config = settings(options, pairs)
    from dreamer_jax.datasets import coverage
    from dreamer_jax.datasets.collect import collect
    from dreamer_jax.datasets.dataset import open_dataset

    start_computing(options)
    out = options.out.absolute()  # environments may change the working directory
    other = None if options.against is None else open_dataset(options.against)
    with counted("episode", options.episodes) as report:
        collect(
            config,
            out,
            policy=options.policy,
            noise=options.noise,
            episodes=options.episodes,
            after_episode=report,
        )
    dataset = open_dataset(out)
    if other is not None and other.spec != dataset.spec:
        raise ConfigError(f"--against: {options.against} has other observations or actions than {options.out}")
    if options.json:
        print(json.dumps(coverage.as_json(dataset, other)), file=options.answers)
    else:
        print(render(coverage.describe(dataset, other)))


def export(options: argparse.Namespace, _: list[tuple[str, str]]) -> None:
    from dreamer_jax.datasets.dataset import FACTS, env_facts, open_dataset
    from dreamer_jax.replay.export import export_episodes
    from dreamer_jax.runs.checkpoint import read_replays
    from dreamer_jax.runs.integrity import read_run

    folder = options.output or options.run_dir / "episodes"
    dataset = open_dataset(options.run_dir) if (options.run_dir / FACTS).exists() else None
    if options.minari is not None or options.stable_worldmodel is not None:
        from dreamer_jax.datasets import minari, stable_worldmodel

        flag = "--minari" if options.minari is not None else "--stable-worldmodel"
        if dataset is None:
            raise ConfigError(f"{flag}: {options.run_dir} is no dataset (no {FACTS}); collect makes one")
        if options.minari is not None:
            minari.write_minari(dataset, options.minari)
            name = minari.PREFIX + options.minari
        else:
            stable_worldmodel.write_stable_worldmodel(dataset, options.stable_worldmodel)
            name = f"{stable_worldmodel.PREFIX}{options.stable_worldmodel}"
        print(f"{dataset.facts['episodes']} episodes in {name}")
        return
    env = dataset.env if dataset else read_run(options.run_dir)[0].env
    replays = [dataset.replay] if dataset else read_replays(options.run_dir)
    count = export_episodes(replays, folder, {"env": env_facts(env)})
    print(f"{count} episodes in {folder}")


def pack(options: argparse.Namespace, _: list[tuple[str, str]]) -> None:
    from dreamer_jax.reporting.overview import late_score, read_one
    from dreamer_jax.runs.load import load
    from dreamer_jax.runs.packed import as_markdown, make_card, write_packed

    one = read_one(options.run_dir)
    state = load(options.run_dir)[1]
    card = make_card(one.config, one.frames, late_score(one), options.licence)
    write_packed(options.run_dir, options.out, state, card)
    print(f"{as_markdown(card)}\n{options.out}: {options.out.stat().st_size / 1e6:.2f} MB")


def write_policy(options: argparse.Namespace, _: list[tuple[str, str]]) -> None:
    from dreamer_jax.runs.policy_file import export_policy

    start_computing(options)
    facts = export_policy(
        options.run_dir,
        options.out,
        step=options.checkpoint,
        mode=options.mode,
        num_envs=options.envs,
        platforms=options.platforms,
    )
    size = options.out.stat().st_size / 1e6
    print(f"{options.out}: {size:.2f} MB, {facts['num_envs']} x {facts['task']}, for {', '.join(facts['platforms'])}")


def dream(options: argparse.Namespace, _: list[tuple[str, str]]) -> None:
    from dreamer_jax.analysis.predictions import describe, dream_run

    start_computing(options)
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
        pictures = {name: str(path) for name, path in drawn.items()}
        print(json.dumps({"metrics": metrics, "pictures": pictures}), file=options.answers)
    else:
        print(render([*(describe(metrics) if metrics else []), *map(str, drawn.values())]))


def doctor(options: argparse.Namespace, _: list[tuple[str, str]]) -> int:
    """The exit status is that of a failure if something is wrong."""
    from dreamer_jax import doctor

    findings = []
    for one in doctor.examine():
        findings.append(one)
        if not options.json and one.mend:
            say(f"{one.about}: {one.found}")
    if options.json:
        print(json.dumps(doctor.as_json(findings)), file=options.answers)
    else:
        print(render(doctor.describe(findings)))
    return FAILED if any(one.mend for one in findings) else 0


def plan(options: argparse.Namespace, pairs: list[tuple[str, str]]) -> int:
    """The exit status is that of a failure if the run does not fit."""
    config = settings(options, pairs)
    from dreamer_jax.training.plan import describe, plan

    start_computing(options)
    found = plan(config, options.run_dir.absolute(), on=options.on, note=say)
    if options.json:
        print(json.dumps(found), file=options.answers)
    else:
        print(render(describe(found)))
    return FAILED if found["problems"] else 0


def bench(options: argparse.Namespace, _: list[tuple[str, str]]) -> None:
    from dreamer_jax.profiling.bench import bench, describe

    start_computing(options)
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
            print(json.dumps(record), file=options.answers, flush=True)
    if not options.json:
        print(render(describe(records)))


def config(options: argparse.Namespace, pairs: list[tuple[str, str]]) -> None:
    mine = settings(options, pairs)
    if options.diff is None:
        print(dump(mine), end="")
        return
    flags = [(name, text) for name, text in named(options, pairs) if name != "preset"]
    other = load(options.diff, files=options.config, overrides=flags, labels={"preset": "--diff"})
    rows = [(name, write(a), write(b), FIELDS[name].meaning) for name, a, b in difference(mine, other)]
    if rows:
        print(render([table(("setting", "here", options.diff, "meaning"), rows)]))
