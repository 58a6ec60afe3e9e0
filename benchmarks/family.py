"""The page about the family, docs/family.md, from the presets themselves.

python benchmarks/family.py > docs/family.md

Nothing in its tables is written by hand; a test holds that the page is what this prints.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from dreamer_jax.analysis.published import differing_settings, other_agents, published_scores
from dreamer_jax.config.loading import load
from dreamer_jax.config.named import BENCHMARKS, PRESETS, SIZES, size_settings
from dreamer_jax.config.schema import FIELDS, Config, flatten

COLUMNS = ("planet", "dreamer_v1", "dreamer_v2", "dreamer_v3_2023", "dreamer_v3_2024", "dreamer_v3")
NO_EFFECT = "–"
TITLES = {
    "env": "Environment",
    "replay": "Replay",
    "nets": "Every network",
    "encoder": "Encoder",
    "rssm": "Recurrent state-space model",
    "decoder": "Decoder",
    "reward": "Reward",
    "cont": "Continuation",
    "policy": "Policy",
    "value": "Value",
    "kl": "KL",
    "loss": "Scales of losses",
    "behavior": "Behavior",
    "explore": "Exploration",
    "optimizer": "Optimizer",
    "train": "Training",
}
EARLIER = {
    "dreamer_v1": ("dmc_vision_2019", "atari200m_2019"),
    "dreamer_v2": ("dmc_vision_2020", "dmc_proprio_2020", "atari200m_2020", "crafter_2021"),
}
"""Benchmarks by the preset that they are settings of; those of DreamerV3 are on the site's page of benchmarks."""

PLANET_REPEATS = {
    "cartpole_balance": 8,
    "cartpole_swingup": 8,
    "reacher_easy": 4,
    "cheetah_run": 4,
    "cup_catch": 4,
    "finger_spin": 2,
    "walker_walk": 2,
}

UPDATES, SEED_EPISODES = 100, 5
"""Of PlaNet: updates for each episode, random episodes before the first."""

INTRODUCTION = """\
# The family

PlaNet, DreamerV1, DreamerV2 and DreamerV3 are one engine here: a recurrent state-space model, heads on it, and a
behavior that is learnt in imagination or planned. A preset says which options are on. This page puts the presets side
by side. It is printed by `python benchmarks/family.py`, so that it can't say anything else than the code does.

How to read it:

- A column is a preset, a row an option in which presets differ, and the last column says what the option is. What is
  the same in all of them is not here; `dreamer-jax config` prints every setting.
- {no_effect} means that the option has no effect under this preset: PlaNet plans and so has no policy to set up.
- Widths and depths are in a table of their own, because `--size` sets them all. `own` leaves those of the preset.
- The columns are the published *code* of each year. Where a paper says otherwise there is a `_paper` preset below.

Each mechanism is an option by itself, so an ablation is a flag on top of a preset:

```bash
dreamer-jax train --preset dreamer_v1 --rssm.latent categorical --rssm.classes 32
dreamer-jax train --preset dreamer_v2 --kl.dyn 0.5 --kl.rep 0.5
dreamer-jax train --preset dreamer_v3 --behavior.gradient dynamics
```

What makes no sense together is refused in one line that names the option to change. The resolved settings are in
the run's `config.yaml`, and `dreamer-jax compare` lists those in which a run differs from the published ones.
"""

SUITES = """\
## Settings for a suite

A preset has its repository's default settings. Those of a suite come on top with `--benchmark`, such as
`dreamer-jax train --preset dreamer_v2 --benchmark atari200m_2020 --env.task atari/pong`. DreamerV3's are under
[Benchmarks](reference/presets.md#benchmarks).

"""
REPEATS = """\
## PlaNet's action repeats

PlaNet chooses the action repeat by task. As it makes 100 updates for each episode, three more settings follow from it.
The preset has those for a repeat of 2.

"""
CURVES = """\
## Published curves

`dreamer-jax compare RUN_DIR --to METHOD` sets a run beside them and says under which settings they came about. For
PlaNet none are published as data. `--to reference_small` is for runs with the settings of the quick start: what
danijar/dreamerv3 at commit e3f0224 reached with them here ([how](reproduction.md#the-reference-under-small-settings)).

"""
OTHERS = """\
### Agents of another kind

Their settings are their own and are not compared. Most are scored in evaluation episodes with the mean action, and
tuned for their suite; ours in training episodes with sampled actions.

"""
DIFFERENCES = """\
## Where we differ from the authors' code on purpose

### All

- DreamerV1, DreamerV2 and DreamerV3 of 2023 compute in float16 and scale their losses for it. Here it is float32 on a
  CPU and bfloat16 on an accelerator (`dtype`); statistics of distributions, losses and the optimizer are always
  float32.
- DreamerV1 and DreamerV2 make one more update when the agent is built, before those of `train.pretrain`. It is left
  out.

### PlaNet

- The start states of its planner are laid out for one environment: with several, candidates would start from states of
  others. Here each candidate starts from its own environment's state.
- Half of its batches come from the episodes that arrived since it last looked through its data, which may be many or
  none. Here half of the draws (`replay.recent`) are from the newest 4 episodes.
- It collects five more random episodes to test the model on. Here `replay.validation_fraction` keeps some.
- It subtracts the free nats from the KL; here they are its lower bound. The gradient is the same, the number in the
  metrics is larger by `kl.free_nats`.

### DreamerV1

- Its Gaussian sampler draws one vector of noise for the whole batch. Here every element has noise of its own.
- Its action in evaluations is the likeliest of 100 samples, chosen by the first row of the batch for all rows. Here
  each row has its own; with one environment that is the same.
- Its weight decay is computed and thrown away. Here `optimizer.weight_decay` works, and the preset has 0.

### DreamerV2

- Its slow critic begins with parameters of its own and becomes a copy after the first update. Here it begins as a copy.
- It has a normaliser of rewards that its settings switch off (momentum 1). Here there is none.
- With a balance of exactly 0.5 its KL is a plain one, clipped for each element whatever `free_avg` says. Here `kl.dyn`
  and `kl.rep` of 0.5 are numbers like any other.
- It takes the gradient of a truncated normal's sample by TensorFlow's rule, which ignores that the bounds move with
  mean and deviation. That is kept: an exact gradient would be another algorithm.
- `train_every: 16` counts decisions in its Atari code, so that `atari200m_2020` has a train ratio of 50. The paper says
  an update of 50 windows every 4 decisions, which is 625; `dreamer_v2_paper` has that.

### DreamerV3 of 2023

- Size `xsmall` is of its paper; its code has none. What the code's sizes set does not reach the encoder and the decoder
  of vectors, which keep 5 layers of 1024 units at every size. That is kept, at `xsmall` too.

### DreamerV3 of 2024

- Its two-hot heads have 256 outputs for 255 bins, of which the last is thrown away. Here they have 255.
- Its metric of imagined rewards begins with the recorded reward of the start, which is in no loss. Here it is the
  model's prediction.
"""


def page() -> str:
    """The whole page."""
    blocks = [
        INTRODUCTION.format(no_effect=NO_EFFECT),
        *_tables(),
        _variants(),
        _benchmarks(),
        _planet(),
        _published(),
        DIFFERENCES,
    ]
    return "\n".join(blocks)


def differing(configs: Sequence[Config]) -> dict[str, list[Any]]:
    """Every option that has several values among presets under which it has an effect; None: it has none."""
    flat, dead = [flatten(config) for config in configs], [without_effect(config) for config in configs]
    found = {}
    for name in FIELDS:
        values = [None if name in gone else each[name] for each, gone in zip(flat, dead, strict=True)]
        if len({value for value in values if value is not None}) > 1:
            found[name] = values
    return found


def without_effect(config: Config) -> set[str]:
    """Options that these settings leave nothing to do for."""
    behavior, rssm, plans = config.behavior, config.rssm, config.behavior.method == "planner"
    rules = {
        "policy.* value.* behavior.* loss.policy loss.value loss.replay_value": plans,
        "optimizer.actor_* optimizer.critic_* optimizer.order": plans,
        "planner.*": not plans,
        "behavior.start": behavior.returns == "arrival",
        "cont.* loss.cont": config.cont.label == "none",
        "cont.start": behavior.start == "excluded",
        "rssm.classes rssm.unimix": rssm.latent == "gaussian",
        "rssm.std rssm.min_std": rssm.latent == "categorical",
        "nets.bias": config.nets.norm == "none",
        "policy.init_std": config.policy.dist == "normal",
        "value.slow_rate value.slow_every value.slow_first": config.value.target == "online"
        and config.value.slow_regularizer == 0,
        "replay.ends replay.recent": config.replay.sampling == "windows",
    }
    patterns = [pattern for some, holds in rules.items() if holds for pattern in some.split()]
    kept = {"behavior.method", "cont.label"}
    return {name for name in FIELDS if name not in kept and any(fnmatchcase(name, one) for one in patterns)}


def _tables() -> Iterable[str]:
    options = differing([load(preset) for preset in COLUMNS])
    widths = {name for size in SIZES for name in size_settings(size)} | {"rssm.stoch"}
    yield "## What is on\n"
    for section, title in TITLES.items():
        names = [name for name in options if name.startswith(f"{section}.") and name not in widths]
        if names:
            yield f"### {title}\n\n{_options(names, options)}"
    yield f"### Widths and depths\n\n{_options([name for name in options if name in widths], options, sized=True)}"


def _options(names: Sequence[str], options: dict[str, list[Any]], *, sized: bool = False) -> str:
    rows = [[f"`{name}`", *map(_cell, options[name]), FIELDS[name].meaning] for name in names]
    if sized:
        rows.insert(0, ["`size`", *(PRESETS[preset].size for preset in COLUMNS), FIELDS["size"].meaning])
    return table(["option", *(f"`{preset}`" for preset in COLUMNS), "what it is"], rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return NO_EFFECT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}".replace("e-0", "e-")
    return f"{value:,}" if isinstance(value, int) else value


def _variants() -> str:
    rows = []
    for name in PRESETS:
        base, paper, _ = name.partition("_paper")
        if paper:
            changes = map(str, differing_settings(load(name), load(base)))
            rows.append(f"- `{name}`, on top of `{base}`: {'; '.join(changes)}.")
    return "## What papers say otherwise\n\n" + "\n".join(rows) + "\n"


def _benchmarks() -> str:
    rows = [
        [f"`--preset {preset} --benchmark {name}`", entry.meaning, entry.source, *_protocol(preset, name)]
        for preset, names in EARLIER.items()
        for name in names
        for entry in [BENCHMARKS[name]]
    ]
    return SUITES + table(["flags", "what it is", "source", "repeat", "train ratio", "frames"], rows)


def _protocol(preset: str, benchmark: str) -> list[str]:
    config = load(preset, overrides=[("benchmark", benchmark)])
    return [_cell(value) for value in (config.env.action_repeat, config.train.train_ratio, config.train.frames)]


def _planet() -> str:
    rows = []
    for task, repeat in PLANET_REPEATS.items():
        decisions = 1000 // repeat  # in an episode
        ratio = UPDATES * 50 * 50 // decisions
        flags = f"--env.action_repeat {repeat} --train.update_every {decisions} --train.train_ratio {ratio}"
        rows.append([f"`dmc/{task}`", str(repeat), f"`{flags} --train.prefill {SEED_EPISODES * decisions}`"])
    return REPEATS + table(["task", "repeat", "flags"], rows)


def _published() -> str:
    rows = []
    for name, content in published_scores()["benchmarks"].items():
        (ours,) = (entry for entry, benchmark in BENCHMARKS.items() if benchmark.published == name)
        protocol = content["protocol"]
        method, file = protocol["method"], content["source"].replace("<method>", protocol["method"])
        rows.append([f"`--to {method}`", f"`{ours}`", _cell(len(content["methods"][method])), protocol["scores"], file])
    return CURVES + table(["flag", "settings of", "tasks", "scores", "source"], rows) + "\n" + _others()


def _others() -> str:
    rows = [
        [f"`--to {method}`", entry["name"], place, _cell(len(entry["tasks"])), entry["scores"], entry["source"]]
        for place, content in other_agents().items()
        for method, entry in content["methods"].items()
    ]
    return OTHERS + table(["flag", "agent", "on", "tasks", "scores", "source"], rows)


if __name__ == "__main__":
    print(page(), end="")
