"""What is settled before a run on the device: whether it is one, on how many devices, and how large its replay is."""

from __future__ import annotations

import jax

from dreamer_jax.config.checks import wants_device
from dreamer_jax.config.schema import INT32, Config, ConfigError
from dreamer_jax.devices.data_parallel import check_devices
from dreamer_jax.devices.memory import free_bytes
from dreamer_jax.envs.preview import Preview
from dreamer_jax.envs.pure import suites
from dreamer_jax.interfaces import Agent
from dreamer_jax.interfaces.environment import Environment
from dreamer_jax.replay.plan import Plan, plan_on_device
from dreamer_jax.training.one_program import rows_of
from dreamer_jax.training.schedule import forecast


def chosen(config: Config) -> Environment | None:
    """The environment, if the run is to be on the device.

    Raises:
      ConfigError: it is asked for, and can't be.
    """
    if not wants_device(config):
        return None
    env = suites.find(config.env.task)
    if env is None:
        raise ConfigError(
            f"train.where: got {config.train.where!r}, but {config.env.task!r} is not written in JAX; set it to host"
        )
    return env


def check_shares(config: Config) -> int:
    """How many devices are to share the environments and the batches of a run; as ``check_devices``.

    Raises:
      ConfigError: there are not so many, or they can't share them in equal parts.
    """
    wanted, num_envs = config.train.devices, config.env.num_envs
    most = wanted or jax.local_device_count()
    if wanted and num_envs % wanted:
        raise ConfigError(
            f"train.devices: got {wanted}, which can't share env.num_envs {num_envs} equally on the device"
        )
    if wanted:
        return check_devices(wanted, config.train.batch_size)
    return next(some for some in range(most, 0, -1) if not num_envs % some and _shared(some, config.train.batch_size))


def _shared(devices: int, batch_size: int) -> bool:
    return devices == 1 or (batch_size % devices == 0 and batch_size > devices)


def device_preview(config: Config, env: Environment) -> Preview:
    """What ``envs.preview`` finds, without opening anything."""
    limits = config.env.time_limit, -(-env.time_limit // config.env.action_repeat)
    return Preview(env.spec, env.log_names, 0.0, min((limit for limit in limits if limit), default=0))


def device_ring_plan(config: Config, found: Preview, agent: Agent, members: int, memory: float | None = None) -> Plan:
    """The size of the run's replay on the device, where it is one of so many ``members``.

    Args:
      memory: bytes of a device that is not here.

    Raises:
      ConfigError: it does not fit, or no update could ever draw from it, or there are too many steps to count there.
    """
    num_envs = config.env.num_envs
    if (records := rows_of(config) * num_envs) > INT32:
        raise ConfigError(f"train.frames: {records:,} agent steps are more than a device counts; set it lower")
    free = free_bytes(jax.local_devices()[0]) if memory is None else int(memory)
    size = plan_on_device(
        config.replay,
        found.spec,
        agent.latent_spec,
        num_envs=num_envs,
        batch_length=config.train.batch_length,
        total_records=records,
        free=None if free is None else free // members,
    )
    forecast(config, size.records, found.time_limit)
    return size
