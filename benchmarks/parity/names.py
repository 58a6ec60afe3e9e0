"""Parameters of DreamerV1 and DreamerV2 as the trees of our modules, from the names of their recordings.

All of it moves and copies numbers only, so that a gradient by *their* names is one through these functions, and
``jax.linear_transpose`` of them is the way back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

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


def turned(tree: Tree, deter: int) -> Tree:
    """Of a head on features: theirs are stoch and then deter, ours the other way round."""
    first = dict(tree["mlp"]["hidden_0"])
    kernel = first["dense"]["kernel"]
    first["dense"] = first["dense"] | {"kernel": jnp.concatenate([kernel[-deter:], kernel[:-deter]])}
    return tree | {"mlp": tree["mlp"] | {"hidden_0": first}}


def world_v2(arrays: Arrays) -> Tree:
    """A world model, or as much of it as there is."""
    heads, cells = part(arrays, "heads"), rssm_v2(part(arrays, "rssm"))
    deter = cells["prior_mlp"]["hidden_0"]["dense"]["kernel"].shape[0]
    tree = {"rssm": cells, "reward": turned(head(part(heads, "reward")), deter)}
    if "discount/out/out/kernel" in heads:
        tree["cont"] = turned(head(part(heads, "discount")), deter)
    if part(heads, "decoder"):
        tree |= {"encoder": encoder(part(arrays, "encoder")), "decoder": decoder(part(heads, "decoder"))}
    return tree


def world_v1(arrays: Arrays) -> Tree:
    deter = arrays["dynamics/cell/recurrent_kernel"].shape[0]
    names = {"reward": "reward", "pcont": "cont"}
    return {
        "encoder": encoder(part(arrays, "encode")),
        "rssm": rssm_v1(part(arrays, "dynamics")),
        "decoder": decoder(part(arrays, "decode")),
        **{ours: turned(head(part(arrays, name)), deter) for name, ours in names.items() if part(arrays, name)},
    }


def rssm_v2(arrays: Arrays) -> Tree:
    """With the first of the prior's heads."""
    return {
        "core": {
            "embed": layer(arrays, "img_in", "img_in_norm"),
            "gates": dense(arrays, "cell"),
            "norm": norm(arrays, "cell/norm"),
        },
        "prior_mlp": {"hidden_0": layer(arrays, "img_out_0", "img_out_norm_0")},
        "prior_out": dense(arrays, "img_dist_0"),
        "posterior_in": layer(arrays, "obs_out", "obs_out_norm"),
        "posterior_out": dense(arrays, "obs_dist"),
    }


def rssm_v1(arrays: Arrays) -> Tree:
    kernels = {"from_input": "cell/kernel", "from_state": "cell/recurrent_kernel"}
    units = {
        ours: {"kernel": arrays[theirs], "bias": arrays["cell/bias"][row]}
        for row, (ours, theirs) in enumerate(kernels.items())
    }
    return {
        "core": {"embed": layer(arrays, "img1", ""), **units},
        "prior_mlp": {"hidden_0": layer(arrays, "img2", "")},
        "prior_out": dense(arrays, "img3"),
        "posterior_in": layer(arrays, "obs1", ""),
        "posterior_out": dense(arrays, "obs2"),
    }


def transposed(arrays: Arrays, name: str) -> Tree:
    """A transposed convolution, whose kernel has its outputs before its inputs there."""
    return {"kernel": jnp.swapaxes(arrays[f"{name}/kernel"], 2, 3), "bias": arrays[f"{name}/bias"]}


def encoder(arrays: Arrays) -> Tree:
    """An MLP and a CNN, whichever there is; DreamerV1's CNN counts from 1."""
    first, start = ("h", 1) if "h1/kernel" in arrays else ("conv", 0)
    numbers = range(sum(f"{first}{i + start}/kernel" in arrays for i in range(9)))
    tree = {f"cnn_{i}": layer(arrays, f"{first}{i + start}", f"convnorm{i}", "conv") for i in numbers}
    return tree | ({"mlp": _even(hidden(arrays, "dense", "densenorm"))} if "dense0/kernel" in arrays else {})


def decoder(arrays: Arrays) -> Tree:
    tree: Tree = {}
    if "dense0/kernel" in arrays:
        mlp = _even(hidden(arrays, "dense", "densenorm"))
        units = len(mlp["hidden_0"]["dense"]["bias"])
        keys = [name.split("/")[0] for name in arrays if name.startswith("dense_") and name.endswith("/kernel")]
        tree |= {f"heads_{key.removeprefix('dense_')}": _pad(dense(arrays, f"{key}/out"), units) for key in keys}
        tree["mlp"] = mlp
    names = (
        ("convin", "conv0", "conv1", "conv2", "conv3") if "convin/kernel" in arrays else ("h1", "h2", "h3", "h4", "h5")
    )
    if f"{names[-1]}/kernel" in arrays:
        layers = {
            f"cnn_{i}": layer(arrays, name, f"convnorm{i}", "conv") | {"conv": transposed(arrays, name)}
            for i, name in enumerate(names[1:-1])
        }
        tree["images"] = {"dense": dense(arrays, names[0]), **layers, "out": transposed(arrays, names[-1])}
    return tree


def _even(layers: Tree) -> Tree:
    """All of them as wide as the widest: what is added is zero, and so is all that comes of it.

    With a norm it would not be, so that such layers stay as they are.
    """
    if any("norm" in part for part in layers.values()):
        return layers
    units = max(len(part["dense"]["bias"]) for part in layers.values())
    return {
        name: {"dense": _pad(part["dense"], None if name == "hidden_0" else units, units)}
        for name, part in layers.items()
    }


def _pad(part: Tree, inputs: int | None = None, outputs: int | None = None) -> Tree:
    """A dense layer with zeros for more inputs and outputs than it has."""
    kernel, bias = part["kernel"], part["bias"]
    more = (inputs or kernel.shape[0]) - kernel.shape[0], (outputs or kernel.shape[1]) - kernel.shape[1]
    return {"kernel": jnp.pad(kernel, ((0, more[0]), (0, more[1]))), "bias": jnp.pad(bias, (0, more[1]))}
