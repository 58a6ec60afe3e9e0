"""Every setting, its type, default, meaning and limits. The defaults are DreamerV3 at HEAD, size 1m.

Frozen dataclasses only; nothing here imports JAX, so that ``--help`` answers at once.
"""

from __future__ import annotations

import dataclasses
import operator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_type_hints

WIDEST, INT32, MANY = 65_536, 2**31 - 1, 10**15
"""Of an array's axis, of what devices count with, and of what Python counts with alone."""
FLOAT32 = 3.4028234663852886e38


def option(default: Any, meaning: str, *, low: float | None = None, high: float | None = None) -> Any:
    """A field with its one-line meaning and, for numbers, its inclusive limits; ``FLOAT32`` is one of every float."""
    metadata = {"meaning": meaning, "low": low, "high": high}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class EnvConfig:
    task: str = option("dmc/walker_walk", "suite/name, or package.module:make")
    num_envs: int = option(16, "environments stepped together (E)", low=1, high=65_536)
    action_repeat: int = option(1, "frames per action; rewards are summed", low=1, high=1_000_000)
    time_limit: int = option(0, "end episodes after this many actions; 0: the task's own limit", low=0, high=MANY)
    timeouts_terminate: bool = option(False, "report time limits as terminations, as HEAD does in Atari")
    observation: Literal["state", "image"] = option("state", "what DeepMind Control shows: joint states or a picture")
    image_size: int = option(64, "height and width of the pictures of dmc, atari and crafter", low=16, high=4096)
    grey: bool = option(False, "Atari: grey pictures instead of colour")
    actions: Literal["minimal", "all"] = option("minimal", "Atari: the actions that a game uses, or all 18")
    sticky: float = option(0.0, "Atari: chance that a frame repeats the action before", low=0, high=1)
    noops: int = option(30, "Atari: up to this many frames without action begin an episode", low=0, high=1_000_000)
    vectorization: Literal["auto", "sync", "async"] = option(
        "auto", "one process, a process each, or whichever is faster"
    )


@dataclass(frozen=True)
class ReplayConfig:
    capacity: int = option(5_000_000, "records kept over all environments, oldest dropped", low=1, high=MANY)
    capacity_gb: float = option(0.0, "also at most this many GB on disk; 0: no such limit", low=0, high=1e9)
    context_dtype: Literal["bfloat16", "float32"] = option(
        "bfloat16", "stored latents: bfloat16 deter and class indices, or everything in float32"
    )
    validation_fraction: float = option(
        0.0, "share of the records, in whole episodes, kept from training to measure the model on", low=0, high=0.5
    )
    online: bool = option(True, "train on every new window once before sampling uniformly")
    sampling: Literal["windows", "episodes", "curious"] = option(
        "windows",
        "every window alike; or an episode that has ended, then a window in it; or those that are new or badly "
        "predicted more often (Curious Replay)",
    )
    curious_novelty: float = option(1e4, "curious: priority of what has been in no batch", low=0)
    curious_decay: float = option(0.7, "curious: what each batch leaves of it", low=0, high=1)
    curious_exponent: float = option(0.7, "curious: of the model's loss, which is added to it", low=0, high=10)
    curious_floor: float = option(0.01, "curious: is added to that loss before", low=1e-6)
    ends: Literal["skipped", "uniform", "prioritized"] = option(
        "uniform", "episodes: the window at an end is never drawn, or as any other, or more often"
    )
    recent: float = option(0.0, "episodes: share of draws that are from the newest ones alone", low=0, high=1)
    context: bool = option(True, "keep the policy's latents, and start windows from them; else from zero")
    smoothing: Literal["none", "gaussian", "ema", "uniform"] = option(
        "none", "rewards in batches are spread over the steps around them, or by ema over later ones (DreamSmooth)"
    )
    smoothing_sigma: float = option(3.0, "gaussian: deviation in steps", low=0.1, high=100)
    smoothing_share: float = option(0.33, "ema: share of the newest reward", low=0.01, high=1)
    smoothing_width: int = option(9, "uniform: steps", low=1, high=1000)
    mark_first: bool = option(False, "the first record of a window counts as the first of an episode")


@dataclass(frozen=True)
class NetsConfig:
    norm: Literal["rms", "layer", "none"] = option(
        "rms", "between a layer and its activation; a block_gru always has rms"
    )
    bias: bool = option(True, "layers in front of a norm have a bias")
    activation: Literal["silu", "elu", "relu"] = option("silu", "of dense layers")
    cnn_activation: Literal["silu", "elu", "relu"] = option("silu", "of convolutions")
    init: Literal["fan_in", "fan_avg", "glorot"] = option(
        "fan_in", "normal by the inputs or by inputs and outputs, or uniform by both"
    )


@dataclass(frozen=True)
class EncoderConfig:
    layers: int = option(3, "hidden layers for vectors", low=1, high=64)
    units: int = option(64, "their width", low=1, high=WIDEST)
    symlog: bool = option(True, "squash vectors with symlog")
    depth: int = option(
        4, "channels of the CNN for images, in units of which its layers have 2, 3, 4, 4", low=1, high=4096
    )
    cnn: Literal["pool", "stride", "same", "valid"] = option(
        "pool",
        "halve images by pooling as HEAD does; by strides as in 2024 (layers 1, 2, 3, 4, 4); by kernels of 4 and "
        "strides, padded or not (layers 1, 2, 4, 8)",
    )
    shift: int = option(0, "images that are learnt from move by up to so many pixels (DrQ)", low=0, high=64)
    jitter: float = option(0.0, "share by which their brightness and contrast change", low=0, high=1)
    image_bits: int = option(8, "below 8: pixels lose their last bits, and get noise in their place", low=1, high=8)


@dataclass(frozen=True)
class DecoderConfig:
    layers: int = option(3, "hidden layers for vectors", low=1, high=64)
    units: int = option(64, "their width", low=1, high=WIDEST)
    depth: int = option(4, "channels of the CNN for images, as in the encoder", low=1, high=4096)
    cnn: Literal["repeat", "transpose", "same", "valid"] = option(
        "repeat",
        "double images by repeating pixels as HEAD does; by transposed convolutions as in 2024; or the reverse of the "
        "encoder's same and valid",
    )
    blocks: int = option(
        8,
        "repeat, transpose: blocks of the layer from deter to the CNN; must divide deter and 4 x depth",
        low=1,
        high=WIDEST,
    )
    images: Literal["sigmoid", "linear"] = option("sigmoid", "how images come out")
    loss: Literal["squared", "normal"] = option(
        "squared", "of numbers and images: squared errors, or minus the log-likelihood of a normal of deviation 1"
    )
    symlog: bool = option(True, "vectors are predicted in symlog space")


@dataclass(frozen=True)
class RepresentationConfig:
    kind: Literal["decoder", "redundancy", "contrastive", "next_embedding"] = option(
        "decoder",
        "what makes the model know what it sees: reconstruction; or, without a decoder, features that correlate with "
        "the encoder's output number by number (R2-Dreamer), or tell it from that of other records (InfoNCE), or from "
        "which a transformer predicts the next record's (NE-Dreamer)",
    )
    scale: float = option(0.05, "of the loss in place of reconstruction; contrastive is published with 1", low=0)
    transformer_layers: int = option(2, "next_embedding: of the transformer", low=1, high=64)
    transformer_units: int = option(256, "next_embedding: its width", low=2, high=WIDEST)
    transformer_heads: int = option(
        4, "next_embedding: its heads of attention; must divide the width", low=1, high=1024
    )
    redundancy: float = option(
        5e-4, "redundancy, next_embedding: weight of correlations between different numbers", low=0
    )


@dataclass(frozen=True)
class RSSMConfig:
    backbone: Literal["recurrent", "transformer"] = option(
        "recurrent", "how the state comes about: step by step, or by attention over the last steps of the episode"
    )
    transformer_layers: int = option(2, "transformer: layers of attention and MLP", low=1, high=64)
    heads: int = option(4, "transformer: heads of attention; must divide deter", low=1, high=1024)
    memory: int = option(64, "transformer: steps that each layer sees, the present one included (W)", low=2, high=4096)
    latent: Literal["categorical", "gaussian"] = option("categorical", "the stochastic state")
    cell: Literal["block_gru", "norm_gru", "gru", "gru_reset_before", "mlp"] = option(
        "block_gru",
        "the recurrent state's: block-diagonal; with layer norm; plain, with the reset after the product, or before "
        "it; or an MLP without gates, of the last state, the latent and the action",
    )
    deter: int = option(512, "width of the recurrent state (D)", low=1, high=1_048_576)
    hidden: int = option(64, "width of its hidden layers", low=1, high=WIDEST)
    stoch: int = option(32, "latent variables (S)", low=1, high=4096)
    classes: int = option(4, "categorical: classes of each latent variable (K)", low=2, high=4096)
    std: Literal["softplus", "sigmoid", "sigmoid2"] = option(
        "softplus", "gaussian: how a deviation comes about; sigmoid2 is 2 sigmoid(x / 2)"
    )
    min_std: float = option(0.1, "gaussian: what is added to it", low=0)
    initial: Literal["zeros", "learned"] = option("zeros", "state before an episode")
    clip_action: bool = option(True, "actions are clipped to [-1, 1] in value, not in gradient")
    blocks: int = option(8, "blocks of the block-diagonal GRU; must divide deter", low=1, high=WIDEST)
    dynamics_layers: int = option(1, "block layers before its gates; of an mlp its hidden layers", low=1, high=64)
    prior_layers: int = option(2, "hidden layers of the prior", low=0, high=64)
    posterior_layers: int = option(1, "hidden layers of the posterior", low=1, high=64)
    unimix: float = option(0.01, "share of the uniform distribution in every latent", low=0, high=1)


@dataclass(frozen=True)
class RewardConfig:
    layers: int = option(1, "hidden layers", low=0, high=64)
    units: int = option(64, "their width", low=1, high=WIDEST)
    bins: int = option(255, "bins of the two-hot distribution", low=3, high=65_535)
    dist: Literal["symexp_twohot", "symlog_twohot", "normal"] = option(
        "symexp_twohot", "two-hot over bins in raw space, or over even bins in symlog space; or normal of deviation 1"
    )
    init_scale: float = option(0.0, "scale of the initial output layer", low=0)
    squash: Literal["none", "tanh"] = option("none", "what rewards go through before they are learnt")


@dataclass(frozen=True)
class ContinueConfig:
    layers: int = option(1, "hidden layers", low=0, high=64)
    units: int = option(64, "their width", low=1, high=WIDEST)
    label: Literal["soft", "hard", "none"] = option(
        "soft", "what it learns: the discount itself; yes or no, and is rounded; or nothing, the discount is constant"
    )
    start: Literal["predicted", "recorded"] = option("predicted", "discount of the states where imagination starts")


@dataclass(frozen=True)
class PolicyConfig:
    layers: int = option(3, "hidden layers", low=0, high=64)
    units: int = option(64, "their width", low=1, high=WIDEST)
    dist: Literal["normal", "tanh_normal", "trunc_normal"] = option(
        "normal", "of a continuous action: normal with bounded mean, squashed by tanh, or cut off at -1 and 1"
    )
    min_std: float = option(0.1, "smallest standard deviation of a continuous action", low=0)
    max_std: float = option(1.0, "normal: largest", low=0)
    init_std: float = option(
        0.0, "tanh_normal: deviation where the raw one is 0; trunc_normal: is added to the raw one", low=0
    )
    mean_scale: float = option(5.0, "tanh_normal: bound of the mean before tanh", low=0.1)
    evaluate: Literal["sample", "mode"] = option("sample", "how actions are chosen in evaluations")
    unimix: float = option(
        0.0, "share of uniform in a discrete policy: 0 as the code at HEAD does, 0.01 as the paper says", low=0, high=1
    )
    init_scale: float = option(0.01, "scale of the initial output layer", low=0)


@dataclass(frozen=True)
class ValueConfig:
    layers: int = option(3, "hidden layers", low=0, high=64)
    units: int = option(64, "their width", low=1, high=WIDEST)
    bins: int = option(255, "bins of the two-hot distribution", low=3, high=65_535)
    dist: Literal["symexp_twohot", "symlog_twohot", "normal"] = option("symexp_twohot", "as for the reward")
    init_scale: float = option(0.0, "scale of the initial output layer", low=0)
    target: Literal["online", "slow"] = option("online", "the critic in returns and advantages")
    slow_rate: float = option(0.02, "share of the online critic mixed into the slow one", low=0, high=1)
    slow_every: int = option(1, "updates between those mixes", low=1, high=INT32)
    slow_first: Literal["mix", "copy"] = option("mix", "the first of them: as all others, or the whole online critic")
    slow_regularizer: float = option(1.0, "weight of the loss towards the slow critic", low=0)


@dataclass(frozen=True)
class KLConfig:
    dyn: float = option(1.0, "scale of KL(sg(posterior) || prior), which trains the prior", low=0)
    rep: float = option(0.1, "scale of KL(posterior || sg(prior)), which trains the posterior", low=0)
    free_nats: float = option(1.0, "below this the KL of a time step has no gradient", low=0)
    free_average: bool = option(False, "free_nats are for the batch's mean instead of each time step")
    free_nats_final: float = option(0.0, "what they fall or rise to", low=0)
    free_nats_updates: int = option(0, "in so many updates; 0: they stay", low=0, high=INT32)
    beta: float = option(1.0, "factor of all scales of a KL, as in a beta-VAE", low=0)
    schedule: Literal["constant", "linear", "cyclic"] = option(
        "constant", "how that factor comes about: at once; from 0; from 0 again and again, rising half of the time"
    )
    schedule_updates: int = option(0, "linear: updates until it is there; cyclic: of a cycle", low=0, high=INT32)
    overshooting: int = option(0, "also KL of predictions up to so many steps ahead; 0: off", low=0, high=1000)
    overshooting_scale: float = option(1.0, "its weight", low=0)


@dataclass(frozen=True)
class LossConfig:
    reconstruction: float = option(1.0, "scale of each observation's loss", low=0)
    reward: float = option(1.0, "scale", low=0)
    cont: float = option(1.0, "scale", low=0)
    policy: float = option(1.0, "scale", low=0)
    value: float = option(1.0, "scale", low=0)
    replay_value: float = option(0.3, "scale of the critic's loss on replayed states", low=0)
    balance: Literal["fixed", "learned"] = option(
        "fixed", "scales of observations, reward and KL: those here, or learnt with the model (HarmonyDream)"
    )


@dataclass(frozen=True)
class BehaviorConfig:
    method: Literal["actor_critic", "planner"] = option("actor_critic", "learn a policy, or plan every action")
    act: Literal["policy", "planner"] = option(
        "policy", "actor_critic: who chooses actions, the policy or plans in the world model"
    )
    gradient: Literal["reinforce", "dynamics", "mix", "auto"] = option(
        "reinforce", "of the policy; auto: reinforce for discrete actions, dynamics for continuous ones"
    )
    gradient_mix: float = option(0.1, "mix: the share of dynamics", low=0, high=1)
    returns: Literal["arrival", "departure"] = option(
        "arrival", "the return of a state begins with the next reward, or with its own"
    )
    start: Literal["included", "excluded"] = option(
        "included", "departure: whether the state where imagination starts counts itself"
    )
    starts: Literal["all", "but_last"] = option("all", "records of a window from which imagination starts")
    normalize: Literal["range", "none"] = option("range", "divide advantages by the returns' range")
    imagination_length: int = option(15, "imagined steps (H)", low=1, high=10_000)
    discount_horizon: int = option(333, "discount is 1 - 1/this", low=2, high=INT32)
    lambda_: float = option(0.95, "lambda of the returns", low=0, high=1)
    entropy: float = option(3e-4, "weight of the policy's entropy", low=0)
    replay_value_grad: bool = option(True, "let the replay value loss train the world model")
    return_low: float = option(5.0, "lower percentile of the return range", low=0, high=100)
    return_high: float = option(95.0, "upper percentile", low=0, high=100)
    return_rate: float = option(0.01, "rate of their moving averages", low=0, high=1)
    return_limit: float = option(1.0, "smallest divisor of the advantages", low=0)
    chunk_rows: int = option(
        -1,
        "imagined states that heads see at a time (memory); 0: all; -1: on CPU few if heads are small or see images",
        low=-1,
        high=INT32,
    )


@dataclass(frozen=True)
class PlannerConfig:
    method: Literal["cem", "mppi"] = option(
        "cem", "the cross-entropy method, or model predictive path integral control"
    )
    horizon: int = option(12, "steps that are planned", low=1, high=10_000)
    candidates: int = option(1000, "plans tried in an iteration", low=2, high=1_000_000)
    iterations: int = option(10, "of the search; 0: actions are 0 and noise", low=0, high=10_000)
    elites: int = option(100, "best candidates, to which the next ones are fitted", low=1, high=1_000_000)
    temperature: float = option(0.5, "mppi: elites count by exp(score / this)", low=1e-6)
    min_std: float = option(0.05, "mppi: smallest deviation", low=0, high=1)
    warm_start: bool = option(False, "begin with the plan of the step before; else with actions of 0")
    policy_plans: int = option(0, "candidates of each iteration that the policy makes", low=0, high=1_000_000)
    value: bool = option(False, "a plan's last state is worth what the critic says, and rewards are discounted")
    latents: Literal["sampled", "mode"] = option("sampled", "imagined latents: drawn, or the most likely ones")


@dataclass(frozen=True)
class ExploreConfig:
    noise: float = option(0.0, "deviation of the noise on continuous actions in training", low=0)
    epsilon: float = option(0.0, "chance of a random discrete action in training, at first", low=0, high=1)
    epsilon_final: float = option(0.0, "and at last", low=0, high=1)
    epsilon_steps: int = option(0, "agent steps between the two, linearly; 0: it stays", low=0, high=INT32)
    ensemble: int = option(
        0, "predictors of the next observation, whose disagreement is rewarded (Plan2Explore); 0: off", low=0, high=1000
    )
    ensemble_layers: int = option(2, "their hidden layers", low=0, high=64)
    ensemble_units: int = option(128, "their width", low=1, high=WIDEST)
    disagreement: float = option(1.0, "weight of their disagreement as a reward", low=0)
    task_reward: float = option(0.0, "weight of the task's own reward beside it", low=0)


@dataclass(frozen=True)
class OptimizerConfig:
    order: Literal["joint", "model_first"] = option(
        "joint",
        "one gradient of everything; or the world model takes its step first, and actor and critic learn from what it "
        "then imagines",
    )
    kind: Literal["laprop", "adam", "adam_eps_hat", "adamw"] = option(
        "laprop",
        "LaProp; Adam with eps beside the corrected root, or beside the root before its correction; adam with weight "
        "decay",
    )
    learning_rate: float = option(4e-5, "step size", low=0)
    actor_learning_rate: float = option(0.0, "the actor's; 0: the same", low=0)
    critic_learning_rate: float = option(0.0, "the critic's; 0: the same", low=0)
    warmup: int = option(1000, "updates of linear warm-up; the first has step size 0", low=0, high=INT32)
    schedule: Literal["constant", "linear", "cosine"] = option("constant", "of the step size after the warm-up")
    decay_updates: int = option(0, "linear, cosine: updates until it has fallen", low=0, high=INT32)
    final: float = option(0.0, "linear, cosine: the share of it that is left", low=0, high=1)
    agc: float = option(0.3, "adaptive gradient clipping, relative to each tensor's norm; 0: off", low=0)
    clip: float = option(0.0, "largest norm of the gradient of model, actor or critic; 0: off", low=0)
    actor_critic_clip: float = option(0.0, "the actor's and the critic's; 0: the same", low=0)
    critic_clip: float = option(0.0, "the critic's alone; 0: the same as the actor's", low=0)
    beta1: float = option(0.9, "momentum", low=0, high=1)
    beta2: float = option(0.999, "decay of the squared gradient", low=0, high=1)
    eps: float = option(1e-20, "added to the root of the squared gradient", low=0)
    actor_critic_eps: float = option(0.0, "the actor's and the critic's; 0: the same", low=0)
    weight_decay: float = option(
        0.0, "share that every parameter loses in an update, whatever the step size; adamw: times the step size", low=0
    )


@dataclass(frozen=True)
class TrainConfig:
    frames: int = option(500_000, "environment frames (records x action repeat) to collect", low=1, high=MANY)
    train_ratio: float = option(1024.0, "replayed records per agent step", low=0)
    batch_size: int = option(16, "windows per batch (B)", low=1, high=WIDEST)
    batch_length: int = option(64, "records per window (T)", low=2, high=WIDEST)
    start_windows: int = option(0, "windows in replay before the first update; 0: B x T as at HEAD", low=0, high=MANY)
    prefill: int = option(0, "agent steps of random actions before the policy's", low=0, high=MANY)
    pretrain: int = option(1, "updates at once when updates begin", low=1, high=INT32)
    update_every: int = option(0, "agent steps from one burst of updates to the next; 0: no bursts", low=0, high=MANY)
    updates_per_dispatch: int = option(
        0, "updates in one device call; 0: as many as the ratio allows, up to 8; on CPU 1", low=0, high=1024
    )
    log_seconds: float = option(10.0, "seconds between metric lines", low=0)
    save_minutes: float = option(10.0, "minutes between checkpoints; 0: never by time", low=0)
    save_frames: int = option(0, "also a checkpoint every so many frames; 0: off", low=0, high=MANY)
    keep_checkpoints: int = option(2, "newest checkpoints kept", low=1, high=INT32)
    eval_frames: int = option(0, "frames between evaluations in fresh environments; 0: off", low=0, high=MANY)
    eval_episodes: int = option(10, "episodes of each", low=1, high=INT32)
    report_frames: int = option(
        50_000, "frames between looks at the world model's predictions; 0: off", low=0, high=MANY
    )
    where: Literal["auto", "host", "device"] = option(
        "auto",
        "host: environments step by step, replay on the disk; device: all in one program, for environments written in "
        "JAX; auto: what gymnax, brax, playground and craftax allow is on the device",
    )
    start: str = option("", "a run whose parameters it begins with; nothing: new ones")
    start_parts: str = option("all", "which of them, with commas, such as encoder,rssm")
    freeze: str = option("", "parts of the agent that stay as they are, with commas, such as encoder,rssm,decoder")
    devices: int = option(
        0,
        "accelerators, or parts of the CPU, of each process that share a batch; 0: all that there are",
        low=0,
        high=WIDEST,
    )


@dataclass(frozen=True)
class OfflineConfig:
    data: str = option(
        "",
        "what is learnt from, with commas: datasets, runs, exported episodes, minari:NAME, stable-worldmodel:FILE.h5; "
        "nothing: collect",
    )
    only: Literal["all", "world_model", "behavior"] = option(
        "all", "what learns from it: everything, the world model alone, or actor and critic in a finished one"
    )
    updates: int = option(10_000, "updates in all", low=1, high=INT32)
    look_updates: int = option(500, "updates between looks at the losses on held-out windows", low=1, high=INT32)
    look_batches: int = option(4, "batches of each look, always the same", low=1, high=WIDEST)
    patience: int = option(
        0, "end after so many looks that are no better than the best, with its parameters; 0: never", low=0, high=INT32
    )


@dataclass(frozen=True)
class Config:
    preset: str = option("dreamer_v3", "named starting point of these settings")
    benchmark: str = option("none", "named settings of a benchmark, on top of the preset's")
    size: str = option("1m", "named model size")
    revision: str = option("", "which published revision of the algorithm this is")
    seed: int = option(0, "the run's one seed", low=0, high=2**63 - 1)
    dtype: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "of activations; auto: bfloat16 on accelerators, float32 on CPU"
    )
    rematerialize: bool = option(
        False, "compute the networks' inner values again for gradients instead of keeping them: less memory, more time"
    )
    env: EnvConfig = EnvConfig()
    replay: ReplayConfig = ReplayConfig()
    nets: NetsConfig = NetsConfig()
    encoder: EncoderConfig = EncoderConfig()
    representation: RepresentationConfig = RepresentationConfig()
    rssm: RSSMConfig = RSSMConfig()
    decoder: DecoderConfig = DecoderConfig()
    reward: RewardConfig = RewardConfig()
    cont: ContinueConfig = ContinueConfig()
    policy: PolicyConfig = PolicyConfig()
    value: ValueConfig = ValueConfig()
    kl: KLConfig = KLConfig()
    loss: LossConfig = LossConfig()
    behavior: BehaviorConfig = BehaviorConfig()
    planner: PlannerConfig = PlannerConfig()
    explore: ExploreConfig = ExploreConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    offline: OfflineConfig = OfflineConfig()


class ConfigError(ValueError):
    """A setting that can't be used. The message is one line for a person."""


class Field(NamedTuple):
    """What the schema says of one setting."""

    kind: Any  # str, int, float, bool or a Literal
    meaning: str
    low: float | None
    high: float | None


def _fields(cls: Any, prefix: str = "") -> dict[str, Field]:
    hints = get_type_hints(cls)
    found: dict[str, Field] = {}
    for part in dataclasses.fields(cls):
        kind = hints[part.name]
        if dataclasses.is_dataclass(kind):
            found |= _fields(kind, f"{prefix}{part.name}.")
        else:
            field = Field(kind, **part.metadata)
            limited = kind is float and field.high is None
            found[prefix + part.name] = field._replace(high=FLOAT32) if limited else field
    return found


FIELDS: dict[str, Field] = _fields(Config)
"""Every setting by its dotted name, such as ``rssm.deter``, in the order of the schema."""


def flatten(config: Config) -> dict[str, Any]:
    """The value of every setting by its dotted name, in the order of ``FIELDS``."""
    return {name: operator.attrgetter(name)(config) for name in FIELDS}


def is_enabled(number: Any) -> bool:
    """Whether a setting is not 0, where 0 leaves something out of a program.

    A number of a trace is enabled: runs in which it is 0 have a program of their own.
    """
    return not isinstance(number, int | float) or number != 0
