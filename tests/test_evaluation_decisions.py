"""Critics, the order of policies, over-fitting and the ladder, where the answers are known."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from trainer import tiny_run

from dreamer_jax.agent import make_agent, make_behavior
from dreamer_jax.datasets.collect import uniform
from dreamer_jax.envs.simulator_state import far_from_the_limit
from dreamer_jax.evaluation import closed_loop, ladder, overfitting, play, policies, recordings, score_card, values
from dreamer_jax.evaluation.agreement import sure_agreement
from dreamer_jax.evaluation.intervals import bootstrap_rows, episode_means
from dreamer_jax.evaluation.oracle import oracle, with_simulator
from dreamer_jax.evaluation.simulator import Simulator
from dreamer_jax.evaluation.subject import Critic, Subject, critic_of
from dreamer_jax.models.world_model import make_world_model
from dreamer_jax.specs import ArraySpec, EnvSpec

ARRIVAL, DEPARTURE = (Critic(lambda params, feat: feat, 0.9, own) for own in (False, True))


@pytest.fixture(scope="module")
def world():
    """A simulator, episodes of its oracle, and a subject that has learnt nothing."""
    config = tiny_run(env__task="dmc/cartpole_balance", env__action_repeat=4, env__time_limit=100)
    simulator = Simulator(config.env)
    spec = simulator.stream.env_spec
    shown = play.play(config.env, {"random": uniform}, episodes=3, steps=20, seed=0)
    agent, model = make_agent(config, spec), make_world_model(config, spec)
    behavior = make_behavior(config, spec, model, dtype=np.float32, axis_name=None)
    params = jax.jit(agent.init)(jax.random.key(0)).params
    subject = Subject("new", model, params, spec, True, behavior, agent, critic_of(config, spec, model))
    yield SimpleNamespace(config=config, simulator=simulator, recordings=shown, subject=subject)
    simulator.close()


def episode(reward, terminal):
    reward = np.array(reward, np.float32)
    ends = np.arange(len(reward)) == len(reward) - 1
    flags = {"is_first": ~ends, "is_last": ends, "is_terminal": ends & terminal}
    return recordings.Recording("policy", {"reward": reward} | flags, {})


def test_sums_begin_with_the_next_reward_or_with_the_states_own():
    reward = np.array([[100.0, 1, 2, 3], [0, 0, 0, 1]])
    np.testing.assert_allclose(values.discounted(reward, ARRIVAL), [1 + 0.9 * 2 + 0.81 * 3, 0.81])
    np.testing.assert_allclose(values.discounted(reward, DEPARTURE), [100 + 0.9 + 0.81 * 2, 0])


@pytest.mark.parametrize("critic", [ARRIVAL, DEPARTURE])
@pytest.mark.parametrize("terminal", [False, True])
def test_a_critic_that_is_right_is_right_to_the_end(critic, terminal):
    """Values of rewards that go on for ever, or end with the episode, by the definition of either convention."""
    reward = np.random.default_rng(0).normal(size=30)
    later = np.zeros(31)
    for time in range(29, -1, -1):
        later[time] = reward[time] + 0.9 * later[time + 1]
    value = later[:30] if critic.own else np.append(later[1:30], 0)
    value = value if terminal else value + 0.9 ** (29 - np.arange(30)) * 7  # what nobody sees goes on behind it
    promised, worth = values.to_the_end(episode(reward, terminal), value, critic)
    if critic.own and not terminal:
        promised, worth = promised[:-1], worth[:-1]
        promised = promised + 0.9 ** (29 - np.arange(29)) * reward[29]  # its own reward is counted with what follows
        worth = worth + 0.9 ** (29 - np.arange(29)) * reward[29]
    np.testing.assert_allclose(promised, worth, atol=1e-5)
    wrong, same = values.to_the_end(episode(reward, terminal), value + 1, critic)
    expected = np.ones(30) if terminal else 1 - 0.9 ** (29 - np.arange(30))
    np.testing.assert_allclose((wrong - same)[: len(worth) - 1], expected[: len(worth) - 1], atol=1e-5)


def test_short_episodes_beside_long_ones(monkeypatch):
    """Values come padded to the longest; what lies behind an end is nobody's."""
    lengths = 20, 12
    shown = [episode(np.ones(length), True) for length in lengths]
    padded = np.full((2, 20), 99.0)
    for row, length in enumerate(lengths):
        padded[row, :length] = [sum(0.9**k for k in range(length - 1 - time)) for time in range(length)]
    monkeypatch.setattr(values, "_values", lambda *_: padded)
    found = values.of_recordings(None, ARRIVAL, shown, context=3, seed=0)
    assert found["states"] == (20 - 1 - 2) + (12 - 1 - 2)
    assert found["mean_promised"] == pytest.approx(found["mean_realised"])


def test_intervals_are_over_episodes():
    rng = np.random.default_rng(0)
    row = np.repeat(np.arange(20), 50)
    came = rng.normal(size=20)[row] + 0.1 * rng.normal(size=1000)
    found = sure_agreement(came + 2, came, row)
    assert found["bias"] == pytest.approx(2) and found["ci95"]["bias"] == pytest.approx([2, 2])
    assert found["spearman"] == pytest.approx(1) and found["explained_variance"] == pytest.approx(1)
    whole = bootstrap_rows(lambda x: x.mean(), came, episode=row)
    each = bootstrap_rows(lambda x: x.mean(), came, episode=np.arange(1000))
    assert whole.high - whole.low > 3 * (each.high - each.low)  # rows of an episode are no independent draws
    assert np.isnan(bootstrap_rows(lambda x: x.mean(), came, episode=np.zeros(1000)).low)
    np.testing.assert_allclose(episode_means(came, row), came.reshape(20, 50).mean(1))


def test_the_oracle_imagines_what_comes_and_knows_the_order(world):
    known, perfect = with_simulator(world.recordings), oracle(world.simulator)
    some = dict(horizon=6, count=3, context=1, samples=1, seed=0)
    found = policies.ranking(perfect, {}, known, world.simulator, discount=1.0, **some)
    assert found["spearman"] == pytest.approx(1) and found["regret"] == 0
    assert list(found["policies"]) == ["policy", *(f"policy, noise {x}" for x in ("0.1", "0.3", "0.6", "1")), "random"]
    for one in found["policies"].values():
        assert one["imagined"] == pytest.approx(one["realised"], abs=1e-4)
    assert len({round(one["realised"], 4) for one in found["policies"].values()}) == 6


def test_values_of_restored_states(world):
    """Whose time limit is put off: rewards here are of a pole that stays up for longer than its episode lasts."""
    critic = Critic(lambda params, feat: 0 * feat[0][..., 0] + 3, 0.5)
    some = dict(most=30, count=3, context=2, seed=0)
    found = values.of_states(world.subject, critic, world.recordings, world.simulator, **some)
    assert found["records"] == 5 and found["tail"] == pytest.approx(1 / 32)  # 0.5 ** 5 < 0.05
    windows = recordings.cut(world.recordings, world.subject.spec, context=2, horizon=1, count=3, seed=0)
    states = closed_loop.restored(world.recordings, windows)
    played = closed_loop.play_on(world.subject, windows, states, world.simulator, horizon=5, seed=0, endless=True)
    assert played.going_on.all() and played.reward.min() > 0
    np.testing.assert_allclose(found["promised"], [3 - 3 / 32] * 3, rtol=1e-6)
    np.testing.assert_allclose(found["realised"], played.reward @ 0.5 ** np.arange(5), rtol=1e-5)
    late = states.copy()
    late[:, 0] = 1000  # of 1000
    cut_off = closed_loop.play_on(world.subject, windows, late, world.simulator, horizon=2, seed=0)
    assert not cut_off.going_on.any() and not cut_off.reward[:, 1].any()
    on = closed_loop.play_on(world.subject, windows, late, world.simulator, horizon=2, seed=0, endless=True)
    assert on.going_on.all() and (on.reward > 0).all()
    assert (far_from_the_limit(late)[:, 2:] == late[:, 2:]).all() and not far_from_the_limit(late)[:, :2].any()


def test_another_checkpoint_acts_on_what_is_decoded(world):
    """Of a model that decodes exactly it does as in the simulator: here the same one, whose actions are its own."""
    windows = recordings.cut(world.recordings, world.subject.spec, context=3, horizon=4, count=3, seed=0)
    assert policies.sees_all(world.subject)
    carry = policies.looking(world.subject, world.subject, windows, seed=0).params["other"]["carry"]
    np.testing.assert_array_equal(carry.prev_action["action"], windows.seen.prev_action["action"][:, -1])
    exact = world.subject.model._replace(
        decode=lambda params, feat: {
            name: np.sign(x[:, -1:]) * np.log1p(np.abs(x[:, -1:])) for name, x in windows.seen.observation.items()
        }
    )
    looking = policies.looking(world.subject._replace(model=exact), world.subject, windows, seed=0)
    latent = jax.tree.map(lambda x: x[:3], carry.latent)
    _, action = looking.behavior.act(
        looking.params, jax.random.key(0), np.arange(3), latent, looking.behavior.initial(3), "mode"
    )
    direct = closed_loop.watch(world.subject, windows.seen, 0, "mode")[1]
    np.testing.assert_allclose(action["action"], direct["action"], atol=0.2)  # latents are drawn anew
    assert action["action"].shape == direct["action"].shape


def test_disturbances_are_the_same_for_every_strength():
    spec = EnvSpec({}, {"push": ArraySpec((2,), "float32"), "choice": ArraySpec((), "int32", 4)})
    change = policies.disturbance(spec, 50, 3, seed=0)
    rows = 50 * len(policies.STRENGTHS)
    action = {"push": np.zeros((rows, 2), np.float32), "choice": np.zeros(rows, np.int32)}
    found = {name: np.split(np.asarray(x), len(policies.STRENGTHS)) for name, x in change(action, 1).items()}
    assert not found["push"][0].any() and not found["choice"][0].any()
    small = np.abs(found["push"][1]) > 0
    np.testing.assert_allclose(
        3 * found["push"][1][small], found["push"][2][small], atol=1e-5
    )  # 0.3 and 0.1, unclipped
    changed = [float((part != 0).mean()) for part in found["choice"]]
    assert changed == sorted(changed) and changed[-2] == changed[-1] > 0.5
    assert np.abs(found["push"][-1]).max() < 1 and np.std(found["push"][-1]) == pytest.approx(3**-0.5, abs=0.06)


def test_regret_and_order_of_policies():
    imagined = np.array([[1.0, 2, 3], [1, 2, 3]])
    found = policies.as_section(["a", "b", "c"], imagined, np.array([[5.0, 4, 0], [7, 4, 2]]), np.arange(2), 0)
    assert found["spearman"] == pytest.approx(-1) and found["regret"] == 5
    assert found["policies"]["a"] == {"imagined": 1, "realised": 6}


def test_imagined_rewards_count_as_likely_as_episodes_last(world, monkeypatch):
    going_on = np.array([[[0.9, 0.45, 0.9]]], np.float32)
    guess = SimpleNamespace(reward=np.ones((1, 1, 3), np.float32), going_on=going_on)
    monkeypatch.setattr(policies, "predict", lambda *args, **kwargs: guess)
    some = dict(horizon=3, samples=1, discount=0.9, seed=0)
    np.testing.assert_allclose(policies._imagine(world.subject, None, **some), [1 + 1 + 0.5], rtol=1e-6)


def test_who_has_no_critic(world):
    def of(**changes):
        config = tiny_run(env__task="dmc/cartpole_balance", **changes)
        return critic_of(config, world.subject.spec, make_world_model(config, world.subject.spec))

    assert of(behavior__method="planner") == "its actions are planned, without a critic"
    assert of(behavior__act="planner") == "its actions are planned, and the critic is of the policy"
    assert of(explore__ensemble=2) == "its critic counts what was not known as a reward"
    found = of(behavior__returns="departure", behavior__discount_horizon=50, loss__replay_value=0.0)
    assert found.own and found.discount == 0.98 and of().own is False


def test_over_fitting_is_a_ratio_of_ratios(world, monkeypatch):
    """A model that knows its replay by heart, and of other episodes only what was seen last."""
    monkeypatch.setattr(overfitting, "AHEAD", (1, 3))
    by_heart = [one._replace(source="replay") for one in world.recordings]

    def predict(subject, windows, **rest):
        truth = overfitting.shown_numbers(subject, windows.ahead.observation)
        last = overfitting.shown_numbers(subject, windows.seen.observation)[:, -1:]
        share = 0.9 if known["now"] else 0.0
        return SimpleNamespace(numbers=(share * truth + (1 - share) * last)[None], images={})

    known = {}
    real = overfitting._errors

    def errors(subject, some, *rest):
        known["now"] = some[0].source == "replay"
        return real(subject, some, *rest)

    monkeypatch.setattr(overfitting, "predict", predict)
    monkeypatch.setattr(overfitting, "_errors", errors)
    some = dict(starts=9, context=2, seed=0)
    found = overfitting.overfitting(world.subject, overfitting.Replayed(by_heart, []), world.recordings, **some)
    assert found["replay"]["error"] == pytest.approx(0.01, rel=1e-3) and found["unseen"]["error"] == pytest.approx(1)
    assert found["ratio"] == pytest.approx(100, rel=1e-3) and not found["held_out"]
    few = overfitting.overfitting(world.subject, overfitting.Replayed(by_heart[:1], []), world.recordings, **some)
    assert few == {"left_out": "fewer than two episodes with 6 records"}


def rungs(errors, steps=(0, 100, 300, 1000), verdict="used", ratio=1.0):
    """Reports of a ladder, as far as it looks at them: three episodes, whose errors differ by a tenth."""
    each = [[error * share for share in (0.9, 1.0, 1.1)] for error in errors]
    return [
        {
            "step": step,
            "report": {
                "forecast": {
                    "5": {"by_episode": {"horizons": [5, 15, 50]} | dict.fromkeys(("observation", "reward"), [row] * 3)}
                },
                "reconstruction": {"by_episode": row},
                "latents": {"active": 4, "kl": 1.0, "verdict": verdict if step else None},
                "returns": {"15": {"mean_realised": 1.0}, "50": {"mean_realised": 10 - row[1]}},
                "overfitting": {"ratio": ratio if step == steps[-1] else 1.0},
            },
        }
        for step, row in zip(steps, each, strict=True)
    ]


def test_longer_training_improves_or_the_curve_is_void():
    good = ladder.climb(rungs([4, 3, 2, 1]))
    assert len(good["controls"]) == 4 and all(one["passed"] for one in good["controls"].values())
    assert good["curves"]["error 5 ahead"] == pytest.approx([4, 3, 2, 1]) and not good["warnings"]
    assert good["curves"]["R2 of the state"] == [None] * 4
    worse = ladder.climb(rungs([1, 2, 3, 4]))
    assert not any(one["passed"] for one in worse["controls"].values())
    assert worse["curves"]["reconstruction"] == {"void": ["longer training improves: reconstruction"]}
    assert [warning.split(":")[0] for warning in worse["warnings"]] == ["error 50 ahead", "return"]
    assert worse["curves"]["error 50 ahead"] == pytest.approx([1, 2, 3, 4])  # warned of, not void
    back = ladder.climb(rungs([4, 1, 3, 2]))  # better at last, but not with training
    assert [one["passed"] for one in back["controls"].values()] == [False] * 4
    assert back["controls"]["longer training improves: reconstruction"]["value"] == pytest.approx(-0.4)


def test_the_last_must_be_better_beyond_the_interval():
    noisy = np.array([[1.0, 1, 1, 1], [0.9, 0.9, 0.9, 0.9], [0.1, 1.9, 0.1, 1.8]])
    assert ladder.improvement("x", [0, 1, 2], noisy).value == pytest.approx(-0.5)
    falling = noisy - np.array([[0.0], [0.1], [0.4]])
    one = ladder.improvement("x", [0, 1, 2], falling)
    assert one.value == pytest.approx(-1) and not one.passed  # half of the episodes are worse
    assert ladder.improvement("x", [0, 1, 2], falling - np.array([[0.0], [0.5], [2.0]])).passed


def test_rungs_that_count_are_apart():
    assert ladder.apart([0, 100, 300, 1000]) == [0, 1, 2, 3]
    assert ladder.apart([0, 900, 950, 1000]) == [0, 3]
    assert ladder.apart([0, 50, 120, 280, 400, 990, 1000]) == [0, 2, 3, 6]


def test_collapse_and_over_fitting_show_in_the_ladder(tmp_path):
    found = ladder.climb(rungs([4, 3, 2, 1], verdict="collapsed", ratio=2.0))
    assert found["warnings"] == [
        "unseen / replayed: 2 at the end, 1 before: over-fitting",
        "latents: collapsed at 100 agent steps",
    ]
    assert all(one["passed"] for one in found["controls"].values())
    rows = ladder.as_rows(found)
    assert rows[0][-2:] == ("unseen / replayed", "latents") and rows[-1][-2:] == ("2", "collapsed")
    picture = ladder.draw(found, tmp_path / "ladder.png")
    page = score_card.as_ladder(found, rows, "walker", picture)
    assert "over-fitting" in page and "collapsed" in page and page.count("<img") == 1
    json.dumps(found, allow_nan=False)
