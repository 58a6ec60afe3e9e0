"""Atari 2600 games through ale-py, with the preprocessing of DreamerV3 (danijar/dreamerv3, embodied/envs/atari.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from PIL import Image

from dreamer_jax.config.schema import EnvConfig

ALIASES = {"james_bond": "jamesbond"}
MAX_FRAMES = 108_000
"""Frames of an episode, half an hour of play, no-ops not counted; then it is cut off."""

GREY = np.array([0.299, 0.587, 1 - (0.299 + 0.587)])
"""Weights of red, green and blue. Written like this because the product is cut off, not rounded."""


class Atari(gymnasium.Env):
    """One game. An episode depends on the seed of its reset and on its actions alone.

    ``image`` [size, size, 1 or 3] uint8 is the pixel-wise maximum of the last two frames (an object that is
    drawn only every other one stays visible), made smaller, then grey. Rewards are neither clipped nor
    scaled, losing a life means nothing, no button is pressed at the start. The end of the game terminates.

    The emulator goes back to one saved start: its own reset keeps memory of the episode before in some
    games. Its own sticky actions draw from a generator that only loading the game again would seed, so the
    same rule is applied here: with probability ``sticky`` a frame repeats the action of the frame before.
    """

    def __init__(self, rom: Path, config: EnvConfig) -> None:
        import ale_py

        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self._ale = ale_py.ALEInterface()
        self._ale.setFloat("repeat_action_probability", 0.0)
        self._ale.loadROM(rom)
        self._ale.reset_game()
        self._start, self._first_frame = self._ale.cloneSystemState(), self._ale.getScreenRGB()
        self._config = config
        all_actions = config.actions == "all"
        self._actions = self._ale.getLegalActionSet() if all_actions else self._ale.getMinimalActionSet()
        self._frames = np.stack([self._first_frame] * 2)  # the last two [2, height, width, 3]
        self._newest = 0
        shape = (config.image_size, config.image_size, 1 if config.grey else 3)
        self.observation_space = spaces.Dict({"image": spaces.Box(0, 255, shape, np.uint8)})
        self.action_space = spaces.Discrete(len(self._actions))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, np.ndarray], dict]:
        super().reset(seed=seed)
        self._ale.restoreSystemState(self._start)
        self._held = self._noop = self._ale.getLegalActionSet()[0]
        self._played = 0
        self._frames[:] = self._first_frame
        for _ in range(self.np_random.integers(self._config.noops, endpoint=True)):
            self._ale.act(self._noop)
            self._ale.getScreenRGB(self._frames[0])
            if self._ale.game_over(with_truncation=False):
                self._ale.restoreSystemState(self._start)
                self._frames[0] = self._first_frame
        self._frames[1] = self._frames[0]
        return {"image": self._image()}, {}

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        wanted, reward = self._actions[int(action)], 0.0
        for _ in range(self._config.action_repeat):
            if self._config.sticky == 0 or self.np_random.random() >= self._config.sticky:
                self._held = wanted
            reward += self._ale.act(self._held)
            self._played += 1
            self._newest = 1 - self._newest
            self._ale.getScreenRGB(self._frames[self._newest])
            terminated = self._ale.game_over(with_truncation=False)
            truncated = not terminated and self._played >= MAX_FRAMES
            if terminated or truncated:
                break
        return {"image": self._image()}, reward, terminated, truncated, {}

    def _image(self) -> np.ndarray:
        size = (self._config.image_size, self._config.image_size)
        image = np.array(Image.fromarray(self._frames.max(0)).resize(size, Image.Resampling.BILINEAR))
        return (image * GREY).sum(-1, keepdims=True).astype(np.uint8) if self._config.grey else image


def games() -> dict[str, Path]:
    """The file of every game for one player, by its name such as ``ms_pacman``.

    Raises:
      ImportError: ale-py is not installed.
    """
    import ale_py
    from ale_py import roms

    files = {name: roms.get_rom_path(name) for name in roms.get_all_rom_ids()}
    # The others would end the process when loaded.
    return {name: file for name, file in files.items() if file and ale_py.ALEInterface.isSupportedROM(file)}
