"""Every preset's update, with its own options at small widths: what learns, what stays, and how gradients run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import KEY, assert_trees_equal, largest, quick_jit, random_batch

from dreamer_jax.agent import make_agent
from dreamer_jax.config.checks import check
from dreamer_jax.config.loading import load, replace
from dreamer_jax.config.named import PRESETS
from dreamer_jax.config.schema import ConfigError, RSSMConfig, flatten
from dreamer_jax.models.latents import gaussian
from dreamer_jax.models.losses import kl_losses
from dreamer_jax.specs import ArraySpec, EnvSpec

SIZE, LENGTH, HORIZON = 3, 6, 4
MOTORS = EnvSpec({"place": ArraySpec((3,), "float32")}, {"motors": ArraySpec((2,), "float32")})
BUTTONS = EnvSpec(MOTORS.observation, {"button": ArraySpec((), "int32", 4)})
SMALL = {
    **{"dtype": "float32", "rssm.deter": 12, "rssm.hidden": 10, "rssm.stoch": 5, "rssm.classes": 6, "rssm.blocks": 2},
    **{"behavior.imagination_length": HORIZON, "optimizer.warmup": 0, "kl.free_nats": 0.0},
    **{"planner.candidates": 20, "planner.elites": 5, "planner.iterations": 2, "planner.horizon": 3},
}


def small(preset, **changes):
    config = load(preset)
    widths = {name: 8 for name in flatten(config) if name.endswith(".units")}
    named = {name.replace("__", "."): value for name, value in changes.items()}
    return check(replace(config, SMALL | widths | named))


def windows(config, spec, seed=0):
    batch = random_batch(spec, config, seed, SIZE, LENGTH)
    return batch if config.replay.context else batch.replace(context=None)


CODES = [name for name in PRESETS if "_paper" not in name]  # which differ in numbers alone


def prepared(config, spec):
    agent = make_agent(config, spec)
    rng = np.random.default_rng(0)

    def draw(path, leaf):  # nothing is 0, where many gradients do not get through
        noise = rng.normal(0, 0.5 / max(1, leaf.shape[0]) ** 0.5 if leaf.ndim > 1 else 0.1, leaf.shape)
        return (noise + (path[-1].key == "scale")).astype(np.float32)

    shapes = jax.eval_shape(agent.init, KEY)
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    drawn = {name: jax.tree_util.tree_map_with_path(draw, getattr(shapes, name)) for name in ("params", "slow")}
    return agent, state.replace(**drawn)


def after_an_update(config, spec):
    agent, state = prepared(config, spec)
    return state, *quick_jit(agent.update)(state, KEY, windows(config, spec))[:2]


def changed(before, after):
    return {
        jax.tree_util.keystr(path): bool((np.asarray(a) != np.asarray(b)).any())
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    }


@pytest.mark.parametrize("preset", CODES)
def test_one_update_moves_every_group_and_nothing_else(preset):
    config = small(preset)
    state, new, metrics = after_an_update(config, MOTORS)
    assert all(np.isfinite(x) for x in metrics.values())
    groups = {"model"} if config.behavior.method == "planner" else {"model", "actor", "critic"}
    assert set(state.params) == groups
    still = [name for name, moved in changed(state.params, new.params).items() if not moved]
    assert not still
    copied = config.value.slow_every > 1 and groups != {"model"}
    if copied:  # after the first update the slow critic is the critic
        assert_trees_equal(new.slow, new.params["critic"])


@pytest.mark.parametrize("spec", [MOTORS, BUTTONS], ids=["motors", "buttons"])
@pytest.mark.parametrize("preset", [name for name in CODES if name != "planet"])
def test_the_losses_of_behaviour_never_reach_the_model(preset, spec):
    """The gradient through imagined states is the actor's; model and critic get none of it, and the actor none else."""
    config = small(preset, loss__replay_value=0.0)
    agent, state = prepared(config, spec)
    batch = windows(config, spec)
    kinds = {"policy": ("policy",), "value": ("value",), "model": ("dyn", "rep", "rew", "con", "place")}

    def totals(params):
        losses = agent.loss(params, state, KEY, batch)[1].losses
        return {kind: sum(losses[name].mean() for name in names if name in losses) for kind, names in kinds.items()}

    grads = quick_jit(jax.jacrev(totals))(state.params)
    most = {kind: {group: largest(tree) for group, tree in groups.items()} for kind, groups in grads.items()}
    assert most["policy"]["actor"] > 0 and most["policy"]["model"] == most["policy"]["critic"] == 0
    assert most["value"]["critic"] > 0 and most["value"]["model"] == most["value"]["actor"] == 0
    assert most["model"]["model"] > 0 and most["model"]["actor"] == most["model"]["critic"] == 0


def test_kl_scales_of_one_have_the_gradient_of_plain_kl():
    rng = np.random.default_rng(0)
    draw = lambda: {"mean": rng.normal(size=(2, 3, 4)), "std": rng.uniform(0.5, 2, (2, 3, 4))}  # noqa: E731
    post, prior = (jax.tree.map(jnp.float32, draw()) for _ in range(2))
    divergence = gaussian(RSSMConfig(stoch=4)).divergence

    def split(post, prior):
        losses, _ = kl_losses(divergence, post, prior, free_nats=0.0)
        return (losses["dyn"] + losses["rep"]).sum()

    def plain(post, prior):
        ratio, gap = post["std"] / prior["std"], (post["mean"] - prior["mean"]) / prior["std"]
        return (ratio**2 + gap**2 - 1 - 2 * jnp.log(ratio)).sum() / 2

    ours, theirs = (jax.grad(function, (0, 1))(post, prior) for function in (split, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, theirs)


def test_mixed_gradients_lie_between_both():
    """rho times the gradient through the dynamics and 1 - rho times REINFORCE, for buttons, whose choice has none."""

    def actor_gradient(**changes):
        config = small("dreamer_v2", behavior__entropy=0.0, **changes)
        agent, state = prepared(config, BUTTONS)
        batch = windows(config, BUTTONS)
        total = lambda params: agent.loss(params, state, KEY, batch)[1].losses["policy"].mean()  # noqa: E731
        return quick_jit(jax.grad(total))(state.params)["actor"]

    dynamics, reinforce = (actor_gradient(behavior__gradient=name) for name in ("dynamics", "reinforce"))
    mixed = actor_gradient(behavior__gradient="mix", behavior__gradient_mix=0.3)
    jax.tree.map(
        lambda m, d, r: np.testing.assert_allclose(m, 0.3 * d + 0.7 * r, rtol=1e-3, atol=1e-6),
        mixed,
        dynamics,
        reinforce,
    )


COMBINATIONS = {
    "planner over a DreamerV3 model": ("dreamer_v3", {"behavior__method": "planner"}),
    "DreamerV1's actor on categorical latents": ("dreamer_v1", {"rssm__latent": "categorical", "rssm__unimix": 0.01}),
    "PlaNet's model with DreamerV3's heads": (
        "planet",
        {"behavior__method": "actor_critic", "reward__dist": "symexp_twohot", "value__dist": "symexp_twohot"},
    ),
    "overshooting": ("planet", {"kl__overshooting": 3}),
    "DreamerV2 with DreamerV3's normaliser": ("dreamer_v2", {"behavior__normalize": "range"}),
    "DreamerV3 with dynamics gradients": ("dreamer_v3", {"behavior__gradient": "dynamics"}),
}


@pytest.mark.parametrize(("preset", "changes"), COMBINATIONS.values(), ids=COMBINATIONS)
def test_combinations_run(preset, changes):
    config = small(preset, **changes)
    state, new, metrics = after_an_update(config, MOTORS)
    assert all(np.isfinite(x) for x in metrics.values())
    assert any(changed(state.params, new.params).values())


SENSELESS = {
    "behavior.entropy: a tanh_normal policy": {"preset": "dreamer_v1", "behavior__entropy": 1e-3},
    "loss.replay_value: replayed returns": {"preset": "dreamer_v2", "loss__replay_value": 0.3},
    "behavior.start: excluded goes with": {"preset": "dreamer_v3", "behavior__start": "excluded"},
    "behavior.starts: replayed values": {"preset": "dreamer_v3", "behavior__starts": "but_last"},
    "behavior.replay_value_grad: with optimizer.order": {"preset": "dreamer_v3", "optimizer__order": "model_first"},
    "replay.online: new windows": {"preset": "dreamer_v2", "replay__online": True},
    "replay.ends: goes with": {"preset": "dreamer_v3", "replay__ends": "skipped"},
    "replay.recent: goes with": {"preset": "dreamer_v3", "replay__recent": 0.5},
    "replay.mark_first: throws away": {"preset": "dreamer_v3", "replay__mark_first": True},
    "nets.bias: without a norm": {"preset": "planet", "nets__bias": False},
    "cont.start: a recorded discount": {"preset": "dreamer_v1", "cont__start": "recorded"},
    "kl.overshooting: got 1": {"preset": "planet", "kl__overshooting": 1},
    "planner.elites: got 5, must be fewer than planner.candidates 5": {
        "preset": "planet",
        "planner__elites": 5,
        "planner__candidates": 5,
    },
}


@pytest.mark.parametrize(("sentence", "changes"), SENSELESS.items(), ids=SENSELESS)
def test_what_makes_no_sense_is_refused_with_a_sentence(sentence, changes):
    with pytest.raises(ConfigError) as error:
        small(**changes)
    assert str(error.value).startswith(sentence)


def test_a_planner_may_have_a_choice_to_make():
    agent = make_agent(small("planet"), BUTTONS)
    shapes = jax.eval_shape(lambda: agent.reset(agent.init(KEY).params, 2))
    assert {name: x.shape for name, x in shapes.prev_action.items()} == {
        name: (2, *leaf.shape) for name, leaf in BUTTONS.action.items()
    }
