"""Images changed before they are learnt from: by hand, per row of the batch, and not in reports."""

import jax
import numpy as np
from agents import KEY, quick_jit, random_batch, tiny_config

from dreamer_jax.agent import make_agent
from dreamer_jax.ops.augment import jitter, shift
from dreamer_jax.specs import ArraySpec, EnvSpec

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 4, 8, 10, 2)).astype(np.uint8)
ROWS = np.arange(3)
SEEING = EnvSpec({"eye": ArraySpec((16, 16, 1), "uint8")}, {"action": ArraySpec((2,), "float32")})


def test_shifts_are_of_whole_windows_and_repeat_the_edge():
    moved = np.asarray(shift(KEY, ROWS, IMAGES, 2))
    wide = np.pad(IMAGES, ((0, 0), (0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    places = [
        [(y, x) for y in range(5) for x in range(5) if (wide[i, :, y : y + 8, x : x + 10] == moved[i]).all()]
        for i in range(3)
    ]
    assert all(len(found) == 1 for found in places) and moved.dtype == np.uint8
    drawn = np.asarray(shift(KEY, np.arange(500), np.broadcast_to(IMAGES[:1], (500, *IMAGES.shape[1:])), 2))
    assert len({each.tobytes() for each in drawn}) == 25
    np.testing.assert_array_equal(shift(KEY, ROWS[2:], IMAGES[2:], 2)[0], moved[2])


def test_jitter_by_hand():
    changed = np.asarray(jitter(KEY, ROWS, IMAGES, 0.4))
    for row in range(3):
        brightness, contrast = jax.random.uniform(jax.random.fold_in(KEY, row), (2,), minval=0.6, maxval=1.4)
        pixels = IMAGES[row] * float(brightness)
        expected = np.clip(np.round((pixels - pixels.mean()) * float(contrast) + pixels.mean()), 0, 255)
        assert np.abs(expected - changed[row]).max() <= 1 and changed.dtype == np.uint8
    np.testing.assert_array_equal(jitter(KEY, ROWS, IMAGES, 0.0), IMAGES)


def test_updates_see_other_images_and_reports_do_not():
    small = dict(encoder__depth=2, decoder__depth=2, decoder__blocks=2)
    configs = tiny_config(**small), tiny_config(**small, encoder__shift=3, encoder__jitter=0.3)
    agents = [make_agent(config, SEEING) for config in configs]
    state, batch = quick_jit(agents[0].init)(KEY), random_batch(SEEING, configs[0])
    losses, other = (quick_jit(agent.loss)(state.params, state, KEY, batch)[1].losses["eye"] for agent in agents)
    assert (np.asarray(losses) != other).all()
    reports = [quick_jit(agent.report)(state, KEY, batch)[0] for agent in agents]
    assert {name: float(x) for name, x in reports[0].items()} == {name: float(x) for name, x in reports[1].items()}
