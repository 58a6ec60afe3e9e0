"""One page of many runs: what it says, that it needs nothing else, and who may read it live."""

import html.parser
import http.client
import json
import re
import shutil
import subprocess
import threading

import numpy as np
import pytest
from PIL import Image

from dreamer_jax.cli import main
from dreamer_jax.config.loading import load
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.reporting.dashboard import REFRESH, Dashboard
from dreamer_jax.reporting.overview import groups_of, read_all
from dreamer_jax.runs.directory import write_run
from dreamer_jax.specs import ArraySpec, EnvSpec

SPEC = EnvSpec({"position": ArraySpec((3,), "float32")}, {"action": ArraySpec((1,), "float32")})
VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source"}


def make_run(run_dir, *, task="dmc/cartpole_balance", seed=0, frames=20_000, level=500.0, **settings):
    """Two hundred episodes that get better, up to ``level``."""
    named = {"env.task": task, "seed": seed, "train.frames": 20_000}
    named |= {name.replace("__", "."): value for name, value in settings.items()}
    config = load("dreamer_v3", overrides=[(name, str(value)) for name, value in named.items()])
    run_dir.mkdir(parents=True)
    write_run(run_dir, config, SPEC)
    ends = np.arange(100, frames + 1, 100)
    lines = [
        {"task": task, "method": "dreamer_v3", "seed": seed, "env_frames": int(end), "score": level * end / 20_000}
        for end in ends
    ]
    for number, line in enumerate(lines):
        line |= {"episode": number, "agent_steps": line["env_frames"], "grad_steps": number, "length": 100, "env": 0}
    (run_dir / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    metric = {"agent_steps": frames, "env_frames": frames, "grad_steps": 321, "seconds": 1800.0}
    (run_dir / "metrics.jsonl").write_text(json.dumps(metric) + "\n")
    return run_dir


@pytest.fixture
def runs(tmp_path):
    """Two tasks, three seeds, one run on its way, and one of another setting with an awkward name."""
    folder = tmp_path / "runs"
    for seed, level in enumerate((400, 500, 600)):
        make_run(folder / f"balance-{seed}", seed=seed, level=level)
        make_run(folder / "deep" / f"point-{seed}", seed=seed, level=10 * level, task="probe/continuous_target")
    make_run(folder / "on_its_way", seed=3, frames=5_000, level=500)
    make_run(folder / "<b>&other", seed=0, level=100, optimizer__learning_rate=1e-3)
    return folder


class Balanced(html.parser.HTMLParser):
    """Fails where a tag is closed that is not open; knows all tags and text."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.text = [], set(), []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_a_page_says_what_runs_have_come_to(runs, capsys):
    for name, grey in (("100-strip.png", 1), ("200-strip.png", 2), ("100-strip.gif", 3)):  # of each the newest
        (runs / "balance-0" / "reports").mkdir(exist_ok=True)
        Image.new("L", (8, 8), grey).save(runs / "balance-0" / "reports" / name)
    assert main(["report", str(runs)]) == 0
    assert re.search(r"report.html: [\d.]+ MB", capsys.readouterr().out)
    text = (runs / "report.html").read_text()
    page = Balanced(text)
    assert "script" not in page.tags and not re.search(r"""(src|href)=["']?(https?:|//)""", text)
    assert "<b>&other" in page.text and "8 runs in runs" in page.text
    rows = re.findall(r"<tr>(.*?)</tr>", text)
    cells = [re.findall(r"<td>(.*?)</td>", row) for row in rows]
    (balance,) = [row for row in cells if row[:1] == ["dmc/cartpole_balance"] and "0.001" not in row[1]]
    # Of the last tenth of each: 0.9525 of its level; the one on its way is at 0.24 of 500.
    assert balance[2:5] == ["4", "5,000 to 20,000", f"{np.mean([381, 476.25, 571.5, 120]):.4g}"]
    low, high = map(float, balance[5].split(" to "))
    assert 120 <= low < 387 < high <= 571.5
    assert any(row[:2] == ["dmc/cartpole_balance", "dreamer_v3 1m, optimizer.learning_rate 0.001"] for row in cells)
    assert any(row[:1] == ["on_its_way"] and "25%" in row and "0:30 h, 1:30 h" in row for row in cells)
    assert "Beside dreamerv3" in page.text and text.count("<img") == 5
    assert "balance-0: reports/200-strip.png" in page.text and "balance-0: reports/100-strip.png" not in page.text


def test_damaged_runs_are_named_and_others_shown(runs, capsys):
    (runs / "balance-1" / "scores.jsonl").write_text("{]\n" * 3)
    assert main(["report", str(runs), "--out", str(runs / "page.html")]) == 0
    assert "balance-1/scores.jsonl" in capsys.readouterr().out
    page = Balanced((runs / "page.html").read_text())
    assert "Not read" in page.text and any("balance-1/scores.jsonl" in text for text in page.text)
    assert "balance-0" in page.text
    for words, why in ((["nowhere"], "no such folder"), ([str(runs.parent / "empty")], "no run there")):
        (runs.parent / "empty").mkdir(exist_ok=True)
        assert main(["report", *words]) == 2 and why in capsys.readouterr().err


def test_runs_without_an_episode_are_shown(tmp_path, capsys):
    run_dir = make_run(tmp_path / "runs" / "new")
    (run_dir / "scores.jsonl").write_text("")
    (run_dir / "metrics.jsonl").unlink()
    assert main(["report", str(tmp_path / "runs")]) == 0
    assert "No episode has ended yet." in Balanced((tmp_path / "runs" / "report.html").read_text()).text


def test_groups_differ_in_more_than_the_seed(runs):
    found, wrong = read_all(runs)
    assert len(found) == 8 and not wrong
    groups = groups_of(found)
    assert [(group.task, len(group.members)) for group in groups[-1:]] == [("probe/continuous_target", 3)]
    assert {len(group.members) for group in groups[:2]} == {1, 4}
    assert [one.config.seed for one in groups[-1].members] == [0, 1, 2]


@pytest.fixture
def dashboard(runs):
    now = [0.0]
    with Dashboard(runs, "dreamerv3", 0, clock=lambda: now[0]) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server, now
        server.shutdown()
        thread.join()


def ask(server, path="/", method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_a_dashboard_follows_its_runs(dashboard, runs):
    server, now = dashboard
    status, first = ask(server)
    assert status == 200 and Balanced(first) and f'content="{REFRESH}"' in first and "8 runs in runs" in first
    make_run(runs / "another", seed=9)
    assert ask(server)[1] == first  # made at most so often
    now[0] = REFRESH
    assert "9 runs in runs" in ask(server)[1]


def test_a_dashboard_is_for_this_machine_and_read_only(dashboard, runs):
    server, _ = dashboard
    assert server.address.startswith("http://127.0.0.1:")
    assert ask(server, "/config.yaml")[0] == ask(server, "/../secret")[0] == 404
    assert ask(server, Host="evil.example:80")[0] == 403 and ask(server, Host="localhost")[0] == 200
    assert ask(server, method="POST")[0] == 501
    with pytest.raises(ConfigError, match=r"--port: got \d+, can't listen there"):
        Dashboard(runs, "dreamerv3", server.server_port)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_shows_it_on_a_phone(runs, tmp_path):
    """Nothing is wider than the screen but tables, which scroll."""
    assert main(["report", str(runs)]) == 0
    page = runs / "report.html"
    probe = "<script>document.title = document.documentElement.scrollWidth + ' of ' + innerWidth</script></body>"
    (tmp_path / "probe.html").write_text(page.read_text().replace("</body>", probe))
    browser = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=500,900"]
    words = [*browser, "--dump-dom", f"file://{tmp_path / 'probe.html'}"]
    shown = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout
    width, screen = map(int, re.search(r"<title>(\d+) of (\d+)</title>", shown).groups())
    assert width <= screen
