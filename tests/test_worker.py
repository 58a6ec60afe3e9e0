"""What processes of environments say as they fail, what they bring along, and that none is left behind."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import worlds
from gymnasium.vector import AsyncVectorEnv

from dreamer_jax.config.schema import ConfigError, EnvConfig
from dreamer_jax.envs import preview, worker
from dreamer_jax.envs.signals import handled_by, interrupt
from dreamer_jax.envs.vector import make_envs
from dreamer_jax.envs.wrappers import EnvironmentFailed

ACTION = {"action": np.zeros((2, 1), np.float32)}
SCRIPT = """
import logging, sys, threading
import gymnasium, numpy as np
from gymnasium import spaces
from dreamer_jax.config.schema import ConfigError, EnvConfig
from dreamer_jax.envs import preview
from dreamer_jax.envs.vector import make_envs

print("a script runs", flush=True)
GAIN, LOCK = 3.0, threading.Lock()

class Mine(gymnasium.Env):
    observation_space = spaces.Box(-9, 9, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    def __init__(self, render_mode=None):
        pass
    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}
    def step(self, action):
        return GAIN * action, 0.0, False, False, {}

class Locked(Mine):
    def step(self, action):
        with LOCK:
            return super().step(action)

gymnasium.register("Mine-v0", Mine)
for task in ("__main__:Mine", "gym/Mine-v0", "probe/echo"):
    kept = envs = make_envs(EnvConfig(task, vectorization="async"), seed=0, num_envs=2)
    envs.reset()
    action = {name: np.ones((2, *part.shape), part.dtype) for name, part in envs.spec.action.items()}
    print(envs.vectorization, task, *(x.ravel() for x in envs.step(action).observation.values()))
preview.processes_are_faster = lambda *_: True
try:
    make_envs(EnvConfig("__main__:Locked", vectorization="async"), seed=0, num_envs=2)
except ConfigError as error:
    print(error)
envs = make_envs(EnvConfig("__main__:Locked"), seed=0, num_envs=2)
envs.reset()
print(envs.vectorization)  # and nothing is closed
"""


@pytest.fixture(autouse=True)
def _(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # worlds:...
    with handled_by(interrupt):  # as in all commands
        yield


def opened(task, vectorization="async"):
    return make_envs(EnvConfig(f"worlds:{task}", vectorization=vectorization), seed=0, num_envs=2)


def gone(process):
    """Whether it is no process any more, or one that only its parent knows of."""
    try:
        return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("Exits", "SystemExit"),
        ("Interrupts", "KeyboardInterrupt"),
        ("Vanishes", "GeneratorExit"),
        ("Unspeakable", "Unsendable: code 7"),
        ("Raising", "ValueError: the arm came off"),
    ],
)
def test_whatever_an_environment_raises_is_named(vectorization, task, words):
    envs = opened(task, vectorization)
    envs.reset()
    with pytest.raises(EnvironmentFailed) as caught:
        for _ in range(50):
            before = envs.state()
            envs.step(ACTION)
    assert str(caught.value) == f"environment 1 (worlds:{task}): step() failed in episode 3: {words}"
    assert "mishap" in caught.value.__notes__[0]  # where it was raised
    after = envs.state()
    assert after.pop("waiting").all() and not before.pop("waiting").any()
    assert all(after[name].tobytes() == array.tobytes() for name, array in before.items() if "pending" not in name)
    envs.close()


@pytest.mark.parametrize(("task", "how"), [("Mute", "ended with code 7"), ("Killed", "was killed by SIGKILL")])
def test_a_process_that_ends_without_a_word_is_named(task, how):
    envs = opened(task)
    envs.reset()
    with pytest.raises(EnvironmentFailed, match=f"^environment 1: its process {how} without a word"):
        for _ in range(50):
            envs.step(ACTION)


@pytest.mark.parametrize("task", ["Deaf", "Deadly"])
def test_signals_to_a_process_are_left_to_the_main_one(task):
    """Whatever handler the environment has put in their place."""
    envs = opened(task)
    envs.reset()
    for _ in range(60):
        for process in envs._envs.processes:
            os.kill(process.pid, signal.SIGTERM)
            os.kill(process.pid, signal.SIGINT)
        envs.step(ACTION)
    processes = envs._envs.processes
    envs.close()
    assert all(map(gone, processes))


def test_what_opens_here_but_in_no_other_process(monkeypatch, caplog):
    words = "an environment does not open in a process of its own: env.task: 'worlds:Shy': Shy() failed: RuntimeError"
    with pytest.raises(
        ConfigError, match=rf"^env.vectorization: {words}.*sync needs no other processes$".replace("()", r"\(\)")
    ):
        opened("Shy")
    monkeypatch.setattr(preview, "processes_are_faster", lambda *_: True)
    with caplog.at_level(logging.WARNING):
        envs = opened("Shy", "auto")
    assert envs.vectorization == "sync" and len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"env.vectorization: all environments share one process, {words}")
    envs.close()


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_environments_that_are_not_alike_are_refused(vectorization, monkeypatch):
    monkeypatch.setattr(worlds.Various, "count", 1)  # in other processes it is 0
    with pytest.raises(ConfigError, match="'worlds:Various': environment . shows or takes other things than others"):
        opened("Various", vectorization)


def test_a_process_that_failed_before_it_was_asked_anything_says_why(monkeypatch):
    ask = AsyncVectorEnv.call
    monkeypatch.setattr(AsyncVectorEnv, "call", lambda *arguments: time.sleep(2) or ask(*arguments))
    test_environments_that_are_not_alike_are_refused("async", monkeypatch)


def test_an_environment_may_have_processes_itself():
    envs = opened("Parent")
    processes = envs._envs.processes
    envs.close()
    assert [process.exitcode for process in processes] == [0, 0]  # and not killed because they did not end


def test_what_is_told_to_end_while_it_is_being_forked_ends():
    """Its parent may be quicker than the code that lets go of our handlers there."""
    with handled_by(interrupt):
        for _ in range(20):
            child = os.fork()
            if not child:
                time.sleep(20)
                os._exit(1)
            os.kill(child, signal.SIGTERM)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGINT, signal.SIGTERM}


def test_a_process_that_does_not_end_is_killed(monkeypatch):
    monkeypatch.setattr(worker, "CLOSING_SECONDS", 0.5)
    envs = opened("Stuck")
    processes = envs._envs.processes
    envs._envs.reset_async()
    begin = time.monotonic()
    envs.close()
    assert all(map(gone, processes)) and time.monotonic() - begin < 60
    envs = opened("Announced")
    processes = envs._envs.processes
    del envs  # as if forgotten
    assert all(map(gone, processes)) and not multiprocessing.active_children()


@pytest.mark.parametrize("kind", ["script", "notebook"])
def test_what_is_defined_in_a_script_or_notebook(tmp_path, kind):
    """Neither runs again in other processes, so that a script needs no `if __name__ == "__main__":`."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    arguments, stdin = ([str(script)], "") if kind == "script" else ([], SCRIPT)  # a notebook has no file either
    done = subprocess.run([sys.executable, *arguments], input=stdin, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[:3] == ["a script runs", "async __main__:Mine [3. 3.]", "async gym/Mine-v0 [3. 3.]"]
    assert said[3].startswith("async probe/echo ") and said[5:] == ["sync"]
    words = "'__main__:Locked' can't be sent to other processes, TypeError: cannot pickle '_thread.lock' object; define"
    assert said[4].startswith("env.vectorization: an environment does not open in a process of its own: env.task: ")
    (warning,) = done.stderr.splitlines()
    assert warning.startswith("env.vectorization: all environments share one process, ")
    assert words in said[4] and words in warning
