"""Names and layouts of the reference's parameters (danijar/dreamerv3 at e3f0224) and ours, both ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from dreamer_jax.agent import make_agent
from dreamer_jax.config.schema import Config, ConfigError
from dreamer_jax.files import read_npz
from dreamer_jax.models.encoder import FACTORS, image_specs, vector_specs
from dreamer_jax.specs import EnvSpec
from dreamer_jax.types import Array, TrainState

Arrays = dict[str, np.ndarray]
COUNTERS = ("slowval_count/value",)
"""State of the reference that has no use here."""


def reference_names(config: Config, spec: EnvSpec) -> dict[str, str]:
    """Our path of every tensor by the reference's name; paths begin with params, slow or moments."""
    names: dict[str, str] = {}

    def linear(theirs: str, ours: str) -> None:
        names[f"{theirs}/kernel"], names[f"{theirs}/bias"] = f"{ours}/kernel", f"{ours}/bias"

    def layer(theirs: str, norm: str, ours: str) -> None:
        linear(theirs, f"{ours}/dense")
        names[f"{norm}/scale"] = f"{ours}/norm/scale"

    def convolution(theirs: str, ours: str) -> None:
        linear(theirs, f"{ours}/conv")
        names[f"{theirs}norm/scale"] = f"{ours}/norm/scale"

    def mlp(theirs: str, ours: str, layers: int) -> None:
        for i in range(layers):
            layer(f"{theirs}/linear{i}", f"{theirs}/norm{i}", f"{ours}/hidden_{i}")

    def head(theirs: str, ours: str, layers: int, output: str) -> None:
        mlp(f"{theirs}/mlp", f"{ours}/mlp", layers)
        linear(f"{theirs}/head/{output}", f"{ours}/out")

    model, rssm, c = "params/model", "params/model/rssm", config.rssm
    vectors, images = vector_specs(spec.observation), image_specs(spec.observation)
    for i in range(config.encoder.layers if vectors else 0):
        layer(f"enc/mlp{i}", f"enc/mlp{i}norm", f"{model}/encoder/mlp/hidden_{i}")
    for i in range(len(FACTORS[config.encoder.cnn]) if images else 0):
        convolution(f"enc/cnn{i}", f"{model}/encoder/cnn_{i}")
    for i in range(3):
        layer(f"dyn/dynin{i}", f"dyn/dynin{i}norm", f"{rssm}/core/embed_{i}")
    for i in range(c.dynamics_layers):
        names[f"dyn/dynhid{i}/kernel"] = f"{rssm}/core/hidden{i}_kernel"
        names[f"dyn/dynhid{i}/bias"] = f"{rssm}/core/hidden{i}_bias"
        names[f"dyn/dynhid{i}norm/scale"] = f"{rssm}/core/norms_{i}/scale"
    names["dyn/dyngru/kernel"], names["dyn/dyngru/bias"] = f"{rssm}/core/gates_kernel", f"{rssm}/core/gates_bias"
    for i in range(c.prior_layers):
        layer(f"dyn/prior{i}", f"dyn/prior{i}norm", f"{rssm}/prior_mlp/hidden_{i}")
    linear("dyn/priorlogit", f"{rssm}/prior_out")
    for i in range(c.posterior_layers):
        ours = "posterior_in" if i == 0 else f"posterior_mlp/hidden_{i - 1}"
        layer(f"dyn/obs{i}", f"dyn/obs{i}norm", f"{rssm}/{ours}")
    linear("dyn/obslogit", f"{rssm}/posterior_out")
    if vectors:
        mlp("dec/mlp", f"{model}/decoder/mlp", config.decoder.layers)
    for name, leaf in vectors.items():
        linear(f"dec/vec/{name}/{'logits' if leaf.discrete else 'pred'}", f"{model}/decoder/heads_{name}")
    if images:
        decoder = f"{model}/decoder/images"
        names["dec/sp0/kernel"], names["dec/sp0/bias"] = f"{decoder}/deter_kernel", f"{decoder}/deter_bias"
        layer("dec/sp1", "dec/sp1norm", f"{decoder}/stoch_in")
        linear("dec/sp2", f"{decoder}/stoch_out")
        names["dec/spnorm/scale"] = f"{decoder}/norm/scale"
        for i in range(len(FACTORS[config.decoder.cnn]) - 1):
            convolution(f"dec/conv{i}", f"{decoder}/cnn_{i}")
        linear("dec/imgout", f"{decoder}/out")
    head("rew", f"{model}/reward", config.reward.layers, "logits")
    head("con", f"{model}/cont", config.cont.layers, "logit")
    mlp("pol/mlp", "params/actor/mlp", config.policy.layers)
    for name, leaf in spec.action.items():
        for theirs, part in [("logits", "logits")] if leaf.discrete else [("mean", "mean"), ("stddev", "std")]:
            linear(f"pol/head/{name}/{theirs}", f"params/actor/heads_{name}_{part}")
    head("val", "params/critic", config.value.layers, "logits")
    head("slowval", "slow", config.value.layers, "logits")
    names |= {"retnorm/lo/value": "moments/low", "retnorm/hi/value": "moments/high"}
    return names


def read_reference(path: str | Path) -> Arrays:
    """The tensors of a flat npz file under the reference's names.

    Raises:
      ConfigError: it can't be read.
    """
    try:
        return read_npz(path)
    except ValueError as error:
        raise ConfigError(f"{path}: not an npz file of parameters ({error})") from error


def from_reference(arrays: Mapping[str, np.ndarray], config: Config, spec: EnvSpec) -> TrainState:
    """The train state that the reference's tensors describe, with a fresh optimiser.

    Without ``slowval`` the slow critic starts as a copy of the critic, without ``retnorm`` the return
    range at 0, as in a new agent. The reference's own counters are not needed.

    Raises:
      ConfigError: naming every tensor that is missing, that nobody knows, or whose shape differs.
    """
    shapes = jax.eval_shape(make_agent(config, spec).init, jax.random.key(config.seed))
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)  # as optimisers and return range begin
    ours = flat_tensors(state)
    names = reference_names(config, spec)
    given = {name: np.asarray(value) for name, value in arrays.items() if name not in COUNTERS}
    without = [part for part in ("slowval/", "retnorm/") if not any(name.startswith(part) for name in given)]
    optional = {name for name in names if name.startswith(tuple(without))}
    problems = [f"{name} is missing" for name in names if name not in given and name not in optional]
    problems += [f"{name} is not a tensor of this agent" for name in given if name not in names]
    for name, value in given.items():
        if name in names and value.shape != (expected := _their_shape(names[name], ours[names[name]])):
            problems.append(f"{name} has shape {value.shape}, expected {expected}")
    if problems:
        raise ConfigError("; ".join(problems))
    ours |= {path: value.astype(ours[path].dtype) for path, value in _our_paths(given, names, config).items()}
    if "slowval/" in without:
        critic = {path: value for path, value in ours.items() if path.startswith("params/critic/")}
        ours |= {path.replace("params/critic/", "slow/"): jnp.copy(value) for path, value in critic.items()}
    tree = traverse_util.unflatten_dict(ours, sep="/")
    return dataclasses.replace(state, params=tree["params"], slow=tree["slow"], moments=tree["moments"])


def tree_from_reference(arrays: Mapping[str, np.ndarray], config: Config, spec: EnvSpec) -> dict[str, Any]:
    """Only the tensors given, as nested dicts that begin with params, slow or moments."""
    return traverse_util.unflatten_dict(_our_paths(arrays, reference_names(config, spec), config), sep="/")


def to_reference(tree: TrainState | Mapping[str, Any], config: Config, spec: EnvSpec) -> Arrays:
    """Tensors of a train state, or of a dict of ``params``, ``slow``, ``moments``, by the reference's names."""
    ours = flat_tensors(tree)
    return {
        theirs: np.asarray(ours[path]).reshape(_their_shape(path, ours[path]))
        for theirs, path in reference_names(config, spec).items()
        if path in ours
    }


def flat_tensors(tree: TrainState | Mapping[str, Any]) -> dict[str, Any]:
    """Parameters, slow critic and return range by path, or what there is of them; a path begins with which it is."""
    if isinstance(tree, TrainState):
        tree = {"params": tree.params, "slow": tree.slow, "moments": tree.moments}
    return traverse_util.flatten_dict(dict(tree), sep="/")


def _our_paths(arrays: Mapping[str, np.ndarray], names: Mapping[str, str], config: Config) -> dict[str, jax.Array]:
    shapes = {name: (config.rssm.blocks, 1, -1) if "/norms_" in names[name] else x.shape for name, x in arrays.items()}
    return {names[name]: jnp.asarray(x).reshape(shapes[name]) for name, x in arrays.items()}


def _their_shape(path: str, ours: Array) -> tuple[int, ...]:
    """The scale of a norm over blocks is [blocks, 1, width] here and flat there; all else agrees."""
    return (ours.size,) if "/norms_" in path else ours.shape
