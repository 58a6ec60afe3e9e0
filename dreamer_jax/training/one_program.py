"""Acting, replay, updates and the environment in one compiled loop, of which nothing leaves the device.

The order of a step is that of ``training.loop``: act on the record that has come, append it, make the updates that are
due, and take the action. Random keys are folded from the run's and from counters, so that where a call ends and the
next one begins changes no number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import NamedSharding, PartitionSpec

from dreamer_jax.agent import make_agent
from dreamer_jax.config.schema import Config
from dreamer_jax.devices.data_parallel import AXIS
from dreamer_jax.envs.pure.streams import StreamState, make_streams
from dreamer_jax.interfaces import Agent
from dreamer_jax.interfaces.environment import Environment
from dreamer_jax.numerics import fixed_numerics
from dreamer_jax.ops.train_ratio import in_prefill, least_windows, updates_after
from dreamer_jax.replay.device import DeviceReplay, Ring, make_device_replay
from dreamer_jax.types import Array, ArrayDict, Mode, PolicyCarry, TimeStep, TrainState, TrajectoryBatch

INIT, UPDATE, ACT, _, ENVS, DRAW = range(6)
"""What the keys folded from the run's seed are for; the first ones as in ``training.loop``."""
MEMBERS = "members"
"""Name of the axis of several trainings in one program."""


@struct.dataclass
class Counters:
    """Apart from the rest, because they are the same in all of several trainings in one ``vmap``."""

    agent_steps: Array  # [] int32
    grad_steps: Array  # [] int32
    started_at: Array  # [] int32, agent steps at which updates began, or -1


@struct.dataclass
class Training:
    """All that changes; a checkpoint of it is the whole run."""

    state: TrainState
    policy: PolicyCarry
    streams: StreamState
    timestep: TimeStep  # nobody has acted on it yet
    ring: Ring


@struct.dataclass
class Failure:
    """The first update whose losses were not finite."""

    step: Array  # [] int32, its number, or -1
    finite: dict[str, Array]  # {loss: [] bool}
    batch: TrajectoryBatch  # [B, T]


@struct.dataclass
class Found:
    """What a call of ``K`` steps gives to look at. Rows behind the steps that it made have no meaning."""

    reward: Array  # [K, E] of the records that were appended; likewise below
    is_first: Array  # [K, E]
    is_last: Array  # [K, E]
    finite: Array  # [K, E] bool, whether the records that came were
    log: ArrayDict  # {name: [K, E]} of the records that were appended
    metrics: dict[str, Array]  # {name: []} sums over the updates
    failure: Failure
    lacking: Array  # [] bool, whether a batch had too few windows outside of held-out episodes


class InitTraining(Protocol):
    def __call__(self, keys: Array, state: TrainState | None = None, /) -> tuple[Training, Counters]:
        """Before the first step, with new parameters or with ``state``."""
        ...


class RunSteps(Protocol):
    def __call__(
        self, training: Training, counters: Counters, keys: Array, steps: Array, /
    ) -> tuple[Training, Counters, Found]:
        """``steps`` [] int32 steps of all environments, at most ``K``, and the updates that they make due."""
        ...


class Program(NamedTuple):
    """Pure functions of keys [6] that ``make_keys`` gives."""

    init: InitTraining
    run: RunSteps
    replay: DeviceReplay
    place: Callable[[Any], Any] = lambda inputs: inputs
    """Puts training, counters and keys where ``run`` wants them."""


def make_keys(seed: Array) -> Array:
    """A key for each purpose."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(6))


def make_program(
    config: Config,
    agent: Agent,
    env: Environment,
    *,
    rows: int,
    most: int,
    num_devices: int = 1,
    members: str | None = None,
) -> Program:
    """For ``config.env.num_envs`` of ``env``, with a ring of ``rows`` records of each; ``most`` is ``K``.

    Args:
      num_devices: each has an equal part of the environments, of the ring, and of every batch, drawn from its own part;
        ``agent`` is then made with the axis ``AXIS``.
      members: the axis of a ``vmap`` over several trainings, whose counters are the same.
    """
    train, total = config.train, config.env.num_envs
    num_envs, batch_size = total // num_devices, train.batch_size // num_devices
    streams = make_streams(env, config.env, total, members)

    def ring_of(count: int) -> DeviceReplay:
        sizes = dict(num_envs=count, rows=rows, batch_length=train.batch_length)
        return make_device_replay(env.spec, agent.latent_spec, config.replay, **sizes)

    whole, replay = ring_of(total), ring_of(num_envs)

    varies = config.replay.sampling == "episodes"  # how many windows there are, between devices and members

    def here() -> Array:
        """The number of this device."""
        return jax.lax.axis_index(AXIS) if num_devices > 1 else jnp.zeros((), jnp.int32)

    def init(keys: Array, state: TrainState | None = None) -> tuple[Training, Counters]:
        state = agent.init(keys[INIT]) if state is None else state
        begun, timestep = streams.begin(keys[ENVS])
        zero = jnp.zeros((), jnp.int32)
        training = Training(state, agent.reset(state.params, total), begun, timestep, whole.init())
        return training, Counters(zero, zero, zero - 1)

    def choose(training: Training, key: Array, agent_steps: Array) -> Any:
        def by(mode: Mode) -> Callable[[], Any]:
            first = here() * num_envs
            return lambda: agent.policy(training.state.params, key, training.policy, training.timestep, mode, first)

        if not train.prefill:
            return by("train")()
        return jax.lax.cond(in_prefill(train, agent_steps), by("random"), by("train"))

    def learn(state: TrainState, ring: Ring, keys: Array, count: Array) -> Any:
        key = jax.random.fold_in(keys[DRAW], count)
        key = jax.random.fold_in(key, here()) if num_devices > 1 else key
        ring, batch, index, enough = replay.sample(ring, key, batch_size)
        state, metrics, latents = agent.update(state, jax.random.fold_in(keys[UPDATE], count), batch)
        return state, replay.write_back(ring, index, latents), metrics, batch, ~enough

    def due(counters: Counters, ring: Ring) -> tuple[Counters, Array]:
        """With the start of the updates, if that is now, and how many there are to be in all."""
        windows, axis = replay.windows(ring), AXIS if num_devices > 1 else members
        least = least_windows(train) / num_devices
        if axis is not None and varies:
            windows = jax.lax.pmin(windows, axis)  # who has none waits, and all others with it
        ready = ~in_prefill(train, counters.agent_steps) & (windows >= least)
        start = (counters.started_at < 0) & ready & (train.train_ratio > 0)
        counters = replace(counters, started_at=jnp.where(start, counters.agent_steps, counters.started_at))
        total_due = updates_after(train, counters.agent_steps - counters.started_at)
        return counters, jnp.where((counters.started_at < 0) | (windows == 0), 0, total_due)

    def run(training: Training, counters: Counters, keys: Array, steps: Array) -> tuple[Training, Counters, Found]:
        shapes = jax.eval_shape(learn, training.state, training.ring, keys, steps)
        sums, batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes[2:4])
        losses = [name for name in sums if name.startswith("loss/")]
        no, flags = jnp.zeros((), bool), jnp.zeros((most, num_envs), bool)
        none = Failure(jnp.full((), -1, jnp.int32), dict.fromkeys(losses, no), batch)
        numbers = jnp.zeros((most, num_envs))
        nothing = Found(numbers, flags, flags, flags, dict.fromkeys(env.log_names, numbers), sums, none, no)

        def update(carry: Any) -> Any:
            state, ring, counters, (sums, failure, lacking) = carry
            state, ring, metrics, batch, lacks = learn(state, ring, keys, counters.grad_steps)
            finite = {name: jnp.isfinite(metrics[name]) for name in losses}
            first = (failure.step < 0) & ~jnp.stack(list(finite.values())).all()
            failure = jax.lax.cond(first, lambda: Failure(counters.grad_steps, finite, batch), lambda: failure)
            sums = {name: sums[name] + value for name, value in metrics.items()}
            return state, ring, replace(counters, grad_steps=counters.grad_steps + 1), (sums, failure, lacking | lacks)

        def one(row: Array, carry: tuple[Training, Counters, Found]) -> tuple[Training, Counters, Found]:
            training, counters, found = carry
            key, timestep = jax.random.fold_in(keys[ACT], counters.agent_steps // total), training.timestep
            policy, action, latents = choose(training, key, counters.agent_steps)
            ring = replay.append(training.ring, timestep, action, latents)
            counters, updates = due(replace(counters, agent_steps=counters.agent_steps + total), ring)
            looked = found.metrics, found.failure, found.lacking
            state, ring, counters, looked = jax.lax.while_loop(
                lambda carry: carry[2].grad_steps < updates, update, (training.state, ring, counters, looked)
            )
            begun, now = streams.step(training.streams, action)
            found = Found(
                found.reward.at[row].set(timestep.reward),
                found.is_first.at[row].set(timestep.is_first),
                found.is_last.at[row].set(timestep.is_last),
                found.finite.at[row].set(finite_rows(now)),
                {name: found.log[name].at[row].set(value) for name, value in training.streams.log.items()},
                *looked,
            )
            return Training(state, policy, begun, now, ring), counters, found

        # A loop of as many steps as are asked for: one program is for all of them, whatever comes next.
        return jax.lax.fori_loop(0, steps, one, (training, counters, nothing))

    def over_devices(training: Training, counters: Counters, keys: Array, steps: Array) -> Any:
        """``run`` on each; what leaves a device is its part of the whole."""
        ring = training.ring
        ring = replace(ring, taken=ring.taken // num_devices)  # of the queue of the whole, as a checkpoint has it
        training, counters, found = run(replace(training, ring=ring), counters, keys, steps)
        lacking = jax.lax.psum(found.lacking.astype(jnp.int32), AXIS) > 0
        ring = replace(training.ring, taken=training.ring.taken * num_devices)
        return replace(training, ring=ring), counters, replace(found, lacking=lacking)

    if num_devices == 1:
        return Program(init, run, whole)
    same, mine, rows_mine = PartitionSpec(), PartitionSpec(AXIS), PartitionSpec(None, AXIS)
    trainings = parts_of_training(state=same, streams=mine, rows=rows_mine, same=same)
    of, of_failure = cast("Any", Found), cast("Any", Failure)
    founds = of(rows_mine, rows_mine, rows_mine, rows_mine, rows_mine, same, of_failure(same, same, mine), same)
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()[:num_devices]), (AXIS,))
    places = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), (trainings, same, same), is_leaf=lambda x: isinstance(x, PartitionSpec)
    )
    shared = jax.shard_map(
        over_devices,
        mesh=mesh,
        in_specs=(trainings, same, same, same),
        out_specs=(trainings, same, founds),
        check_vma=False,
    )
    return Program(init, shared, whole, lambda inputs: jax.device_put(inputs, places))


def parts_of_training(*, state: Any, streams: Any, rows: Any, same: Any) -> Any:
    """Of a ``Training`` what holds for its parts: those by stream, by row and stream, and what is the same in all."""
    of, of_ring = cast("Any", Training), cast("Any", Ring)
    return of(state, streams, streams, streams, of_ring(rows, same, same, streams, streams))


def finite_rows(timestep: TimeStep) -> Array:
    """Whether rewards and observations of numbers are finite, [E]."""
    numbers = [timestep.reward, *(x for x in timestep.observation.values() if jnp.issubdtype(x.dtype, jnp.floating))]
    return jnp.stack([jnp.isfinite(x.reshape(len(x), -1)).all(1) for x in numbers]).all(0)


def rows_of(config: Config) -> int:
    """Steps of all environments in a whole run."""
    return -(-config.train.frames // (config.env.action_repeat * config.env.num_envs))


class TrainingFunction(Protocol):
    def __call__(self, seed: Array, /) -> tuple[TrainState, dict[str, Array]]:
        """A whole training of ``seed`` [] uint32.

        Returns:
          The last train state, and what happened: ``reward``, ``is_first`` and ``is_last`` [steps, E] of all records,
          the number of ``updates``, and the mean of each of their metrics, by its name.
        """
        ...


def make_training(config: Config, env: Environment, *, agent: Agent | None = None) -> TrainingFunction:
    """A training of ``config.train.frames`` frames as a pure function, to be compiled, or mapped over seeds.

    Args:
      agent: instead of the one that ``config`` describes.
    """
    agent, steps = agent or make_agent(config, env.spec), rows_of(config)
    rows = max(config.train.batch_length + 1, min(config.replay.capacity // config.env.num_envs, steps))
    program = make_program(config, agent, env, rows=rows, most=steps)

    @fixed_numerics()
    def training(seed: Array) -> tuple[TrainState, dict[str, Array]]:
        keys = make_keys(seed)
        begun, counters = program.init(keys)
        ended, counters, found = program.run(begun, counters, keys, jnp.int32(steps))
        means = {name: value / jnp.maximum(1, counters.grad_steps) for name, value in found.metrics.items()}
        seen = {name: getattr(found, name) for name in ("reward", "is_first", "is_last")}
        return ended.state, {**seen, "updates": counters.grad_steps, **means}

    return training


@fixed_numerics()
def train_on_device(
    config: Config, env: Environment, *, agent: Agent | None = None
) -> tuple[TrainState, dict[str, Array]]:
    """``make_training``, compiled and called with the seed of ``config``: no files, nothing said meanwhile."""
    return jax.jit(make_training(config, env, agent=agent))(jnp.uint32(config.seed % 2**32))
