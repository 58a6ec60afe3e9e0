"""Commands about a world model: how good it is, and whether it helps with another task."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from dreamer_jax.cli.errors import FAILED
from dreamer_jax.cli.output import say
from dreamer_jax.cli.quick_start import start_computing
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.terminal import render


def evaluate_model(options: argparse.Namespace, _: list[tuple[str, str]]) -> int:
    """The exit status is that of a failure if a control has failed."""
    from dreamer_jax.evaluation.ladder import ladder
    from dreamer_jax.evaluation.run import evaluate_run
    from dreamer_jax.evaluation.score_card import describe, failures, write

    start_computing(options)
    run_dir = options.run_dir.absolute()  # environments may change the working directory
    out = (options.output or run_dir / "model_report").absolute()
    chosen: dict[str, Any] = {"profile": options.profile, "seed": options.seed, "data": options.data, "note": say}
    if options.ladder:
        found = ladder(run_dir, out, **chosen)
        reports = [one["report"] for one in found["rungs"]]
        warnings = [f"warning: {warning}" for warning in found["warnings"]]
        answer: list[Any] = [found["table"], *failures(found["controls"]), *warnings, found["page"]]
        checked = [*reports, found]
    else:
        report = evaluate_run(run_dir, checkpoint=options.checkpoint, **chosen)
        files = write(report, out)
        checked, found, answer = [report], report, [*describe(report), *map(str, files)]
    if options.json:
        print(json.dumps(found), file=options.answers)
    else:
        print(render(answer))
    failed = [name for report in checked for name, one in report["controls"].items() if not one["passed"]]
    return FAILED if failed else 0


def transfer(options: argparse.Namespace, _: list[tuple[str, str]]) -> None:
    from dreamer_jax.evaluation.transfer import ARMS, describe, transfer

    start_computing(options)
    unknown = [arm for arm in options.arms if arm not in ARMS]
    if unknown:
        raise ConfigError(f"--arms: got {unknown[0]}, allowed: {', '.join(ARMS)}")
    found = transfer(
        options.source.absolute(),
        options.to,
        options.out.absolute(),
        frames=options.frames,
        arms=options.arms,
        shots=options.shots,
        seeds=range(options.seeds),
        episodes=options.episodes,
        note=say,
        stream=sys.stderr,
    )
    if options.json:
        print(json.dumps(found), file=options.answers)
    else:
        print(render(describe(found)))
