"""Updates compiled for one device, or for several that share each batch, of this process or of several ones.

The only place that knows ``pmap``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import jax
import numpy as np
from flax import jax_utils

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.devices.packing import Packing, ask_for, fetch
from dreamer_jax.interfaces import Agent
from dreamer_jax.numerics import find_devices
from dreamer_jax.types import Array, TrainState

AXIS = "devices"
"""Name under which ``make_agent(axis_name=...)`` finds the other devices."""


def want_devices(num_devices: int) -> None:
    """Let a CPU become as many devices as are wanted, where JAX has not begun."""
    if num_devices > 1 and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with suppress(RuntimeError):  # JAX has begun: it is too late
            jax.config.update("jax_num_cpu_devices", num_devices)


def check_devices(num_devices: int, batch_size: int | None = None) -> int:
    """How many devices of each process are to share a batch; 0 are all, or as many as can.

    Raises:
      ConfigError: there are not so many, or they can't share ``batch_size`` windows in equal parts of two or more.
    """
    want_devices(num_devices)
    find_devices()
    found, processes, kind = jax.local_device_count(), jax.process_count(), jax.devices()[0].device_kind
    if num_devices > found:
        raise ConfigError(f"train.devices: got {num_devices}, JAX finds {found} ({kind})")

    def senseless(devices: int) -> bool:
        together = devices * processes
        return batch_size is not None and together > 1 and bool(batch_size % together or batch_size == together)

    devices = num_devices or next((some for some in range(found, 0, -1) if not senseless(some)), found)
    together = devices * processes
    if batch_size is not None and senseless(devices):
        where = f"{devices} x {kind}" + (f" in each of {processes} processes" if processes > 1 else "")
        share = f"{batch_size / together:g}"
        raise ConfigError(
            f"train.devices: {where} are {together} devices, which leaves {share} of train.batch_size {batch_size} "
            f"windows to each; they need a whole number, 2 or more"
        )
    return devices


def axis_of(num_devices: int) -> str | None:
    """What ``make_agent`` is to be told of so many devices in each process."""
    return AXIS if num_devices * jax.process_count() > 1 else None


def repeat(update: Callable[..., tuple[TrainState, Any]]) -> Callable[..., tuple[TrainState, Any]]:
    """``update`` over K batches stacked on a leading axis; its key is folded from the state's step."""

    def updates(state: TrainState, root: Array, batches: Any) -> tuple[TrainState, Any]:
        def step(state: TrainState, batch: Any) -> tuple[TrainState, Any]:
            return update(state, jax.random.fold_in(root, state.step), batch)

        if jax.tree.leaves(batches)[0].shape[0] == 1:  # a loop of one is not free: see updates_per_dispatch
            state, results = step(state, jax.tree.map(lambda x: x[0], batches))
            return state, jax.tree.map(lambda x: x[None], results)
        return jax.lax.scan(step, state, batches)

    return updates


class Updates:
    """K updates of ``agent`` in one compiled call that gives its old state away: jit, or pmap over all devices.

    With ``num_devices`` in each of several processes, or more than one in this, the state carries a leading axis of
    this process's devices (``place``), and each device takes an equal part of the rows.
    Nothing here waits for a device but ``fetch``.
    """

    def __init__(self, agent: Agent, num_devices: int) -> None:
        self._num_devices, self._packing = num_devices, Packing(axes=0)
        self._alone = axis_of(num_devices) is None

        def update(state: TrainState, key: Array, batch: Any) -> tuple[TrainState, jax.Array]:
            state, metrics, latents = agent.update(state, key, batch)
            return state, self._packing.pack((metrics, latents))

        self._call: Callable[..., tuple[TrainState, jax.Array]]
        self._sharding: jax.sharding.Sharding | None = None
        self._devices = jax.local_devices()[:num_devices]
        if self._alone:
            self._call = jax.jit(repeat(update), donate_argnums=0)
        else:
            devices = [
                device for part in range(jax.process_count()) for device in jax.local_devices(part)[:num_devices]
            ]
            self._call = jax.pmap(repeat(update), AXIS, in_axes=(0, None, 0), donate_argnums=0, devices=devices)
            mesh = jax.sharding.Mesh(np.array(self._devices), (AXIS,))
            self._sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))

    @property
    def where(self) -> str:
        """The devices, in words."""
        count, found = jax.process_count(), jax.local_device_count()
        some = f"{self._num_devices} of {found}" if self._num_devices < found else f"{found}"
        others = f" in each of {count} processes" if count > 1 else ""
        return f"{some} x {jax.devices()[0].device_kind}{others}"

    def place(self, state: TrainState) -> TrainState:
        """The state as ``__call__`` takes it."""
        return state if self._alone else jax_utils.replicate(state, self._devices)

    def near(self, tree: Any) -> Any:
        """What is used together with parameters, where they are."""
        return tree

    def taken(self, tree: Any) -> Any:
        """One device's copy of such a state, or of a part of it."""
        # Indexing would gather the others first.
        return tree if self._alone else _first(jax.tree.map(lambda x: x.addressable_shards[0].data, tree))

    def put(self, batches: Any) -> Any:
        """Batches [K, B, ...], of which this process has its rows, on their way to its devices."""

        def split(x: Array) -> np.ndarray:
            parts = np.asarray(x).reshape(x.shape[0], self._num_devices, -1, *x.shape[2:])
            return np.swapaxes(parts, 0, 1)

        return jax.device_put(batches if self._alone else jax.tree.map(split, batches), self._sharding)

    def lower(self, state: TrainState, root: Array, batches: Any) -> jax.stages.Lowered:
        """The program of ``__call__``, before it is compiled."""
        return self._call.lower(state, root, batches)  # type: ignore[attr-defined]

    def compile(self, state: TrainState, root: Array, batches: Any) -> None:
        """Now rather than at the first call."""
        if self._alone:
            self._call = self.lower(state, root, batches).compile(compiler_options())

    def __call__(self, state: TrainState, root: Array, batches: Any) -> tuple[TrainState, jax.Array]:
        """The new state, and results for ``fetch``."""
        state, results = self._call(state, root, batches)
        return state, ask_for(results)

    def fetch(self, results: jax.Array) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Wait for metrics {name: [K]} and latents {name: [K, B, T, ...]} of a call, in one transfer."""
        metrics, latents = self._packing.unpack(fetch(results))
        if self._alone:
            return metrics, latents

        def join(x: np.ndarray) -> np.ndarray:
            parts = np.swapaxes(x, 0, 1)
            return parts.reshape(len(parts), -1, *parts.shape[3:])

        return {name: x[0] for name, x in metrics.items()}, {name: join(x) for name, x in latents.items()}


def compiler_options() -> dict[str, Any]:
    """On the CPU, LLVM's second level compiles the update in a tenth less time than the third, and it runs as fast."""
    return {"xla_backend_optimization_level": 2} if jax.default_backend() == "cpu" else {}


@jax.jit
def _first(tree: Any) -> Any:
    return jax.tree.map(lambda x: x[0], tree)
