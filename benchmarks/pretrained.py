"""Trains the small agents that come with the package, packs each into one file, and writes the page about them.

    python benchmarks/pretrained.py [NAME ...]

Each of ``AGENTS`` (or of those named) is trained in ``runs/pretrained/NAME``, where it goes on if it was stopped;
``pretrained/NAME.zip`` is the run as ``dreamer-jax pack`` makes it, with its parameters, settings, all its scores and
metrics, and a card. docs/results/pretrained.md has the cards and a dream of each.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RUNS, FILES = ROOT / "runs" / "pretrained", ROOT / "pretrained"
PAGE = ROOT / "docs" / "results" / "pretrained.md"
LICENCE = "MIT"
AGENTS = {
    "dreamer_v3_cartpole_balance": ["configs/quickstart.yaml"],
    "dreamer_v3_pendulum": ["configs/pendulum.yaml"],
    "dreamer_v3_cartpole_on_device": ["configs/on_device.yaml", "--train.frames", "20000"],
    "dreamer_v3_catch_from_pictures": ["configs/catch.yaml"],
    "dreamer_v1_cartpole_balance": ["configs/dreamer_v1_cartpole.yaml"],
    "planet_cartpole_balance": ["configs/planet_cartpole.yaml"],
}
"""By name, the settings of each, and what is set beside them."""

HEAD = """\
# Trained agents

Small ones, each of which two CPU cores train in minutes, to try something on without training first.
`pretrained/NAME.zip` of the repository has the parameters, settings, all scores and metrics of the run, and this card.

```python
import dreamer_jax

agent, state = dreamer_jax.load("pretrained/dreamer_v3_cartpole_balance.zip")
```

The return is that of training episodes, with sampled actions (PlaNet's are planned), at the end of training, with its
95 % interval over episodes of the one run. `python benchmarks/pretrained.py` makes them again. The environment of
`gym/catch:Catch-v0` is `benchmarks/catch.py` (`export PYTHONPATH=benchmarks`); that of `gymnax/CartPole-v1` comes with
`pip install 'dreamer-jax[gymnax]'`. An agent loads without either. Below each is a dream: after five records that it
sees, what the world model predicts, beside what came. It knows nothing of what follows the end of an episode, which is
where catch's second half begins.

"""


def run(*words: str) -> None:
    """A command of this package, by this Python; benchmarks/catch.py can be found."""
    here = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run(
        [sys.executable, "-m", "dreamer_jax", *words], cwd=ROOT, env={**os.environ, "PYTHONPATH": here}, check=True
    )


def make(name: str, settings: Sequence[str]) -> None:
    run_dir, out = RUNS / name, FILES / f"{name}.zip"
    run("train", "--config", *settings, "--run-dir", str(run_dir), "--logger", "none")
    FILES.mkdir(exist_ok=True)
    out.unlink(missing_ok=True)
    run("pack", str(run_dir), "--out", str(out), "--licence", LICENCE)
    dreams = run_dir / "dreams"
    shutil.rmtree(dreams, ignore_errors=True)
    run("dream", str(run_dir), "--output", str(dreams))
    (PAGE.parent / "pretrained").mkdir(exist_ok=True)
    shutil.copy(min(dreams.glob("*.png")), PAGE.parent / "pretrained" / f"{name}.png")


def card(name: str) -> dict[str, Any]:
    with zipfile.ZipFile(FILES / f"{name}.zip") as file:
        return json.loads(file.read("card.json"))


def page() -> str:
    rows = ["| agent | task | frames | return | file |", "| --- | --- | --- | --- | --- |"]
    dreams = []
    for name in AGENTS:
        one, size = card(name), (FILES / f"{name}.zip").stat().st_size
        score = one["score"]
        value = f"{score['value']:.4g} ({score['low']:.4g} to {score['high']:.4g})"
        rows.append(
            f"| `{name}` | `{one['task']}` | {one['frames']:,} | {value} | {size / 1e6:.1f} MB, {one['licence']} |"
        )
        dreams.append(f"## {name}\n\n![predictions of {name}](pretrained/{name}.png)\n")
    return HEAD + "\n".join(rows) + "\n\n" + "\n".join(dreams)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(AGENTS)} (default: all)")
    names = parser.parse_args().names
    if unknown := [name for name in names if name not in AGENTS]:
        parser.error(f"{', '.join(unknown)}: must be of {', '.join(AGENTS)}")
    for name in names or AGENTS:
        make(name, AGENTS[name])
    if all((FILES / f"{name}.zip").exists() for name in AGENTS):
        PAGE.write_text(page())


if __name__ == "__main__":
    main()
