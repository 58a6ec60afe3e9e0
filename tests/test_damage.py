"""A damaged file of a run directory is named in one line, or makes no difference: whatever file, damage and command."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from damage import COMMANDS, FRAMES, HOW, KILLED_AT, REAL, RUNS, SAVE, Answer, Case, Damager, Outcome

KINDS = {
    "settings": r"config\.yaml",
    "shapes": r"env\.json",
    "lines": r"(metrics|scores)\.jsonl",
    "layout": r"replay/layout\.json",
    "undo log": r"replay/undo-\d+\.bin",
    "ring": r"replay/.*\.bin",
    "checksums": r"checkpoints/\d+/checksums\.json",
    "facts": r"checkpoints/\d+/facts/metadata",
    "state": r"checkpoints/\d+/train_state/.*",
    "carry": r"checkpoints/\d+/carry/.*",
    "arrays": r"checkpoints/\d+/arrays/.*",
    "bystander": r"lock|events.*|reports/.*|failures/.*",
    "folder": "",
}
NEWEST = {"finished": FRAMES, REAL: FRAMES, "killed": KILLED_AT * 2 // SAVE * SAVE}
CHUNKS, EACH = 8, 250
WAY_OUT = re.compile(
    r"put back|do(es)? without|can be read:|may be removed|remove (it|the lines?)|choose another|goes there again"
)


class Runs:
    """Run directories to be damaged, what their commands say, and how far a checkpoint knows their lines."""

    def __init__(self, folder: Path, damager: Damager, names: list[str]) -> None:
        self.damager, self.files = damager, dict[str, dict[str, list[str]]]()
        self.whole: dict[str, dict[str, Outcome]] = {}
        self.known: dict[str, dict[str, int]] = {}
        for name in names:
            answer = damager.ask(Case(name, ""))
            assert answer is not None, name
            self.whole[name] = answer.outcomes
            for command, outcome in answer.outcomes.items():
                assert outcome.status == 0 and (command == "train") == bool(outcome.changed), (name, command, outcome)
            run_dir = folder / name
            paths = sorted(path for path in run_dir.rglob("*"))
            self.files[name] = {
                kind: [str(path.relative_to(run_dir)) for path in paths if (kind == "folder") == path.is_dir()]
                for kind in KINDS
            }
            for kind, pattern in KINDS.items():
                if kind != "folder":
                    every = [path for path in self.files[name][kind] if re.fullmatch(pattern, path)]
                    self.files[name][kind] = [p for p in every if kind != "ring" or "undo-" not in p]
                assert self.files[name][kind], (name, kind)
            facts = json.loads((run_dir / f"checkpoints/{NEWEST[name]}/facts/metadata").read_text())["facts"]
            self.known[name] = {file: held["bytes"] for file, held in facts["files"].items()}
            assert min(self.known[name].values()) > 0

    def case(self, rng: random.Random, run: str, kind: str, how: str) -> Case:
        paths = self.files[run][kind]
        newest = [path for path in paths if f"/{NEWEST[run]}/" in path]
        return Case(run, rng.choice(newest if newest and rng.random() < 0.8 else paths), how, rng.randrange(1 << 30))

    def faults(self, case: Case, answer: Answer | None) -> list[str]:
        """What is wrong with what the commands did, as sentences."""
        if answer is None:
            return ["the process fell over"]
        found = []
        for command, outcome in answer.outcomes.items():
            wrong = self._refused(case, command, outcome) if outcome.status else self._done(case, command, answer)
            found += [f"{command}: {wrong}; it said: {outcome.said[-2000:]}"] if wrong else []
        return found

    def _refused(self, case: Case, command: str, outcome: Outcome) -> str:
        if outcome.status != 2:
            return f"status {outcome.status}"
        lines = [line for line in outcome.said.splitlines() if line.startswith("dreamer-jax: ")]
        if len(lines) != 1 or not outcome.said.endswith(f"{lines[0]}\n") or "Traceback" in outcome.said:
            return f"{len(lines)} lines of what is wrong"
        if command != "train" and outcome.said != f"{lines[0]}\n":
            return "more than one line"
        if Path(case.path).name not in lines[0]:
            return "the file is not named"
        if not WAY_OUT.search(lines[0]):
            return "it does not say what still works"
        return f"it changed {outcome.changed}" if outcome.changed else ""

    def _done(self, case: Case, command: str, answer: Answer) -> str:
        outcome, whole = answer.outcomes[command], self.whole[case.run][command]
        if command != "train" and outcome.changed:
            return f"it changed {outcome.changed}"
        if command != "train" and outcome.said:
            return "it said something though nothing is wrong"
        if outcome.result == whole.result:
            return ""
        if command == "train" and case.how == "remove" and case.path in self.known[case.run]:
            same = outcome.result.split(" | ")[0] == whole.result.split(" | ")[0]
            return "" if same and case.path in outcome.said else "the file was needed"
        if command != "train" and self._gone_back(case):  # what an older checkpoint gives, which evaluate names
            older = f'"checkpoint": {NEWEST[case.run] - SAVE}'
            return "" if command != "evaluate" or older in outcome.result else "another checkpoint is not named"
        beyond = answer.place >= self.known[case.run].get(case.path, 1 << 60)
        if beyond and command.startswith(("plot", "compare")):  # text after the newest checkpoint has no checksum
            return ""
        return f"another result: {outcome.result[:500]} instead of {whole.result[:500]}"

    def _gone_back(self, case: Case) -> bool:
        return case.how == "remove" and case.path == f"checkpoints/{NEWEST[case.run]}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("damage")


@pytest.fixture(scope="module")
def runs(folder) -> Iterator[Runs]:
    with closing(Damager(folder, [*RUNS])) as damager:
        yield Runs(folder, damager, ["finished", "killed"])


@pytest.mark.parametrize("third", [0, *(pytest.param(third, marks=pytest.mark.slow) for third in (1, 2))])
def test_every_damage_to_every_kind_of_file(runs, third):
    rng, found, tried = random.Random(0), [], Counter()
    pairs = [(kind, how) for row, kind in enumerate(KINDS) for at, how in enumerate(HOW) if (row + at) % 3 == third]
    for number, (kind, how) in enumerate(pairs):
        for run in ("finished", "killed")[:: 1 - 2 * (number % 2)]:  # the other one where nothing would change
            case = runs.case(rng, run, kind, how)
            answer = runs.damager.ask(case)
            found += [f"{case}: {fault}" for fault in runs.faults(case, answer)]
            if answer is None or answer.outcomes:
                tried[kind] += 1
                break
    assert not found, "\n".join(found)
    assert {how for _, how in pairs} == set(HOW)
    assert len(tried) == len(KINDS) and tried.total() > 30 and set(runs.whole["killed"]) == set(COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [*range(CHUNKS), REAL])
def test_random_damage(tmp_path, chunk):
    names, count = ([REAL], 40) if chunk == REAL else (["finished", "killed"], EACH)
    rng, tried, refused, found = random.Random(f"{chunk}"), Counter(), Counter(), []
    with closing(Damager(tmp_path, [*RUNS, *(name for name in names if name not in RUNS)])) as damager:
        runs = Runs(tmp_path, damager, names)
        while tried.total() < count:
            case = runs.case(rng, rng.choice(names), rng.choice(list(KINDS)), rng.choice(HOW))
            answer = damager.ask(case)
            wrong = [f"{case}: {fault}" for fault in runs.faults(case, answer)]
            print(*wrong, sep="\n", end="", flush=True)
            found += wrong
            if answer is None:
                break
            tried[case.how] += bool(answer.outcomes)
            refused.update(command for command, outcome in answer.outcomes.items() if outcome.status)
    print(dict(tried), dict(refused))
    assert not found, "\n".join(found)
    assert chunk == REAL or (set(tried) == set(HOW) and set(refused) == set(COMMANDS))
