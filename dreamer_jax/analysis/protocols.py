"""How published numbers were measured: which episodes count, at how many frames, in which unit."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Literal, NamedTuple

from dreamer_jax.config.schema import ConfigError

Mode = Literal["sample", "mode"]
Unit = Literal["return / 1000", "human-normalised", "Crafter score"]


class Protocol(NamedTuple):
    """One way to measure; ``window`` for training episodes, ``episodes`` and ``mode`` for evaluation ones."""

    meaning: str
    suite: str
    tasks: int  # how many the benchmark has
    frames: int | None  # of training when it is measured, action repeat included; None: at any
    unit: Unit
    source: str
    window: tuple[int, int] | None = None  # environment frames (after, up to] in which training episodes ended
    episodes: int = 0
    mode: Mode = "sample"
    states: bool | None = None  # whether it is of agents that see numbers; None: of both


PROTOCOLS = {
    "dmc_proprio_500k": Protocol(
        "DeepMind Control from states: training returns at the end of 500K frames",
        "dmc",
        18,
        500_000,
        "return / 1000",
        "Hafner et al. 2025, DMC proprio; its published points end at 490,000",
        window=(460_000, 500_000),
        states=True,
    ),
    "dmc_vision_1m": Protocol(
        "DeepMind Control from pictures: training returns at the end of 1M frames",
        "dmc",
        20,
        1_000_000,
        "return / 1000",
        "Hafner et al. 2025, DMC vision",
        window=(960_000, 1_000_000),
        states=False,
    ),
    "dmc_evaluation": Protocol(
        "DeepMind Control as model-free papers have it: 10 evaluation episodes, greedy actions",
        "dmc",
        0,
        None,
        "return / 1000",
        "such as Lee et al. 2025, SimbaV2, and Hansen et al. 2024, TD-MPC2",
        episodes=10,
        mode="mode",
    ),
    "atari100k": Protocol(
        "Atari100k: training returns between 390K and 400K frames",
        "atari100k",
        26,
        400_000,
        "human-normalised",
        "Hafner et al. 2025, Atari100k",
        window=(390_000, 400_000),
    ),
    "atari100k_evaluation": Protocol(
        "Atari100k: 100 evaluation episodes at the end of 400K frames, sampled actions",
        "atari100k",
        26,
        400_000,
        "human-normalised",
        "such as Micheli et al. 2023, IRIS, and Alonso et al. 2024, DIAMOND",
        episodes=100,
    ),
    "atari100k_mode": Protocol(
        "Atari100k: 100 evaluation episodes at the end of 400K frames, greedy actions",
        "atari100k",
        26,
        400_000,
        "human-normalised",
        "such as Ye et al. 2021, EfficientZero",
        episodes=100,
        mode="mode",
    ),
    "atari200m": Protocol(
        "Atari: training returns in the last of 200M frames",
        "atari",
        57,
        200_000_000,
        "human-normalised",
        "Hafner et al. 2021 and 2025; its published points are 400,000 frames apart",
        window=(199_000_000, 200_000_000),
    ),
    "crafter": Protocol(
        "Crafter: success rates of all training episodes of 1M frames",
        "crafter",
        1,
        1_000_000,
        "Crafter score",
        "Hafner 2022, section 3.3",
        window=(0, 1_000_000),
    ),
}
PLAYED = [name for name, protocol in PROTOCOLS.items() if protocol.episodes]
"""Those that play evaluation episodes."""


@functools.cache
def _atari_scores() -> dict[str, list[float]]:
    return json.loads(resources.files("dreamer_jax").joinpath("data/atari_scores.json").read_text("utf-8"))["games"]


def normalised(score: float, task: str, unit: Unit) -> float:
    """1 is the highest that is usual: 1000 of DeepMind Control, a person's score, all of Crafter's achievements.

    Args:
      task: such as ``atari/boxing``.

    Raises:
      ConfigError: nobody's score of this game is known.
    """
    if unit == "return / 1000":
        return score / 1000
    if unit == "Crafter score":
        return score / 100
    from dreamer_jax.analysis.published import ALIASES  # late: the command line reads this file before it does anything

    game, known = task.partition("/")[2], _atari_scores()
    if (game := ALIASES.get(game, game)) not in known:
        raise ConfigError(f"{task}: no human score is known; there are {', '.join(known)}")
    random, human = known[game]
    return (score - random) / (human - random)


def evaluation_protocol(name: str, task: str) -> Protocol:
    """One that is measured by playing, of this task's suite.

    Raises:
      ConfigError: it is of training episodes, or of another suite.
    """
    protocol = PROTOCOLS[name]
    if not protocol.episodes:
        raise ConfigError(f"--protocol: {name} is of training episodes, which `dreamer-jax score` reads from the run")
    if task.partition("/")[0] != protocol.suite:
        raise ConfigError(f"--protocol: {name} is of {protocol.suite}, the run of {task}")
    return protocol
