"""World models side by side: untrained, on the way, trained, from pixels, of other kinds; each with its controls.

    python benchmarks/score_cards.py --runs runs/score_cards --report docs/results/score_cards

trains each run to the frames of its cards, judges what is not judged yet as ``dreamer-jax evaluate-model`` does, and
writes one page (.md), its picture (.png) and the headline numbers (.json). It goes on where it was stopped. Everything
that sees the same numbers is judged on the same episodes, those of the quick start's last policy and of noise.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from family import table

from dreamer_jax.analysis.plot import finish_panel, open_panels, save_picture
from dreamer_jax.evaluation.profiles import PROFILES
from dreamer_jax.evaluation.recordings import Recording
from dreamer_jax.evaluation.run import known_episodes, own_recordings, report_of
from dreamer_jax.evaluation.score_card import headline, write
from dreamer_jax.evaluation.subject import of_run, untrained
from dreamer_jax.files import replace_file
from dreamer_jax.runs.facts import steps

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
QUICK_START = "quickstart"


class Card(NamedTuple):
    """``frames`` of training of the run with this name; 0 are untrained networks."""

    name: str
    run: str
    config: str
    frames: int
    settings: tuple[str, ...] = ()


KEEP = ("--train.keep_checkpoints", "10", "--train.save_minutes", "600")
TRANSFORMER = ("--rssm.backbone", "transformer")
CARDS = (
    Card("untrained", QUICK_START, "quickstart.yaml", 0, KEEP),
    Card("quick start, 10 %", QUICK_START, "quickstart.yaml", 4_000, KEEP),
    Card("quick start, 30 %", QUICK_START, "quickstart.yaml", 12_000, KEEP),
    Card("quick start", QUICK_START, "quickstart.yaml", 40_000, KEEP),
    Card("transformer, 30 %", "transformer", "quickstart.yaml", 12_000, TRANSFORMER),
    Card("PlaNet", "planet", "planet_cartpole.yaml", 30_000),
    Card("pixels", "pixels", "pixels.yaml", 24_000),
)


def train(runs: Path, card: Card) -> int:
    """The run's exit status, 0 where it has come this far."""
    folder = runs / card.run
    known = max(steps(folder), default=0)
    if known and known * of_run(folder)[1].env.action_repeat >= card.frames:
        return 0
    words = ["train", "--config", str(CONFIGS / card.config), "--run-dir", str(folder), *card.settings]
    words += ["--train.frames", str(card.frames), "--logger", "none"]
    return subprocess.run([sys.executable, "-m", "dreamer_jax", *words]).returncode


def checkpoint(folder: Path, frames: int) -> int:
    """The first that has so many frames."""
    repeat = of_run(folder)[1].env.action_repeat
    return min(step for step in steps(folder) if step * repeat >= frames)


@cache
def recordings(folder: Path, profile: str, seed: int) -> list[Recording]:
    subject, config = of_run(folder)
    return own_recordings(subject, config, profile, seed, None, note)


def judge_card(runs: Path, card: Card, profile: str, seed: int) -> dict[str, Any]:
    """Its report, from its file where it is there."""
    folder = runs / card.run
    step = checkpoint(folder, card.frames) if card.frames else 0
    out = runs / "cards" / card.name.replace(" %", "").replace(", ", "_").replace(" ", "_")
    facts = out / "report.json"
    if facts.exists():
        report: dict[str, Any] = json.loads(facts.read_text())
        if (report["meta"]["profile"], report["meta"]["seed"], report["meta"]["checkpoint"]) == (profile, seed, step):
            return report
    subject, config = of_run(folder, step or None)
    subject = subject if step else untrained(subject, seed)
    common, theirs = of_run(runs / QUICK_START)[0], folder
    if common.spec == subject.spec:
        theirs = runs / QUICK_START
    began = time.perf_counter()
    shown = recordings(theirs, profile, seed)
    known = known_episodes(folder, subject, profile)
    say = partial(note, card.name)
    report = report_of(folder, subject, config, shown, known, profile, seed, step, say)
    report["meta"]["judged_seconds"] = round(time.perf_counter() - began)
    write(report, out)
    return report


def note(*words: str) -> None:
    print(": ".join(words), file=sys.stderr, flush=True)


def side_by_side(reports: dict[str, dict[str, Any]]) -> str:
    """Every headline number, a column for each card."""
    found = {name: dict(headline(report)) for name, report in reports.items()}
    names = list(dict.fromkeys(name for one in found.values() for name in one))
    return table(["", *found], [[name, *(one.get(name, "") for one in found.values())] for name in names])


def controls(reports: dict[str, dict[str, Any]]) -> str:
    """Every control, its limit, and its value for each card; what failed is bold."""
    names = list(dict.fromkeys(name for report in reports.values() for name in report["controls"]))
    rows = []
    for name in names:
        known = [report["controls"].get(name) for report in reports.values()]
        limit = next(one["limit"] for one in known if one)
        rows.append([name, limit, *map(_cell, known)])
    return table(["control", "limit", *reports], rows)


def _cell(control: dict[str, Any] | None) -> str:
    if control is None:
        return ""
    return f"{control['value']:.3g}" if control["passed"] else f"**{control['value']:.3g}**"


def draw(reports: dict[str, dict[str, Any]], path: Path) -> None:
    """Skill ahead, what actions do, and what the state knows."""
    figure, (ahead, effects, knows) = open_panels(3, 4.4)
    ahead.axhline(0, color="grey", linewidth=1)
    for name, report in reports.items():
        section = next(iter(report["forecast"].values()))
        if isinstance(section, dict):
            one = section.get("numbers") or next(iter(section["images"].values()))
            ahead.plot(one["horizons"], np.clip(one["skill"], -1, 1), marker="o", label=name)
    finish_panel(ahead, "skill of predictions", "records ahead", legend_size=8)
    ahead.set_ylabel("1 - error / that of the better of mean and last record, -1 at least", fontsize=8)
    acted = {n: one["counterfactual"]["r2"][0] for n, one in reports.items() if "r2" in one.get("counterfactual", {})}
    known = {name: known_state(one) for name, one in reports.items() if "void" not in one["fidelity"]}
    for ax, title, values in (
        (effects, "effect of other actions, R2, 5 ahead", acted),
        (knows, "state to simulator, R2, linear", known),
    ):
        ax.barh(list(values)[::-1], np.clip(list(values.values())[::-1], -0.2, 1))
        ax.set_title(title, fontsize=12, fontweight="bold")
        ax.set_xlim(-0.2, 1.05)
        ax.grid(alpha=0.25)
    save_picture(figure, path)


def known_state(report: dict[str, Any]) -> float:
    return float(np.mean([one["state"]["ridge"]["r2"] for one in report["fidelity"].values()]))


PAGE = """# World models, judged

What do models of one task know, how far do they see, and what do they take? Written by
`python benchmarks/score_cards.py --runs runs/score_cards --report docs/results/score_cards`, not by hand; what each
number means is on [Judge a world model](../how_to/judge_a_world_model.md).

The task is `dmc/cartpole_balance`. All that see its numbers are judged on the same {episodes} episodes (random actions,
correlated noise, the quick start's last policy with and without noise), those that see pixels on their own. Each is
one run: what other seeds would show is not known from here.

{cards}

![Skill by horizon, R2 of the effect of actions, R2 of the simulator's state, of each model]({picture})

{headline}

A range in brackets is a 95 % bootstrap interval over episodes. Untrained networks know much of the simulator's state,
because they see it and mix it; what they can't do is predict. A skill below 0 says that repeating the last record, or
the mean, was closer: a balanced pole hardly moves, and a model that knows what actions do may still be worse there. An
empty cell was not asked of that model, or has no meaning for it, as what is left of a return that is no better than
that of random actions.

## Controls

What is known beforehand, of every judgement; **bold** has failed, and what rests on it is left out above.

{controls}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, metavar="FOLDER", help="of all run directories")
    parser.add_argument("--cards", nargs="+", choices=[card.name for card in CARDS], metavar="CARD")
    parser.add_argument("--profile", choices=PROFILES, default="quick")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, metavar="STEM", help="write STEM.md, .json and .png")
    options = parser.parse_args()
    cards = [card for card in CARDS if not options.cards or card.name in options.cards]
    for card in cards:
        status = train(options.runs, card)
        if status:
            return status
    reports = {}
    for card in cards:
        reports[card.name] = judge_card(options.runs, card, options.profile, options.seed)
    if options.report:
        stem = options.report
        stem.parent.mkdir(parents=True, exist_ok=True)
        draw(reports, stem.with_suffix(".png"))
        facts = {
            name: {"meta": one["meta"], "headline": dict(headline(one)), "controls": one["controls"]}
            for name, one in reports.items()
        }
        replace_file(stem.with_suffix(".json"), (json.dumps(facts, indent=1) + "\n").encode())
        made = [
            [card.name, card.config, f"{card.frames:,}", " ".join(card.settings if card.settings != KEEP else ())]
            + [str(reports[card.name]["meta"]["judged_seconds"])]
            for card in cards
        ]
        page = PAGE.format(
            episodes=PROFILES[options.profile].episodes,
            cards=table(["card", "settings", "frames of training", "changed", "judged in, s"], made),
            picture=stem.with_suffix(".png").name,
            headline=side_by_side(reports),
            controls=controls(reports),
        )
        replace_file(stem.with_suffix(".md"), page.encode())
    print(side_by_side(reports))
    failed = [name for report in reports.values() for name, one in report["controls"].items() if not one["passed"]]
    return 2 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
