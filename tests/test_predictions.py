"""Reports of a run that sees pictures, dreams from it, and the warning about collapsed latents."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import test_held_out
from PIL import Image
from trainer import tiny_run

from dreamer_jax.analysis import pictures, predictions
from dreamer_jax.cli import main
from dreamer_jax.config.schema import ConfigError
from dreamer_jax.runs.checkpoint import read_replays
from dreamer_jax.runs.metrics import read_jsonl
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.training.train import train

SPEC = EnvSpec({}, {"motor": ArraySpec((2,), "float32"), "button": ArraySpec((), "int32", 3)})
SHOWN = predictions.SHOWN


class Gallery:
    """A logger that keeps what it is shown."""

    def __init__(self):
        self.shown, self.metrics = {}, []

    def __call__(self, counters, metrics):
        self.metrics.append(metrics)

    def picture(self, counters, name, path):
        self.shown[name, counters["env_frames"]] = path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a tiny agent that sees pictures of 32 x 48, with reports and held-out episodes."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(Path(__file__).parent))
    folder, gallery = tmp_path_factory.mktemp("run") / "run", Gallery()
    widths = dict(rssm__deter=16, encoder__depth=2, decoder__depth=2, decoder__blocks=2)
    config = tiny_run(
        **widths,
        env__task="worlds:Picture",
        replay__capacity=400,
        replay__validation_fraction=0.3,
        train__batch_length=8,
        train__frames=400,
        train__report_frames=200,
    )
    train(config, folder, loggers=[gallery, "tensorboard"])
    yield folder, gallery
    patch.undo()


def frames(path):
    with Image.open(path) as image:
        return np.stack([np.asarray((image.seek(i), image.convert("RGB"))[1]) for i in range(image.n_frames)])


def test_reports_are_logged_and_drawn(run):
    folder, gallery = run
    names = {"observation", "observation strip", "signals"}
    assert {name for name, _ in gallery.shown} == names and {step for _, step in gallery.shown} == {200, 400}
    assert all(path.parent == folder / "reports" and path.exists() for path in gallery.shown.values())
    told = [metrics for metrics in gallery.metrics if "held_out/kl" in metrics]
    assert len(told) == 2 and told == [
        {name: pytest.approx(line[name], rel=1e-6) for name in metrics}
        for metrics, line in zip(
            told, [x for x in read_jsonl(folder / "metrics.jsonl") if "held_out/kl" in x], strict=True
        )
    ]
    assert told[0]["held_out/openloop_error/observation/1"] > 0
    events = b"".join(path.read_bytes() for path in folder.glob("events*"))
    assert events.count(b"predictions/observation strip") == 2 and events.count(b"GIF89a") == 2


@pytest.mark.parametrize("fraction", [0.25, 0.0])
def test_numbers_are_of_held_out_windows_where_there_are_any(tmp_path, monkeypatch, fraction):
    replay = test_held_out.make(tmp_path, fraction=fraction)
    test_held_out.fill(replay, 300)
    config = tiny_run(replay__validation_fraction=fraction, train__batch_size=5)
    names = ("posterior_error/x", "prior_error/x", "permuted_error/x", "active_latents")

    def report(state, key, batch):
        return {"clock": batch.observation["clock"][..., 1].sum(), **dict.fromkeys(names, jax.numpy.ones(()))}, None

    monkeypatch.setattr(predictions, "draw", lambda *_, **__: {})
    agent = SimpleNamespace(report=report)
    reports = predictions.Reports(config, agent, test_held_out.SPEC, jax.random.key(0), tmp_path)
    metrics, _, _ = reports(None, replay, 7)
    expected = replay.sample(5, 7, online=False, held_out=fraction > 0)[0].observation["clock"][..., 1].sum()
    assert metrics["held_out/clock" if fraction else "replayed/clock"] == expected


def test_a_dream_of_recorded_actions_shows_the_truth(run, tmp_path):
    folder, _ = run
    metrics, drawn = predictions.dream_run(folder, tmp_path, context=3, length=6)
    assert metrics["kl"] > 0
    film = frames(drawn["observation"])
    tile, bar, side = 32 * 3 + 4, pictures.BAR, 40
    assert film.shape == (9, bar + 3 * tile, side + SHOWN * (48 * 3 + 4), 3)
    top = film[:, 2, side + 5].astype(int)
    assert np.abs(top[:3] - pictures.SEEN).max() < 30 and np.abs(top[3:] - pictures.IMAGINED).max() < 30
    # In the first window's upper picture is the square where the replay says.
    batch = read_replays(folder, 9)[0].sample(SHOWN, 0, online=False, held_out=True)[0]
    order = np.argsort(batch.is_first[:, 3:].any(1), kind="stable")
    for t in (0, 8):
        square = batch.observation["observation"][order[0], t].max(-1) > 100
        seen = film[t, bar + 1 : bar + 96 : 3, side + 1 : side + 144 : 3].max(-1) > 100
        assert (seen == square).mean() > 0.97 and square.any()


def test_a_dream_of_other_actions_shows_no_truth(run, tmp_path, capsys):
    folder, _ = run
    np.savez(tmp_path / "left.npz", action=np.full((4, 2), -1.0))
    for actions, length, stem in (("policy", 5, "policy"), (str(tmp_path / "left.npz"), 4, "left")):
        command = ["dream", str(folder), "--actions", actions, "--output", str(tmp_path / "out"), "--json"]
        assert main([*command, "--context", "2", "--length", "5"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["metrics"] == {} and told["pictures"]["signals"].endswith(f"out/{stem}-signals.png")
        film = frames(told["pictures"]["observation"])
        assert film.shape[:2] == (2 + length, pictures.BAR + 32 * 3 + 4)


def test_given_actions_are_the_ones_dreamt(run, tmp_path):
    folder, _ = run
    films = {}
    for name, value in {"left": -1.0, "right": 1.0, "again": 1.0}.items():
        np.savez(tmp_path / f"{name}.npz", action=np.full((4, 2), value, np.float32))
        _, drawn = predictions.dream_run(folder, tmp_path / name, actions=str(tmp_path / f"{name}.npz"), context=2)
        films[name] = frames(drawn["observation"])
    np.testing.assert_array_equal(films["right"], films["again"])
    np.testing.assert_array_equal(films["left"][:2], films["right"][:2])
    assert (films["left"][2:] != films["right"][2:]).any()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"motor": np.zeros((3, 2))}, "holds motor, expected button, motor"),
        ({"motor": np.zeros((3, 2)), "button": np.zeros(2, int)}, "the same number of rows"),
        ({"motor": np.zeros((0, 2)), "button": np.zeros(0, int)}, "at least 1"),
        (
            {"motor": np.zeros((3, 1)), "button": np.zeros(3, int)},
            r"motor is float64\[3, 1\], expected float32 of shape",
        ),
        ({"motor": np.zeros((3, 2)), "button": np.zeros(3)}, r"button is float64\[3\], expected int32"),
        ({"motor": np.full((3, 2), 1.5), "button": np.zeros(3, int)}, "motor goes from 1.5 to 1.5, not -1 to 1"),
        ({"motor": np.full((3, 2), np.nan), "button": np.zeros(3, int)}, "motor goes from nan"),
        ({"motor": np.zeros((3, 2)), "button": np.array([0, 1, 3])}, "button goes from 0 to 3, not 0 to 2"),
        ({"motor": np.array([None]), "button": np.zeros(1, int)}, "readable .npz"),
    ],
)
def test_actions_that_cannot_be_taken(tmp_path, arrays, words):
    np.savez(tmp_path / "actions.npz", **arrays)
    with pytest.raises(ConfigError, match=words):
        predictions.read_actions(tmp_path / "actions.npz", SPEC)


@pytest.mark.parametrize("content", [None, b"no zip at all"])
def test_a_file_of_actions_that_is_none(tmp_path, content):
    if content:
        (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ConfigError, match=r"--actions .*x.npz: expected recorded, policy or a readable .npz file"):
        predictions.read_actions(tmp_path / "x.npz", SPEC)


def test_the_warning_needs_all_signs_together():
    each = {f"kl_latent/{i:02d}": 0.1 for i in range(32)}
    collapsed = each | {
        "active_latents": 3.0,
        "posterior_error/a": 1.0,
        "prior_error/a": 1.005,
        "permuted_error/a": 1.002,
    }
    line = predictions.collapse(collapsed)
    assert line.startswith("warning: the latents have collapsed: 3 of 32 are active") and "\n" not in line
    for change in ({"active_latents": 4.0}, {"prior_error/a": 1.02}, {"permuted_error/a": 1.02}):
        assert predictions.collapse(collapsed | change) == ""
    more = {"posterior_error/b": 0.5, "prior_error/b": 0.5, "permuted_error/b": 0.6}
    assert predictions.collapse(collapsed | more) == ""


def test_an_agent_from_elsewhere_may_report_what_it_likes(tmp_path):
    replay = test_held_out.make(tmp_path)
    test_held_out.fill(replay, 300)
    agent = SimpleNamespace(report=lambda state, key, batch: ({"own": batch.reward.sum()}, None))
    config = tiny_run(replay__validation_fraction=0.25)
    reports = predictions.Reports(config, agent, test_held_out.SPEC, jax.random.key(0), tmp_path)
    metrics, drawn, warning = reports(None, replay, 7)
    assert metrics.keys() == {"held_out/own"} and not drawn and not warning


def test_a_strip_shows_the_last_record_seen_and_the_future():
    shown = np.zeros((20, 6, 4, 3), np.uint8) + np.arange(20, dtype=np.uint8)[:, None, None, None]
    picture = pictures.strip(shown, context=8, rows=1, columns=6)
    assert picture[-1, 40::4, 0].tolist() == [6, 7, 8, 11, 14, 17]
    assert len(pictures.strip(shown[:4], context=3, rows=3)[0]) == 40 + 4 * 4


def test_one_channel_is_shown_grey_and_others_by_their_first():
    images = np.random.default_rng(0).uniform(size=(1, 2, 100, 100, 4)).astype(np.float32)
    for channels in (1, 2, 4):
        shown = pictures.compare_images(None, images[..., :channels], 1)
        assert (shown[:, pictures.BAR : -4, :-4] == shown[:, pictures.BAR : -4, :-4, :1]).all()
        np.testing.assert_allclose(shown[0, pictures.BAR, :-4, 0], 255 * images[0, 0, 0, :, 0], atol=0.51)


def test_error_is_the_difference_around_grey():
    truth, model = np.full((1, 1, 96, 96, 3), 0.25, np.float32), np.full((1, 1, 96, 96, 3), 0.75, np.float32)
    column = pictures.compare_images(truth, model, 1)[0, pictures.BAR :, 0, 0]
    assert column[[0, 100, 200]].tolist() == [64, 191, 191]


def test_a_film_plays_at_its_speed(tmp_path):
    shown = np.random.default_rng(0).integers(255, size=(3, 8, 8, 3)).astype(np.uint8)
    with Image.open(pictures.save_film(shown, tmp_path / "a.gif", 15)) as image:
        assert image.n_frames == 3 and image.info["duration"] in (60, 70) and image.info["loop"] == 0
    assert not list(tmp_path.glob("*.tmp"))
