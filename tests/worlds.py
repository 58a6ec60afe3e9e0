"""Environments of one's own, as ``--env.task worlds:...``, most of which misbehave."""

import atexit
import ctypes
import os
import sys
import time

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


class NotANumber(World):
    def mishap(self, observation):
        return observation * np.float32("nan")


class Sleepy(World):
    def mishap(self, observation):
        time.sleep(600)
        return observation


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
