"""What README and docs/ say is true: their code runs, their commands parse, what they name is there."""

import ast
import importlib
import json
import re
import shlex
from pathlib import Path

import pytest
from pages import PAGES, ROOT, blocks, commands, prose, run, text

from dreamer_jax.cli.parser import make_parser
from dreamer_jax.cli.settings import pairs, settings
from dreamer_jax.config.named import PRESETS
from dreamer_jax.config.schema import FIELDS
from dreamer_jax.config.sweep import make_points

PYTHON = [block for block in blocks() if block.language == "python"]
INCLUDED = [block for block in PYTHON if block.body in (ROOT / "examples" / "one_scan.py").read_text() + "\n"]
RUN = [block for block in PYTHON if block not in INCLUDED]
SMALL = ["--train.frames", "400", "--logger", "none", "--train.eval_frames", "0", "--train.save_frames", "0"]
METHODS = {f"replay.{name}" for name in ("append", "sample", "write_back")}
"""Of what a page calls ``replay``; they look like settings."""
SHORTER = {"range(10_000)": "range(60)", "windows >= 128": "windows >= 20"}
FIRST = {"runs/dmc-cartpole_balance-dreamer_v3-1m-0": "runs/first"}  # of the page that comes before, README.md
"""What a block says, and what is run instead."""
EACH = """
import json, sys, traceback
for number, code in enumerate(json.load(open(sys.argv[1]))):
    try:
        exec(compile(code, f"block {number}", "exec"), {"__name__": "page"})
        print(f"\\nblock {number} is done", flush=True)
    except BaseException:
        print(f"\\nblock {number} failed\\n{traceback.format_exc()}", flush=True)
"""


def command(arguments, directory):
    return run(["-m", "dreamer_jax", *arguments], directory)


def on_page(page, name):
    """The words of the only command ``name`` in blocks of ``page``."""
    (found,) = [one.words for one in commands() if one.place.startswith(page) and one.words[0] == name]
    return list(found)


def block_of(page, part):
    (found,) = [block.body for block in PYTHON if block.page == page and part in block.body]
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with the environment of the tutorial and a run on it; every file in its configs/ is the small one."""
    directory = tmp_path_factory.mktemp("docs")
    (directory / "configs").mkdir()
    for path in (ROOT / "configs").glob("*.yaml"):
        (directory / "configs" / path.name).write_text((ROOT / "configs" / "debug.yaml").read_text())
    (directory / "pretrained").symlink_to(ROOT / "pretrained")
    (directory / "point.py").write_text(block_of("docs/tutorials/own_environment.md", "class Point"))
    train = on_page("docs/tutorials/own_environment.md", "train")
    command([*train, "--config", "configs/debug.yaml", *SMALL], directory)
    words = on_page("docs/how_to/export.md", "export")
    words[words.index("runs/walker")] = "runs/point"
    assert "episodes in episodes" in command(words, directory)
    words = on_page("docs/how_to/policy_file.md", "export-policy")
    words[words.index("runs/walker")] = "runs/point"
    assert "policy.zip" in command(words, directory)
    return directory


@pytest.fixture(scope="module")
def output(place):
    """What the blocks of all pages print, run one after another in one process, in the place of a reader."""
    code = []
    for block in RUN:
        body = block.body
        for shown, small in {**SHORTER, **FIRST}.items():
            body = body.replace(shown, small)
        code.append(body)
    (place / "blocks.json").write_text(json.dumps(code))
    return run(["-c", EACH, "blocks.json"], place)


@pytest.mark.parametrize("number", range(len(RUN)), ids=[block.place for block in RUN])
def test_python_runs(output, number):
    assert f"block {number} is done" in output, output.partition(f"block {number} failed")[2].partition("\nblock ")[0]


def test_examples_are_as_short_as_they_claim():
    def lines(code):
        return sum(bool(line.strip()) for line in code.splitlines())

    assert lines(block_of("README.md", "load")) <= 8
    assert lines(block_of("docs/tutorials/own_environment.md", "class Point")) <= 15
    assert lines(block_of("docs/tutorials/first_agent.md", "load")) <= 5
    assert lines(block_of("docs/tutorials/own_loop.md", "update")) <= 25
    assert max(len(line) for block in PYTHON for line in block.body.splitlines()) <= 120


def test_the_loop_of_ones_own_learns_as_the_page_says(place):
    body = block_of("docs/tutorials/own_loop.md", "update")
    for shown, small in SHORTER.items():
        assert body.count(shown) == 1
        body = body.replace(shown, small)
    *scores, end = run(["-c", f"{body}\nprint(int(state.step), replay.rows.stop)"], place).splitlines()
    assert end == "25 60"  # a window takes 17 records: the 20th is there with the 36th record
    assert scores and all(re.fullmatch(r"step \d+ score \d+\.0", line) for line in scores)


def test_a_trained_agent_acts_as_the_page_says(place, output):
    ending = "\nprint(action['action'].shape, action['action'].dtype, carry.prev_action['action'].shape)"
    body = block_of("docs/tutorials/first_agent.md", "load").replace(*next(iter(FIRST.items())))
    assert run(["-c", body + ending], place) == "(1, 1) float32 (1, 1)\n"


def test_the_planner_of_ones_own_begins_with_its_last_plan(place):
    """All plans are worth the same at first, so that the last one stays; an episode begins without one."""
    body, train, _ = block_of("docs/tutorials/own_planner.md", "make_mine").partition("\ntrain(")
    ending = """
import numpy as np
state, now = agent.init(jax.random.key(0)), make_envs(config.env, seed=0, num_envs=1).reset()
plan = np.linspace(-0.6, 0.5, 12, dtype=np.float32)[None, :, None]
carry = agent.reset(state.params, 1).replace(behavior=plan)
for first in (True, False):
    now = now.replace(is_first=np.array([first]))
    after, action, _ = jax.jit(agent.policy)(state.params, jax.random.key(0), carry, now)
    last = np.zeros_like(plan) if first else plan
    np.testing.assert_array_equal(action["action"], last[:, 0])
    np.testing.assert_array_equal(after.behavior, np.concatenate([last[:, 1:], last[:, -1:]], 1))
print("as it says")
"""
    assert train and run(["-c", body + ending], place) == "as it says\n"


def test_bits_are_as_likely_as_the_page_says(place):
    body, train, _ = block_of("docs/tutorials/own_latent.md", "class Bit").partition("\ntrain(")
    ending = """
import numpy as np
kind, raw = bits(config.rssm), jnp.float32([-2, -1, 0, 1])
noise = kind.noise(jax.random.key(0), np.arange(4000), ())
draws = jax.vmap(lambda noise: kind.sample(kind.stats(raw), noise))(noise)
assert draws.shape == (4000, 4) and np.isin(draws, (0, 1)).all()
probs = jax.nn.sigmoid(raw)
np.testing.assert_allclose(draws.mean(0), probs, atol=0.03)
slope = jax.grad(lambda raw: kind.sample(kind.stats(raw), noise[0]).sum())(raw)
np.testing.assert_allclose(slope, probs * (1 - probs), rtol=1e-5)
assert kind.mode(kind.stats(raw)).tolist() == [0, 0, 0, 1]
other = jax.nn.sigmoid(-raw)
by_hand = probs * jnp.log(probs / other) + (1 - probs) * jnp.log((1 - probs) / (1 - other))
np.testing.assert_allclose(kind.divergence(kind.stats(raw), kind.stats(-raw)), by_hand, rtol=1e-4, atol=1e-6)
np.testing.assert_array_equal(kind.expand(kind.compress(draws)), draws)
print("as it says")
"""
    assert train and run(["-c", body + ending], place) == "as it says\n"


def test_episodes_end_one_by_one_as_the_page_says(place):
    ending = """
import numpy as np
world, now = reset(jax.random.key(0))
records, rng = [now], np.random.default_rng(0)
for count in range(300):
    push = rng.integers(0, 2, ENVS) if count < 200 else np.arange(count, count + ENVS) % 2  # then to and fro
    world, now = step(world, now, {"push": push}, jax.random.key(count))
    records.append(now)
whole = jax.tree.map(lambda *xs: np.stack(xs), *records)
np.testing.assert_array_equal(whole.is_first[1:], whole.is_last[:-1])
assert (whole.is_last >= whole.is_terminal).all() and (np.abs(whole.observation["place"][..., 0]) > 1).sum() > 0
np.testing.assert_array_equal(whole.is_terminal, np.abs(whole.observation["place"][..., 0]) > 1)
np.testing.assert_array_equal(whole.reward, ~whole.is_first)
assert (whole.is_last & ~whole.is_terminal).any() and (whole.is_last.any(1) & ~whole.is_last.all(1)).any()
assert all(np.diff(np.flatnonzero(each)).max() <= LIMIT + 1 for each in whole.is_last.T)
print("as it says")
"""
    assert run(["-c", block_of("docs/tutorials/one_scan.md", "LIMIT") + ending], place) == "as it says\n"


def test_own_environment(place):
    assert "no problems found" in command(on_page("docs/tutorials/own_environment.md", "check-env"), place)
    assert len((place / "runs/point/scores.jsonl").read_text().splitlines()) >= 4


def test_evaluating_and_plotting(place):
    evaluate, plot = (on_page("docs/tutorials/first_agent.md", name) for name in ("evaluate", "plot"))
    for words in (evaluate, plot):
        words[1] = "runs/point"
    evaluate[evaluate.index("--episodes") + 1] = "2"
    del evaluate[evaluate.index("--video") :]  # it has no render()
    assert "point:Point after" in command(evaluate, place)
    command(plot, place)
    assert (place / plot[plot.index("--output") + 1]).stat().st_size > 1000


@pytest.mark.parametrize("each", commands(), ids=lambda each: f"{each.place} {' '.join(each.words)}"[:120])
def test_commands_parse_and_their_settings_are_valid(each, monkeypatch):
    monkeypatch.chdir(ROOT)
    options, rest = make_parser().parse_known_args(each.words)
    if "config" in options:
        settings(options, pairs(rest))
    elif options.takes_settings:  # of a run
        assert all(name in FIELDS for name, _ in pairs(rest))
    else:
        assert not rest, f"{each.place}: {options.command} takes no settings, got {rest}"
    if "config" in options and (getattr(options, "sweep", None) or getattr(options, "seeds", None)):
        make_points(options.config, pairs(rest), seeds=options.seeds, sweeps=options.sweep, sample=options.sample)


def test_every_command_is_shown_and_every_named_one_exists():
    (subparsers,) = [action for action in make_parser()._actions if action.dest == "command"]
    assert {each.words[0] for each in commands()} == set(subparsers.choices)
    for page in PAGES:
        named = set(re.findall(r"`dreamer-jax ([a-z][a-z-]*)", prose(page)))
        assert named <= set(subparsers.choices), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_settings_that_a_page_names_exist(page):
    (subparsers,) = [action for action in make_parser()._actions if action.dest == "command"]
    flags = {flag for sub in subparsers.choices.values() for action in sub._actions for flag in action.option_strings}
    elsewhere = {
        "--deter",
        "--batch-size",
        "--group-frames",
        "--first-updates",
        "--ntasks-per-node=1",
    }  # of programs in benchmarks/, of Slurm
    for quoted in re.findall(r"`(--[\w.][^`]*)`", prose(page)):
        name = quoted.split()[0]
        assert name.removeprefix("--") in FIELDS or name in flags | elsewhere or "SETTING" in name, quoted
    sections = {name.partition(".")[0] for name in FIELDS if "." in name}
    for name in re.findall(r"`(\w+\.\w+)`", prose(page)):
        section, _, ending = name.partition(".")
        known = name in FIELDS or section not in sections or ending in ("json", "yaml", "py") or name in METHODS
        assert known, name


def test_every_preset_is_in_the_readme():
    assert [name for name in PRESETS if f"`{name}`" not in prose(ROOT / "README.md")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_a_page_names_exist(page):
    folders = "dreamer_jax|configs|scripts|tests|benchmarks|docs|examples|notebooks"
    paths = re.findall(rf"`((?:{folders})/[\w./-]*)`", prose(page))
    for block in blocks():
        if block.language == "bash" and block.page == page.relative_to(ROOT).as_posix():
            words = re.split(r"[\s=]", block.body)
            paths += [word for word in words if re.fullmatch(r"(scripts|configs|benchmarks|examples)/[\w./-]+", word)]
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert missing == [], f"{page.relative_to(ROOT)}: if these have moved, name their new places: {missing}"


def _definitions(path):
    """Every function, class and constant of a module by its dotted name, those inside others included."""

    def walk(node, prefix):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                yield f"{prefix}{child.name}"
                yield from walk(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.Assign | ast.AnnAssign):
                targets = child.targets if isinstance(child, ast.Assign) else [child.target]
                yield from (f"{prefix}{target.id}" for target in targets if isinstance(target, ast.Name))
            elif not isinstance(child, ast.expr):
                yield from walk(child, prefix)

    return set(walk(ast.parse(path.read_text()), ""))


DEFINED = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): _definitions(path)
    for path in sorted((ROOT / "dreamer_jax").rglob("*.py"))
}


def _is_there(name):
    """Whether a dotted name is a module, or something defined in one, or imported by a package."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        module, rest = ".".join(parts[:count]), ".".join(parts[count:])
        if module in DEFINED:
            return not rest or rest in DEFINED[module] or hasattr(importlib.import_module(module), rest)
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_functions_that_a_page_names_exist(page):
    for name in set(re.findall(r"`(dreamer_jax(?:\.\w+)+)`", prose(page))):
        ends = {name.split(".", 2)[-1], name.rpartition(".")[2]}
        elsewhere = [f"{module}.{one}" for module, ones in DEFINED.items() for one in ones if one in ends]
        assert _is_there(name), f"{page.relative_to(ROOT)} names {name}, which is not there; is it {elsewhere}?"


def test_each_paper_has_a_table_of_its_equations():
    content = text(ROOT / "docs" / "explanation" / "algorithms.md")
    for paper, rows in {"PlaNet": 5, "DreamerV1": 7, "DreamerV2": 8, "DreamerV3": 12}.items():
        section = content.partition(f"\n## {paper}\n")[2].partition("\n## ")[0]
        found = [line for line in section.splitlines() if line.startswith("| ") and "`dreamer_jax." in line]
        assert len(found) >= rows, paper


def test_the_map_of_the_code_is_complete():
    page = "docs/explanation/layout.md"
    (body,) = [block.body for block in blocks() if block.page == page and block.language == "text"]
    found, folders = set(), []
    for line in body.splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders = [*folders[:depth], name]
        path = "".join(folders)
        assert (ROOT / path).exists(), f"{page}: {path} is not there any more; mend its line"
        found.add(path)
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "dreamer_jax").rglob("*.py")}
    missing = {path for path in modules if not path.endswith(("__init__.py", "__main__.py"))} - found
    assert not missing, f"{page} needs a line for each of {sorted(missing)}"


def test_the_readme_is_short_and_begins_with_a_film():
    readme = ROOT / "README.md"
    content = readme.read_text()
    assert len(content.splitlines()) <= 200 and len(content.encode()) <= 10_000
    film = re.search(r"!\[[^]]+\]\((docs/\w+\.gif)\)", content)
    assert film and content[: film.start()].count("\n") < 5
    assert (ROOT / film[1]).stat().st_size <= 1_500_000


def test_paths_in_shell_are_those_of_the_repository():
    """The two commands that a reader begins with."""
    (first,) = [block.body for block in blocks() if block.page == "README.md" and "quickstart.sh" in block.body]
    scripts = [shlex.split(line, comments=True)[1] for line in first.splitlines()]
    assert scripts == ["scripts/quickstart.sh", "scripts/test.sh"]
    assert all(Path(ROOT, script).exists() for script in scripts)
