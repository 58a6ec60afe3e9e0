"""The ring as arrays of a device and pure functions of it, for programs that collect and learn at once.

Rows, windows, the online queue, ended episodes and held-out ones are those of ``host.Replay``: of the same records and
the same random numbers it makes the same batches, bit for bit (smoothed rewards up to rounding; draws by priority with
the same chances). It is not on the disk; a checkpoint takes all of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import struct

from dreamer_jax.config.schema import ReplayConfig
from dreamer_jax.replay.curious import make_curiosity
from dreamer_jax.replay.draws import CANDIDATES, TRIES
from dreamer_jax.replay.episodes import NEWEST
from dreamer_jax.replay.held_out import WINDOWS, begun_before, share
from dreamer_jax.replay.smoothing import Kernel, make_kernel, smooth
from dreamer_jax.replay.storage import record_fields
from dreamer_jax.replay.windows import UNSEEN, align
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import MODEL_LOSS, Array, ArrayDict, TimeStep, TrajectoryBatch

FLAGS = ("is_first", "is_last", "is_terminal")
BEFORE, WITH = "episodes/before", "episodes/with"
VISITS, SEEN, PRIORITY = "curious/visits", "curious/seen", "curious/priority"
BLOCK = 256
"""Rows whose priorities are summed up together."""


@struct.dataclass
class HeldOut:
    """``held_out.HeldOut`` of ``E`` streams in 32 bits."""

    now: Array  # [E] bool, whether the running episode is held out
    block: Array  # [E] int32, records since that changed, as far as they matter
    balance: Array  # [E] int32, how far another block is within the share, in records over its denominator


@struct.dataclass
class Running:
    """The episode that goes on in each of ``E`` streams."""

    begun: Array  # [E] int32, its first row, or -1
    held_out: Array  # [E] bool


@struct.dataclass
class Ring:
    """Row ``t`` of every stream, counted from the start of the run, is in slot ``t % C``."""

    fields: ArrayDict  # {name: [C, E, ...]} by the names of ``ring_fields``, those of bfloat16 as bits (uint16)
    rows: Array  # [] int32, appended so far to each stream
    taken: Array  # [] int32, windows of the online queue used or dropped so far
    held_out: HeldOut | None
    running: Running | None  # where windows are drawn from episodes


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

        With ``MODEL_LOSS`` [B, T] where windows are drawn by it.

        Where windows overlap, a CPU keeps the last one's, as the host's ring does; other devices may keep another.
        """
        ...


class DeviceReplay(NamedTuple):
    """The functions of a ring of ``C`` rows, and what its fields hold."""

    fields: dict[str, ArraySpec]
    init: InitRing
    append: AppendRecords
    windows: CountWindows
    sample: SampleWindows
    write_back: WriteBack


def ring_fields(spec: EnvSpec, latent_spec: dict[str, ArraySpec], config: ReplayConfig) -> dict[str, ArraySpec]:
    """What a record holds here, by name: what the host's has, without the numbers of episodes, and what draws need.

    For ``episodes`` the lengths of those that ended before it and with it, negative if held out; for ``curious`` how
    often it has been in a batch, for how many records up to it none was held out, and its priority.
    """
    fields = record_fields(spec, latent_spec, held_out=config.validation_fraction > 0)
    fields = {name: field for name, field in fields.items() if name not in UNSEEN - {"held_out"}}
    if config.sampling == "episodes":
        fields |= {BEFORE: ArraySpec((), "int32"), WITH: ArraySpec((), "int32")}
    elif config.sampling == "curious":
        fields |= {VISITS: ArraySpec((), "int32"), SEEN: ArraySpec((), "int32"), PRIORITY: ArraySpec((), "float32")}
    return fields


def make_device_replay(
    spec: EnvSpec,
    latent_spec: dict[str, ArraySpec],
    config: ReplayConfig,
    *,
    num_envs: int,
    rows: int,
    batch_length: int,
) -> DeviceReplay:
    """A ring that keeps ``rows`` (C) records of each of ``num_envs`` (E) streams, and draws as ``config`` says."""
    capacity, length = rows, batch_length + 1
    by_episodes, curiosity, kernel = config.sampling == "episodes", make_curiosity(config), make_kernel(config)
    has_queue = config.online and not by_episodes
    validation_fraction, fields = config.validation_fraction, ring_fields(spec, latent_spec, config)
    numerator, denominator = share(validation_fraction)
    least = WINDOWS * length

    def init() -> Ring:
        held, running = None, None
        flags, zeros = jnp.zeros(num_envs, bool), jnp.zeros(num_envs, jnp.int32)
        if validation_fraction:
            balance = numerator * (begun_before(validation_fraction, num_envs, length) + least) - denominator * least
            held = HeldOut(flags, zeros, jnp.asarray(balance, jnp.int32))
        if by_episodes:
            running = Running(zeros - 1, flags)
        zero = jnp.zeros((), jnp.int32)
        arrays = {
            name: jnp.zeros((capacity, num_envs, *leaf.shape), stored_dtype(leaf)) for name, leaf in fields.items()
        }
        return Ring(arrays, zero, zero, held, running)

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
        held, running = ring.held_out and decide(ring.held_out, timestep.is_first), ring.running
        is_held = jnp.zeros(num_envs, bool) if held is None else held.now
        if held is not None:
            record["held_out"] = is_held
        if running is not None:
            record[BEFORE], running = ended(running, timestep.is_first, ring.rows)
            begun = jnp.where(timestep.is_first, ring.rows, running.begun)
            running = Running(begun, jnp.where(timestep.is_first, is_held, running.held_out))
            record[WITH], running = ended(running, timestep.is_last, ring.rows + 1)
        slot, arrays = ring.rows % capacity, dict(ring.fields)
        if curiosity is not None:
            # A window that begins before the ring is not drawn any more.
            oldest = jnp.maximum(0, ring.rows + 1 - capacity) + length - 2
            arrays[PRIORITY] = arrays[PRIORITY].at[oldest % capacity].set(0)
            record[VISITS] = jnp.zeros(num_envs, jnp.int32)
            record[SEEN] = jnp.where(is_held, 0, arrays[SEEN][(ring.rows - 1) % capacity] + 1)
            priority = curiosity.priority(record[VISITS], jnp.zeros(num_envs))
            record[PRIORITY] = jnp.where((record[SEEN] >= length) & (ring.rows > oldest), priority, 0)
        arrays = {name: array.at[slot].set(_bits(fields[name], record[name])) for name, array in arrays.items()}
        return replace(ring, fields=arrays, rows=ring.rows + 1, held_out=held, running=running)

    def ended(running: Running, now: Array, stop: Array) -> tuple[Array, Running]:
        """The lengths of the episodes that end ``now`` before row ``stop``, or 0, and those that go on."""
        ends = now & (running.begun >= 0)
        count = jnp.where(ends, stop - running.begun, 0)
        return jnp.where(running.held_out, -count, count), replace(running, begun=jnp.where(ends, -1, running.begun))

    def first_row(ring: Ring) -> Array:
        return jnp.maximum(0, ring.rows - capacity)

    def episodes(ring: Ring, held_out: bool) -> tuple[Array, Array, Array]:
        """In the order of rows, whether a long enough episode ended there, its first row and its length [C, 2, E]."""
        row = first_row(ring) + jnp.arange(capacity)
        found = jnp.stack([ring.fields[BEFORE], ring.fields[WITH]], 1)[row % capacity]
        count, stop = jnp.abs(found), row[:, None, None] + jnp.arange(2)[:, None]
        whole = (count >= batch_length) & (stop - count >= first_row(ring)) & (row < ring.rows)[:, None, None]
        return whole & ((found < 0) == held_out), stop - count, count

    def windows(ring: Ring) -> Array:
        if not by_episodes:
            return num_envs * jnp.maximum(0, ring.rows - first_row(ring) - length + 1)
        there, _, count = episodes(ring, False)
        spare = count - batch_length
        return jnp.where(there, jnp.maximum(spare, 1) if config.ends == "skipped" else spare + 1, 0).sum()

    def cells(ring: Ring, index: Array) -> tuple[Array, Array]:
        """Slots and streams of the records of windows [B, T+1]."""
        slot = (index[:, 1:] + jnp.arange(length)) % capacity
        if by_episodes:  # what lies before an episode may have been overwritten, or never written
            begins = ring.fields["is_first"][slot[:, 1], index[:, 0]]
            slot = slot.at[:, 0].set(jnp.where(begins, slot[:, 1], slot[:, 0]))
        return slot, index[:, :1]

    def uniform(ring: Ring, key: Array, count: int) -> Array:
        number = jax.random.randint(key, (count,), 0, windows(ring))
        return jnp.stack([number % num_envs, number // num_envs + first_row(ring)], 1)

    def wholly(ring: Ring, index: Array, held_out: bool) -> Array:
        return (ring.fields["held_out"][cells(ring, index)] == held_out).all(1)

    def by_priority(ring: Ring, key: Array, count: int) -> tuple[Array, Array]:
        """Windows whose last records are drawn in proportion to their priority; none where rounding led astray."""
        # In two steps: a sum of all in 32 bits would not know small ones from nothing.
        blocks = -(-capacity // BLOCK)
        padded = jnp.pad(ring.fields[PRIORITY], ((0, blocks * BLOCK - capacity), (0, 0))).reshape(blocks, -1)
        one, two = jax.random.uniform(key, (2, count))
        sums = jnp.cumsum(padded.sum(1))
        block = jnp.minimum(jnp.searchsorted(sums, one * sums[-1], side="right"), blocks - 1)
        within = jnp.cumsum(padded[block], 1)
        place = jax.vmap(lambda sums, at: jnp.searchsorted(sums, at, side="right"))(within, two * within[:, -1])
        place = jnp.minimum(place, padded.shape[1] - 1)
        slot, env = block * BLOCK + place // num_envs, place % num_envs
        row = first_row(ring) + (slot - first_row(ring)) % capacity
        return jnp.stack([env, row - length + 1], 1), padded[block, place] > 0

    def put(index: Array, count: Array, some: Array, wanted: Array) -> tuple[Array, Array]:
        """Of ``some`` windows those that are wanted, behind the first ``count`` of ``index``, and the new count."""
        place = jnp.where(wanted, count + jnp.cumsum(wanted) - 1, len(index))
        return index.at[place].set(some, mode="drop"), jnp.minimum(len(index), count + wanted.sum())

    def from_episodes(ring: Ring, key: Array, batch_size: int, held_out: bool) -> tuple[Array, Array]:
        there, first, count = (x.reshape(-1) for x in episodes(ring, held_out))
        number = jnp.cumsum(there)
        recent = 0 if held_out else int(config.recent * batch_size + 0.5)
        lowest = jnp.where(jnp.arange(batch_size) < recent, jnp.maximum(0, number[-1] - NEWEST), 0)
        chosen = jax.random.randint(jax.random.fold_in(key, 0), (batch_size,), lowest, number[-1])
        place = jnp.searchsorted(number, chosen, side="right")
        spare, key = count[place] - batch_length, jax.random.fold_in(key, 1)
        match config.ends:
            case "skipped":
                start = jax.random.randint(key, (batch_size,), 0, jnp.maximum(spare, 1))
            case "prioritized":
                start = jnp.minimum(jax.random.randint(key, (batch_size,), 0, count[place] + 1), spare)
            case _:
                start = jax.random.randint(key, (batch_size,), 0, spare + 1)
        return jnp.stack([place % num_envs, first[place] + start - 1], 1), number[-1] > 0

    def draw(ring: Ring, key: Array, batch_size: int, *, held_out: bool, learn: bool) -> tuple[Array, Array]:
        if by_episodes:
            return from_episodes(ring, key, batch_size, held_out)
        curious = curiosity is not None and learn
        if not validation_fraction and not curious:
            enough = (windows(ring) > 0) & (not held_out)
            return uniform(ring, jax.random.fold_in(key, 0), batch_size), enough

        def again(carry: Any) -> Any:
            attempt, index, count = carry
            its = jax.random.fold_in(key, attempt)
            if curious:
                some, wanted = by_priority(ring, its, batch_size)
            else:
                some = uniform(ring, its, CANDIDATES if held_out else batch_size)
                wanted = wholly(ring, some, held_out) if validation_fraction else jnp.full(len(some), not held_out)
            return attempt + 1, *put(index, count, some, wanted)

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
        learn = online and not held_out
        index, enough = draw(ring, key, batch_size, held_out=held_out, learn=learn)
        if learn and has_queue:
            index, taken = queued(ring, index)
            ring = replace(ring, taken=taken)
        slot, env = cells(ring, index)
        window: dict[str, Any] = {name: ring.fields[name][slot, env] for name in ("reward", *FLAGS)}
        for part, specs in (("observation", spec.observation), ("action", spec.action)):
            found = {name: ring.fields[f"{part}/{name}"][slot, env] for name in specs}
            window[part] = {name: _numbers(leaf, found[name]) for name, leaf in specs.items()}
        latents = {name: ring.fields[f"latents/{name}"][slot[:, :1], env] for name in latent_spec}
        window["latents"] = {name: _numbers(leaf, latents[name]) for name, leaf in latent_spec.items()}
        if kernel is not None:
            window["reward"] = smoothed(ring, kernel, index)
        return ring, align(window, mark_first=config.mark_first), index, enough

    def smoothed(ring: Ring, kernel: Kernel, index: Array) -> Array:
        """Rewards of windows [B, T+1], with what the ring has around them."""
        row = index[:, 1:] + jnp.arange(-kernel.before, length + kernel.after)
        known = (row >= first_row(ring)) & (row < ring.rows)
        slot = jnp.clip(row, first_row(ring), ring.rows - 1) % capacity
        reward, is_first = (ring.fields[name][slot, index[:, :1]] for name in ("reward", "is_first"))
        return smooth(kernel, reward, is_first, known)

    def write_back(ring: Ring, index: Array, latents: ArrayDict) -> Ring:
        env, row = index[:, :1], index[:, 1:] + jnp.arange(1, length)
        slot = jnp.where((row >= first_row(ring)) & (row < ring.rows), row % capacity, capacity)
        arrays = dict(ring.fields)
        for name, leaf in latent_spec.items():
            array = arrays[f"latents/{name}"]
            arrays[f"latents/{name}"] = array.at[slot, env].set(_bits(leaf, latents[name]), mode="drop")
        if curiosity is not None and MODEL_LOSS in latents:
            arrays[VISITS] = arrays[VISITS].at[slot, env].add(1, mode="drop")
            priority = curiosity.priority(arrays[VISITS][slot, env], latents[MODEL_LOSS])
            drawn = (row >= first_row(ring) + length - 1) & (arrays[SEEN][slot, env] >= length)
            arrays[PRIORITY] = arrays[PRIORITY].at[slot, env].set(jnp.where(drawn, priority, 0), mode="drop")
        return replace(ring, fields=arrays)

    return DeviceReplay(fields, init, append, windows, sample, write_back)


def stored_dtype(spec: ArraySpec) -> str:
    """The type of a field in memory: where XLA has no bfloat16, as on a CPU, a change would copy all of it."""
    return "uint16" if spec.dtype == "bfloat16" else spec.dtype


def _bits(spec: ArraySpec, values: Array) -> Array:
    """As they are stored."""
    values = values.astype(spec.dtype)
    return jax.lax.bitcast_convert_type(values, jnp.uint16) if spec.dtype == "bfloat16" else values


def _numbers(spec: ArraySpec, stored: Array) -> Array:
    """As they were given."""
    return jax.lax.bitcast_convert_type(stored, jnp.bfloat16) if spec.dtype == "bfloat16" else stored
