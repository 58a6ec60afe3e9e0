"""Environments of one's own, as ``--env.task worlds:...``, most of which misbehave."""

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


class Overflowing(World):
    def mishap(self, observation):
        return observation * np.float32(1e30)


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
