"""What a person reads: styles on a terminal only, the same text in a pipe, and text of users taken literally."""

import fcntl
import io
import os
import re
import struct
import subprocess
import sys
import termios

import pytest

from dreamer_jax.cli.output import complain, counted, say
from dreamer_jax.terminal import render, table

BOLD = re.compile(r"\x1b\[1m(.*?)\x1b\[0m")
HOSTILE = ["[red]x[/red]", "[1, 2]", ":smile:", "/tmp/a.yaml 1e-3 None", "a\nb\x1b[31m\tc", "\udc80\ud800", "x" * 300]
SHOWN = [*HOSTILE[:4], r"a\nb\x1b[31m\tc", r"\udc80\ud800", HOSTILE[6]]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def variables(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def streams(monkeypatch, stream):
    """Let ``stream`` be stdout and stderr, 40 characters wide if it is a terminal."""
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "40")
    return stream


def on_terminal(*arguments, **variables):
    """All that a command writes to a terminal of 40 columns."""
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    command = [sys.executable, "-m", "dreamer_jax", *arguments]
    process = subprocess.Popen(command, stdout=its, stderr=its, env={**os.environ, **variables})
    os.close(its)
    written = b""
    try:
        while piece := os.read(ours, 10_000):
            written += piece
    except OSError:  # how the end of a terminal is told
        pass
    os.close(ours)
    return process.wait(), written.decode().replace("\r\n", "\n")


ERROR = ["config", "--seed", "[red]" + "7 " * 40]
LINE = f"dreamer-jax: --seed: got '{ERROR[2]}', expected a whole number\n"


def test_an_error_on_a_terminal_stands_out():
    status, written = on_terminal(*ERROR)
    name, _, rest = LINE.removeprefix("dreamer-jax: ").partition(":")
    assert (status, written) == (2, f"\x1b[1;31mdreamer-jax:\x1b[0m \x1b[1m{name}\x1b[0m:{rest}")
    _, written = on_terminal("check-env", "probe/echo", "--steps", "0")  # argparse's own
    assert written.startswith("\x1b[1;31mdreamer-jax:\x1b[0m argument \x1b[1m--steps\x1b[0m: got '0'")


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_an_error_without_colours_is_the_line_alone(variables):
    assert on_terminal(*ERROR, **variables) == (2, LINE)


def test_an_error_in_a_pipe_is_the_line_alone():
    done = subprocess.run([sys.executable, "-m", "dreamer_jax", *ERROR], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", LINE)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("--env.num_env: unknown flag; did you mean --env.num_envs?", ["--env.num_env"]),
        ("--env.observation image: the environment then has others", ["--env.observation"]),
        ("argument --steps: got '0', expected: more", ["--steps"]),
        ("my runs/x.yaml:3: seed: got 'a: b: c'", ["seed"]),
        ("x.yaml:7: not valid YAML: found a tab", []),
        ("runs/none: no checkpoints there", ["runs/none"]),
        ("rssm.blocks: got 3, must divide rssm.deter: 8", ["rssm.blocks"]),
        ("No space left on device", []),
    ],
)
def test_the_name_that_is_wrong_is_bold(monkeypatch, text, names):
    terminal = streams(monkeypatch, Terminal())
    complain(text)
    assert BOLD.findall(terminal.getvalue()) == names


@pytest.mark.parametrize(("text", "shown"), zip(HOSTILE, SHOWN, strict=True))
def test_text_of_users_is_taken_literally_in_errors(monkeypatch, text, shown):
    terminal = streams(monkeypatch, Terminal())
    line = f"dreamer-jax: {shown} is wrong\n"
    say(f"{text} is wrong")
    assert terminal.getvalue() == line
    complain(f"{text} is wrong")
    assert terminal.getvalue() == line + line.replace("dreamer-jax:", "\x1b[1;31mdreamer-jax:\x1b[0m")
    pipe = streams(monkeypatch, io.StringIO())
    complain(f"{text} is wrong")
    assert pipe.getvalue() == line


ANSWER = [
    "a line that is longer than the terminal, and stays one line",
    table(
        ("name", "n", "[b]meaning"), [(text, str(10**i), "as it is") for i, text in enumerate(HOSTILE)], right=("n",)
    ),
]


@pytest.mark.parametrize("columns", ["", "20", "500"])
def test_a_table_in_a_pipe_has_a_line_for_each_row(monkeypatch, columns):
    streams(monkeypatch, io.StringIO())
    monkeypatch.setenv("COLUMNS", columns)
    first, head, *rows = render(ANSWER).split("\n")
    assert first == ANSWER[0] and head == f"{'name':300}  {'n':>7}  [b]meaning"
    assert rows == [f"{shown:300}  {10**i:>7}  as it is" for i, shown in enumerate(SHOWN)]


def test_forced_colours_fold_nothing_in_a_pipe(monkeypatch):
    streams(monkeypatch, io.StringIO())
    plain = render(ANSWER)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert re.sub(r"\x1b\[[01]m", "", render(ANSWER)) == plain != render(ANSWER)


def test_a_table_on_a_terminal_has_bold_headings_and_folded_cells(monkeypatch):
    streams(monkeypatch, Terminal())
    first, head, *rows = render(ANSWER).split("\n")
    assert first == ANSWER[0] and "".join(BOLD.findall(head)).split() == ["name", "n", "[b]meaning"]
    assert max(map(len, rows)) <= 40 and not any("\x1b" in row for row in rows)
    assert "".join(row.split("  ")[0].strip() for row in rows[-20:]).endswith("x" * 100)
    assert rows[0].split("  ")[0] == "[red]x[/red]"


def test_a_table_without_colours_has_the_terminals_width_alone(monkeypatch):
    streams(monkeypatch, Terminal())
    folded = render(ANSWER)
    monkeypatch.setenv("NO_COLOR", "1")
    assert render(ANSWER) == re.sub(r"(?m) +$", "", re.sub(r"\x1b\[[01]m", "", folded)) != folded


def test_a_command_draws_its_table_for_the_terminal_or_the_pipe():
    command = ["config", "--diff", "dreamer_v2"]
    status, written = on_terminal(*command)
    assert status == 0 and any("setting" in text for text in BOLD.findall(written))
    assert max(len(re.sub(r"\x1b\[[01]m", "", line)) for line in written.splitlines()) <= 40
    piped = subprocess.run([sys.executable, "-m", "dreamer_jax", *command], capture_output=True, text=True).stdout
    assert "\x1b" not in piped and max(map(len, piped.splitlines())) > 80
    assert not any(line.endswith(" ") for line in piped.splitlines())


def test_what_has_been_played_is_counted_on_a_terminal_only(monkeypatch):
    for stream, words in ((Terminal(), ["episode 2/3 12.3"]), (io.StringIO(), [])):
        streams(monkeypatch, stream)
        with counted("episode", 3) as report:
            report(2, 12.34)
            written = re.sub(r"\x1b\[[\d;?]*\w", "", stream.getvalue())
        assert re.findall(r"episode 2/3 12\.3", written) == words
        assert bool(stream.getvalue()) == bool(words)
