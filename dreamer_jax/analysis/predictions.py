"""Looking at the world model of a run: reports while it trains, and dreams from a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from dreamer_jax.analysis import pictures
from dreamer_jax.config.schema import Config, ConfigError
from dreamer_jax.files import read_npz
from dreamer_jax.interfaces import Agent
from dreamer_jax.models.decoder import decoder_target
from dreamer_jax.replay.storage import Layout
from dreamer_jax.report import HORIZONS, split_window
from dreamer_jax.runs.checkpoint import read_replays
from dreamer_jax.runs.integrity import read_run
from dreamer_jax.runs.load import load
from dreamer_jax.specs import EnvSpec
from dreamer_jax.terminal import Answer, table
from dreamer_jax.types import Array, Dream, TrainState, TrajectoryBatch

SHOWN = 6
"""Windows side by side in a film."""
SIGNALS = 15
"""At most so many numbers are drawn, and the reward."""
COLLAPSED = (0.1, 0.01)
"""Latents have collapsed with a smaller share active, if no error changes by a larger share without them."""


class Drawn(Protocol):
    """A replay of which windows can be drawn, as ``host.Replay.sample`` says."""

    def sample(
        self, batch_size: int, counter: int, *, online: bool = True, held_out: bool = False
    ) -> tuple[TrajectoryBatch, np.ndarray]: ...


class Reports:
    """Measures the world model now and then, on held-out windows if there are any to be, and draws what it predicts."""

    def __init__(
        self, config: Config, agent: Agent, spec: EnvSpec, root: Array, folder: Path, unit: str = "frames"
    ) -> None:
        """``unit`` is that of the numbers at which it is asked."""
        self._config, self._spec, self._root, self._folder, self._unit = config, spec, root, folder, unit
        self._held_out = config.replay.validation_fraction > 0

        @jax.jit
        def report(state: TrainState, root: Array, frames: Array, batch: TrajectoryBatch) -> Any:
            return agent.report(state, jax.random.fold_in(root, frames), batch)

        self._report = report

    def __call__(
        self, state: TrainState, replay: Drawn, frames: int
    ) -> tuple[dict[str, float], dict[str, Path], str] | None:
        """Metrics, pictures by name, and a warning (or nothing) at so many frames; None without a window yet."""
        batch = windows(replay, self._config.train.batch_size, frames, held_out=self._held_out)
        if batch is None:
            return None
        metrics, dream = self._report(state, self._root, np.uint32(frames), batch)
        metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
        label = "held_out" if self._held_out else "replayed"
        stem = str(self._folder / f"{frames:09d}")
        drawn = {}
        if dream is not None:  # an agent from elsewhere may have none
            context, symlog = batch.reward.shape[1] // 2, self._config.decoder.symlog
            drawn = draw(dream, batch, self._spec, context, stem, title=f"{frames:,} {self._unit}", symlog=symlog)
        warning = collapse(metrics)
        return {f"{label}/{name}": value for name, value in metrics.items()}, drawn, warning


def windows(replay: Drawn, count: int, counter: int, *, held_out: bool) -> TrajectoryBatch | None:
    """Windows of held-out episodes, or any; None if there is none yet."""
    try:
        return replay.sample(count, counter, online=False, held_out=held_out)[0]
    except ConfigError:  # damaged
        raise
    except ValueError:
        return None


def divergence(metrics: Mapping[str, float]) -> tuple[str, int]:
    """What a report calls the divergence of its latents, and how many there are; nothing and 0 without any."""
    found = [match[1] for name in metrics if (match := re.fullmatch(r"(\w+)_latent/\d+", name))]
    return (found[0], len(found)) if found else ("", 0)


def collapse(metrics: Mapping[str, float]) -> str:
    """One line if the decoder does well without the latents, else nothing.

    Few are active, and the latents of another window or of the prior decode as well as its own. A small KL
    alone says nothing: a world that can be predicted needs no more.
    """
    _, latents = divergence(metrics)
    active, changed = metrics["active_latents"] / latents if latents else 1.0, []
    for name, error in metrics.items():
        part, _, key = name.partition("/")
        if part == "posterior_error":
            changed += [metrics[f"{other}_error/{key}"] / max(error, 1e-12) - 1 for other in ("prior", "permuted")]
    share, change = COLLAPSED
    if active >= share or max(changed, default=change) >= change:
        return ""
    return (
        f"warning: the latents have collapsed: {metrics['active_latents']:.0f} of {latents} are active, and without "
        f"them no error grows by more than {100 * change:.0f} %"
    )


def draw(
    dream: Dream,
    batch: TrajectoryBatch,
    spec: EnvSpec,
    context: int,
    stem: str,
    *,
    title: str,
    symlog: bool = True,
    truth_ahead: bool = True,
) -> dict[str, Path]:
    """A film and a strip of each image, curves of the numbers of one window. Files begin with ``stem``.

    Windows without a reset after the context go first. Without ``truth_ahead`` what was recorded there has
    nothing to do with the dream and is left out.
    """
    order = np.argsort(np.asarray(batch.is_first)[:, context:].any(1), kind="stable")[:SHOWN]
    dream = jax.tree.map(lambda x: np.asarray(x)[order], dream)
    drawn: dict[str, Path] = {}
    signals: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, leaf in ((name, leaf) for name, leaf in spec.observation.items() if name in dream.observation):
        if leaf.discrete:
            continue
        shown = np.asarray(batch.observation[name])[order]
        target = np.asarray(jax.jit(decoder_target, static_argnums=(1, 2))(shown, leaf, symlog))
        file = name.replace("/", "_")
        if leaf.image:
            frames = pictures.compare_images(target if truth_ahead else None, dream.observation[name], context)
            frames = np.stack([pictures.label_rows(frame, 3 if truth_ahead else 1) for frame in frames])
            drawn[name] = pictures.save_film(frames, Path(f"{stem}-{file}.gif"))
            first = pictures.compare_images(target[:1] if truth_ahead else None, dream.observation[name][:1], context)
            drawn[f"{name} strip"] = pictures.save_image(
                pictures.strip(first, context, 3 if truth_ahead else 1), Path(f"{stem}-{file}.png")
            )
        else:
            model = dream.observation[name][0].reshape(len(dream.reward[0]), -1)
            target = target[0].reshape(len(target[0]), -1)
            labels = [name] if leaf.size == 1 else [f"{name}[{i}]" for i in range(leaf.size)]
            signals |= {label: (target[:, i], model[:, i]) for i, label in enumerate(labels)}
    signals = dict(list(signals.items())[:SIGNALS])
    signals["reward"] = np.asarray(batch.reward)[order[0]], dream.reward[0]
    model = np.stack([line for _, line in signals.values()], 1)
    truth = np.stack([line for line, _ in signals.values()], 1) if truth_ahead else None
    drawn["signals"] = pictures.draw_signals(truth, model, context, list(signals), Path(f"{stem}-signals.png"), title)
    return drawn


def dream_run(
    run_dir: Path,
    output: Path,
    *,
    actions: str = "recorded",
    context: int = 5,
    length: int = 45,
    checkpoint: int | None = None,
    seed: int = 0,
) -> tuple[dict[str, float], dict[str, Path]]:
    """Dream from windows of a run's replay, held-out ones if it has any, and draw the result into ``output``.

    Args:
      actions: ``recorded``, ``policy`` (its own, sampled) or a file of arrays ``[length, ...]`` by action's name,
        as the policy gives them (class indices; numbers in [-1, 1]).

    Returns:
      The metrics of the report on these windows, empty unless the actions are recorded, and the pictures.

    Raises:
      ConfigError: there is no such run, checkpoint, window or file of actions.
      FileExistsError: a picture is there already; none is written then.
    """
    config, spec = read_run(run_dir)
    given = None if actions in ("recorded", "policy") else read_actions(Path(actions), spec)
    if given is not None:
        length = len(next(iter(given.values())))
    stem = output / (actions if given is None else Path(actions).stem)
    if taken := sorted(output.glob(f"{stem.name}-*")):
        raise FileExistsError(f"{taken[0]}: exists already; choose another --output")
    rings = sorted(run_dir.glob("replay*/"))
    wanted, layout = context + length, Layout.read(rings[0]) if rings else None
    if layout and wanted + 1 > layout.rows:
        raise ConfigError(
            f"--length {length}: windows of {wanted} records and one before, but its replay holds {layout.rows}"
        )
    agent, state = load(run_dir, checkpoint)
    replay = read_replays(run_dir, wanted)[0]
    held_out = config.replay.validation_fraction > 0
    batch = windows(replay, SHOWN, seed, held_out=held_out)
    if batch is None:
        place = "held-out episodes" if held_out else "replay"
        raise ConfigError(f"--length {length}: no window of {wanted} records in the {place} of {run_dir}")
    seen, after = split_window(batch, context)
    recorded, ahead = actions == "recorded", None
    if recorded:
        ahead = after.prev_action
    elif given is not None:
        ahead = {name: np.broadcast_to(x, (SHOWN, *x.shape)) for name, x in given.items()}
    key = jax.random.key(seed)
    dream = jax.jit(partial(agent.dream, length=length))(state.params, key, seen, ahead)
    title = f"{config.env.task}, {actions if given is None else stem.name} actions"
    symlog = config.decoder.symlog
    drawn = draw(dream, batch, spec, context, str(stem), title=title, symlog=symlog, truth_ahead=recorded)
    metrics = jax.device_get(jax.jit(agent.report)(state, key, batch)[0]) if recorded else {}
    return {name: float(value) for name, value in metrics.items()}, drawn


def read_actions(path: Path, spec: EnvSpec) -> dict[str, np.ndarray]:
    """Arrays ``[length, ...]`` of a .npz file, checked against the environment's actions. Nothing is unpickled.

    Raises:
      ConfigError: the file can't be read, or an action is missing, unknown, misshapen or out of range.
    """
    try:
        arrays = read_npz(path)
    except ValueError as error:
        raise ConfigError(f"--actions {path}: expected recorded, policy or a readable .npz file ({error})") from error
    if arrays.keys() != spec.action.keys():
        raise ConfigError(f"--actions {path}: holds {_names(arrays)}, expected {_names(spec.action)}")
    lengths = {len(x) if x.ndim else 0 for x in arrays.values()}
    if len(lengths) > 1 or lengths == {0}:
        raise ConfigError(f"--actions {path}: expected the same number of rows, at least 1, for every action")
    for name, leaf in spec.action.items():
        array = arrays[name]
        if array.shape[1:] != leaf.shape or array.dtype.kind not in ("iu" if leaf.discrete else "iuf"):
            raise ConfigError(
                f"--actions {path}: {name} is {array.dtype}{list(array.shape)}, expected {leaf.dtype} of shape "
                f"{[array.shape[0] if array.ndim else 'rows', *leaf.shape]}"
            )
        low, high = (0, leaf.classes - 1) if leaf.classes else (-1, 1)
        if not ((array >= low) & (array <= high)).all():
            raise ConfigError(f"--actions {path}: {name} goes from {array.min()} to {array.max()}, not {low} to {high}")
        arrays[name] = array.astype(leaf.dtype)
    return arrays


def describe(metrics: Mapping[str, float]) -> Answer:
    """The numbers of a report that a person wants first."""
    name, latents = divergence(metrics)
    nats = f"{name.upper()} {metrics[name]:.2f} nats" if "elbo" in metrics else f"{name} {metrics[name]:.2f}"
    line = (
        f"{nats}, below free nats in {100 * metrics[f'{name}_below_free_nats']:.0f} % of records; "
        f"{metrics['active_latents']:.0f} of {latents} latents active"
    )
    line += f"; ELBO {metrics['elbo']:.1f} nats a record" if "elbo" in metrics else ""
    rows = []
    for key in [name.partition("/")[2] for name in metrics if name.startswith("posterior_error/")]:
        for h in HORIZONS:
            if (name := f"{key}/{h}") and f"openloop_error/{name}" in metrics:
                errors = (metrics[f"{kind}_error/{name}"] for kind in ("openloop", "repeat", "mean"))
                rows.append((key, str(h), *(f"{error:.4g}" for error in errors)))
    numbers = "records ahead", "error", "of repeating", "of the mean"
    imagined, realised = metrics["return_imagined"], metrics["return_realised"]
    returns = f"return over {HORIZONS[-1]} records: imagined {imagined:.3g}, realised {realised:.3g}"
    tables = [table(("prediction", *numbers), rows, right=numbers)] if rows else []
    return [line, *tables, returns, *filter(None, [collapse(metrics)])]


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
