"""Parameters of DreamerV3 in 2023 and 2024 as our trees, from the names of their recordings, and back.

What differs besides names: layers that read ``[deter, stoch]`` there and ``[stoch, deter]`` here, or ``[deter, x]`` in
the recurrent unit of 2023; kernels of its transposed convolutions, with outputs before inputs; and the output that
follows the last bin of a two-hot head of 2024, which is thrown away.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from dreamer_jax.agent import make_agent
from dreamer_jax.config.schema import Config
from dreamer_jax.models.encoder import HALVINGS
from dreamer_jax.reference import flat_tensors
from dreamer_jax.specs import EnvSpec
from dreamer_jax.types import TrainState

Arrays = dict[str, np.ndarray]
Rules = Sequence[tuple[str, str]]
"""Patterns and what replaces them, one after another, from a recorded name to a path of ours."""

COUNTER = re.compile(r".*(opt/step|updates)/value$")
"""Updates so far, which each of them counts."""

MODEL, RSSM, IMAGES = "params/model", "params/model/rssm", "params/model/decoder/images"
LAYERS: Rules = (
    (r"/h(\d+)/(\w+/?\w*)$", r"/mlp/hidden_\1/\2"),
    (r"/(hidden_\d+|embed(?:_\d)?|posterior_in|stoch_in)/(kernel|bias)$", r"/\1/dense/\2"),
    (r"/(cnn_\d+)/(kernel|bias)$", r"/\1/conv/\2"),
)
RULES: dict[str, Rules] = {
    "2023": (
        (r"^wm/enc/mlp/", f"{MODEL}/encoder/"),
        (r"^wm/enc/cnn/s(\d+)res/", rf"{MODEL}/encoder/cnn_\1/"),
        (r"^wm/rssm/initial$", f"{RSSM}/first"),
        (r"^wm/rssm/img_in/", f"{RSSM}/core/embed/"),
        (r"^wm/rssm/gru/kernel$", f"{RSSM}/core/gates/kernel"),
        (r"^wm/rssm/gru/norm/", f"{RSSM}/core/norm/"),
        (r"^wm/rssm/img_out/", f"{RSSM}/prior_mlp/hidden_0/"),
        (r"^wm/rssm/img_stats/", f"{RSSM}/prior_out/"),
        (r"^wm/rssm/obs_out/", f"{RSSM}/posterior_in/"),
        (r"^wm/rssm/obs_stats/", f"{RSSM}/posterior_out/"),
        (r"^wm/dec/mlp/dist_(\w+)/out/", rf"{MODEL}/decoder/heads_\1/"),
        (r"^wm/dec/mlp/", f"{MODEL}/decoder/"),
        (r"^wm/dec/cnn/in/", f"{IMAGES}/dense/"),
        (rf"^wm/dec/cnn/s{HALVINGS - 1}res/", f"{IMAGES}/out/"),
        (r"^wm/dec/cnn/s(\d+)res/", rf"{IMAGES}/cnn_\1/"),
        (r"^wm/rew/", f"{MODEL}/reward/"),
        (r"^wm/cont/", f"{MODEL}/cont/"),
        (r"^task_behavior/ac/actor/dist_out/(out|std)/", r"params/actor/heads_action_\1/"),
        (r"^task_behavior/ac/actor/", "params/actor/"),
        (r"^task_behavior/ac/retnorm_extr/(\w+)/value$", r"moments/\1"),
        (r"^task_behavior/critic/net/", "params/critic/"),
        (r"^task_behavior/critic/slow/", "slow/"),
        (r"/dist_out/out/", "/out/"),
        (r"/norm/bias$", "/norm/shift"),
        *LAYERS,
    ),
    "2024": (
        (r"^enc/mlp(\d+)/", rf"{MODEL}/encoder/h\1/"),
        (r"^enc/conv(\d+)/", rf"{MODEL}/encoder/cnn_\1/"),
        (r"^dyn/dynin(\d)/", rf"{RSSM}/core/embed_\1/"),
        (r"^dyn/dyn(\d+)/norm/", rf"{RSSM}/core/norms_\1/"),
        (r"^dyn/dyn(\d+)/(\w+)$", rf"{RSSM}/core/hidden\1_\2"),
        (r"^dyn/dyncore/(\w+)$", rf"{RSSM}/core/gates_\1"),
        (r"^dyn/img(\d+)/", rf"{RSSM}/prior_mlp/hidden_\1/"),
        (r"^dyn/imglogit/", f"{RSSM}/prior_out/"),
        (r"^dyn/obs0/", f"{RSSM}/posterior_in/"),
        (r"^dyn/obslogit/", f"{RSSM}/posterior_out/"),
        (r"^dec/mlp(\d+)/", rf"{MODEL}/decoder/h\1/"),
        (r"^dec/out_(\w+)/out/", rf"{MODEL}/decoder/heads_\1/"),
        (r"^dec/space0/(\w+)$", rf"{IMAGES}/deter_\1"),
        (r"^dec/space1hid/", f"{IMAGES}/stoch_in/"),
        (r"^dec/space1/", f"{IMAGES}/stoch_out/"),
        (r"^dec/spacenorm/", f"{IMAGES}/norm/"),
        (r"^dec/conv(\d+)/", rf"{IMAGES}/cnn_\1/"),
        (r"^dec/imgout/", f"{IMAGES}/out/"),
        (r"^rew/", f"{MODEL}/reward/"),
        (r"^con/", f"{MODEL}/cont/"),
        (r"^actor/(?!h\d)(\w+)/(out|std)/", r"params/actor/heads_\1_\2/"),
        (r"^actor/", "params/actor/"),
        (r"^critic/", "params/critic/"),
        (r"^slowcritic/", "slow/"),
        (r"^retnorm/(\w+)/value$", r"moments/\1"),
        (r"/dist/out/", "/out/"),
        *LAYERS,
    ),
}


class Tensor(NamedTuple):
    """Where a recorded tensor lies in our trees, and how."""

    path: str
    shape: tuple[int, ...]  # there
    turned: int = 0  # rows of its first axis that are the last ones here
    swapped: bool = False  # outputs before inputs there
    dropped: int = 0  # outputs that are not here


class Names:
    """Between the tensors of a recording and our trees, both ways."""

    def __init__(self, revision: str, arrays: Mapping[str, np.ndarray], config: Config, spec: EnvSpec) -> None:
        """From the initial ``arrays`` of a recording.

        Raises:
          ValueError: naming every tensor that has no place here, and every one of ours that none is for.
        """
        shapes = jax.eval_shape(make_agent(config, spec).init, jax.random.key(0))
        self._empty = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        self._ours = flat_tensors(self._empty)
        discrete = {name: leaf.discrete for name, leaf in spec.action.items()}
        self.tensors: dict[str, Tensor] = {}
        for name, value in arrays.items():
            if not COUNTER.match(name):
                path = _path(revision, name, discrete)
                self.tensors[name] = Tensor(path, value.shape, **_layout(revision, path, config))
        paths = {tensor.path for tensor in self.tensors.values()}
        strange = [f"{name} ({tensor.path})" for name, tensor in self.tensors.items() if tensor.path not in self._ours]
        if strange or paths != self._ours.keys():
            raise ValueError(f"tensors that are not ours {strange}, of ours without one {self._ours.keys() - paths}")

    @property
    def recorded_size(self) -> int:
        """Numbers in all trained tensors there."""
        return sum(math.prod(one.shape) for one in self.tensors.values() if one.path.startswith("params/"))

    @property
    def root_size(self) -> float:
        """The square root of that here: times a root mean square, it is a norm."""
        return math.sqrt(sum(x.size for path, x in self._ours.items() if path.startswith("params/")))

    def state(self, arrays: Mapping[str, np.ndarray]) -> TrainState:
        """The train state that the recorded tensors describe, with a fresh optimiser."""
        ours = {tensor.path: self._to_ours(arrays[name], tensor) for name, tensor in self.tensors.items()}
        tree = traverse_util.unflatten_dict(ours, sep="/")
        return replace(self._empty, params=tree["params"], slow=tree["slow"], moments=tree["moments"])

    def arrays(self, tree: TrainState | Mapping[str, Any]) -> Arrays:
        """Tensors of a train state, or of a dict of some of ``params``, ``slow``, ``moments``, by recorded names."""
        ours = flat_tensors(tree)
        return {
            name: self._to_theirs(np.asarray(ours[tensor.path]), tensor)
            for name, tensor in self.tensors.items()
            if tensor.path in ours
        }

    def _to_ours(self, x: np.ndarray, tensor: Tensor) -> np.ndarray:
        x = np.swapaxes(x, 2, 3) if tensor.swapped else x
        x = x[..., : -tensor.dropped] if tensor.dropped else x
        x = np.roll(x, -tensor.turned, 0) if tensor.turned else x
        return x.reshape(self._ours[tensor.path].shape)

    @staticmethod
    def _to_theirs(x: np.ndarray, tensor: Tensor) -> np.ndarray:
        x = np.roll(x, tensor.turned, 0) if tensor.turned else x
        x = np.swapaxes(x, 2, 3) if tensor.swapped else x
        x = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, tensor.dropped)]) if tensor.dropped else x
        return x.reshape(tensor.shape)


def _path(revision: str, name: str, discrete: Mapping[str, bool]) -> str:
    for pattern, path in RULES[revision]:
        name = re.sub(pattern, path, name)
    for key, classes in discrete.items():
        name = name.replace(f"/heads_{key}_out/", f"/heads_{key}_{'logits' if classes else 'mean'}/")
    return name


def _layout(revision: str, path: str, config: Config) -> dict[str, Any]:
    """The fields of ``Tensor`` that say what differs."""
    deter = config.rssm.deter
    if path == f"{MODEL}/decoder/mlp/hidden_0/dense/kernel":
        return {"turned": deter}
    if revision == "2023":
        if path in (f"{RSSM}/core/gates/kernel", f"{IMAGES}/dense/kernel"):
            return {"turned": deter}
        return {"swapped": path.startswith(f"{IMAGES}/") and path.endswith("/kernel")}
    return {"dropped": int(re.match(r"(params/model/reward|params/critic|slow)/out/", path) is not None)}
