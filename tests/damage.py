"""What each command does with a damaged run directory, in a process of its own that may fall over.

As a program it makes runs in a folder, and then answers each case that it reads (JSON) with what every command did.
A case damages one file of a copy of one of the runs.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from trainer import PATIENCE, flags, make_toy, tiny_run

COMMANDS = ("evaluate", "load", "plot", "plot --minutes", "compare", "export", "dream", "train")
HOW = ("truncate", "empty", "flip", "grow", "folder", "unreadable", "loop", "remove", "swap")
FRAMES, MORE, SAVE = 240, 260, 60
KILLED_AT = 105  # steps of both environments
RUNS = {"finished": 0, "killed": 0, "other": 1}
"""Seed of each; the second is killed between checkpoints, and goes on as the first."""
REAL = "real"
"""The finished one, of a real agent."""


class Case(NamedTuple):
    """Damage to the file or folder ``path`` of a run; an empty one is none."""

    run: str
    path: str
    how: str = ""
    seed: int = 0


class Outcome(NamedTuple):
    """What a command did. ``result`` is equal for equal numbers, and ``changed`` what is otherwise in the directory."""

    status: int | str
    said: str
    result: str
    changed: list[str]


class Answer(NamedTuple):
    """``place`` is where in the file the damage begins; ``outcomes`` are empty if the case changes nothing."""

    place: int
    outcomes: dict[str, Outcome]


def damage(path: Path, how: str, seed: int, other: Path) -> int | None:
    """Damage a file or folder; where in it that begins, or None if nothing changes. ``other`` is another run's."""
    rng = random.Random(seed)
    folder = path.is_dir()
    data = b"" if folder else path.read_bytes()
    match how:
        case "truncate" | "empty" if data:
            at = rng.randrange(len(data)) if how == "truncate" else 0
            path.write_bytes(data[:at])
            return at
        case "flip" if data:
            at = rng.randrange(len(data))
            changed = bytearray(data)
            changed[at] ^= 1 << rng.randrange(8)
            path.write_bytes(changed)
            return at
        case "grow" if not folder:
            path.write_bytes(data + rng.randbytes(rng.randrange(1, 64)))
            return len(data)
        case "swap" if not folder and other.is_file() and (theirs := other.read_bytes()) != data:
            path.write_bytes(theirs)
            return next((i for i, (a, b) in enumerate(zip(data, theirs)) if a != b), min(len(data), len(theirs)))  # noqa: B905
        case "unreadable":
            path.chmod(0)
            return 0
        case "folder" | "loop" | "remove":
            shutil.rmtree(path) if folder else path.unlink()
            if how == "folder":
                path.write_text("not a folder\n") if folder else path.mkdir()
            elif how == "loop":
                path.symlink_to(path.name)
            return 0
    return None


def content(folder: Path) -> dict[str, str]:
    """Of every file: what it is, and a checksum where it can be read."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        try:
            value = zlib.crc32(path.read_bytes()) if path.is_file() else "-"
        except OSError as error:
            value = error.strerror
        found[path.relative_to(folder).as_posix()] = f"{status.st_mode:o} {value}"
    return found


def digest(arrays: Any) -> str:
    import jax

    checksum = 0
    for leaf in jax.tree.leaves(jax.device_get(arrays)):
        array = np.ascontiguousarray(leaf)
        checksum = zlib.crc32(f"{array.dtype}{array.shape}".encode() + array.tobytes(), checksum)
    return f"{checksum:08x}"


class Commands:
    """Runs them in this process, with an agent that compiles in no time, or with a real one."""

    def __init__(self, folder: Path) -> None:
        from dreamer_jax.analysis import compare, plot, predictions
        from dreamer_jax.devices import acting
        from dreamer_jax.runs import load as loading
        from dreamer_jax.training import train

        self._folder, self._drawn = folder, list[str]()
        self._make_agent, self._make_act = loading.make_agent, acting.make_act
        self._agents, self._acts = dict[Any, Any](), dict[Any, Any]()
        self.real = False
        self._unpickled: list[str] = []
        sys.addaudithook(lambda name, args: self._unpickled.append(str(args)) if name == "pickle.find_class" else None)
        for module in (loading, train):
            module.make_agent = self._agent  # type: ignore[assignment]
        acting.make_act = self._act
        for module in (plot, compare):
            module.save_picture = self._save_picture  # type: ignore[assignment]
        predictions.draw = self._draw  # type: ignore[assignment]

    def _agent(self, config: Any, spec: Any, **_: Any) -> Any:
        """The same for the same settings, so that nothing is compiled twice. The toy dreams of all that it is given."""
        key = self.real, repr(config), repr(spec)
        if key not in self._agents:
            toy = make_toy(config, spec)._replace(dream=lambda params, key, seen, ahead, length: (params, seen, ahead))
            self._agents[key] = self._make_agent(config, spec) if self.real else toy
        return self._agents[key]

    def _act(self, agent: Any, mode: str) -> Any:
        key = id(agent), mode
        if key not in self._acts:
            self._acts[key] = self._make_act(agent, mode)
        return self._acts[key]

    def _save_picture(self, figure: Any, path: Path) -> Path:
        """Keep what is drawn instead of drawing it."""
        for ax in figure.axes:
            lines = [line.get_xydata().tolist() for line in ax.lines]
            texts = [text.get_text() for text in ax.texts], ax.get_legend_handles_labels()[1], ax.get_title()
            self._drawn.append(f"{lines} {texts}")
        return path

    def _draw(self, dream: Any, batch: Any, *_: Any, **__: Any) -> dict:
        self._drawn.append(digest((dream, batch)))
        return {}

    def run(self, command: str, run_dir: Path) -> Outcome:
        before, self._drawn = content(run_dir), []
        self._unpickled.clear()
        out = self._folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        result = ""
        with captured(out / "stdout", out / "stderr"):
            try:
                status, result = self._do(command, run_dir, out)
            except SystemExit as error:
                status = int(error.code or 0)
            except BaseException as error:
                traceback.print_exc()
                status = repr(error)
        said = (out / "stderr").read_text(errors="replace")
        if self._unpickled:
            status = f"unpickled {self._unpickled}"
        after = content(run_dir)
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        return Outcome(status, said, f"{result} {self._drawn}", changed)

    def _do(self, command: str, run_dir: Path, out: Path) -> tuple[int | str, str]:
        import dreamer_jax
        from dreamer_jax.cli import main
        from dreamer_jax.config.schema import ConfigError
        from dreamer_jax.runs.metrics import read_jsonl

        def said() -> str:
            sys.stdout.flush()
            return (out / "stdout").read_text().replace(str(run_dir), "RUN")

        def loaded() -> str:
            return digest(dreamer_jax.load(run_dir)[1])

        def exported(folder: Path) -> str:
            return " ".join(f"{path.name} {digest(dict(np.load(path)))}" for path in sorted(folder.iterdir()))

        match command:
            case "evaluate":
                return main(["evaluate", str(run_dir), "--episodes", "2", "--json"]), said()
            case "load":
                try:
                    return 0, loaded()
                except ConfigError as error:
                    print(f"dreamer-jax: {error}", file=sys.stderr)
                    return 2, ""
            case "plot" | "plot --minutes":
                minutes = ["--minutes", "0.001"] if "minutes" in command else []
                return main(["plot", str(run_dir), "--output", str(out / "plot.png"), *minutes]), ""
            case "compare":
                others = [str(run_dir), str(self._folder / "other")]
                return main(["compare", *others, "--json", "--output", str(out / "compare.png")]), said()
            case "export":
                status = main(["export", str(run_dir), "--output", str(out / "episodes")])
                return status, exported(out / "episodes") if status == 0 else ""
            case "dream":
                short = ["--context", "2", "--length", "3" if not self.real else "16"]
                return main(["dream", str(run_dir), *short, "--json", "--output", str(out / "dreams")]), said()
            case "train":
                config = self._folder / f"{run_dir.name.partition('-')[0]}.yaml"
                arguments = ["--config", str(config), "--run-dir", str(run_dir), "--logger", "none"]
                status = main(["train", *arguments, "--train.frames", str(MORE)])
                if status:
                    return status, ""
                main(["export", str(run_dir), "--output", str(out / "episodes")])
                scores = json.dumps(read_jsonl(run_dir / "scores.jsonl"))
                return status, f"{loaded()} {exported(out / 'episodes')} | {zlib.crc32(scores.encode())}"
        raise AssertionError(command)


@contextmanager
def captured(stdout: Path, stderr: Path) -> Iterator[None]:
    """What this process says goes to these files, whoever in it says it."""
    saved = [os.dup(1), os.dup(2)]
    for number, path in ((1, stdout), (2, stderr)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, before in enumerate(saved, start=1):
            os.dup2(before, number)
            os.close(before)


def answer(commands: Commands, folder: Path, case: Case) -> Answer:
    source, copy = folder / case.run, folder / f"{case.run}-copy"
    remove(copy)
    outcomes: dict[str, Outcome] = {}
    commands.real = case.run == REAL
    place: int | None = 0
    for command in COMMANDS:
        if not copy.exists():
            shutil.copytree(source, copy)
            if case.path:
                place = damage(copy / case.path, case.how, case.seed, folder / "other" / case.path)
            if place is None:
                return Answer(0, {})
        outcomes[command] = commands.run(command, copy)
        if outcomes[command].changed:
            remove(copy)
    return Answer(place or 0, outcomes)


def remove(folder: Path) -> None:
    if folder.exists():
        for path in [folder, *folder.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o700)
        shutil.rmtree(folder)


def make_runs(folder: Path, names: list[str]) -> None:
    """Each in a process of its own, before this one uses JAX."""
    for name in names:
        process = os.fork()
        if not process:
            _train(folder / name, name)
        _, status = os.waitpid(process, 0)
        expected = -signal.SIGKILL if name == "killed" else 0
        assert os.waitstatus_to_exitcode(status) == expected, (folder / f"{name}.log").read_text()
        for extra in ("reports/000000200-signals.png", "failures/update_7.npz"):  # no command reads these
            (folder / name / extra).parent.mkdir(exist_ok=True)
            (folder / name / extra).write_bytes(b"\0" * 100)


def _train(run_dir: Path, name: str) -> None:
    from dreamer_jax.cli import main
    from dreamer_jax.envs.vector import VectorEnvs
    from dreamer_jax.replay import storage

    storage.BLOCK = 5
    config = tiny_run(
        seed=RUNS.get(name, 0),
        train__frames=FRAMES,
        train__save_frames=SAVE,
        replay__validation_fraction=0.0,
        replay__capacity=40 if name != REAL else 120,
    )
    commands, step, steps = Commands(run_dir.parent), VectorEnvs.step, 0
    commands.real = name == REAL

    def counted(self: Any, action: Any) -> Any:
        nonlocal steps
        steps += 1
        if name == "killed" and steps == KILLED_AT:
            end = time.monotonic() + PATIENCE
            while not (run_dir / "checkpoints" / str(KILLED_AT * 2 // SAVE * SAVE)).exists() and time.monotonic() < end:
                time.sleep(0.01)
        if name == "killed" and steps == KILLED_AT + 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, action)

    VectorEnvs.step = counted  # type: ignore[method-assign]
    status = 1
    with captured(run_dir.with_suffix(".out"), run_dir.with_suffix(".log")):
        try:
            status = main([*flags(config, run_dir)[:-2], "--logger", "tensorboard"])
        except BaseException:
            traceback.print_exc()
    os._exit(status)


def serve(folder: Path, names: list[str]) -> None:
    make_runs(folder, names)
    replies = os.fdopen(os.dup(1), "w")
    commands = Commands(folder)
    for line in sys.stdin:
        print(json.dumps(answer(commands, folder, Case(*json.loads(line)))), file=replies, flush=True)


class Damager:
    """Such a process. Root may read everything, so that it gives that up there."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        modest = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
        program = [*modest, sys.executable, __file__, str(folder), *names]
        self._process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, case: Case) -> Answer | None:
        """None if it fell over."""
        assert self._process.stdin and self._process.stdout
        print(json.dumps(case), file=self._process.stdin, flush=True)
        reply = self._process.stdout.readline()
        if not reply:
            return None
        place, outcomes = json.loads(reply)
        return Answer(place, {command: Outcome(*values) for command, values in outcomes.items()})

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2:])
