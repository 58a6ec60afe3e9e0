"""From the settings of a task to an environment. A simulator is imported only when a task needs it."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

import gymnasium

from dreamer_jax.config.checks import ATARI, USED_BY
from dreamer_jax.config.schema import ConfigError, EnvConfig
from dreamer_jax.envs.results import step_result

FORMS = {
    "dmc": "dmc/<domain>_<task>",
    "atari": "atari/<game>",
    "atari100k": "atari100k/<game>",
    "crafter": "crafter/reward",
    "gym": "gym/<id>",
    "gymnax": "gymnax/<id>",
    "brax": "brax/<name>",
    "playground": "playground/<name>",
    "craftax": "craftax/<id>",
    "probe": "probe/<name>",
}
ALLOWED = f"{', '.join(FORMS.values())} or package.module:callable"


class ActionRepeat(gymnasium.Wrapper):
    """Takes every action ``repeat`` times, or until the episode ends, and sums the rewards."""

    def __init__(self, env: gymnasium.Env, repeat: int) -> None:
        super().__init__(env)
        self._repeat = repeat

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        total = 0.0
        for _ in range(self._repeat):
            observation, reward, terminated, truncated, info = step_result(self.env.step(action))
            total += reward
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


def make_env(config: EnvConfig, *, render: bool = False) -> gymnasium.Env:
    """Open the environment that ``config.task`` names; its actions last ``config.action_repeat`` frames.

    ``render`` asks for one whose ``render`` gives pictures, where that must be known beforehand.

    Raises:
      ConfigError: nothing has this name, its package is not installed, or it can't use a setting.
    """
    suite = config.task.partition("/")[0]
    if suite in FORMS or ":" in config.task:
        _refuse_unused(config, suite)
    if suite == "dmc" and "/" in config.task:
        return _make_dmc(config)  # these two repeat actions by themselves: they draw only what is seen
    if suite in ATARI and "/" in config.task:
        return _make_atari(config)
    env = _make_simple(config, render)
    return ActionRepeat(env, config.action_repeat) if config.action_repeat > 1 else env


def _make_simple(config: EnvConfig, render: bool) -> gymnasium.Env:
    task = config.task
    suite, slash, name = task.partition("/")
    match suite if slash else "":
        case "crafter":
            from dreamer_jax.envs import crafter

            if name not in crafter.TASKS:
                raise unknown(task, name, list(crafter.TASKS))
            try:
                return crafter.Crafter(config.image_size)
            except ImportError as error:
                raise missing(task, "crafter") from error
        case "gym":
            from dreamer_jax.envs import gymnasium as gymnasium_ids

            return gymnasium_ids.make(name, render=render)
        case "probe":
            from dreamer_jax.envs import probes

            if name not in probes.PROBES:
                raise unknown(task, name, list(probes.PROBES))
            return probes.make(name)
        case "gymnax" | "brax" | "playground" | "craftax":
            from dreamer_jax.envs.pure import host
            from dreamer_jax.envs.pure import suites as pure

            return host.PureEnv(pure.make(task))
    if ":" in task:
        from dreamer_jax.envs import gymnasium as gymnasium_ids

        return gymnasium_ids.make_own(task)
    if slash:
        reason = f"unknown suite {suite!r}"
        close = [f"{known}/{name}" for known in difflib.get_close_matches(suite, FORMS, 1)]
    else:
        reason, close = "it names no suite", [known for known in _well_known() if known.endswith(f"/{task}")]
    hint = f"did you mean {close[0]}? " if close else ""
    raise ConfigError(f"env.task: {task!r}: {reason}; {hint}allowed: {ALLOWED}")


def _make_dmc(config: EnvConfig) -> gymnasium.Env:
    from dreamer_jax.envs import dmc

    name = config.task.removeprefix("dmc/")
    try:
        names = dmc.task_names()
    except ImportError as error:
        raise ConfigError(f"env.task: {config.task!r}: {error}; pip install dm_control 'mujoco<4'") from error
    if name not in names and name not in dmc.ALIASES:
        raise unknown(config.task, name, names)
    size = config.image_size if config.observation == "image" else 0
    return dmc.make(name, action_repeat=config.action_repeat, image_size=size)


def _make_atari(config: EnvConfig) -> gymnasium.Env:
    from dreamer_jax.envs import atari

    name = config.task.partition("/")[2]
    try:
        games = atari.games()
    except ImportError as error:
        raise missing(config.task, "atari") from error
    name = atari.ALIASES.get(name, name)
    if name not in games:
        raise unknown(config.task, name, sorted(games))
    return atari.Atari(games[name], config)


def _refuse_unused(config: EnvConfig, suite: str) -> None:
    for field in dataclasses.fields(config):
        value, users = getattr(config, field.name), USED_BY.get(field.name)
        if users and value != field.default and suite not in users:
            raise ConfigError(
                f"env.{field.name}: got {value!r}, but {config.task!r} can't use it, only {', '.join(users)} tasks can"
            )
    if suite == "dmc" and config.observation == "state" and config.image_size != EnvConfig.image_size:
        raise ConfigError(f"env.image_size: got {config.image_size}, but env.observation is state; set it to image")


def _well_known() -> list[str]:
    from dreamer_jax.envs import dmc, probes

    return [f"dmc/{name}" for name in dmc.VISION_TASKS] + [f"probe/{name}" for name in probes.PROBES]


def missing(task: str, extra: str) -> ConfigError:
    """For the task of a package that is not installed."""
    return ConfigError(f"env.task: {task!r} needs a package: pip install 'dreamer-jax[{extra}]'")


def unknown(task: str, name: str, names: list[str]) -> ConfigError:
    """For a task whose suite has only ``names``."""
    suite = task.partition("/")[0]
    close = difflib.get_close_matches(name, names, 3, 0.5)
    if close:
        return ConfigError(f"env.task: {task!r}: no such task; did you mean {suite}/{f' or {suite}/'.join(close)}?")
    return ConfigError(f"env.task: {task!r}: no such task; {suite} has {', '.join(names)}")
