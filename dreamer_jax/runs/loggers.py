"""Where metrics go besides the run's own files: TensorBoard, Weights & Biases, or any callable."""

from __future__ import annotations

import importlib.util
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dreamer_jax.config.schema import ConfigError

Logger = Callable[[dict[str, int], dict[str, float]], None]
"""Called with the three counters and the metrics.

Where there is one, ``picture(counters, name, path)`` is called with a PNG or GIF, and ``close()`` at the end.
"""

NAMES = ("tensorboard", "wandb")
WANDB_MISSING = "logger wandb: package not found; pip install 'dreamer-jax[wandb]'"
COUNTERS = ("agent_steps", "env_frames", "grad_steps")


def check_loggers(loggers: Sequence[str | Logger]) -> None:
    """Refuse unknown names and missing packages, before anything is written."""
    for logger in loggers:
        if isinstance(logger, str) and logger not in NAMES:
            raise ConfigError(f"loggers: got {logger!r}, expected one of {', '.join(NAMES)}")
        if logger == "wandb" and importlib.util.find_spec("wandb") is None:
            raise ConfigError(WANDB_MISSING)


def make_logger(logger: str | Logger, run_dir: Path, identity: Mapping[str, object], first_frame: int) -> Logger:
    """The logger of that name; ``identity`` is the run's task, method and seed."""
    if callable(logger):
        return logger
    match logger:
        case "tensorboard":
            return TensorBoardLogger(run_dir, first_frame)
        case "wandb":
            return WandbLogger(run_dir, identity)
    raise ConfigError(f"loggers: got {logger!r}, expected one of {', '.join(NAMES)}")


class TensorBoardLogger:
    """Event files; the x axis is environment frames. Hides earlier events from ``first_frame`` on."""

    def __init__(self, run_dir: Path, first_frame: int):
        from tensorboardX import SummaryWriter  # late: it takes protobuf along

        # Files are named by the second; the number keeps a quick restart from writing over its predecessor.
        number = len(list(run_dir.glob("events.out.tfevents*")))
        self._writer = SummaryWriter(str(run_dir), purge_step=first_frame, flush_secs=30, filename_suffix=f".{number}")

    def __call__(self, step: dict[str, int], metrics: dict[str, float]) -> None:
        counters = {f"counters/{name}": step[name] for name in COUNTERS if name != "env_frames"}
        for name, value in {**counters, **metrics}.items():
            if math.isfinite(value):
                self._writer.add_scalar(name, float(value), step["env_frames"])

    def picture(self, step: dict[str, int], name: str, path: Path) -> None:
        from PIL import Image
        from tensorboardX.proto.summary_pb2 import Summary

        # As it is: the writer's own way would need another package to make a film of pictures.
        with Image.open(path) as image:
            width, height = image.size
        shown = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes())
        summary = Summary(value=[Summary.Value(tag=f"predictions/{name}", image=shown)])
        self._writer.file_writer.add_summary(summary, step["env_frames"])

    def close(self) -> None:
        self._writer.close()


class WandbLogger:
    """Weights & Biases; one page per run directory, also after a resume."""

    def __init__(self, run_dir: Path, identity: Mapping[str, object]):
        try:
            import wandb
        except ImportError:
            raise ConfigError(WANDB_MISSING) from None

        known = run_dir / "wandb_id.txt"
        if not known.exists():
            known.write_text(uuid.uuid4().hex)
        self._run = wandb.init(
            project="dreamer_jax",
            id=known.read_text().strip(),
            resume="allow",
            dir=str(run_dir),
            name=run_dir.name,
            group=f"{identity['task']} {identity['method']}",
            config=dict(identity),
        )
        # Its own step may never go back, which a resumed run does; an axis of ours may.
        self._run.define_metric("env_frames")
        self._run.define_metric("*", step_metric="env_frames")

    def __call__(self, step: dict[str, int], metrics: dict[str, float]) -> None:
        self._run.log({**step, **metrics})

    def picture(self, step: dict[str, int], name: str, path: Path) -> None:
        import wandb

        shown = wandb.Video(str(path), format="gif") if path.suffix == ".gif" else wandb.Image(str(path))
        self._run.log({**step, f"predictions/{name}": shown})

    def close(self) -> None:
        self._run.finish()
