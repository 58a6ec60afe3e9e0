import json
import subprocess
import sys

import numpy as np
import pytest

from dreamer_jax.analysis.plot import Run, compute_panels, curve, load_run, mark, mark_text, plot_runs
from dreamer_jax.config.schema import ConfigError


def make_run(frames, scores, *, task="probe/count", method="dreamer_v3", seed=0, clock=()):
    clock = np.array(clock, np.float64).reshape(-1, 2)
    return Run(task, method, seed, np.array(frames, np.float64), np.array(scores, np.float64), clock)


def write_run(run_dir, *, task="probe/count", method="dreamer_v3", seed=0, slope=1.0):
    run_dir.mkdir()
    with open(run_dir / "scores.jsonl", "w") as scores, open(run_dir / "metrics.jsonl", "w") as metrics:
        for number in range(40):
            frames = 100 * (number + 1)
            row = {"task": task, "method": method, "seed": seed, "env": 0, "episode": number, "length": 100}
            row |= {"agent_steps": frames, "env_frames": frames, "score": slope * number}
            scores.write(json.dumps(row) + "\n")
            step = {"agent_steps": frames, "env_frames": frames, "grad_steps": number}
            metrics.write(json.dumps({**step, "seconds": 6.0 * (number + 1)}) + "\n")
    return run_dir


def test_curve_is_the_mean_of_the_episodes_that_ended_in_a_bin():
    run = make_run([5, 10, 20, 45, 50], [1, 3, 10, 4, 8])
    np.testing.assert_allclose(curve(run, np.linspace(0, 50, 6)), [2, 10, (2 * 10 + 6) / 3, (10 + 2 * 6) / 3, 6])


def test_curve_is_unknown_before_the_first_and_after_the_last_episode():
    np.testing.assert_allclose(curve(make_run([25], [7]), np.linspace(0, 50, 6)), [np.nan, np.nan, 7, np.nan, np.nan])
    assert np.isnan(curve(make_run([], []), np.linspace(0, 50, 6))).all()


def test_few_seeds_have_a_band_from_min_to_max():
    runs = [make_run([10, 20], [value, 2 * value], seed=value) for value in (1, 2, 6)]
    (group,) = compute_panels(runs, bins=2)["probe/count"]
    np.testing.assert_allclose(group.frames, [5, 15])
    np.testing.assert_allclose(group.mean, [3, 6])
    np.testing.assert_allclose(group.low, [1, 2])
    np.testing.assert_allclose(group.high, [6, 12])
    assert group.band == "min to max"


def test_five_seeds_have_a_band_of_one_standard_deviation():
    runs = [make_run([10], [value], seed=value) for value in (1, 2, 3, 4, 5)]
    (group,) = compute_panels(runs, bins=1)["probe/count"]
    np.testing.assert_allclose([group.mean[0], group.low[0], group.high[0]], [3, 3 - 2.5**0.5, 3 + 2.5**0.5])
    assert "std" in group.band


def test_mean_ends_with_the_shortest_run():
    (group,) = compute_panels([make_run([10, 20], [1, 1]), make_run([10], [3])], bins=2)["probe/count"]
    np.testing.assert_allclose(group.mean, [2, np.nan])
    np.testing.assert_allclose(group.curves, [[1, 1], [3, np.nan]])


def test_runs_are_grouped_by_task_and_method():
    runs = [make_run([10], [1], task=task, method=method) for task in "ba" for method in ("v3", "v1", "v3")]
    panels = compute_panels(runs, bins=3)
    assert list(panels) == ["a", "b"]
    assert [(group.method, len(group.runs)) for group in panels["a"]] == [("v1", 1), ("v3", 2)]
    assert panels["a"][0].band == ""


def test_mark_takes_the_last_ten_episodes_before_that_time():
    clock = [(30, 100), (90, 300)]  # 60 s: 200 frames
    runs = [make_run(10 * np.arange(1, 31), offset + np.arange(30.0), clock=clock) for offset in (0, 4)]
    (group,) = compute_panels(runs, bins=5)["probe/count"]
    one = mark(group, 1)
    assert one == (1, 200, 16.5, 14.5, 18.5)  # episodes 10 to 19 of each
    assert mark_text(one, group) == "1 min: 16.5 (14.5 to 18.5)"
    assert mark(group, 2) is None  # no run lasted that long
    assert mark(group, 0.01) is None  # nothing had ended
    assert mark(compute_panels([make_run([10], [1])])["probe/count"][0], 1) is None  # no metrics


def test_load_run(tmp_path):
    run = load_run(write_run(tmp_path / "run", seed=3, slope=2))
    assert (run.task, run.method, run.seed) == ("probe/count", "dreamer_v3", 3)
    np.testing.assert_allclose(run.frames[:3], [100, 200, 300])
    np.testing.assert_allclose(run.scores[:3], [0, 2, 4])
    np.testing.assert_allclose(run.clock[:2], [(6, 100), (12, 200)])


def test_plot_writes_a_picture(tmp_path):
    matplotlib_image = pytest.importorskip("matplotlib.image")
    runs = [write_run(tmp_path / str(seed), seed=seed, slope=seed + 1) for seed in range(3)]
    runs += [write_run(tmp_path / "planet", method="planet", slope=0.5), write_run(tmp_path / "other", task="a/b")]
    picture = plot_runs(runs, tmp_path / "plots" / "return.png", marks_minutes=(1, 2, 60))
    pixels = matplotlib_image.imread(picture)
    assert pixels.shape[0] > 400 and pixels.shape[1] > 1200
    assert 0.02 < (pixels[..., :3].min(-1) < 0.9).mean() < 0.5  # ink, and not all of it


@pytest.mark.parametrize(
    ("content", "message"), [(None, "scores.jsonl"), ("", "no finished episode"), ('{"score": 1}\n', "without env_fr")]
)
def test_a_directory_without_scores_is_named(tmp_path, content, message):
    run_dir = tmp_path / "walker"
    run_dir.mkdir()
    if content is not None:
        (run_dir / "scores.jsonl").write_text(content)
    with pytest.raises(ConfigError, match=f"walker.*{message}"):
        plot_runs([run_dir], tmp_path / "out.png")
    with pytest.raises(ConfigError, match="no run directories"):
        plot_runs([], tmp_path / "out.png")


def test_importing_loads_nothing_heavy():
    names = ("runs.metrics", "runs.progress", "analysis.plot", "analysis.statistics")
    modules = ", ".join(f"dreamer_jax.{name}" for name in names)
    heavy = "{'matplotlib', 'tensorflow_probability', 'tensorboardX', 'gymnasium', 'mujoco', 'wandb'}"
    code = f"import sys, {modules}; found = {heavy} & set(sys.modules); sys.exit(f'loaded {{found}}' if found else 0)"
    subprocess.run([sys.executable, "-c", code], check=True)
