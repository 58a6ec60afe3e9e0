"""Environments of one's own, as ``--env.task worlds:...``, most of which misbehave."""

import atexit
import ctypes
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium import spaces


class World(gymnasium.Env):
    """Episodes of ten actions; in some of them, as their seed has it, every step calls ``mishap``.

    With seed 0 the first of those is episode 3 of environment 1, and then episode 4 of environment 0.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.bad = 0, self.np_random.random() > 0.5
        return self.np_random.random(2, np.float32), {}

    def step(self, action):
        self.time += 1
        observation = self.np_random.random(2, np.float32)
        if self.bad:
            observation = self.mishap(observation)
        return observation, float(action[0]), False, self.time == 10, {}

    def mishap(self, observation):
        return observation


class Announced(World):
    def close(self):
        print("a world is closed", file=sys.stderr, flush=True)


class Raising(World):
    def mishap(self, observation):
        raise ValueError("the arm\ncame off")


class Unwilling(World):
    """Fails as a bad episode begins. With seed 3 the first one of environment 1 is, with seed 7 that of 0."""

    def reset(self, *, seed=None, options=None):
        found = super().reset(seed=seed)
        if self.bad:
            raise ValueError("not today")
        return found


class NotANumber(World):
    def mishap(self, observation):
        return observation * np.float32("nan")


class Overflowing(World):
    def mishap(self, observation):
        return observation * np.float32(1e30)


class Sleepy(World):
    def mishap(self, observation):
        time.sleep(600)
        return observation


class Exits(World):
    def mishap(self, observation):
        sys.exit()


class Unseen(World):
    def render(self):
        sys.exit("no display")


class Interrupts(World):
    def mishap(self, observation):
        raise KeyboardInterrupt


class Vanishes(World):
    def mishap(self, observation):
        raise GeneratorExit


class Unsendable(Exception):
    def __init__(self, code, *, lock):
        super().__init__(f"code {code}")
        self.lock = lock


class Unspeakable(World):
    """Its error can be neither pickled nor made again from what it holds."""

    def mishap(self, observation):
        raise Unsendable(7, lock=threading.Lock())


class Mute(World):
    def mishap(self, observation):
        os._exit(7)


class Killed(World):
    def mishap(self, observation):
        os.kill(os.getpid(), signal.SIGKILL)


class Shy(World):
    def __init__(self):
        if multiprocessing.parent_process() is not None:
            raise RuntimeError("only where it was born")


class Various(World):
    """No two of them show the same."""

    count = 0

    def __init__(self):
        Various.count += 1
        self.observation_space = spaces.Box(-np.inf, np.inf, (1 + Various.count,), np.float32)


class Stuck(World):
    def reset(self, *, seed=None, options=None):
        time.sleep(600)


class Parent(World):
    """Has a process of its own, which a signal ends."""

    def __init__(self):
        self.child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        self.child.start()

    def close(self):
        self.child.terminate()
        self.child.join()


class Mendable(World):
    """Fails until there is a file ``mended`` beside the log."""

    def mishap(self, observation):
        if not Path(os.environ["DREAMER_JAX_TEST_LOG"]).with_name("mended").exists():
            raise ValueError("not yet mended")
        return observation


class Exiting(World):
    def __init__(self):
        sys.exit()


class Unclosable(World):
    def close(self):
        raise RuntimeError("the door\nsticks")


class Single(World):
    """One at a time on this machine, as simulators that listen on a port."""

    def __init__(self):
        self.port = socket.socket(socket.AF_UNIX)
        try:
            self.port.bind(f"\0a world of {os.environ['SINGLE']}")
        except OSError:
            self.port.close()
            raise

    def close(self):
        self.port.close()


class Counted(World):
    """Adds a line to a file whenever one is opened or closed."""

    def __init__(self):
        self.say("+")

    def close(self):
        self.say("-")

    def say(self, text):
        with open(os.environ["COUNTED"], "a") as file:
            file.write(text)


class Wandering(World):
    def __init__(self):
        os.chdir(tempfile.mkdtemp())

    def step(self, action):
        os.chdir(tempfile.mkdtemp())
        return super().step(action)


def ignore(number, frame):
    """A handler."""


class Deaf(World):
    """Takes both signals for itself whenever it can, as ``taking`` says, and sends itself one in its 40th step."""

    taking = staticmethod(lambda number: signal.signal(number, ignore))
    number = signal.SIGTERM

    def __init__(self):
        self.take()
        self.steps = 0

    def take(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            self.taking(number)

    def reset(self, *, seed=None, options=None):
        self.take()
        return super().reset(seed=seed)

    def step(self, action):
        self.steps += 1
        if self.steps == 40:
            os.kill(os.getpid(), self.number)
        self.take()
        return super().step(action)


class DeafInC(Deaf):
    taking = staticmethod(lambda number: ctypes.CDLL(None).signal(number, 1))  # SIG_IGN


class DeafByMask(Deaf):
    taking = staticmethod(lambda number: signal.pthread_sigmask(signal.SIG_BLOCK, [number]))


class Deadly(Deaf):
    taking = staticmethod(lambda number: signal.signal(number, signal.SIG_DFL))
    number = signal.SIGINT


class Picture(gymnasium.Env):
    """A bright square in a dark picture; the action moves it, and the reward is 1 in the middle."""

    observation_space = spaces.Box(0, 255, (32, 48, 3), np.uint8)
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.place = 0, self.np_random.uniform(-1, 1, 2)
        return self.picture(), {}

    def step(self, action):
        self.time += 1
        self.place = np.clip(self.place + 0.3 * action, -1, 1)
        return self.picture(), float(np.abs(self.place).max() < 0.3), False, self.time == 10, {}

    def picture(self):
        picture = np.zeros((32, 48, 3), np.uint8)
        row, column = ((self.place + 1) / 2 * (24, 40)).astype(int)
        picture[row : row + 8, column : column + 8] = 255, 200, 90
        return picture


class Doubles(World):
    """Computes with JAX in 64 bits, for which it changes a setting of the whole process."""

    def __init__(self):
        import jax

        jax.config.update("jax_enable_x64", True)
        self.half = jax.jit(lambda x: x * np.float64(0.5))

    def step(self, action):
        observation, reward, *rest = super().step(action)
        half = self.half(np.float64(reward))
        assert half.dtype == np.float64
        return observation, float(half), *rest


class Talkative(World):
    """Prints wherever it can, from Python and as code in C does."""

    def __init__(self):
        print("a world is born")
        atexit.register(print, "a world is forgotten")
        ctypes.CDLL(None).puts(b"in C")  # which buffers it

    def step(self, action):
        print("a step")
        os.write(1, b"another way\n")
        return super().step(action)


class RarelyLong(World):
    """Only the third episode of an environment has 30 actions."""

    episodes = 0

    def reset(self, *, seed=None, options=None):
        self.episodes += 1
        return super().reset(seed=seed)

    def step(self, action):
        observation, reward, *_, info = super().step(action)
        return observation, reward, False, self.time == (30 if self.episodes == 3 else 10), info
