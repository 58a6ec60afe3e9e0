"""The ring as arrays of a device and pure functions of it, for programs that collect and learn at once.

Rows, windows, the online queue and held-out episodes are those of ``host.Replay``: of the same records and the same
random numbers it makes the same batches, bit for bit. It is not on the disk; a checkpoint takes all of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import struct

from dreamer_jax.replay.draws import CANDIDATES, TRIES
from dreamer_jax.replay.held_out import WINDOWS, begun_before, share
from dreamer_jax.replay.storage import record_fields
from dreamer_jax.replay.windows import UNSEEN, align
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import Array, ArrayDict, TimeStep, TrajectoryBatch

FLAGS = ("is_first", "is_last", "is_terminal")


@struct.dataclass
class HeldOut:
    """``held_out.HeldOut`` of ``E`` streams in 32 bits."""

    now: Array  # [E] bool, whether the running episode is held out
    block: Array  # [E] int32, records since that changed, as far as they matter
    balance: Array  # [E] int32, how far another block is within the share, in records over its denominator


@struct.dataclass
class Ring:
    """Row ``t`` of every stream, counted from the start of the run, is in slot ``t % C``."""

    fields: ArrayDict  # {name: [C, E, ...]} by the names of ``storage.record_fields``
    rows: Array  # [] int32, appended so far to each stream
    taken: Array  # [] int32, windows of the online queue used or dropped so far
    held_out: HeldOut | None


class InitRing(Protocol):
    def __call__(self) -> Ring:
        """An empty one."""
        ...


class AppendRecords(Protocol):
    def __call__(self, ring: Ring, timestep: TimeStep, action: ArrayDict, latents: ArrayDict, /) -> Ring:
        """Add one record of each environment: what it emitted, the action taken then, the policy's latents."""
        ...


class CountWindows(Protocol):
    def __call__(self, ring: Ring, /) -> Array:
        """Different windows that can be sampled now, [] int32."""
        ...


class SampleWindows(Protocol):
    def __call__(
        self, ring: Ring, key: Array, batch_size: int, /, *, online: bool = True, held_out: bool = False
    ) -> tuple[Ring, TrajectoryBatch, Array, Array]:
        """The ring with fewer windows in its queue, a batch [B, T], its index and whether there were such windows.

        The index is environment and first row of each window, int32 [B, 2]. ``online`` and ``held_out`` as for
        ``host.Replay.sample``; where there are too few windows, the batch has no meaning.
        """
        ...


class WriteBack(Protocol):
    def __call__(self, ring: Ring, index: Array, latents: ArrayDict, /) -> Ring:
        """Replace the latents of rows 1..T of each window by ``{name: [B, T, ...]}``; evicted rows are skipped.

        Where windows overlap, a CPU keeps the last one's, as the host's ring does; other devices may keep another.
        """
        ...


class DeviceReplay(NamedTuple):
    """The functions of a ring of ``C`` rows."""

    init: InitRing
    append: AppendRecords
    windows: CountWindows
    sample: SampleWindows
    write_back: WriteBack


def ring_fields(spec: EnvSpec, latent_spec: dict[str, ArraySpec], *, held_out: bool) -> dict[str, ArraySpec]:
    """What a record holds here, by name: what the host's has, without the numbers of episodes."""
    fields = record_fields(spec, latent_spec, held_out=held_out)
    return {name: field for name, field in fields.items() if name not in UNSEEN - {"held_out"}}


def make_device_replay(
    spec: EnvSpec,
    latent_spec: dict[str, ArraySpec],
    *,
    num_envs: int,
    rows: int,
    batch_length: int,
    online: bool,
    validation_fraction: float = 0.0,
    mark_first: bool = False,
) -> DeviceReplay:
    """A ring that keeps ``rows`` (C) records of each of ``num_envs`` (E) streams; arguments as of ``host.Replay``."""
    capacity, length, has_queue = rows, batch_length + 1, online
    fields = ring_fields(spec, latent_spec, held_out=validation_fraction > 0)
    numerator, denominator = share(validation_fraction)
    least = WINDOWS * length

    def init() -> Ring:
        held = None
        if validation_fraction:
            balance = numerator * (begun_before(validation_fraction, num_envs, length) + least) - denominator * least
            flags, zeros = jnp.zeros(num_envs, bool), jnp.zeros(num_envs, jnp.int32)
            held = HeldOut(flags, zeros, jnp.asarray(balance, jnp.int32))
        zero = jnp.zeros((), jnp.int32)
        arrays = {name: jnp.zeros((capacity, num_envs, *leaf.shape), leaf.dtype) for name, leaf in fields.items()}
        return Ring(arrays, zero, zero, held)

    def decide(held: HeldOut, is_first: Array) -> HeldOut:
        change = is_first & (held.block >= least) & (held.now | (held.balance >= 0))
        now = held.now ^ change
        balance = jnp.minimum(held.balance + numerator - denominator * now, 2**30)
        return HeldOut(now, jnp.where(change, 1, jnp.minimum(held.block + 1, least)), balance)

    def append(ring: Ring, timestep: TimeStep, action: ArrayDict, latents: ArrayDict) -> Ring:
        record: ArrayDict = {f"observation/{name}": value for name, value in timestep.observation.items()}
        record |= {f"action/{name}": value for name, value in action.items()}
        record |= {f"latents/{name}": value for name, value in latents.items()}
        record |= {name: getattr(timestep, name) for name in ("reward", *FLAGS)}
        held = ring.held_out and decide(ring.held_out, timestep.is_first)
        if held is not None:
            record["held_out"] = held.now
        slot = ring.rows % capacity
        arrays = {name: array.at[slot].set(record[name].astype(array.dtype)) for name, array in ring.fields.items()}
        return replace(ring, fields=arrays, rows=ring.rows + 1, held_out=held)

    def first_row(ring: Ring) -> Array:
        return jnp.maximum(0, ring.rows - capacity)

    def windows(ring: Ring) -> Array:
        return num_envs * jnp.maximum(0, ring.rows - first_row(ring) - length + 1)

    def read(ring: Ring, name: str, index: Array, count: int = length) -> Array:
        slots = (index[:, 1:] + jnp.arange(count)) % capacity
        return ring.fields[name][slots, index[:, :1]]

    def uniform(ring: Ring, key: Array, count: int) -> Array:
        number = jax.random.randint(key, (count,), 0, windows(ring))
        return jnp.stack([number % num_envs, number // num_envs + first_row(ring)], 1)

    def wholly(ring: Ring, index: Array, held_out: bool) -> Array:
        return (read(ring, "held_out", index) == held_out).all(1)

    def put(index: Array, count: Array, some: Array, wanted: Array) -> tuple[Array, Array]:
        """Of ``some`` windows those that are wanted, behind the first ``count`` of ``index``, and the new count."""
        place = jnp.where(wanted, count + jnp.cumsum(wanted) - 1, len(index))
        return index.at[place].set(some, mode="drop"), jnp.minimum(len(index), count + wanted.sum())

    def draw(ring: Ring, key: Array, batch_size: int, held_out: bool) -> tuple[Array, Array]:
        if not validation_fraction:
            enough = (windows(ring) > 0) & (not held_out)
            return uniform(ring, jax.random.fold_in(key, 0), batch_size), enough

        def again(carry: Any) -> Any:
            attempt, index, count = carry
            some = uniform(ring, jax.random.fold_in(key, attempt), CANDIDATES if held_out else batch_size)
            return attempt + 1, *put(index, count, some, wholly(ring, some, held_out))

        def lacking(carry: Any) -> Array:
            return (carry[2] < batch_size) & (carry[0] < TRIES) & (windows(ring) > 0)

        nothing = jnp.zeros((), jnp.int32), jnp.zeros((batch_size, 2), jnp.int32), jnp.zeros((), jnp.int32)
        _, index, count = jax.lax.while_loop(lacking, again, nothing)
        return index, count == batch_size

    def queued(ring: Ring, index: Array) -> tuple[Array, Array]:
        """The index with the next windows of the online queue in front, and how many have left it."""
        oldest = (first_row(ring) + length - 1) // length * num_envs
        start = jnp.maximum(ring.taken, oldest)
        stop = jnp.maximum(start, ring.rows // length * num_envs)
        number = start + jnp.arange(len(index))
        some = jnp.stack([number % num_envs, number // num_envs * length], 1)
        wanted = number < stop
        if validation_fraction:
            wanted &= wholly(ring, some, False)
        return put(index, jnp.zeros((), jnp.int32), some, wanted)[0], jnp.minimum(stop, start + len(index))

    def sample(
        ring: Ring, key: Array, batch_size: int, *, online: bool = True, held_out: bool = False
    ) -> tuple[Ring, TrajectoryBatch, Array, Array]:
        index, enough = draw(ring, key, batch_size, held_out)
        if online and has_queue and not held_out:
            index, taken = queued(ring, index)
            ring = replace(ring, taken=taken)
        window: dict[str, Any] = {name: read(ring, name, index) for name in ("reward", *FLAGS)}
        for part, specs in (("observation", spec.observation), ("action", spec.action)):
            window[part] = {name: read(ring, f"{part}/{name}", index) for name in specs}
        window["latents"] = {name: read(ring, f"latents/{name}", index, 1) for name in latent_spec}
        return ring, align(window, mark_first=mark_first), index, enough

    def write_back(ring: Ring, index: Array, latents: ArrayDict) -> Ring:
        env, row = index[:, :1], index[:, 1:] + jnp.arange(1, length)
        slot = jnp.where((row >= first_row(ring)) & (row < ring.rows), row % capacity, capacity)
        arrays = dict(ring.fields)
        for name in latent_spec:
            array = arrays[f"latents/{name}"]
            arrays[f"latents/{name}"] = array.at[slot, env].set(latents[name].astype(array.dtype), mode="drop")
        return replace(ring, fields=arrays)

    return DeviceReplay(init, append, windows, sample, write_back)
