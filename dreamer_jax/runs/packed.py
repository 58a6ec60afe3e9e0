"""A run as one file to share: parameters, settings, scores and a card. Nothing in it is ever unpickled.

The file is a zip of ``config.yaml``, ``env.json``, ``scores.jsonl`` and ``metrics.jsonl`` as the run has them,
``arrays.npz`` with its train state but for the optimiser's, and the card as ``card.json`` and ``card.md``.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import numpy as np

from dreamer_jax.config.loading import width_name
from dreamer_jax.config.schema import Config, ConfigError
from dreamer_jax.files import read_npz, replace_file
from dreamer_jax.types import TrainState

LOGS = ("scores.jsonl", "metrics.jsonl")
TEXTS = ("config.yaml", "env.json", *LOGS)
ARRAYS = "arrays.npz"
MOST_TEXT, MOST_ARRAYS = 1 << 28, 1 << 33
"""Bytes of a text, and of all arrays, once they are unpacked."""
KEPT = ("step", "params", "slow", "moments")
"""Fields of the train state."""


def write_packed(run_dir: Path, out: Path, state: TrainState, card: Mapping[str, Any]) -> None:
    """Write ``out``.

    Raises:
      ConfigError: it exists.
    """
    if out.exists():
        raise ConfigError(f"--out: {out} exists already; choose another name")
    if not out.parent.is_dir():
        raise ConfigError(f"--out: {out.parent} is no folder")
    arrays, written = io.BytesIO(), io.BytesIO()
    np.savez_compressed(arrays, allow_pickle=False, **{name: np.asarray(leaf) for name, leaf in _leaves(state).items()})
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as file:
        for name in TEXTS:
            if (run_dir / name).exists():
                file.write(run_dir / name, name)
        file.writestr(ARRAYS, arrays.getvalue())
        file.writestr("card.json", json.dumps(card, indent=1) + "\n")
        file.writestr("card.md", as_markdown(card))
    replace_file(out, written.getvalue())


@contextmanager
def unpacked(path: Path) -> Iterator[tuple[Path, dict[str, np.ndarray]]]:
    """A folder with the texts of such a file, for as long as it is needed, and its arrays.

    Raises:
      ConfigError: it is no such file, or damaged.
    """
    with TemporaryDirectory(prefix="dreamer-jax-packed-") as scratch:
        folder = Path(scratch)
        try:
            with zipfile.ZipFile(path) as file:
                known = {info.filename: info.file_size for info in file.infolist()}
                for name in (*TEXTS, ARRAYS):
                    if name in known and known[name] > (MOST_ARRAYS if name == ARRAYS else MOST_TEXT):
                        raise ValueError(f"{name} is too large")
                    if name in known:
                        (folder / name).write_bytes(file.read(name))
            missing = [name for name in ("config.yaml", "env.json", ARRAYS) if name not in known]
            if missing:
                raise ValueError(f"{', '.join(missing)} missing")
            arrays = read_npz(folder / ARRAYS)
        except Exception as error:  # whatever damaged zip files lead to
            why = str(error).partition("\n")[0] or type(error).__name__
            raise ConfigError(f"{path}: no packed run, or damaged ({why})") from error
        yield folder, arrays


def check_arrays(path: Path, arrays: Mapping[str, np.ndarray], state: TrainState) -> None:
    """Refuse arrays that are not those of ``state``, of which shapes and types suffice.

    Raises:
      ConfigError: naming the first.
    """
    for name, leaf in _leaves(state).items():
        array = arrays.get(name)
        if array is None or array.shape != leaf.shape or array.dtype != leaf.dtype:
            raise ConfigError(f"{path}: damaged: {name} is missing, or of another agent than config.yaml describes")


def restored(arrays: Mapping[str, np.ndarray], state: TrainState) -> TrainState:
    """``state`` with the arrays of a packed run."""

    def replaced(keys: Any, leaf: Any) -> Any:
        return jax.numpy.asarray(arrays.get(jax.tree_util.keystr(keys), leaf))

    whole: TrainState = jax.tree_util.tree_map_with_path(replaced, state)
    return whole


def make_card(config: Config, frames: int, scores: Mapping[str, Any], licence: str) -> dict[str, Any]:
    """What a person wants to know before anything is run."""
    return {
        "task": config.env.task,
        "preset": config.preset,
        "size": width_name(config),
        "seed": config.seed,
        "frames": frames,
        "score": dict(scores),
        "licence": licence,
    }


def as_markdown(card: Mapping[str, Any]) -> str:
    score = card["score"]
    between = "" if score.get("low") is None else f" ({score['low']:.4g} to {score['high']:.4g})"
    value = "none yet" if score.get("value") is None else f"{score['value']:.4g}{between}"
    return (
        f"# {card['task']}, {card['preset']} {card['size']}, seed {card['seed']}\n\n"
        f"- frames of training: {card['frames']:,}\n- {score['protocol']}: {value}\n- licence: {card['licence']}\n\n"
        "`dreamer_jax.load(FILE)` gives the agent and its train state.\n"
    )


def _leaves(state: TrainState) -> dict[str, Any]:
    """Arrays of ``KEPT`` by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(keys): leaf for keys, leaf in leaves if getattr(keys[0], "name", "") in KEPT}
