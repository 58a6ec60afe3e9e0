"""A whole forward pass against plain loops over rows, steps, blocks and variables, with no two sizes alike."""

from types import SimpleNamespace
from unittest import mock

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agents import KEY, WIDTHS, quick_jit, random_batch, tiny_config

from dreamer_jax import distributions
from dreamer_jax.agent import loss_scales, make_agent
from dreamer_jax.specs import ArraySpec, EnvSpec
from dreamer_jax.types import TrainState

TOLERANCE = 1e-5  # of the largest value of each array
BINS = {"reward": 19, "value": 21}
SHAPES = {"speed": (18,), "cells": (20,), "place": (2, 23)}
FREE_NATS = 0.3  # for each latent variable
MOMENTS = {"low": np.float32(-0.9), "high": np.float32(2.3)}


def draw_sizes(seed):
    """Letters, widths and block width: all different, and so are the products of them that are flattened."""
    rng = np.random.default_rng(seed)
    while True:
        sizes = dict(zip("BTHSKGA", map(int, rng.permutation(np.arange(3, 10))), strict=True))
        names = ("hidden", "block", *WIDTHS)
        sizes |= dict(zip(names, map(int, rng.permutation(np.arange(10, 18))), strict=True))
        sizes["D"], sizes["SK"] = sizes["G"] * sizes["block"], sizes["S"] * sizes["K"]
        used = [*sizes.values(), *BINS.values(), 2, 18, 20, 23]
        # The resets of the batch lie in its first six columns; two of the actions are motors, the others classes.
        if len(set(used)) == len(used) and sizes["T"] >= 6 and sizes["A"] >= 5:
            return SimpleNamespace(**sizes)


def build(sizes, seed):
    """Configuration, spec and batch of one case, and a state in which no number is zero or repeated."""
    spec = EnvSpec(
        {
            "speed": ArraySpec(SHAPES["speed"], "float32"),
            "cells": ArraySpec(SHAPES["cells"], "int32", 3),
            "place": ArraySpec(SHAPES["place"], "float32"),
        },
        {"motors": ArraySpec((2,), "float32"), "choice": ArraySpec((), "int32", sizes.A - 2)},
    )
    units = {f"{part}__units": getattr(sizes, part) for part in WIDTHS}
    config = tiny_config(
        rssm__deter=sizes.D,
        rssm__hidden=sizes.hidden,
        rssm__stoch=sizes.S,
        rssm__classes=sizes.K,
        rssm__blocks=sizes.G,
        rssm__prior_layers=2,
        behavior__imagination_length=sizes.H,
        kl__free_nats=FREE_NATS * sizes.S,
        policy__unimix=0.02,
        reward__bins=BINS["reward"],
        value__bins=BINS["value"],
        **units,
    )
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        names = [part.key for part in path]
        x = rng.normal(size=leaf.shape)
        if names[-1] == "scale":
            return np.float32(1 + 0.2 * x)
        if "bias" not in names[-1]:
            return np.float32(x / np.sqrt(leaf.shape[-2]))
        x = 0.3 * x + 2 * ("cont" in names and leaf.shape == (1,))  # paths that go on
        if leaf.shape[0] in BINS.values():  # every bin adds about 1 to the prediction
            x = x - np.abs(np.linspace(-20, 20, leaf.shape[0]))
        return np.float32(x)

    shapes = jax.eval_shape(make_agent(config, spec).init, KEY)
    params, slow = (jax.tree_util.tree_map_with_path(draw, tree) for tree in (shapes.params, shapes.slow))
    state = TrainState(np.int32(0), params, slow, (), MOMENTS)
    return config, spec, state, random_batch(spec, config, seed, sizes.B, sizes.T)


NOISE = np.array([0.7, -0.4])  # of the two motors


def most_likely(distribution, _):
    """In place of ``distributions.sample``."""
    inner = distribution.distribution
    if isinstance(inner, distrax.OneHotCategorical):
        return jax.nn.one_hot(jnp.argmax(inner.logits, -1), inner.logits.shape[-1])
    return inner.loc + inner.scale * jnp.asarray(NOISE, jnp.float32)


# --- layers, one vector at a time


def silu(x):
    return x / (1 + np.exp(-x))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def symlog(x):
    return np.sign(x) * np.log(1 + np.abs(x))


def log_softmax(x):
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def rms(x, scale):
    return x / np.sqrt((x * x).mean() + 1e-4) * scale


def mlp(x, p):
    for index in range(len(p)):
        layer = p[f"hidden_{index}"]
        x = silu(rms(dense(x, layer["dense"]), layer["norm"]["scale"]))
    return x


def onehot(index, count):
    return np.array([float(k == index) for k in range(count)])


def mixed(logits, unimix):
    """Log-probabilities of one variable."""
    return np.log((1 - unimix) * np.exp(log_softmax(logits)) + unimix / len(logits))


def bins(count):
    x = np.linspace(-20, 20, count)
    return np.sign(x) * np.expm1(np.abs(x))


def expected(logits):
    return (np.exp(log_softmax(logits)) * bins(len(logits))).sum()


def twohot_loss(logits, target):
    edges, weight = bins(len(logits)), np.zeros(len(logits))
    for i in range(len(edges) - 1):
        if edges[i] <= target < edges[i + 1]:
            weight[i + 1] = (target - edges[i]) / (edges[i + 1] - edges[i])
            weight[i] = 1 - weight[i + 1]
    assert weight.sum() == 1
    return -(weight * log_softmax(logits)).sum()


# --- the model, one row and one step at a time


class Plain:
    """The agent of one case in float64; ``gap`` is the closest that two classes came in a choice."""

    def __init__(self, config, spec, state):
        as_float64 = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float64), tree)  # noqa: E731
        self.config, self.spec, self.gap = config, spec, np.inf
        self.model, self.actor, self.critic = (as_float64(state.params[name]) for name in ("model", "actor", "critic"))
        self.slow = as_float64(state.slow)

    def best(self, logp):
        low, high = np.sort(logp)[-2:]
        self.gap = min(self.gap, high - low)
        return onehot(np.argmax(logp), len(logp))

    def encode(self, observation):
        cells = [onehot(cell, 3) for cell in observation["cells"]]
        numbers = [symlog(x) for x in (*observation["place"], observation["speed"])]
        return mlp(np.concatenate([*cells, *numbers]), self.model["encoder"]["mlp"])  # keys in sorted order

    def core(self, deter, stoch, action):
        p, blocks = self.model["rssm"]["core"], self.config.rssm.blocks
        width = len(deter) // blocks
        own = [slice(g * width, (g + 1) * width) for g in range(blocks)]
        action = np.clip(action, -1, 1)
        inputs = deter, np.concatenate(list(stoch)), action
        shared = [mlp(x, {"hidden_0": p[f"embed_{i}"]}) for i, x in enumerate(inputs)]
        x = np.zeros(len(deter))
        for g in range(blocks):
            x[own[g]] = np.concatenate([deter[own[g]], *shared]) @ p["hidden0_kernel"][g] + p["hidden0_bias"][own[g]]
        x = silu(rms(x, np.concatenate([p["norms_0"]["scale"][g, 0] for g in range(blocks)])))
        after = np.zeros(len(deter))
        for g in range(blocks):
            bias = p["gates_bias"][3 * g * width : 3 * (g + 1) * width]
            gates = x[own[g]] @ p["gates_kernel"][g] + bias
            reset, candidate, update = gates[:width], gates[width : 2 * width], gates[2 * width :]
            candidate = np.tanh(sigmoid(reset) * candidate)
            update = sigmoid(update - 1)
            after[own[g]] = update * candidate + (1 - update) * deter[own[g]]
        return after

    def latent(self, flat):
        """Logits [S, K] of a flat output."""
        count = self.config.rssm.classes
        return np.array([flat[s * count : (s + 1) * count] for s in range(self.config.rssm.stoch)])

    def prior(self, deter):
        p = self.model["rssm"]
        return self.latent(dense(mlp(deter, p["prior_mlp"]), p["prior_out"]))

    def posterior(self, deter, tokens):
        p = self.model["rssm"]
        return self.latent(
            dense(mlp(np.concatenate([deter, tokens]), {"hidden_0": p["posterior_in"]}), p["posterior_out"])
        )

    def log_probs(self, logits):
        return [mixed(row, self.config.rssm.unimix) for row in logits]

    def draw(self, logits):
        return np.array([self.best(row) for row in self.log_probs(logits)])

    def kl(self, left, right):
        pairs = zip(self.log_probs(left), self.log_probs(right), strict=True)
        return sum((np.exp(p) * (p - q)).sum() for p, q in pairs)

    def head(self, p, feat):
        return dense(mlp(feat, p["mlp"]), p["out"])

    def policy(self, feat):
        """The action as it is drawn, its log-probability, and the entropy."""
        c, p = self.config.policy, self.actor
        x = mlp(feat, p["mlp"])
        logp = mixed(dense(x, p["heads_choice_logits"]), c.unimix)
        choice = self.best(logp)
        mean = np.tanh(dense(x, p["heads_motors_mean"]))
        std = (c.max_std - c.min_std) * sigmoid(dense(x, p["heads_motors_std"]) + 2) + c.min_std
        motors = mean + std * NOISE
        normal = -0.5 * ((motors - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
        entropy = -(np.exp(logp) * logp).sum() + (0.5 + 0.5 * np.log(2 * np.pi) + np.log(std)).sum()
        return np.concatenate([choice, motors]), (choice * logp).sum() + normal.sum(), entropy

    def record(self, deter, stoch, logits, observation, reward, terminal):
        """Everything that one replayed record gives: heads and losses of the model."""
        c, found, prior = self.config, {}, self.prior(deter)
        found["prior"] = prior
        found["kl"] = self.kl(logits, prior)
        found["dyn"] = found["rep"] = max(found["kl"], c.kl.free_nats)
        x = mlp(np.concatenate([*stoch, deter]), self.model["decoder"]["mlp"])
        out = {name: dense(x, self.model["decoder"][f"heads_{name}"]) for name in SHAPES}
        found["speed"] = ((out["speed"] - symlog(observation["speed"])) ** 2).sum()
        found["place"] = sum(
            (out["place"][i * 23 + j] - symlog(observation["place"][i, j])) ** 2 for i in range(2) for j in range(23)
        )
        cells = enumerate(observation["cells"])
        found["cells"] = -sum(log_softmax(out["cells"][3 * i : 3 * i + 3])[cell] for i, cell in cells)
        feat = np.concatenate([deter, *stoch])
        found["rew"] = twohot_loss(self.head(self.model["reward"], feat), reward)
        p = sigmoid(self.head(self.model["cont"], feat)[0])
        target = (1 - terminal) * (1 - 1 / c.behavior.discount_horizon)
        found["con"] = -target * np.log(p) - (1 - target) * np.log(1 - p)
        found["replay value"] = self.head(self.critic, feat)
        found["replay slow"] = expected(self.head(self.slow, feat))
        return found

    def observe(self, batch):
        """Posterior and losses of the model, {name: [B][T]}."""
        size, length = batch.reward.shape
        found = {}
        for b in range(size):
            deter = np.asarray(batch.context["deter"][b], np.float64)
            stoch = np.array([onehot(index, self.config.rssm.classes) for index in batch.context["stoch"][b]])
            for t in range(length):
                choice, motors = batch.prev_action["choice"][b, t], batch.prev_action["motors"][b, t]
                action = np.concatenate([onehot(choice, self.spec.action["choice"].classes), motors])
                if batch.is_first[b, t]:
                    deter, stoch, action = 0 * deter, 0 * stoch, 0 * action
                observation = {name: np.asarray(x[b, t], np.float64) for name, x in batch.observation.items()}
                observation["cells"] = batch.observation["cells"][b, t]
                deter = self.core(deter, stoch, action)
                logits = self.posterior(deter, self.encode(observation))
                stoch = self.draw(logits)
                now = self.record(deter, stoch, logits, observation, batch.reward[b, t], batch.is_terminal[b, t])
                now |= {"deter": deter, "stoch": stoch, "logits": logits}
                for name, value in now.items():
                    found.setdefault(name, [[] for _ in range(size)])[b].append(value)
        return found

    def imagine(self, deter, stoch):
        """One path from one state, {name: [H+1]}; nothing in it needs the range of returns."""
        path = {}
        for step in range(self.config.behavior.imagination_length + 1):
            feat = np.concatenate([deter, *stoch])
            action, log_prob, entropy = self.policy(feat)
            now = {"deter": deter, "stoch": np.concatenate(list(stoch)), "log_prob": log_prob, "entropy": entropy}
            now["reward"] = expected(self.head(self.model["reward"], feat))
            now["discount"] = sigmoid(self.head(self.model["cont"], feat)[0])
            now["logits"] = self.head(self.critic, feat)
            now["value"] = expected(now["logits"])
            now["slow"] = expected(self.head(self.slow, feat))
            now["weight"] = now["discount"] * (path["weight"][-1] if step else 1)
            for name, value in now.items():
                path.setdefault(name, []).append(value)
            deter = self.core(deter, stoch, action)
            stoch = self.draw(self.prior(deter))
        returns = [path["value"][-1]]
        for t in reversed(range(len(path["value"]) - 1)):
            mix = 0.05 * path["value"][t + 1] + 0.95 * returns[0]
            returns.insert(0, path["reward"][t + 1] + path["discount"][t + 1] * mix)
        path["return"] = returns[:-1]
        return path

    def loss(self, batch):
        """Every quantity that is compared, by name."""
        size, length = batch.reward.shape
        c, seen = self.config.behavior, self.observe(batch)
        paths = [[self.imagine(seen["deter"][b][t], seen["stoch"][b][t]) for t in range(length)] for b in range(size)]
        flat = [path for row in paths for path in row]
        returns = np.array([path["return"] for path in flat])
        low, high = np.percentile(returns.reshape(-1), [5, 95])
        low, high = (0.99 * old + 0.01 * new for old, new in zip(MOMENTS.values(), (low, high), strict=True))
        scale = max(1, high - low)

        losses = {name: np.array(seen[name]) for name in ("dyn", "rep", "rew", "con", *SHAPES)}
        losses |= {name: np.zeros((size, length)) for name in ("policy", "value")}
        losses["repval"] = np.zeros((size, length - 1))
        advantage = np.zeros(returns.shape)
        replayed = np.zeros((size, length - 1))
        for b in range(size):
            for t in range(length):
                path = paths[b][t]
                for h in range(c.imagination_length):
                    gain = (path["return"][h] - path["value"][h]) / scale
                    advantage[b * length + t, h] = gain
                    gain = path["log_prob"][h] * gain + c.entropy * path["entropy"][h]
                    error = twohot_loss(path["logits"][h], path["return"][h])
                    error += twohot_loss(path["logits"][h], path["slow"][h])
                    losses["policy"][b, t] -= path["weight"][h] * gain / c.imagination_length
                    losses["value"][b, t] += path["weight"][h] * error / c.imagination_length
            ahead = paths[b][-1]["return"][0]
            for t in reversed(range(length - 1)):
                boot = paths[b][t + 1]["return"][0]
                live = (1 - 1 / c.discount_horizon) * (1 - batch.is_terminal[b, t + 1])
                trace = 0.95 * (1 - batch.is_last[b, t + 1])
                ahead = batch.reward[b, t + 1] + live * ((1 - trace) * boot + trace * ahead)
                replayed[b, t] = ahead
                logits = seen["replay value"][b][t]
                error = twohot_loss(logits, ahead) + twohot_loss(logits, seen["replay slow"][b][t])
                losses["repval"][b, t] = (1 - batch.is_last[b, t]) * error

        found = {name: np.array(seen[name]) for name in ("deter", "stoch", "logits", "prior", "kl")}
        imagined = ("deter", "stoch", "reward", "discount", "value", "weight", "return")
        found |= {f"imagined {name}": np.array([path[name] for path in flat]) for name in imagined}
        found |= {"scale": np.array(scale), "advantage": advantage, "replayed return": replayed}
        scales = loss_scales(self.config, self.spec)
        found["total"] = np.array(sum(scales[name] * value.mean() for name, value in losses.items()))
        return found | {f"loss {name}": value for name, value in losses.items()}


def ours(config, spec, state, batch):
    """The same quantities of the agent."""
    with mock.patch.object(distributions, "sample", most_likely):
        total, aux = quick_jit(make_agent(config, spec).loss)(state.params, state, KEY, batch)
    model, behavior = aux.model, aux.behavior.details
    targets = behavior.targets
    posterior, path = model.posterior, behavior.imagined
    found = {"deter": posterior.deter, "stoch": posterior.stoch, "logits": model.posterior_stats["logits"]}
    found |= {"prior": model.prior_stats["logits"], "kl": model.divergence}
    imagined = {"deter": path.features[0], "stoch": path.features[1], "reward": path.reward, "discount": path.discount}
    imagined |= {"value": behavior.predictions.value, "return": targets.returns}
    imagined["weight"] = targets.credit.cumulative_discount
    found |= {f"imagined {name}": value for name, value in imagined.items()}
    found |= {"scale": targets.scale, "advantage": targets.advantage}
    found |= {"replayed return": behavior.replayed.returns, "total": total}
    return found | {f"loss {name}": value for name, value in aux.losses.items()}


@pytest.mark.parametrize("seed", (3, 4, 5))
def test_forward_pass_equals_plain_loops(seed):
    sizes = draw_sizes(seed)
    case = build(sizes, seed)
    plain = Plain(*case[:3])
    theirs, mine = plain.loss(case[3]), ours(*case)
    # Choices that are too close could differ by rounding; both sides of the free nats are seen.
    assert plain.gap > 3e-6
    assert theirs["kl"].min() < FREE_NATS * sizes.S < theirs["kl"].max()
    assert theirs.keys() == mine.keys()
    wrong = {}
    for name, value in theirs.items():
        assert value.shape == mine[name].shape, name
        error = np.abs(np.asarray(mine[name], np.float64) - value).max() / np.abs(value).max()
        if not error <= TOLERANCE:
            wrong[name] = error
    assert not wrong
