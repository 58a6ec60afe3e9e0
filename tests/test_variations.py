"""Shifts under stable-worldmodel's names: each changes what they say, to the value that they would have set."""

import importlib

import numpy as np
import pytest

from dreamer_jax.config.schema import ConfigError
from dreamer_jax.envs import dmc
from dreamer_jax.envs.rendering import without_opengl
from dreamer_jax.envs.shifts.opening import find
from dreamer_jax.envs.shifts.table import SHIFTS
from dreamer_jax.envs.shifts.variations import VARIATIONS, shifts_of, under_their_names, variation


def value(model, before, name):
    """What their walker would have to set for the model to be as it is; its floor has a friction of 1 before."""
    match name:
        case "light.intensity":
            return model.light_diffuse[0, 0]
        case "floor.friction":
            floor = model.name2id("floor", "geom")
            return model.geom_friction[floor, 0] / before.geom_friction[floor, 0]
        case "gravity.z":
            return model.opt.gravity[2]
        case "agent.*_density":
            return 1000 * model.body_mass[1] / before.body_mass[1]


def test_severities_are_their_values():
    before = dmc.make("walker_walk").physics.model
    found = {(name, shift): values for name, shift, values in under_their_names()}
    for (name, shift), values in found.items():
        if values is None or name in ("agent.cart_mass", "*.density"):  # a walker has neither
            continue
        for severity, expected in zip((1, 2, 3), values, strict=True):
            env = dmc.make("walker_walk")
            find(shift).apply(env, severity, seed=0)
            mine = value(env.physics.model, before, name)
            np.testing.assert_allclose(mine, expected, rtol=1e-6, err_msg=f"{name} {shift}")
    assert found["gravity.z", "less_gravity"] == pytest.approx((-7.848, -5.886, -3.924))
    assert found["agent.color", "body_colour"] is None and found["agent.cart_mass", "heavier"] == (1.25, 1.5, 2)


def test_names():
    assert [shift.name for shift in shifts_of("agent.torso_density")] == ["lighter", "heavier"]
    assert shifts_of("light.intensity") == (SHIFTS["light_intensity"],)
    assert shifts_of("spinner.friction") == shifts_of("agent.right_knee_locked") == ()
    assert {shift for entry in VARIATIONS for shift in entry.shifts} <= SHIFTS.keys()
    with pytest.raises(ConfigError, match=r"variation 'wind.x': unknown .*; known: light.intensity, agent.color, "):
        variation("wind.x")


def test_their_environments_have_these_names_and_values():
    """All twelve domains of stable-worldmodel: each factor is known here, and each name here is one of theirs."""
    with without_opengl():
        pytest.importorskip("stable_worldmodel.envs")
        few, more = "acrobot cartpole cheetah finger hopper humanoid", "manipulator pendulum quadruped reacher walker"
        used = set()
        for domain in ["ball_in_cup", *few.split(), *more.split()]:
            module = importlib.import_module(f"stable_worldmodel.envs.dmcontrol.{domain}")
            name = f"{domain.title().replace('_', '')}DMControlWrapper"
            space = getattr(module, name)(seed=0).variation_space
            for path, value in leaves(space):
                entry = variation(path)
                used.add(entry.name)
                if entry.neutral is not None:
                    assert float(np.ravel(value)[0]) == pytest.approx(entry.neutral), (domain, path)
    assert used | {"camera.angle_delta"} == {entry.name for entry in VARIATIONS}


def leaves(space, prefix=""):
    for name, part in space.spaces.items():
        if hasattr(part, "spaces"):
            yield from leaves(part, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", part.init_value
