"""Pictures of what a model predicts: films and strips of images, curves of numbers."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from dreamer_jax.analysis.plot import save_picture
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.files import replace_file
from dreamer_jax.types import Array

SIDE = 96
"""Small images are enlarged, pixel by pixel, to at least so many pixels."""
SEEN, IMAGINED = (90, 90, 90), (214, 90, 20)
"""Colours of the bars above: the model was shown this record, or made it up."""
ROWS = ("truth", "model", "error")
BAR, HEAD = 6, 13
"""Heights of the coloured bar and of a line of text."""
FRAMES_PER_SECOND = 10.0


def compare_images(truth: np.ndarray | None, model: np.ndarray, context: int) -> np.ndarray:
    """Truth, model and error below each other for every window, windows side by side, [T, height, width, 3].

    Images [B, T, h, w, c] are in [0, 1]. The error is ``model - truth`` around grey. Without ``truth`` after
    the context (an imagined future has none) there is the model alone.
    """
    model = _enlarge(_rgb(model))
    rows = [model]
    if truth is not None:
        truth = _enlarge(_rgb(truth))
        rows = [truth, model, np.clip((model - truth + 1) / 2, 0, 1)]
    gap = 4
    tiles = [np.pad(row, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=1.0) for row in rows]
    windows = np.concatenate(tiles, 2)  # [B, T, rows * height, width, 3]
    frames = np.concatenate(list(windows), 2)
    bar = np.array([SEEN] * context + [IMAGINED] * (len(frames) - context), np.float32) / 255
    bars = np.broadcast_to(bar[:, None, None], (len(frames), BAR, frames.shape[2], 3))
    return _bytes(np.concatenate([bars, frames], 1))


def strip(frames: np.ndarray, context: int, rows: int, columns: int = 12) -> np.ndarray:
    """Some of the frames of ``compare_images`` beside each other, the last one seen among them, [height, width, 3]."""
    before = max(1, min(context, columns // 3))
    ahead = len(frames) - context
    times = [*range(context - before, context)]
    times += [context + i * ahead // max(1, min(ahead, columns - before)) for i in range(min(ahead, columns - before))]
    picture = np.concatenate([frames[time] for time in times], 1)
    return label_rows(_label_columns(picture, [f"{time - context + 1:+d}" for time in times]), rows)


def _label_columns(picture: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    head = Image.new("RGB", (picture.shape[1], HEAD), "white")
    for i, label in enumerate(labels):
        ImageDraw.Draw(head).text((i * picture.shape[1] // len(labels) + 3, 1), label, fill="black")
    return np.concatenate([np.asarray(head), picture])


def label_rows(picture: np.ndarray, rows: int) -> np.ndarray:
    """What is truth, model and error, written to the left; a single row is the model's."""
    side = Image.new("RGB", (40, len(picture)), "white")
    names = ROWS if rows == len(ROWS) else ROWS[1:2]
    for i, name in enumerate(names):
        ImageDraw.Draw(side).text((3, len(picture) * (2 * i + 1) // (2 * len(names))), name, fill="black")
    return np.concatenate([np.asarray(side), picture], 1)


def save_film(frames: np.ndarray, path: Path, frames_per_second: float = FRAMES_PER_SECOND) -> Path:
    """Write frames [T, height, width, 3] uint8 as a GIF that repeats, whole or not at all."""
    images = [Image.fromarray(frame) for frame in frames]
    return _save(images[0], path, "GIF", save_all=True, append_images=images[1:], duration=_duration(frames_per_second))


def _duration(frames_per_second: float) -> int:
    return max(20, round(1000 / frames_per_second))  # browsers slow down what is faster


def save_image(image: np.ndarray, path: Path) -> Path:
    """Write an image [height, width, 3] uint8 as PNG, whole or not at all."""
    return _save(Image.fromarray(image), path, "PNG")


def check_film(path: Path) -> None:
    """Say that no film can be written there before any work is done for it.

    Raises:
      ConfigError: the name does not end in .gif, or is a folder's.
    """
    if path.suffix != ".gif" or path.is_dir():
        raise ConfigError(f"--video {path}: expected a file that ends in .gif")


def film_frame(image: np.ndarray, score: float) -> np.ndarray:
    """A picture of an environment with the return so far below it, [height, width, 3] uint8."""
    image = _bytes(_enlarge(_rgb(image.astype(np.float32) / 255), 2 * SIDE))
    foot = Image.new("RGB", (image.shape[1], 14), "white")
    ImageDraw.Draw(foot).text((3, 1), f"return {score:.1f}", fill="black")
    return np.concatenate([image, np.asarray(foot)])


def draw_signals(
    truth: np.ndarray | None, model: np.ndarray, context: int, names: Sequence[str], path: Path, title: str
) -> Path:
    """Numbers of one window over time, [T, n] each: what was recorded, what the model makes of it."""
    # Late, because training imports nothing to draw with.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(names)
    columns = min(4, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(3.2 * columns, 1.2 + 1.7 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    steps = np.arange(len(model)) - context + 1  # 0 is the last record seen
    lines: Mapping[str, Any] = {}
    for i, ax in enumerate(axes[:count]):
        shown = [] if truth is None else ax.plot(steps, truth[:, i], color="0.35", linewidth=2.4, label="recorded")
        shown += ax.plot(steps, model[:, i], color="tab:orange", linewidth=1.4, label="model")
        ax.axvline(0.5, color="0.5", linewidth=0.9, linestyle=(0, (2, 3)))
        ax.set_title(names[i], fontsize=8)
        ax.tick_params(labelsize=7)
        ax.spines[["top", "right"]].set_visible(False)
        lines = {line.get_label(): line for line in shown}
    for ax in axes[count:]:
        ax.remove()
    for ax in axes[max(0, count - columns) : count]:
        ax.set_xlabel("steps ahead (dashed: seen, then imagined)", fontsize=7)
        ax.tick_params(labelbottom=True)  # a shared axis shows it in the last row alone
    figure.suptitle(title, fontsize=10)
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return save_picture(figure, path)


def _rgb(images: Array) -> np.ndarray:
    """[..., channels] to three of them; of others than one and three only the first is shown."""
    images = np.asarray(images, np.float32)
    return images if images.shape[-1] == 3 else np.repeat(images[..., :1], 3, -1)


def _enlarge(images: np.ndarray, side: int = SIDE) -> np.ndarray:
    times = -(-side // min(images.shape[-3:-1]))
    return images.repeat(times, -3).repeat(times, -2)


def _bytes(images: np.ndarray) -> np.ndarray:
    return (np.clip(images, 0, 1) * 255 + 0.5).astype(np.uint8)


def _save(image: Image.Image, path: Path, kind: str, **options: Any) -> Path:
    written = io.BytesIO()
    image.save(written, kind, **({"loop": 0} if kind == "GIF" else {}), **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, written.getvalue())
    return path
