"""Shifts: each does what it says and nothing else, is undone to the last bit, and is the same for the same seed."""

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium import spaces
from test_dmc import draws

from dreamer_jax.config.schema import ConfigError, EnvConfig
from dreamer_jax.envs import dmc
from dreamer_jax.envs.shifts import corruption, effects, moving
from dreamer_jax.envs.shifts.effects import Effect, in_order, pixel_effect, redraw
from dreamer_jax.envs.shifts.opening import find, not_applicable, shifted, under
from dreamer_jax.envs.shifts.table import SHIFTS

PICTURES = [name for name, shift in SHIFTS.items() if shift.fields is not None]
PHYSICS = [name for name, shift in SHIFTS.items() if shift.edit and shift.alters_states]
DYNAMICS = [name for name, shift in SHIFTS.items() if shift.kind == "dynamics"]
WALKER = EnvConfig("dmc/walker_walk")
TRACKED = ("walker_walk", "cheetah_run", "hopper_hop", "quadruped_walk")
FIXED = ("cartpole_swingup", "reacher_easy", "ball_in_cup_catch")


def image(task, size=32):
    return EnvConfig(f"dmc/{task}", observation="image", image_size=size)


def edited(task, name, severity, seed=0):
    """A task that draws nothing, under a shift, also one of pictures."""
    env = dmc.make(task)
    find(name).apply(env, severity, seed=seed)
    return env


def trajectory(env, actions, seed=0):
    """Simulator states and rewards of an episode's beginning."""
    env.reset(seed=seed)
    rewards, states = [], [env.simulator_state()]
    for action in actions:
        rewards.append(env.step(action)[1])
        states.append(env.simulator_state())
    return np.stack(states), np.array(rewards)


def actions_of(task, count):
    space = dmc.make(task).action_space
    return np.random.default_rng(0).uniform(space.low, space.high, (count, *space.shape))


@pytest.fixture(scope="module")
def states():
    """Forty states of a walker that moves at random, and an action for each."""
    actions = actions_of("walker_walk", 400)
    return trajectory(dmc.make("walker_walk"), actions)[0][:-1:10], actions[::10]


@pytest.fixture(scope="module")
def walker():
    """One that is drawn, a state, and its picture."""
    env = dmc.make("walker_walk", image_size=32)
    env.reset(seed=0)
    env.step(np.ones(6))
    state = env.simulator_state()
    return env, state, env.restore(state)["image"]


def model_of(env):
    model = env.physics.model
    arrays = {name: getattr(model.ptr, name, None) for name in dir(model.ptr) if not name.startswith("_")}
    arrays = {name: np.array(array) for name, array in arrays.items() if isinstance(array, np.ndarray)}
    headlight = {part: np.array(getattr(model.vis.headlight, part)) for part in ("ambient", "diffuse", "specular")}
    return arrays | headlight | {"gravity": model.opt.gravity.copy()}


def differing(one, other):
    return {name for name in one if not np.array_equal(one[name], other[name], equal_nan=one[name].dtype.kind == "f")}


def test_the_table():
    assert {shift.kind for shift in SHIFTS.values()} == {"appearance", "dynamics", "sensing", "layout"}
    for name, shift in SHIFTS.items():
        first, second, third = (abs(amount - shift.neutral) for amount in shift.severities)
        assert shift.name == name and 0 < first < second < third
        assert (shift.edit is None) != (shift.wrap is None)


@draws
@pytest.mark.parametrize("name", PICTURES)
def test_pictures_change_with_severity_and_are_drawn_again_as_they_were(name, walker):
    env, state, clean = walker
    model, frames = model_of(env), []
    for severity in (0, 1, 2, 3):
        with under(env, name, severity, seed=1):
            frames.append(env.restore(state)["image"])
            assert frames[-1].dtype == np.uint8
            assert differing(model, model_of(env)) <= {field.split(".")[-1] for field in SHIFTS[name].fields}
        assert not differing(model, model_of(env))
    sizes = [pixel_effect(clean, frame) for frame in frames]
    assert sizes[0] == 0 < sizes[1] < sizes[2] < sizes[3] and sizes[3] > SHIFTS[name].least
    np.testing.assert_array_equal(env.restore(state)["image"], clean)


@pytest.mark.parametrize("name", PICTURES)
def test_what_changes_pictures_leaves_states_as_they_are(name):
    actions = actions_of("walker_walk", 30)
    (clean, rewards), (other, rewards_too) = (
        trajectory(env, actions) for env in (dmc.make("walker_walk"), edited("walker_walk", name, 3))
    )
    np.testing.assert_array_equal(other, clean)
    np.testing.assert_array_equal(rewards_too, rewards)


@draws
@pytest.mark.parametrize("task", TRACKED + FIXED)
def test_cameras_and_lights_move_where_they_follow_a_body_and_where_not(task):
    env = dmc.make(task, image_size=32)
    mode = env.physics.model.cam_mode[env.camera]
    assert mode == (mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM if task in TRACKED else mujoco.mjtCamLight.mjCAMLIGHT_FIXED)
    clean = env.reset(seed=0)[0]["image"]
    state = env.simulator_state()
    for name in ("camera_pose", "light_direction"):
        with under(env, name, 3, seed=0):  # above 1 of 255 levels, else nothing has moved
            assert pixel_effect(clean, env.restore(state)["image"]) > 1, name
    np.testing.assert_array_equal(env.restore(state)["image"], clean)


@pytest.mark.parametrize("task", TRACKED + FIXED)
def test_the_camera_goes_around_a_point_on_its_line_of_sight(task):
    def place(env):
        model = env.physics.model
        data = mujoco.MjData(model.ptr)
        mujoco.mj_forward(model.ptr, data)
        return data.cam_xpos[env.camera], data.cam_xmat[env.camera].reshape(3, 3)

    (before, axes), (after, turned) = place(dmc.make(task)), place(edited(task, "camera_pose", 2))
    moved, looked = after - before, (turned - axes)[:, 2]
    distance = np.linalg.norm(moved) / np.linalg.norm(looked)
    np.testing.assert_allclose(moved, distance * looked, atol=1e-6)
    np.testing.assert_allclose(turned @ turned.T, np.eye(3), atol=1e-6)
    assert after @ axes[:, 1] > before @ axes[:, 1]  # never lower
    angle = np.degrees(np.arccos(np.clip(axes[:, 2] @ turned[:, 2], -1, 1)))
    assert 0.2 * 90 / 2 <= angle <= 0.2 * 90 * np.sqrt(2)  # of azimuth and elevation, each at least half of it


@draws
def test_what_is_drawn_without_a_step_is_shifted_and_given_back():
    env = dmc.make("cheetah_run", image_size=32)
    env.reset(seed=0)
    before = env.render()
    with under(env, "camera_pose", 3, seed=0):
        assert pixel_effect(before, env.render()) > 1
    np.testing.assert_array_equal(env.render(), before)


@draws
def test_an_environment_can_be_opened_under_a_shift_of_pictures():
    """With a new texture, which has to reach the graphics memory, and with what is drawn beside the model."""
    clean = dmc.make("walker_walk", image_size=32)
    first = clean.reset(seed=0)[0]["image"]
    for name in ("floor_texture", "objects"):
        env = shifted(image("walker_walk"), name, 3, seed=2)
        seen = env.reset(seed=0)[0]["image"]
        assert pixel_effect(first, seen) > 1
        with under(clean, name, 3, seed=2):
            np.testing.assert_array_equal(clean.restore(env.simulator_state())["image"], seen)
        np.testing.assert_array_equal(redraw(env, env.simulator_state()[None])[0], seen)


@pytest.mark.parametrize("name", [*PICTURES, *PHYSICS])
def test_the_same_seed_is_the_same_shift(name):
    def changes(seed):
        env = edited("walker_walk", name, 2, seed)
        picture = np.arange(3072, dtype=np.uint8).reshape(32, 32, 3)
        return model_of(env), env.after_drawing and env.after_drawing(picture)

    (one, picture), (same, same_picture), (other, other_picture) = changes(3), changes(3), changes(4)
    assert not differing(one, same) and np.array_equal(picture, same_picture)
    draws_nothing = ("light_intensity", "camera_zoom", "image_blur", "image_grey", "objects", *PHYSICS)
    assert (name in draws_nothing) == (not differing(one, other) and np.array_equal(picture, other_picture))


def test_lights_have_so_much_of_their_strength():
    clean, dim = model_of(dmc.make("walker_walk")), model_of(edited("walker_walk", "light_intensity", 2))
    for name in ("light_diffuse", "light_specular", "diffuse", "ambient"):
        np.testing.assert_allclose(dim[name], 0.4 * clean[name], rtol=1e-6)


def test_lights_move_around_what_they_shine_on():
    """In walker the light is 2 m above the body, straight down: 35 degrees from there it is 2 cos 35 m above it."""
    clean, tilted = model_of(dmc.make("walker_walk")), model_of(edited("walker_walk", "light_direction", 2))
    distance = np.linalg.norm(clean["light_poscom0"][0])
    assert np.linalg.norm(tilted["light_poscom0"][0]) == pytest.approx(distance)
    assert tilted["light_dir0"][0, 2] == pytest.approx(-np.cos(np.radians(35)))
    fixed = model_of(edited("pendulum_swingup", "light_direction", 2))
    assert fixed["light_dir"][0, 2] == pytest.approx(-np.cos(np.radians(35)))
    assert fixed["light_pos"][0, 2] < 2 and fixed["light_pos"][0, :2].any()


def test_bodies_have_other_colours_within_limits():
    clean, other = model_of(dmc.make("reacher_easy")), model_of(edited("reacher_easy", "body_colour", 3))
    step = np.abs(other["mat_rgba"] - clean["mat_rgba"])
    changed = step.any(1)
    assert changed.sum() == 2  # the arm's material and the fingertip's, not the target's
    assert (step[changed, :3] >= 0.15 - 1e-6).all() and (step <= 0.3 + 1e-6).all() and not step[:, 3].any()
    assert other["mat_rgba"].min() >= 0 and other["mat_rgba"].max() <= 1


@draws
def test_a_background_moves_behind_what_stands_still():
    env = dmc.make("walker_walk", image_size=32)
    env.reset(seed=0)
    state = env.simulator_state()
    clean = env.restore(state)["image"]
    sky = env.physics.render(32, 32, camera_id=env.camera, segmentation=True)[..., 0] < 0
    frames = []
    with under(env, "moving_background", 3, seed=0):
        for time in (0.0, 0.0, 0.4, 0.4):
            env.restore(state)
            env.physics.data.time = time
            frames.append(env._picture(32))
    first, same, later, again = frames
    np.testing.assert_array_equal(first, same)
    np.testing.assert_array_equal(later, again)
    assert 0.02 < sky.mean() < 0.98 and all((frame[~sky] == clean[~sky]).all() for frame in frames)
    assert pixel_effect(clean[sky], first[sky]) > 20 and pixel_effect(first[sky], later[sky]) > 5
    np.testing.assert_array_equal(env.restore(state)["image"], clean)


def test_moving_noise_has_no_border_and_goes_its_way():
    cells = np.random.default_rng(0).integers(256, size=(moving.CELLS, moving.CELLS, 3)).astype(np.float64)
    still, moved = (moving._seen(cells, (0.5, 0.25), 32, time) for time in (0.0, 0.5))
    np.testing.assert_allclose(moved, np.roll(still, (-4, -8), (0, 1)))  # an eighth of 32 up, a quarter to the left
    np.testing.assert_allclose(still[::4, ::4], cells)
    steps = np.abs(np.diff(still, axis=1, append=still[:, :1])).max((0, 2))
    assert steps.max() <= np.abs(np.diff(cells, axis=1, append=cells[:, :1])).max() / 4 + 1e-9


def test_corruptions_by_hand():
    rng = np.random.default_rng
    grey = np.full((64, 64, 3), 128, np.uint8)
    noise = corruption.add_noise(grey, 15, rng(0)).astype(float) - 128
    assert noise.std() == pytest.approx(15, rel=0.02) and abs(noise.mean()) < 0.5  # 12,288 draws
    other = corruption.add_noise(grey + 1, 15, rng(0)).astype(float) - 129
    assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 0.03  # drawn anew for another picture
    np.testing.assert_array_equal(corruption.blur(grey, 2, rng(0)), grey)
    point = np.zeros((65, 65, 3), np.uint8)
    point[32, 32] = 255
    assert corruption.blur(point, 1, rng(0))[32, 32, 0] == pytest.approx(255 / (2 * np.pi), abs=8)  # a Gaussian's peak
    for share in (0.1, 0.2, 0.3):
        assert (corruption.cut_out(grey, share, rng(0)) == 0).mean() == pytest.approx(share, abs=0.02)
    coloured = np.full((4, 4, 3), (30, 60, 120), np.uint8)  # the mean is 70
    assert corruption.fade(coloured, 1, rng(0))[0, 0].tolist() == [70, 70, 70]
    assert corruption.fade(coloured, 0.5, rng(0))[0, 0].tolist() == [50, 65, 95]


def test_objects_stand_in_view_and_again_where_the_camera_travels():
    env, fewer = edited("walker_walk", "objects", 3), edited("walker_walk", "objects", 1)
    physics = env.physics
    camera, axes = physics.data.cam_xpos[0].copy(), physics.data.cam_xmat[0].reshape(3, 3)

    def drawn(shift, x):
        physics.data.cam_xpos[0] = camera + (x, 0, 0)
        scene = dmc_scene(physics)
        shift.draw_more(physics, scene)
        return np.array([geom.pos for geom in scene.geoms])

    places = drawn(env, 0)
    assert len(places) == 6 and np.allclose(drawn(fewer, 0), places[:1])
    inward = (places - camera) @ axes
    slope = np.tan(np.radians(45 / 2))  # walker's camera sees 45 degrees
    assert (np.abs(inward[:, :2]) < -inward[:, 2:] * slope).all()  # all in view
    assert (np.abs(inward[5, :2]) < -inward[5, 2] * slope / 4).all() and inward[5, 2] > inward[:5, 2].max()
    width = 2 * slope * -inward[0, 2]
    np.testing.assert_allclose(drawn(env, 0.4 * width), places, atol=1e-6)
    np.testing.assert_allclose(drawn(env, 7 * width), places + (7 * width, 0, 0), atol=1e-5)


def dmc_scene(physics):
    from dm_control.mujoco import wrapper

    return wrapper.MjvScene(physics.model)


def test_thickness():
    clean, thick = model_of(dmc.make("walker_walk")), model_of(edited("walker_walk", "thickness", 3))
    torso = dmc.make("walker_walk").physics.model.name2id("torso", "geom")
    assert thick["geom_size"][torso, 0] == pytest.approx(1.6 * clean["geom_size"][torso, 0])
    changed = (thick["geom_size"] != clean["geom_size"]).any(1)
    assert changed.sum() == 1 and changed[torso]
    assert thick["geom_rbound"][torso] >= thick["geom_size"][torso, :2].sum() - 1e-9  # a capsule's radius and half
    np.testing.assert_array_equal(thick["body_mass"], clean["body_mass"])
    hopper = dmc.make("hopper_hop").physics.model  # its torso has two geoms, in a tree of boxes
    body = hopper.name2id("torso", "body")
    nodes = slice(hopper.body_bvhadr[body], hopper.body_bvhadr[body] + hopper.body_bvhnum[body])
    boxes = (
        model_of(env)["bvh_aabb"][nodes, 3:] for env in (dmc.make("hopper_hop"), edited("hopper_hop", "thickness", 3))
    )
    grown = np.subtract(*reversed(list(boxes)))
    assert len(grown) == 3 and (grown >= 0.6 * hopper.geom_size[hopper.name2id("torso", "geom"), 0] - 1e-9).all()
    env = edited("walker_walk", "thickness", 3)  # lying on the floor, its torso touches at its new radius
    env.reset(seed=0)
    with env.physics.reset_context():
        env.physics.named.data.qpos[:] = 0
        env.physics.named.data.qpos["rooty"] = np.pi / 2
        height = env.physics.named.data.xpos["torso", "z"] - thick["geom_size"][torso, 0]
        env.physics.named.data.qpos["rootz"] = -height - 0.01
    touching = {int(geom) for contact in env.physics.data.contact for geom in (contact.geom1, contact.geom2)}
    assert torso in touching


@pytest.mark.parametrize("name", PHYSICS)
def test_physics_of_severity_zero_is_what_it_was(name):
    actions = actions_of("walker_walk", 50)
    clean, other = (trajectory(e, actions)[0] for e in (dmc.make("walker_walk"), edited("walker_walk", name, 0)))
    np.testing.assert_array_equal(other, clean)


@pytest.mark.parametrize("name", DYNAMICS)
def test_each_severity_of_physics_does_more(name, states):
    found = effects.effects(WALKER, name, seed=0, states=states[0], actions=states[1])
    assert in_order(found) and all(effect.holds for effect in found), found
    assert found[0].size > 0.005 and found[2].size < 0.5  # measured in a pilot: from 0.018 to 0.34 deviations


@pytest.mark.parametrize("name", DYNAMICS)
def test_the_first_observation_is_the_same_under_other_physics(name):
    clean, other = (env.reset(seed=3)[0] for env in (dmc.make("walker_walk"), shifted(WALKER, name, 3, seed=0)))
    for key in clean:
        np.testing.assert_array_equal(other[key], clean[key])


@draws
def test_the_first_picture_is_the_same_with_other_masses():
    clean, other = (env.reset(seed=3)[0] for env in (dmc.make("walker_walk", image_size=32), heavy_walker()))
    np.testing.assert_array_equal(other["image"], clean["image"])


def heavy_walker():
    return shifted(image("walker_walk"), "heavier", 3, seed=0)


def test_masses_change_what_mujoco_derives_from_them():
    """Without armature, inverse weights are as 1 / mass; masses of subtrees are sums."""
    clean, heavy = model_of(dmc.make("cartpole_swingup")), model_of(edited("cartpole_swingup", "heavier", 3))
    assert not clean["dof_armature"].any()
    np.testing.assert_allclose(heavy["body_subtreemass"], 2 * clean["body_subtreemass"])
    np.testing.assert_allclose(heavy["body_inertia"], 2 * clean["body_inertia"])
    np.testing.assert_allclose(heavy["dof_invweight0"], clean["dof_invweight0"] / 2)
    np.testing.assert_array_equal(heavy["cam_poscom0"], clean["cam_poscom0"])
    live = dmc.make("cartpole_swingup")
    live.reset(seed=0)
    joints = live.physics.data.qpos.copy()
    SHIFTS["heavier"].apply(live, 3, seed=0)
    np.testing.assert_array_equal(live.physics.data.qpos, joints)  # MuJoCo would put them where the file has them


def test_damping_holds_where_a_task_sets_it_itself():
    """finger_spin gives its hinge a damping of 0.03 whenever an episode begins."""
    env = shifted(EnvConfig("dmc/finger_spin"), "damping", 2, seed=0)
    for seed in (0, 0, 1):
        env.reset(seed=seed)
        assert env.physics.named.model.dof_damping["hinge"] == pytest.approx(0.03 * 2)
        assert env.physics.named.model.dof_damping["proximal"] == pytest.approx(
            2 * dmc.make("finger_spin").physics.named.model.dof_damping["proximal"]
        )


class Counting(gymnasium.Env):
    """Shows how many steps were taken and the last action; the reward is the count."""

    def __init__(self, box=True):
        number = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.observation_space = number if box else spaces.Dict({"count": number, "kind": spaces.Discrete(3)})
        self.action_space = spaces.Box(-1, 3, (1,), np.float64)
        self._box = box

    def reset(self, *, seed=None, options=None):
        self._count = 0
        return self._seen(np.array([9.0])), {}

    def step(self, action):
        self._count += 1
        return self._seen(action), float(self._count), False, self._count == 50, {}

    def _seen(self, action):
        seen = np.array([self._count, action[0]], np.float32)
        return seen if self._box else {"count": seen, "kind": 1}


def counting_dict():
    return Counting(box=False)


COUNTING = EnvConfig("test_shifts:Counting")


def shown(env, count=10, seed=0):
    rows = [env.reset(seed=seed)[0]] + [env.step(np.array([step / 10]))[0] for step in range(count)]
    return np.stack(rows)


def test_observations_come_late():
    """Each steps ago, and the first until then: counts 0 0 0 1 2 3; rewards are in time."""
    env = shifted(COUNTING, "observation_delay", 2, seed=0)
    assert shown(env)[:, 0].tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert env.step(np.zeros(1))[1] == 11
    assert shown(env, 3)[:, 0].tolist() == [0, 0, 0, 1]  # nothing of the episode before


def test_actions_come_late():
    """First there is the middle of the interval from -1 to 3."""
    env = shifted(COUNTING, "action_delay", 2, seed=0)
    for _ in range(2):
        np.testing.assert_allclose(shown(env, 5)[1:, 1], [1, 1, 0, 0.1, 0.2], rtol=1e-6)


def test_numbers_stay_away():
    """As often as said, each by itself, and what is then shown is what was shown before."""
    env = shifted(COUNTING, "observation_dropout", 2, seed=0)
    stayed = []
    for seed in range(60):
        rows = shown(env, 40, seed)
        assert rows[0].tolist() == [0, 9]
        fresh = rows[1:, 0] == np.arange(1, 41)
        np.testing.assert_array_equal(rows[1:, 0][~fresh], rows[:-1, 0][~fresh])
        stayed.append([~fresh, rows[1:, 1] == rows[:-1, 1]])
    shares = np.mean(stayed, (0, 2))
    np.testing.assert_allclose(shares, 0.3, atol=0.03)  # 2,400 draws: a deviation of 0.01
    assert abs(np.corrcoef(np.moveaxis(stayed, 1, 0).reshape(2, -1))[0, 1]) < 0.08


def test_noise_has_the_deviation_that_is_asked_for():
    std = {"observation": np.array([2.0, 50.0])}
    env = shifted(COUNTING, "observation_noise", 3, seed=0, std=std)
    clean = shown(shifted(COUNTING, "observation_noise", 0, seed=0, std=std), 40)
    np.testing.assert_array_equal(clean, shown(Counting(), 40))
    noise = np.concatenate([shown(env, 40, seed) - clean for seed in range(60)])
    np.testing.assert_allclose(noise.std(0), (0.2 * 2, 0.2 * 50), rtol=0.05)  # 2,460 draws: 0.014
    np.testing.assert_array_equal(shown(env, 40, 5), shown(env, 40, 5))  # an episode depends on its seed alone
    other = shifted(COUNTING, "observation_noise", 3, seed=1, std=std)
    assert not np.array_equal(shown(env, 40, 5), shown(other, 40, 5))
    assert shown(env).dtype == np.float32


@pytest.mark.parametrize("name", [name for name, shift in SHIFTS.items() if shift.kind == "sensing"])
def test_other_senses_leave_choices_alone_and_zero_changes_nothing(name):
    config, std = EnvConfig("test_shifts:counting_dict"), {"count": np.ones(2)}
    for severity in (0, 3):
        env, clean = shifted(config, name, severity, seed=0, std=std), counting_dict()
        pairs = [(env.reset(seed=0)[0], clean.reset()[0])]
        pairs += [(env.step(np.ones(1) * 2)[0], clean.step(np.ones(1) * 2)[0]) for _ in range(9)]
        assert all(one["kind"] == 1 and env.observation_space.contains(one) for one, _ in pairs)
        assert all(np.array_equal(one["count"], other["count"]) for one, other in pairs) == (severity == 0)


def test_effects_of_senses():
    found = effects.effects(
        COUNTING,
        "observation_noise",
        seed=0,
        states=np.zeros((0, 0)),
        actions=np.linspace(-1, 3, 49)[:, None],
        severities=(0, 1, 2, 3),
        std={"observation": shown_std()},
    )
    assert in_order(found) and all(effect.holds for effect in found)
    np.testing.assert_allclose([effect.size for effect in found], [0, 0.05, 0.1, 0.2], rtol=0.2)  # 98 draws: 0.07
    late = effects.effects(
        COUNTING, "action_delay", seed=0, states=np.zeros((0, 0)), actions=np.linspace(-1, 3, 49)[:, None]
    )
    assert in_order(late) and all(effect.holds for effect in late)


def shown_std():
    env = Counting()
    rows = [env.reset()[0]] + [env.step(action)[0] for action in np.linspace(-1, 3, 49)[:, None]]
    return np.std(rows, 0)


@draws
def test_effects_of_pictures(states, monkeypatch):
    few = {"states": states[0][:3], "actions": states[1][:3], "seed": 0}
    found = effects.effects(image("walker_walk"), "light_intensity", severities=(0, 1, 3), **few)
    assert in_order(found) and all(effect.holds for effect in found) and found[0].unit == "levels of 255"
    thick = effects.effects(image("walker_walk"), "thickness", severities=(3,), **few)
    assert thick[0].holds and thick[0].size > 0.5

    def replaced(edit):
        shift = SHIFTS["camera_zoom"]._replace(edit=edit, fields=("opt.gravity",))
        monkeypatch.setitem(SHIFTS, "camera_zoom", shift)
        return effects.effects(image("walker_walk"), "camera_zoom", severities=(2,), **few)[0]

    nothing = replaced(lambda env, amount, rng: None)  # as the place of a camera that follows a body
    assert nothing.size == 0 and not nothing.holds

    def heavy(env, amount, rng):
        env.physics.model.opt.gravity[...] *= 2
        env.after_drawing = lambda picture: 255 - picture

    more = replaced(heavy)
    assert more.size > 1 and more.unwanted > 0 and not more.holds


def test_what_counts_as_an_effect():
    effect = Effect("background", 3, 1.5, "levels of 255", 1.0, 0.0)
    assert effect.holds and not effect._replace(unwanted=1e-12).holds and not effect._replace(size=0.9).holds
    assert effect._replace(severity=1, size=0.9).holds and not effect._replace(severity=1, size=0.0).holds
    assert not effect._replace(severity=0).holds and effect._replace(severity=0, size=0.0).holds


@pytest.mark.parametrize(
    ("config", "name", "line"),
    [
        (WALKER, "camera_poses", "shift 'camera_poses': unknown; did you mean camera_pose?; allowed: light_intensity"),
        (WALKER, "camera_pose", "shift 'camera_pose': 'dmc/walker_walk' can't have it: it changes pictures, and"),
        (WALKER, "thickness", "it changes pictures, and env.observation is state"),
        (COUNTING, "heavier", "only tasks of DeepMind Control can be changed like this"),
        (COUNTING, "observation_noise", "std of 'observation' must have shape (2,); the shapes given are None"),
        (EnvConfig("dmc/cartpole_swingup"), "friction", "nothing in it has friction"),
        (EnvConfig("dmc/finger_spin"), "more_gravity", "gravity acts on none of its joints"),
        (EnvConfig("dmc/swimmer_swimmer6"), "damping", "its joints have no damping"),
        (EnvConfig("probe/echo"), "objects", "only tasks of DeepMind Control"),
    ],
)
def test_refusals(config, name, line):
    with pytest.raises(ConfigError) as refused:
        shifted(config, name, 1, seed=0)
    assert line in str(refused.value) and "\n" not in str(refused.value)


def test_severities_are_three():
    with pytest.raises(ConfigError, match="severity 4; allowed: 1, 2, 3, or 0 for none"):
        shifted(WALKER, "heavier", 4, seed=0)
    with (
        pytest.raises(ConfigError, match="shift 'heavier': it can't be undone"),
        under(dmc.make("walker_walk"), "heavier", 1, seed=0),
    ):
        pass


def test_what_a_task_can_not_have():
    assert set(not_applicable(WALKER)) == {*PICTURES, "thickness"}
    assert set(not_applicable(EnvConfig("dmc/reacher_easy"))) == {
        *(*PICTURES, "thickness", "friction", "more_gravity", "less_gravity")
    }
    assert set(not_applicable(EnvConfig("probe/echo"))) == {name for name, shift in SHIFTS.items() if shift.edit}


@draws
def test_what_a_picture_does_not_show_can_not_change():
    """The reacher's camera looks straight down on the floor; the cup is seen before the sky."""
    found = not_applicable(image("reacher_easy"))
    assert found["background"] == "no sky is seen" and "floor_colour" not in found
    assert found["observation_noise"] == "none of its observations is a Box of floats, nor a Dict with one"
    assert not {"background", "floor_texture"} & set(not_applicable(image("ball_in_cup_catch")))
