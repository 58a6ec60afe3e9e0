"""From the name of a task to an environment. A simulator is imported only when a task needs it."""

from __future__ import annotations

import difflib

import gymnasium

from dreamer_jax.config.schema import ConfigError

FORMS = {"dmc": "dmc/<domain>_<task>", "gym": "gym/<id>", "probe": "probe/<name>"}
ALLOWED = f"{', '.join(FORMS.values())} or package.module:callable"


def make_env(task: str) -> gymnasium.Env:
    """Open the environment that ``task`` names.

    Raises:
      ConfigError: nothing has this name, or its package is not installed.
    """
    suite, slash, name = task.partition("/")
    match suite if slash else "":
        case "dmc":
            return _make_dmc(name)
        case "gym":
            from dreamer_jax.envs import gymnasium as gymnasium_ids

            return gymnasium_ids.make(name)
        case "probe":
            from dreamer_jax.envs import probes

            if name not in probes.PROBES:
                raise _unknown(task, name, list(probes.PROBES))
            return probes.make(name)
        case "atari":
            raise ConfigError(f"env.task: {task!r}: Atari is not supported yet (it will need dreamer-jax[atari])")
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


def _well_known() -> list[str]:
    from dreamer_jax.envs import dmc, probes

    return [f"dmc/{name}" for name in dmc.PROPRIO_TASKS] + [f"probe/{name}" for name in probes.PROBES]


def _make_dmc(name: str) -> gymnasium.Env:
    from dreamer_jax.envs import dmc

    try:
        names = dmc.task_names()
    except ImportError as error:
        raise ConfigError(f"env.task: 'dmc/{name}': {error}; pip install dm_control 'mujoco<4'") from error
    if name not in names and name not in dmc.ALIASES:
        raise _unknown(f"dmc/{name}", name, names)
    return dmc.make(name)


def _unknown(task: str, name: str, names: list[str]) -> ConfigError:
    suite = task.partition("/")[0]
    close = difflib.get_close_matches(name, names, 3, 0.5)
    if close:
        return ConfigError(f"env.task: {task!r}: no such task; did you mean {suite}/{f' or {suite}/'.join(close)}?")
    return ConfigError(f"env.task: {task!r}: no such task; {suite} has {', '.join(names)}")
