"""The page of runs, made anew while they go on, for browsers on this machine alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.reporting.report import as_page

HOST = "127.0.0.1"
REFRESH = 30
"""Seconds after which a browser asks again; a page is made at most so often."""


class Dashboard(ThreadingHTTPServer):
    """Answers GET / with the page of the runs below ``folder``; it reads and never writes."""

    daemon_threads = True

    def __init__(self, folder: Path, to: str, port: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Port 0 is any that is free.

        Raises:
          ConfigError: there is no run, or the port can't be had.
        """
        self._make, self._clock, self._lock = lambda: as_page(folder, to, refresh=REFRESH)[0], clock, threading.Lock()
        self._made, self._page = clock(), self._make()
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise ConfigError(f"--port: got {port}, can't listen there ({error.strerror})") from error

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_port}/"

    def page(self) -> str:
        """The newest one; who asks while it is being made waits for it."""
        with self._lock:
            if self._clock() - self._made >= REFRESH:
                self._page, self._made = self._make(), self._clock()
            return self._page


class _Handler(BaseHTTPRequestHandler):
    server: Dashboard

    def do_GET(self) -> None:
        name = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if name not in (HOST, "localhost"):  # a page from elsewhere must not read this one under a name of its own
            self.send_error(403)
            return
        if self.path != "/":
            self.send_error(404)
            return
        try:
            content = self.server.page().encode()
        except ConfigError as error:
            self.send_error(500, str(error))
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal is for people."""
