"""Training in processes that tests may kill, with an agent that compiles in no time.

As a program it imports everything once, and then forks a process for each command line that it reads
(JSON): it answers with the process's number and, once that has ended, with its exit status.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from phases import Phases, kill_at

from dreamer_jax.config.checks import check
from dreamer_jax.config.loading import load as load_config
from dreamer_jax.config.loading import replace
from dreamer_jax.config.schema import Config
from dreamer_jax.specs import ArraySpec, EnvSpec

PATIENCE = 300
"""Seconds to wait for anything, on a machine that is busy with other things."""

MARK = "DREAMER_JAX_TEST_LOG"

SETTINGS: dict[str, Any] = {
    "dtype": "float32",
    "env.task": "probe/continuous_target",
    "env.num_envs": 2,
    "env.vectorization": "sync",
    "replay.capacity": 40,  # wraps every 20 steps
    "rssm.deter": 8,
    "rssm.hidden": 8,
    "rssm.stoch": 3,
    "rssm.blocks": 2,
    "rssm.prior_layers": 1,
    "behavior.imagination_length": 2,
    "optimizer.warmup": 0,
    "optimizer.learning_rate": 1e-3,
    "train.frames": 240,
    "train.train_ratio": 4.0,  # an update per step of both environments
    "train.batch_size": 2,
    "train.batch_length": 4,
    "train.start_windows": 8,
    "train.updates_per_dispatch": 1,
    "train.save_minutes": 0.0,
    "train.log_seconds": 0.0,
}
for _part in ("encoder", "decoder", "reward", "cont", "policy", "value"):
    SETTINGS |= {f"{_part}.layers": 1, f"{_part}.units": 8}
SETTINGS |= {"reward.bins": 5, "value.bins": 5}


def tiny_run(**changes: Any) -> Config:
    """Settings of a run that takes seconds; ``changes`` are dotted names with ``__`` for the dot."""
    named = {name.replace("__", "."): value for name, value in changes.items()}
    return check(replace(load_config(), SETTINGS | named))


def flags(config: Config, run_dir: Path) -> list[str]:
    """The command line that trains ``config``, which is put beside the run directory."""
    from dreamer_jax.config.loading import dump

    file = run_dir.with_suffix(".yaml")
    file.write_text(dump(config))
    return ["train", "--config", str(file), "--run-dir", str(run_dir), "--logger", "none"]


def make_toy(config: Config, spec: EnvSpec, *, axis_name: str | None = None) -> Any:
    """An agent that learns nothing, but in which every number depends on all it is given.

    A difference in one bit of a batch, a key or a state soon changes everything. Devices agree on each change.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from dreamer_jax.interfaces import Agent
    from dreamer_jax.types import Dream, PolicyCarry, TrainState

    width = 5
    latent_spec = {"deter": ArraySpec((width,), "bfloat16"), "stoch": ArraySpec((2,), "uint8")}

    # As of squared errors, without symlog.
    limit = jnp.inf if config.decoder.symlog else 1e19

    def mix(*arrays: Any) -> Any:
        """[..., n] each, to [..., width]: chaotic, so that nothing is ever forgotten, and exact in whatever order."""
        x = jnp.concatenate([jnp.asarray(array, jnp.float32) for array in arrays], -1)
        odd = 2 * jnp.arange(x.shape[-1] * width, dtype=jnp.uint32).reshape(-1, width) + 1
        words = jax.lax.bitcast_convert_type(x, jnp.uint32)[..., None] * odd * np.uint32(2654435761)
        total = words.sum(-2, dtype=jnp.uint32)
        total = (total ^ total >> 15) * np.uint32(739982445)
        mixed = ((total ^ total >> 12) >> 8).astype(jnp.float32) / 2**23 - 1
        return jnp.where((jnp.abs(x) < limit).all(-1, keepdims=True), mixed, jnp.nan)

    def columns(leaves: Mapping[str, Any], axes: int) -> list[Any]:
        return [jnp.reshape(leaf, (*leaf.shape[:axes], -1)) for _, leaf in sorted(leaves.items())]

    def compress(hidden: Any) -> dict[str, Any]:
        return {"deter": hidden.astype(jnp.bfloat16), "stoch": (8 * hidden[..., :2] + 8).astype(jnp.uint8)}

    def init(key: Any) -> TrainState:
        noise = jax.random.normal(key, (4, width))
        params = {name: noise[i] for i, name in enumerate(("model", "actor", "critic"))}
        return TrainState(
            jnp.zeros((), jnp.int32), params, params["critic"], (jnp.ones(width),), {"low": jnp.zeros(())}
        )

    def reset(params: Any, num_envs: int) -> PolicyCarry:
        actions = {k: jnp.zeros((num_envs, *leaf.shape), leaf.dtype) for k, leaf in spec.action.items()}
        return PolicyCarry({"deter": jnp.zeros((num_envs, width))}, actions)

    def policy(
        params: Any, key: Any, carry: PolicyCarry, timestep: Any, mode: str = "sample", env_offset: Any = 0
    ) -> Any:
        before = jnp.where(timestep.is_first[:, None], 0, carry.latent["deter"])
        keys = jax.vmap(partial(jax.random.fold_in, key))(env_offset + jnp.arange(len(before)))
        noise = jax.vmap(lambda key: jax.random.normal(key, (width,)))(keys) * (mode != "mode")
        actor = jnp.broadcast_to(params["actor"], before.shape)
        hidden = mix(before, noise, actor, timestep.reward[:, None], *columns(timestep.observation, 1))
        action = {}
        for name, leaf in spec.action.items():
            raw = jnp.nan_to_num(jax.vmap(partial(jnp.resize, new_shape=leaf.shape))(hidden))
            action[name] = (raw > 0).astype(jnp.int32) if leaf.discrete else raw
        return PolicyCarry({"deter": hidden}, action), action, compress(hidden)

    def observe(params: Any, batch: Any) -> Any:
        signals = [x[..., None] for x in (batch.reward, batch.is_first, batch.is_last, batch.is_terminal)]
        deter = mix(*columns(batch.observation, 2), *columns(batch.prev_action, 2), *signals)
        return mix(deter, jnp.broadcast_to(params["model"], deter.shape))

    def report(state: TrainState, key: Any, batch: Any) -> Any:
        deter = observe(state.params, batch)
        seen = mix(deter, jax.random.uniform(key, deter.shape), jnp.broadcast_to(state.opt_state[0], deter.shape))
        leaves = {name: leaf for name, leaf in batch.observation.items() if not spec.observation[name].discrete}
        dream = Dream({name: leaf + seen.mean() for name, leaf in leaves.items()}, seen[..., 0], seen[..., 1])
        return {"low": seen.min(), "high": seen.max()}, dream

    def update(state: TrainState, key: Any, batch: Any) -> Any:
        deter = observe(state.params, batch)
        context = mix(batch.context["deter"], batch.context["stoch"])
        seen = mix(deter.reshape(-1), context.reshape(-1))
        numbers = jnp.stack([jnp.float32(config.optimizer.learning_rate), jnp.float32(config.kl.rep)])
        noise = jax.random.uniform(key, (width,))
        change = mix(seen, state.params["model"], state.slow, state.opt_state[0], noise, numbers)
        if axis_name is not None:
            change = jax.lax.pmean(change, axis_name)
        params = {name: mix(value, change * (i + 1)) for i, (name, value) in enumerate(state.params.items())}
        metrics = {"loss/total": change.max(), "rew": batch.reward.max()}
        moments = {"low": change.min()}
        state = TrainState(state.step + 1, params, mix(state.slow, change), (change,), moments)
        return state, metrics, compress(deter)

    return Agent(
        init=init,
        reset=reset,
        policy=policy,
        loss=lambda *_: (jnp.zeros(()), None),
        update=update,
        report=report,
        dream=None,
        latent_spec=latent_spec,
    )


SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Trainer:
    """Runs ``dreamer-jax`` commands in processes of their own, one at a time, without importing anew.

    ``kill_at`` is a moment of ``phases.kill_at``, at which the process kills itself; ``phases`` a file for the phase
    that it is in. Each process leads a group of its own, or joins that of the process ``group``.
    """

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._process: int | None = None

    def start(
        self,
        arguments: list[str],
        log: Path,
        *,
        toy: bool | str = True,
        kill_at: str = "",
        phases: Path | None = None,
        group: int = 0,
    ) -> int:
        """The number of the new process, whose output goes to ``log``."""
        assert self._server.stdin
        self._clear()
        request = {"arguments": arguments, "log": str(log.absolute()), "toy": toy, "kill_at": kill_at}
        request |= {"phases": str(phases.absolute()) if phases else "", "group": group}
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._process = self._answer()
        return self._process

    def wait(self) -> int:
        """The exit status, negative for the signal that killed it."""
        status, self._process = self._answer(), None
        return status

    def run(self, arguments: list[str], log: Path, **options: Any) -> int:
        """Its exit status; ``options`` as for ``start``."""
        self.start(arguments, log, **options)
        return self.wait()

    def close(self) -> None:
        self._clear()
        assert self._server.stdin and self._server.stdout
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def _clear(self) -> None:
        """End what a test that failed has left."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process, signal.SIGKILL)
            self.wait()

    def _answer(self) -> int:
        assert self._server.stdout
        ready, _, _ = select.select([self._server.stdout], [], [], PATIENCE)
        assert ready, f"process {self._process} does not end"
        return int(self._server.stdout.readline())


def helpers(log: Path) -> list[int]:
    """Processes that the one with this log has started and that still live, such as environments."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={log.absolute()}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:
            continue
    return found


@contextmanager
def trainer() -> Iterator[Trainer]:
    one = Trainer()
    try:
        yield one
    finally:
        one.close()


def _serve() -> None:
    # All that runs import, so that none waits for it, or is stopped in the middle of it.
    for name in ("distrax", "matplotlib.figure", "orbax.checkpoint"):
        importlib.import_module(name)
    for name in ("cli", "envs.gymnasium", "analysis.plot", "training.multi_run"):
        importlib.import_module(f"dreamer_jax.{name}")

    for line in sys.stdin:
        request = json.loads(line)
        # Python swallows what a signal raises while it puts its locks in order after a fork.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        process = os.fork()
        with suppress(OSError):  # by both, so that each finds it done: signals may be sent to all that it starts
            os.setpgid(process, request["group"] or process)
        if not process:
            _child(request)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def _child(request: dict[str, Any]) -> None:
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.environ[MARK] = request["log"]
    status, phases = 1, None
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        from dreamer_jax.cli import main
        from dreamer_jax.training import multi_run as together
        from dreamer_jax.training import train

        if request["toy"] == "apart":  # devices learn without each other
            train.make_agent = lambda config, spec, axis_name: make_toy(config, spec)
        elif request["toy"]:
            train.make_agent = together.make_agent = make_toy
        if request["phases"]:
            phases = Phases(Path(request["phases"]))
        if request["kill_at"]:
            kill_at(request["kill_at"], phases)
        if phases is not None:
            phases.follow()  # last, so that a phase has begun when a call in it kills
        status = main(request["arguments"])
    except SystemExit as error:
        status = int(error.code or 0)
    except KeyboardInterrupt:  # before our handlers were there, as in any program
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
    finally:
        if phases is not None:
            phases.close()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve()
