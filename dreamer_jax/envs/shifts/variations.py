"""Shifts under the names of stable-worldmodel's factors of variation (arXiv 2605.21800; 0.1.1, DeepMind Control).

The same quantities change, not by the same procedure: a factor of theirs is drawn for an episode or set to a value,
often of one part, where a shift here multiplies what a task has. So numbers of the two stand beside each other, and are
not averaged.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.envs.shifts.shift import Shift
from dreamer_jax.envs.shifts.table import SHIFTS


class Variation(NamedTuple):
    """A factor of theirs, or several with ``*`` for a part, and the shifts that change the same quantity, if any.

    ``neutral`` is their value that changes nothing, where the amount of each shift is a factor of it.
    """

    name: str
    shifts: tuple[str, ...] = ()
    neutral: float | None = None
    difference: str = ""


class Listed(NamedTuple):
    """A shift under a name of theirs; ``values`` are its severities in their unit, where there is one."""

    name: str
    shift: str
    values: tuple[float, float, float] | None


_ONE_PART = "theirs is of one part; ours is of the mass and inertia of all"
_ONE_COLOUR = "theirs sets one colour; ours moves that of each material"
VARIATIONS = (
    Variation(
        "light.intensity",
        ("light_intensity",),
        0.7,
        "theirs is what one lamp adds by its direction; ours dims all lamps, the camera's too, and all that they add",
    ),
    Variation("agent.color", ("body_colour",), None, _ONE_COLOUR),
    Variation("ball.color", ("body_colour",), None, _ONE_COLOUR),
    Variation("spinner.color", ("body_colour",), None, _ONE_COLOUR),
    Variation(
        "floor.color",
        ("floor_colour", "floor_texture"),
        None,
        "theirs sets both colours of the checker; ours mix in a colour, or another checker",
    ),
    Variation(
        "floor.friction",
        ("friction",),
        1.0,
        "theirs is the floor's, 1 where nothing varies (the walker of dm_control has 0.7); ours is of everything",
    ),
    Variation("gravity.z", ("less_gravity", "more_gravity"), -9.81),
    Variation("agent.cart_mass", ("lighter", "heavier"), 1.0, _ONE_PART),
    Variation("*.density", ("lighter", "heavier"), 1000.0, _ONE_PART),
    Variation("agent.*_density", ("lighter", "heavier"), 1000.0, _ONE_PART),
    Variation(
        "camera.angle_delta",
        ("camera_pose",),
        None,
        "of their OGBench worlds, in degrees of azimuth and elevation; ours are in shares of 90, and it rolls as well",
    ),
    *map(Variation, ("agent.*_locked", "agent.*_shape", "agent.upper_arm_length", "ball.size", "floor.rotation_y")),
    *map(Variation, ("gravity.x", "gravity.y", "rendering.render_target", "spinner.friction")),
    *map(Variation, ("target.color", "target.shape")),
)
"""Those without a shift are at the end. ``spinner.friction`` is the loss of a joint, not what ``friction`` scales."""


def variation(name: str) -> Variation:
    """The entry of a factor such as ``light.intensity`` or ``agent.torso_density``.

    Raises:
      ConfigError: there is none.
    """
    for entry in VARIATIONS:
        if fnmatchcase(name, entry.name):
            return entry
    known = ", ".join(entry.name for entry in VARIATIONS)
    raise ConfigError(f"variation {name!r}: unknown to stable-worldmodel's DeepMind Control; known: {known}")


def shifts_of(name: str) -> tuple[Shift, ...]:
    """The shifts that change what a factor of theirs changes; none, where there is none here.

    Raises:
      ConfigError: there is no such factor.
    """
    return tuple(SHIFTS[shift] for shift in variation(name).shifts)


def under_their_names() -> list[Listed]:
    """Every shift that they have a name for, by that name, with its three severities as values of theirs."""
    listed = []
    for entry in VARIATIONS:
        for shift in entry.shifts:
            low, middle, high = SHIFTS[shift].severities
            neutral = entry.neutral
            values = None if neutral is None else (neutral * low, neutral * middle, neutral * high)
            listed.append(Listed(entry.name, shift, values))
    return listed
