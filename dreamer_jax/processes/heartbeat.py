"""Signs of life of the processes that share a run. Who has ended or stands still is named, and the others end, too.

Each process writes a small file into the run directory every second and reads those of the others. JAX's own
watch over its processes is turned off (``group.start``): it ends a program with a trace of the stack.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from dreamer_jax.files import replace_file
from dreamer_jax.processes.group import EXIT_STATUS, DistributedGroup

SILENCE = 30.0
"""A process whose file has not changed for so many seconds has ended or was stopped."""
SILENCE_AFTER_ERROR = 5.0
"""The same once the connection to one of them has broken."""
GRACE = 10.0
"""How long a process that failed as all do may take to say so itself."""
UNTIL_THE_LOOP = 10
"""So many times as patient until the first step: streams are dealt out, programs compiled, episodes lived again."""


class Heartbeat:
    """While entered, this process shows that it lives, and ends with a line on stderr if another one does not.

    If all stand still for as long as ``group`` are patient, one of them behind the others, that one hangs.
    """

    def __init__(self, run_dir: Path, group: DistributedGroup) -> None:
        self._folder, self._group = run_dir / "processes", group
        self._me: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid(), "ended": None}
        self._beats = 0
        self._silence = SILENCE
        self._seen: dict[int, tuple[str, float]] = {}  # what a file said, and since when
        self._moved: tuple[list[Any], float] = [], time.monotonic()
        self._over = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> Heartbeat:
        self._folder.mkdir(exist_ok=True)
        self._write()
        self._group.all_gather(None)  # from here on all files are of this start
        self._group.watched = True
        self._looked = time.monotonic()
        # If the first process ends, JAX aborts the others, from a thread of its own.
        self._abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: self.broken())
        ctypes.CDLL(None).signal(signal.SIGABRT, self._abort)
        threading.Thread(target=self._run, daemon=True, name="watch").start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if type(error) in (jax.errors.JaxRuntimeError, RuntimeError, ValueError):  # may be because another has ended
            self.broken()
        self._over.set()
        with self._lock:
            self._me["ended"] = " ".join(f"{error}".split()) or type(error).__name__ if error else ""
            self._write()
        ctypes.CDLL(None).signal(signal.SIGABRT, signal.SIG_DFL)

    def broken(self) -> None:
        """Something failed that needs all processes: end this one if another one turns out to be silent."""
        self._silence = SILENCE_AFTER_ERROR
        end = time.monotonic() + SILENCE_AFTER_ERROR + GRACE
        while time.monotonic() < end:
            self._look()
            time.sleep(0.5)
        self._silence = SILENCE

    def _run(self) -> None:
        while not self._over.wait(1.0):
            self._look()
            with self._lock:
                if not self._over.is_set():
                    self._write()

    def _write(self) -> None:
        self._beats += 1
        file = {**self._me, "beats": self._beats, "begun": self._group.begun, "moves": self._group.moves}
        with suppress(OSError):  # a full disk, for example: others may end, but for what ends this process
            replace_file(self._folder / f"{self._group.process_index}.json", json.dumps(file))

    def _look(self) -> None:
        now, files = time.monotonic(), {}
        if now - self._looked > SILENCE_AFTER_ERROR:  # this process was stopped itself, and the others had no chance
            self._seen, self._moved = {}, ([], now)
        self._looked = now
        for part in range(self._group.process_count):
            try:
                text = (self._folder / f"{part}.json").read_text()
                files[part] = json.loads(text)
            except (OSError, ValueError):  # a file system of a network may be away for a moment
                text = ""
            if part not in self._seen or self._seen[part][0] != text:
                self._seen[part] = text, now
            silent = now - self._seen[part][1]
            if not text:
                continue
            if part == self._group.process_index:
                if any(files[part][name] != self._me[name] for name in ("host", "pid")):
                    self._end(f"{_who(part, files[part])} has taken this process's place")
                continue
            if files[part]["ended"] and silent > GRACE:
                self._end(f"{_who(part, files[part])} has ended: {files[part]['ended']}")
            if files[part]["ended"] is None and silent > self._silence:
                self._end(f"{_who(part, files[part])} has given no sign of life for {silent:.0f} seconds")
        places = [(file["begun"], file["moves"]) for file in files.values()]
        if places != self._moved[0]:
            self._moved = places, now
        timeout = self._group.timeout * (1 if all(file["moves"] for file in files.values()) else UNTIL_THE_LOOP)
        if now - self._moved[1] > timeout and len(files) == self._group.process_count:
            last = min(files, key=lambda part: files[part]["begun"])
            behind = files[last]["begun"] < max(file["begun"] for file in files.values())
            who = f"{_who(last, files[last])} stands still" if behind else "all processes stand still"
            self._end(f"{who} since {now - self._moved[1]:.0f} seconds (--timeout)")

    def _end(self, problem: str) -> None:
        sys.stderr.flush()
        line = f"\ndreamer-jax: {problem}; start again, with fewer processes if need be: the last checkpoint is whole\n"
        os.write(2, line.encode())
        os._exit(EXIT_STATUS)


def _who(part: int, file: dict[str, Any]) -> str:
    return f"process {part} ({file['host']}, pid {file['pid']})"
