"""Every shift by its name."""

from __future__ import annotations

from functools import partial

from dreamer_jax.envs.shifts import camera, corruption, dynamics, layout, lights, moving, sensing, surfaces
from dreamer_jax.envs.shifts.shift import Shift

_looks = partial(Shift, kind="appearance", fields=(), least=1.0)
_physics = partial(Shift, kind="dynamics", neutral=1.0, alters_states=True)
_senses = partial(Shift, kind="sensing")

SHIFTS: dict[str, Shift] = {
    shift.name: shift
    for shift in (
        _looks(
            "light_intensity",
            meaning="factor of all lights",
            severities=(0.7, 0.4, 0.15),
            edit=lights.dim,
            fields=lights.INTENSITY,
            neutral=1.0,
        ),
        _looks(
            "light_direction",
            meaning="degrees by which lights move around the scene",
            severities=(15, 35, 60),
            edit=lights.tilt,
            fields=lights.DIRECTION,
            refusal=lights.has_lights,
        ),
        _looks(
            "body_colour",
            meaning="largest change of red, green and blue, each from 0 to 1",
            severities=(0.1, 0.2, 0.3),
            edit=surfaces.colour_bodies,
            fields=surfaces.BODIES,
            least=0.5,
        ),
        _looks(
            "floor_colour",
            meaning="share of another colour",
            severities=(0.1, 0.3, 0.5),
            edit=surfaces.tint_floor,
            fields=surfaces.FLOOR,
            refusal=surfaces.floor_seen,
        ),
        _looks(
            "floor_texture",
            meaning="share of another texture",
            severities=(0.25, 0.5, 1),
            edit=surfaces.pattern_floor,
            fields=surfaces.TEXTURES,
            refusal=surfaces.floor_seen,
        ),
        _looks(
            "background",
            meaning="share of another sky",
            severities=(0.25, 0.5, 1),
            edit=surfaces.pattern_sky,
            fields=surfaces.TEXTURES,
            refusal=surfaces.sky_seen,
        ),
        _looks(
            "moving_background",
            meaning="share of smooth noise that moves, in the sky",
            severities=(0.25, 0.5, 1),
            edit=moving.move_sky,
            refusal=surfaces.sky_seen,
            costly=True,
        ),
        _looks(
            "camera_pose",
            meaning="scale of azimuth, elevation and roll up to 90 degrees",
            severities=(0.1, 0.2, 0.3),
            edit=camera.turn,
            fields=camera.POSE,
        ),
        _looks(
            "camera_zoom",
            meaning="scale of a wider view up to 2.5 times the angle",
            severities=(0.1, 0.2, 0.3),
            edit=camera.widen,
            fields=camera.ZOOM,
        ),
        _looks(
            "image_noise",
            meaning="deviation, in levels of 255",
            severities=(5, 15, 30),
            edit=corruption.spoiling(corruption.add_noise),
        ),
        _looks(
            "image_blur",
            meaning="deviation, in pixels of a picture of 64",
            severities=(0.5, 1, 2),
            edit=corruption.spoiling(corruption.blur),
        ),
        _looks(
            "image_cutout",
            meaning="share of the area",
            severities=(0.1, 0.2, 0.3),
            edit=corruption.spoiling(corruption.cut_out),
        ),
        _looks(
            "image_grey",
            meaning="share of grey",
            severities=(1 / 3, 2 / 3, 1),
            edit=corruption.spoiling(corruption.fade),
        ),
        _physics(
            "heavier", meaning="factor of mass and inertia", severities=(1.25, 1.5, 2), edit=dynamics.scale_masses
        ),
        _physics(
            "lighter", meaning="factor of mass and inertia", severities=(0.8, 0.67, 0.5), edit=dynamics.scale_masses
        ),
        _physics(
            "friction",
            meaning="factor of sliding friction",
            severities=(0.75, 0.5, 0.25),
            edit=dynamics.scale_friction,
            refusal=dynamics.has_friction,
        ),
        _physics(
            "more_gravity",
            meaning="factor",
            severities=(1.2, 1.4, 1.8),
            edit=dynamics.scale_gravity,
            refusal=dynamics.has_gravity,
        ),
        _physics(
            "less_gravity",
            meaning="factor",
            severities=(0.8, 0.6, 0.4),
            edit=dynamics.scale_gravity,
            refusal=dynamics.has_gravity,
        ),
        _physics(
            "damping",
            meaning="factor of the joints'",
            severities=(1.5, 2, 3),
            edit=dynamics.scale_damping,
            refusal=dynamics.has_damping,
        ),
        _physics(
            "strength",
            meaning="factor of the actuators' gears",
            severities=(0.9, 0.75, 0.5),
            edit=dynamics.scale_strength,
        ),
        _senses(
            "observation_noise",
            meaning="deviation, in units of each number's",
            severities=(0.05, 0.1, 0.2),
            wrap=sensing.Noise,
            refusal=sensing.has_numbers,
        ),
        _senses(
            "observation_dropout",
            meaning="probability that a number stays as it was shown",
            severities=(0.1, 0.3, 0.5),
            wrap=sensing.Dropout,
            refusal=sensing.has_numbers,
        ),
        _senses("action_delay", meaning="steps", severities=(1, 2, 4), wrap=sensing.ActionDelay, alters_states=True),
        _senses("observation_delay", meaning="steps", severities=(1, 2, 4), wrap=sensing.ObservationDelay),
        Shift(
            "objects",
            "layout",
            meaning="things that stand about",
            severities=(1, 3, 6),
            edit=layout.place_objects,
            fields=(),
            least=0.5,
        ),
        Shift(
            "thickness",
            "layout",
            meaning="factor of the heaviest body's radius",
            severities=(1.15, 1.3, 1.6),
            edit=layout.thicken,
            neutral=1.0,
            refusal=layout.has_solids,
            alters_states=True,
            least=0.25,
        ),
    )
}
