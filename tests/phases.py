"""Which phase a run is in, for tests that stop it there, and signals that it sends itself at a counted call."""

from __future__ import annotations

import importlib
import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

SPANS = {
    "opening": ["training.train:run_training"],
    "restoring": ["training.loop:Run.__init__"],
    "compiling": ["training.loop:Run.prepare"],
    "acting": ["training.loop:Run.loop"],
    "updating": ["training.learner:Learner.dispatch_early", "training.learner:Learner.catch_up"],
    "evaluating": ["training.observer:evaluate"],
    "reporting": ["analysis.predictions:Reports.__call__"],
    "saving": ["training.loop:Run.save", "training.loop:Run._commit"],
}
"""A run is in a phase while one of these is at work, the innermost one. Before ``opening`` no signal is handled."""

PHASES = ("starting", *SPANS, "closing")

CALLS = {
    "opening": """training.train:check_run training.train:env_preview training.train:open_run
        runs.checkpoint:Checkpoints.__init__ runs.directory:replace_file""",
    "restoring": """runs.restore:Restore.new runs.restore:Restore.checkpoint training.loop:make_envs
        runs.metrics:RunLog.__init__ runs.metrics:rewind_jsonl replay.storage:clear
        replay.host:Replay.restore replay.journal:Journal.undo replay.journal:Journal.resume""",
    "compiling": """training.loop:Run.prepare training.observer:evaluation_envs training.learner:Learner.prepare
        devices.data_parallel:Updates.compile""",
    "acting": """devices.acting:Act.begin devices.acting:Act.finish envs.vector:VectorEnvs.step
        replay.host:Replay.append runs.metrics:RunLog.episodes training.observer:Observer.write_metrics""",
    "updating": """training.learner:Learner.catch_up training.learner:Learner._dispatch
        training.learner:Learner._finish training.learner:Learner._sample replay.host:Replay.write_back
        replay.journal:Journal.preserve""",
    "evaluating": """training.observer:evaluate training.observer:Observer._act_and_say_so""",
    "reporting": """analysis.predictions:Reports.__call__ analysis.predictions:draw
        analysis.pictures:save_picture""",
    "saving": """training.loop:Run.save runs.checkpoint:Checkpoints.save replay.host:Replay.snapshot
        runs.checkpoint:Checkpoints.completed replay.host:Replay.committed replay.journal:Journal.begin
        replay.journal:Journal.committed""",
    "closing": """training.observer:Observer.close envs.vector:VectorEnvs.close replay.host:Replay.close
        runs.metrics:RunLog.close runs.checkpoint:Checkpoints.close
        runs.progress:Progress.close""",
}
"""Calls of each phase at which a run can be stopped."""


class Phases:
    """Writes into ``file`` the phase that this process is in; ``<file>.calls`` gets how often each call was made."""

    def __init__(self, file: Path) -> None:
        self._file, self._stack, self._calls = file, ["starting"], Counter[str]()
        self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._hit = False
        self._write()

    def follow(self) -> None:
        """Begin to watch the calls."""
        for phase, places in SPANS.items():
            for place in places:
                _wrap(place, lambda original, phase=phase: self._within(original, phase))
        for places in CALLS.values():
            for place in places.split():
                _wrap(place, lambda original, place=place: self._counted(original, place))

    def close(self) -> None:
        self._file.with_name(f"{self._file.name}.calls").write_text(json.dumps(self._calls))

    def hit(self) -> None:
        """A signal is sent now: leave the file as it is, with a mark."""
        self._write(" hit")
        self._hit = True

    def _write(self, mark: str = "") -> None:
        if not self._hit:
            os.pwrite(self._descriptor, f"{self._stack[-1]}{mark}".ljust(16).encode(), 0)

    def _within(self, original: Callable, phase: str) -> Callable:
        def spanned(*args: Any, **kwargs: Any) -> Any:
            self._stack.append(phase)
            self._write()
            try:
                return original(*args, **kwargs)
            finally:
                self._stack.pop()
                if phase in ("acting", "opening"):  # what comes behind them is the end
                    self._stack[-1] = "closing"
                self._write()

        return spanned

    def _counted(self, original: Callable, place: str) -> Callable:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self._calls[place] += 1
            return original(*args, **kwargs)

        return counted


def kill_at(moment: str, phases: Phases | None = None) -> None:
    """Have this process kill itself as ``module:Class.method:n`` says: as the method is called for the n-th time,
    or as it returns if n is negative.

    ``INT`` or ``TERM`` after it is another signal, ``group`` one to the whole group, ``twice`` one more.
    """
    place, *how = moment.split()
    place, _, wanted = place.rpartition(":")
    number = next(
        (signal.Signals[f"SIG{name}"] for name in how if f"SIG{name}" in signal.Signals.__members__), signal.SIGKILL
    )
    calls = 0

    def send() -> None:
        if phases is not None:
            phases.hit()
        for _ in range(1 + ("twice" in how)):
            if "group" in how:
                os.killpg(0, number)
            else:
                os.kill(os.getpid(), number)

    def killing(original: Callable) -> Callable:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            mine = calls  # other threads may call it meanwhile
            if mine == int(wanted):
                send()
            result = original(*args, **kwargs)
            if mine == -int(wanted):
                send()
            return result

        return counted

    _wrap(place, killing)


def _wrap(place: str, wrapper: Callable[[Callable], Callable]) -> None:
    module, path = place.split(":")
    owner: Any = importlib.import_module(f"dreamer_jax.{module}")
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    setattr(owner, name, wrapper(getattr(owner, name)))
