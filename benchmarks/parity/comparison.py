"""Rows that say of every recorded quantity how far ours is from it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple
from unittest import mock

import numpy as np

import parity.family
import parity.older
import parity.training
import parity.units
from dreamer_jax import distributions
from dreamer_jax.config.schema import ConfigError

Arrays = dict[str, np.ndarray]

FORWARD, GRADIENT, STEP = 1e-5, 1e-4, 2e-6
"""Tolerances: relative to an array's largest value, and for parameters after a step absolute."""
ULPS = 2.0**-22
"""Two roundings. A mean of terms that cancel is no more exact than the largest one, a parameter than its tensor's."""


class Row(NamedTuple):
    """One recorded quantity and how far ours is from it."""

    name: str
    status: Literal["pass", "FAIL", "absent"]
    absolute: float = 0.0
    relative: float = 0.0  # to the largest recorded value
    tolerance: float = 0.0  # absolute
    note: str = ""


def compare(path: str) -> list[Row]:
    """A row for every recorded quantity of a file; one that we lack differs infinitely.

    Raises:
      ConfigError: the file can't be read, or records something that this package does not compute.
    """
    arrays, meta = read(path)
    if "repo" in meta:
        return family_rows(arrays, meta)
    if "agent_config" not in meta:
        return unit_rows(arrays)
    try:
        recording = (parity.older if "revision" in meta else parity.training).read(arrays, meta)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: not a recording of training ({error!r})") from error
    return training_rows(recording, parity.training.ours(recording))


def read(path: str) -> tuple[Arrays, dict[str, Any]]:
    """The arrays of a recording, and what it says about itself."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays, dict(json.loads(str(arrays.pop("meta")[0])))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path}: not a recording of the reference ({error})") from error


def training_rows(recording: parity.training.Recording, found: Arrays, only: str | None = None) -> list[Row]:
    """Of whole training steps, where nothing may be absent."""
    arrays, rate, tolerances = recording.arrays, recording.config.optimizer.learning_rate, recording.code.tolerances
    names, rows = [only] if only else list(arrays), []
    moved = any(kind in name for name in names for kind in ("/state/", "/update/"))
    masks = parity.training.uncertain(arrays, found, tolerances.sign) if moved else {}
    for name in names:
        theirs = arrays[name]
        group, _, rest = name.partition("/")
        if group in ("init", "batch", "carry", "noise"):
            continue
        step, _, rest = rest.partition("/")
        kind, _, quantity = rest.partition("/")
        limit, floor, excuse = tolerances.forward, 0.0, None
        if kind in ("state", "update"):
            limit = STEP if kind == "state" else tolerances.added
            if quantity in masks and masks[quantity].any():
                excuse = Excuse(masks[quantity], 4 * rate * int(step.removeprefix("step")))
        elif kind == "metrics" or (group == "fwd" and not theirs.ndim):
            floor = tolerances.mean * parity.training.terms(quantity or step, found)
            limit = tolerances.gradient if quantity.endswith(("_opt_grad_norm", "_update_norm")) else limit
        elif "grad" in (group, kind) or group == "gradnorm":
            limit = tolerances.gradient
            floor = 1e-6 if not theirs.any() else 0.0  # exactly 0 there, a residue of rounding here
        rows.append(row(name, theirs, found.get(name), limit, floor=floor, absolute=kind == "state", excuse=excuse))
    return rows


def unit_rows(arrays: Arrays) -> list[Row]:
    """Of single parts; one that we have no part for is one row."""
    units: dict[str, Arrays] = {}
    for name, value in arrays.items():
        unit, rest = _unit(name)
        units.setdefault(unit, {})[rest] = value
    rows: list[Row] = []
    with mock.patch.object(distributions, "sample", parity.training.deterministic(None)):
        for unit, recorded in units.items():
            inputs = parity.units.Unit(recorded)
            found = parity.units.ours(unit, inputs)
            rows += _rows_of(f"{unit}/", recorded, found, inputs.read, partial(_unit_tolerance, unit))
    return rows


def family_rows(arrays: Arrays, meta: Mapping[str, Any]) -> list[Row]:
    """Of a part of DreamerV1 or DreamerV2, by its own name in the file."""
    inputs = parity.units.Unit(arrays)
    with mock.patch.object(distributions, "sample", parity.training.deterministic(0.0)):
        found = parity.family.ours(inputs, meta)
    return _rows_of("", arrays, found, inputs.read, partial(parity.family.tolerance, arrays))


def _unit(name: str) -> tuple[str, str]:
    """The unit that a quantity belongs to, and its name there."""
    depth = 2 if name.startswith(("lambda_return/", "norm/")) else 1
    words = name.split("/")
    return "/".join(words[:depth]), "/".join(words[depth:])


def _unit_tolerance(unit: str, name: str) -> parity.family.Tolerance:
    words = name.split("/")
    if unit == "opt" and "param" in words:
        return parity.family.Tolerance(STEP, absolute=True)
    gradient = words[0].startswith("grad") or words[0].startswith("final_") or "update" in words[1:-1]
    floor = 1e-6 if words[-1] == "grad_plain_sum" else 0.0  # rounding alone, probabilities sum to one
    return parity.family.Tolerance(GRADIENT if gradient else FORWARD, floor)


def _rows_of(
    prefix: str,
    recorded: Arrays,
    found: dict[str, Any],
    inputs: set[str],
    tolerance: Callable[[str], parity.family.Tolerance],
) -> list[Row]:
    rows: list[Row] = []
    absent = {name: value for name, value in found.items() if isinstance(value, parity.units.Absent)}
    for part, value in absent.items():
        count = sum(name.startswith(part) for name in recorded)
        rows.append(
            Row(f"{prefix}{part}".rstrip("/") or "everything", "absent", note=f"{count} arrays; {value.reason}")
        )
    for name, theirs in recorded.items():
        if name in inputs or any(name.startswith(part) for part in absent):
            continue
        mine = None if name not in found else np.asarray(found[name])
        rows.append(row(f"{prefix}{name}", theirs, mine, **tolerance(name)._asdict()))
    return rows


class Excuse(NamedTuple):
    """Elements that may be anywhere within a bound."""

    mask: np.ndarray
    bound: float


def row(
    name: str,
    theirs: np.ndarray,
    mine: np.ndarray | None,
    limit: float,
    *,
    floor: float = 0.0,
    absolute: bool = False,
    excuse: Excuse | None = None,
) -> Row:
    """Compare one quantity; ``limit`` is relative to its largest value unless ``absolute``."""
    if mine is None or mine.shape != theirs.shape:
        return Row(name, "FAIL", np.inf, np.inf, 0.0, "not computed" if mine is None else f"shape {mine.shape}")
    same = mine == theirs  # infinities differ by nothing
    difference = np.where(same, 0, np.abs(np.asarray(mine, np.float64) - np.where(same, 0, theirs)))
    scale = float(np.abs(theirs[np.isfinite(theirs)]).max(initial=0))
    tolerance = max(limit, ULPS * scale) if absolute else max(limit * max(scale, 1e-12), floor)
    note, passed = "", True
    if excuse is not None:
        passed = bool(difference[excuse.mask].max(initial=0.0) <= excuse.bound)
        difference = difference[~excuse.mask]
        note = f"{int(excuse.mask.sum())} elements of unknown sign"
    worst = float(difference.max(initial=0.0))  # NaN stays NaN and fails
    passed &= bool(worst <= tolerance)
    return Row(name, "pass" if passed else "FAIL", worst, worst / scale if scale else worst, tolerance, note)
