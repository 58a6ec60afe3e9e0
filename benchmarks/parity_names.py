"""Parameters of DreamerV1 and DreamerV2 as the trees of our modules, from the names of their recordings.

All of it moves and copies numbers only, so that a gradient by *their* names is one through these functions, and
``jax.linear_transpose`` of them is the way back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

Arrays = Mapping[str, jax.Array]
Tree = dict[str, Any]


def part(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """What lies below ``prefix``."""
    return {name.removeprefix(f"{prefix}/"): x for name, x in arrays.items() if name.startswith(f"{prefix}/")}


def dense(arrays: Arrays, name: str) -> Tree:
    return {leaf: arrays[f"{name}/{leaf}"] for leaf in ("kernel", "bias")}


def norm(arrays: Arrays, name: str) -> Tree:
    return {"scale": arrays[f"{name}/gamma"], "shift": arrays[f"{name}/beta"]}


def layer(arrays: Arrays, name: str, norm_name: str, kind: str = "dense") -> Tree:
    """A dense layer or a convolution, with the norm that follows it if there is one."""
    normed = {"norm": norm(arrays, norm_name)} if f"{norm_name}/gamma" in arrays else {}
    return {kind: dense(arrays, name), **normed}


def hidden(arrays: Arrays, first: str, norm_first: str) -> Tree:
    """Layers ``<first>0``, ``<first>1`` ... of an MLP."""
    numbers = range(sum(f"{first}{i}/kernel" in arrays for i in range(9)))
    return {f"hidden_{i}": layer(arrays, f"{first}{i}", f"{norm_first}{i}") for i in numbers}


def head(arrays: Arrays) -> Tree:
    """Of either repository: an MLP and a linear layer."""
    if "hout/kernel" in arrays:
        return {"mlp": hidden(arrays, "h", ""), "out": dense(arrays, "hout")}
    return {"mlp": hidden(arrays, "dense", "norm"), "out": dense(arrays, "out/out")}


def policy(arrays: Arrays, discrete: bool, leaf: str = "action") -> Tree:
    """A head with one output layer, or with two; DreamerV1's are the halves of one."""
    tree = head(arrays)
    out = tree.pop("out")
    if discrete:
        return tree | {f"heads_{leaf}_logits": out}
    if "out/std/kernel" in arrays:
        return tree | {f"heads_{leaf}_mean": out, f"heads_{leaf}_std": dense(arrays, "out/std")}
    width = len(out["bias"]) // 2
    halves = {"mean": slice(None, width), "std": slice(width, None)}
    return tree | {
        f"heads_{leaf}_{name}": {kind: x[..., half] for kind, x in out.items()} for name, half in halves.items()
    }
