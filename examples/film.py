"""A trained agent beside its dream, as a film: what the environment does, and what the model imagines of it.

python examples/one_scan.py 6000 pendulum.msgpack
python examples/film.py pendulum.msgpack docs/pendulum.gif

The model sees SEEN records of an episode. From there on it dreams twice: given the actions that the environment carries
out, and with the agent acting on what it dreams. All pendulums are drawn from the three numbers of an observation.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import jax
import numpy as np
from flax import serialization
from one_scan import AGENT, ENVS, reset, step
from PIL import Image, ImageDraw, ImageFont

from dreamer_jax.ops.transforms import symexp
from dreamer_jax.report import split_window
from dreamer_jax.types import TrajectoryBatch

SEEN, AHEAD, EPISODES = 5, 45, 3
SIDE, PLOT = 180, 92
PANELS = {"environment": (60, 60, 60), "dream, same actions": (214, 90, 20), "dream, acts itself": (30, 110, 180)}
FAINT = (225, 225, 225)


def play(params, key, length=SEEN + AHEAD):
    """Episodes of the trained agent, as training rows [ENVS, length, ...]; the last actions lead to no row."""
    pendulum, timestep = reset(key)
    carry = AGENT.reset(params, ENVS)

    def one(before, count):
        pendulum, timestep, carry = before
        after, action, _ = AGENT.policy(params, jax.random.fold_in(key, count), carry, timestep, "mode")
        pendulum, following = step(pendulum, action, count + 1, key)
        return (pendulum, following, after), (timestep, carry.prev_action)

    rows = jax.lax.scan(one, (pendulum, timestep, carry), jax.numpy.arange(length))[1]
    now, prev_action = jax.tree.map(lambda x: x.swapaxes(0, 1), rows)
    return TrajectoryBatch(now.observation, prev_action, now.reward, now.is_first, now.is_last, now.is_terminal)


def imagine(params, key, batch, *, same_actions):
    """Observations [ENVS, T, 3] as the model has them: the first SEEN reconstructed, the others imagined."""
    seen, ahead = split_window(batch, SEEN)
    actions = ahead.prev_action if same_actions else None
    dream = AGENT.dream(params, key, seen, actions, AHEAD, "mode")
    return symexp(dream.observation["pendulum"])


def picture(observation, colour, title):
    """A pendulum as one observation has it: cosine and sine of the angle from upright, and its speed."""
    image = Image.new("RGB", (SIDE, SIDE), "white")
    draw, middle, length = ImageDraw.Draw(image), SIDE / 2, SIDE * 0.36
    angle = math.atan2(observation[1], observation[0])
    x, y = middle - length * math.sin(angle), middle - length * math.cos(angle) + 8
    draw.line([(middle, middle + 8), (x, y)], fill=colour, width=9)
    for (cx, cy), radius, fill in (((middle, middle + 8), 6, "black"), ((x, y), 12, colour)):
        draw.ellipse([cx - radius, cy - radius, cx + radius, cy + radius], fill=fill)
    draw.text((8, 5), title, fill=colour, font=ImageFont.load_default(15))
    return image


def curves(lines, now):
    """Height of the pendulums' tips until now."""
    width = len(PANELS) * SIDE
    image = Image.new("RGB", (width, PLOT), "white")
    draw, left = ImageDraw.Draw(image), 60
    xs = np.linspace(left, width - 10, SEEN + AHEAD)
    draw.rectangle([left, 8, xs[SEEN - 1], PLOT - 16], fill=(240, 240, 240))
    for height, label in ((8, "upright"), (PLOT - 16, "hanging")):
        draw.line([(left, height), (width - 10, height)], fill=FAINT)
        draw.text((4, height - 8), label, fill="black", font=ImageFont.load_default(12))
    for line, colour, thick in zip(lines, PANELS.values(), (5, 2, 2), strict=True):
        ys = 8 + (1 - np.clip(line[: now + 1, 0], -1, 1)) / 2 * (PLOT - 24)
        draw.line(list(zip(xs, ys, strict=False)), fill=colour, width=thick)
    label = "seen" if now < SEEN else f"{now - SEEN + 1} steps ahead"
    draw.text((left + 4, PLOT - 15), label, fill="black", font=ImageFont.load_default(12))
    return image


def frames(lines):
    """The three panels beside each other above their curves, for every step of ``lines`` [3][T, 3]."""
    for now in range(SEEN + AHEAD):
        frame = Image.new("RGB", (len(PANELS) * SIDE, SIDE + PLOT), "white")
        for i, (title, colour) in enumerate(PANELS.items()):
            frame.paste(picture(lines[i][now], colour, title), (i * SIDE, 0))
        frame.paste(curves(lines, now), (0, SIDE))
        yield frame


def main(params_file, output):
    """Write the film of the EPISODES that begin lowest, and say how far the imagined angles are off."""
    params = serialization.from_bytes(AGENT.init(jax.random.key(0)).params, Path(params_file).read_bytes())
    batch = jax.jit(play)(params, jax.random.key(32))
    dream = jax.jit(imagine, static_argnames="same_actions")
    dreams = [dream(params, jax.random.key(2), batch, same_actions=same) for same in (True, False)]
    lines = np.stack(jax.device_get([batch.observation["pendulum"], *dreams]), 1)  # [ENVS, 3, T, 3]
    lowest = np.argsort(lines[:, 0, 0, 0])[:EPISODES]
    film = [frame for each in lines[lowest] for frame in frames(each)]
    palette = film[SEEN].quantize(32)
    film = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in film]
    film[0].save(output, save_all=True, append_images=film[1:], duration=100, loop=0, optimize=True)
    angles = np.arctan2(lines[..., 1], lines[..., 0])
    off = np.degrees(np.abs((angles[:, 0] - angles[:, 1] + np.pi) % (2 * np.pi) - np.pi)).mean(0)
    means = ", ".join(f"{off[SEEN + h - 1]:.0f} after {h}" for h in (5, 15, 40))
    print(f"{output}: {Path(output).stat().st_size / 1e3:.0f} kB; same actions, angle off by degrees: {means}")


if __name__ == "__main__":
    main(*sys.argv[1:])
