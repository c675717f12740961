"""Configuration schema: plain dataclasses, standard library only, so bad input is refused at once.

`passk.config.fields` explains what a field may be: `bounded`, `share` and `one_of` give a default.
Hydra composes YAML from `conf/` over these (`passk.config.compose`); `passk.config.rules` checks
the rules between fields. `null` in YAML is None here. Paths are strings, as the user typed them.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from passk.config.fields import LARGEST_SEED, bounded, one_of, share

REMEDIES = ("adaptive_k", "curriculum", "projected")  # objectives chosen while training
REGIMES = ("sft", "pass1", "passk", "hybrid", *REMEDIES)
ESTIMATOR_NAMES = (
    *("mixture", "grpo", "dr_grpo", "s", "s_loo", "s_loo_minus_1", "leave_two_out", "chen"),
    *("maxrl", "rs_grpo"),
)
ESTIMATORS_WITHOUT_K = ("grpo", "dr_grpo", "maxrl", "rs_grpo")
ESTIMATORS_WITH_A_SPARE = ("s_loo", "leave_two_out")  # they need k + 1 samples
MEASURES = ("pass_hat", "g_pass", "mg_pass", "cover", "maj")
VERIFIER_OF_DATA = {"conventions": "conventions", "gsm8k": "math", "math": "math"}
AUTO = "auto"  # of regime.pass1_weight
OWN_ESTIMATOR = r".+\.py:[^\W\d]\w*"  # FILE.py:FUNCTION

# Pairs (k, weight) of an objective, the sum of weight * Pass@k. k ascends.
Terms = tuple[tuple[int, float], ...]


@dataclass(kw_only=True)
class ModelConfig:
    """Causal language model to start from."""

    path: str = "tiny"  # `tiny` (shipped in the package), a folder, or a Hugging Face hub id
    dtype: str = one_of("float32", ("float32", "float64", "bfloat16"))  # of trained weights
    attn_implementation: str = one_of(
        "sdpa", ("sdpa", "eager", "flex_attention", "flash_attention_2", "flash_attention_3")
    )
    trust_remote_code: bool = False  # run code that comes with the model
    lora_rank: int = bounded(0, at_least=0)  # 0: all weights; else adapters of this rank (peft)
    lora_alpha: int = bounded(32, at_least=1)
    lora_targets: str = "all-linear"  # or names of modules, separated by spaces


@dataclass(kw_only=True)
class PromptConfig:
    """Format of prompts, made from problems, and of completions, made from worked solutions."""

    # chat: by the tokenizer's chat template; auto: chat if it has one
    style: str = one_of("plain", ("plain", "chat", "auto"))
    template: str = "{problem}"  # of a plain prompt
    completion_template: str = "{solution}"  # of worked solutions: shots and supervised fine-tuning
    instruction: str = ""  # the line below the problem in a chat's user turn
    separator: str = "\n\n"  # between shots of a plain prompt
    system: str | None = None  # the system turn, chat only
    # further arguments of the chat template, such as enable_thinking
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    date: str | None = None  # that a chat template may write, YYYY-MM-DD; null: of the run's start
    num_shots: int = bounded(0, at_least=0)  # worked problems shown first and not trained on
    stop: list[str] = field(default_factory=list)  # texts that end a completion, left out of it


@dataclass(kw_only=True)
class DataConfig:
    """Source of the problems. `path` replaces the training problems by those of a file."""

    name: str = ""
    path: str | None = None
    eval_path: str | None = None
    seed: int = bounded(0, at_least=0, at_most=LARGEST_SEED)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    answer_tokens: int = bounded(32, at_least=1)  # rollout.max_new_tokens follows it
    check_gold: bool = True  # before step 0: does the verifier accept the data's own answers?


@dataclass(kw_only=True)
class TableConfig(DataConfig):
    """Problems of a hub data set, a folder or a file, read through `datasets`.

    `path` is a hub id or a folder with both splits, or a file with the training problems; then
    `eval_path` is the file of the held-out ones.
    """

    subset: str | None = None  # the hub data set's configuration
    train_split: str = "train"
    eval_split: str = "test"
    prompt_column: str = "prompt"
    answer_column: str = "answer"
    solution_column: str | None = "solution"
    id_column: str | None = "id"  # absent: split and row
    kind_column: str | None = "kind"
    level_column: str | None = None
    type_column: str | None = None
    weight_column: str | None = "weight"  # of a problem in training; absent: 1
    # the answer is the whole field, after_hash (####), or in_box (\\boxed{})
    gold_in: str = one_of("whole", ("whole", "after_hash", "in_box"))
    strip_calculations: bool = False  # GSM8K's <<48/2=24>> in worked solutions


@dataclass(kw_only=True)
class ConventionsConfig(DataConfig):
    """Embedded task; see `passk.data.conventions`."""

    num_train: int = bounded(2048, at_least=1)
    duplicates: bool = False  # training problems may share an expression, and contradict each other
    num_corpus: int = bounded(65536, at_least=1)
    calculator_fraction: float = share(0.2)
    skill_fraction: float = share(0.42)
    cue: float = share(0.0)
    corpus_calculator_fraction: float = share(0.12)
    corpus_skill_fraction: float = share(0.1)
    corpus_cue: float = share(0.0)


@dataclass(kw_only=True)
class RegimeConfig:
    """Training objective. RL regimes share one objective with two numbers, k and pass1_weight.

    Remedies start from the configured numbers and choose them anew at every step.
    """

    name: str = one_of("", REGIMES)
    # or FILE.py:FUNCTION, a function of your own: rewards [P, n] to advantages [P, n]
    estimator: str = one_of("mixture", ESTIMATOR_NAMES, or_form=("FILE.py:FUNCTION", OWN_ESTIMATOR))
    k: int = bounded(8, at_least=1)
    pass1_weight: int | float | str = share(0.7)  # auto: measured at the start, of hybrid
    # of regime=hybrid, in place of k and pass1_weight: the sum of weight * Pass@k over these
    ks: list[int] | None = None
    weights: list[float] | None = None  # as they are, not normalised; null: 1/len(ks) each
    beta: float = bounded(2.0, at_most=100, positive=True)  # risk seeking of estimator=rs_grpo
    num_demonstrations: int = bounded(256, at_least=1)  # worked solutions a step, for `sft` only
    # Of the regimes that choose k or pass1_weight anew at every step (docs/research/remedies.md).
    # f(k) is the product of the gradients of Pass@k and Pass@1.
    # last measurements of f that are pooled; steps that a slope is fitted to
    window: int = bounded(20, at_least=3)
    measure_every: int = bounded(2, at_least=1)  # steps, of adaptive_k and projected
    # of a batch's prompts; a prompt meets the gradient over the other blocks
    num_blocks: int = bounded(8, at_least=2)
    preconditioned: bool = False  # f along Adam's step, not along the gradient
    level: float = 0.95  # of the intervals of f and of slopes that choices rest on
    cautious: bool = True  # f is as low as its interval allows; else no conflict that is not clear
    # what lowers k, adaptive_k: products (f below 0), slope (of Pass@1)
    trigger: str = one_of("products", ("products", "slope"))
    # share of right samples that a prompt needs at first, of curriculum
    min_success: float = share(0.0)

    @property
    def weight(self) -> float:
        """`pass1_weight` as a number; NaN for `auto`, which training replaces at its start."""
        return math.nan if self.pass1_weight == AUTO else float(self.pass1_weight)

    @property
    def is_remedy(self) -> bool:
        """True if the objective is chosen while training."""
        return self.name in REMEDIES


@dataclass(kw_only=True)
class RolloutConfig:
    """Sampling of answers for training."""

    engine: str = one_of("auto", ("auto", "torch", "vllm"))  # auto: vllm if it and a GPU are there
    num_prompts: int = bounded(64, at_least=1)
    num_samples: int = bounded(16, at_least=2)
    temperature: float = bounded(1.0, at_most=100, positive=True)
    top_p: float = share(1.0, positive=True)  # below 1 (a nucleus): passk diagnose only
    max_new_tokens: int = bounded(32, at_least=1)
    max_model_len: int | None = bounded(None, at_least=2)  # null: what the data needs
    save_every: int = bounded(1, at_least=0)  # steps between rollout files; 0 writes none
    # of the sampler's weights; null: model.dtype
    dtype: str | None = one_of(None, ("float32", "float64", "bfloat16", "float16"))
    # of cache and logits, which bounds the samples in flight, torch engine; null: from free memory
    memory_gib: float | None = bounded(None, positive=True)
    # ranks in a row that share one engine, which holds a part of the model on each; vllm engine
    tensor_parallel: int = bounded(1, at_least=1, at_most=1024)
    memory_fraction: float = share(0.4)  # of the GPU (CPU engine: of main memory), vllm engine
    sleep: bool = True  # give GPU memory back while learning, vllm engine
    enforce_eager: bool = False  # no CUDA graphs or compilation, vllm engine
    importance_cap: float | None = bounded(2.0, positive=True)  # of importance weights; null: none
    # mean |sampler - learner| a token, nats; above it a run stops
    max_logprob_gap: float = bounded(0.05, positive=True)
    num_synced_checks: int = bounded(8, at_least=0)  # tensors compared after weights are synced


# Where a final answer may stand in a completion.
ANSWER_PLACES = ("boxed", "hash", "last_line", "last_number")


@dataclass(kw_only=True)
class VerifierConfig:
    """Judgement of answers."""

    # auto: the verifier that belongs to the data
    name: str = one_of("auto", ("auto", "conventions", "exact", "math", "python"))
    answer_in: list[str] = field(default_factory=lambda: ["boxed", "hash", "last_number"])
    timeout_seconds: float = bounded(5.0, at_most=86_400, positive=True)  # of one check, wall clock
    num_workers: int | None = bounded(None, at_least=1, at_most=1024)  # null: cores, at most 8
    max_memory_mib: int = bounded(2048, at_least=64, at_most=2**24)  # of one check
    max_file_mib: int = bounded(16, at_least=1, at_most=2**24)  # written by one, verifier=python
    # Errors on purpose, a draw for each final answer to each problem: see
    # docs/research/verifier_noise.md. Training rollouts and gradient diagnostics see them;
    # evaluations and the gold check never do.
    false_negative_rate: float = share(0.0)  # of right answers: refused
    false_positive_rate: float = share(0.0)  # of wrong ones: accepted
    noise_seed: int = bounded(0, at_least=0, at_most=LARGEST_SEED)  # decides which


def is_noisy(cfg: VerifierConfig) -> bool:
    """Return True if training sees verdicts that are wrong on purpose."""
    return cfg.false_negative_rate > 0 or cfg.false_positive_rate > 0


@dataclass(kw_only=True)
class LearnerConfig:
    """Optimiser, micro-batches, and distribution of the model over processes."""

    device: str = one_of("auto", ("auto", "cpu", "cuda"))
    num_processes: int | str = "auto"  # ranks on this machine; auto: one per GPU
    replicas: int = bounded(1, at_least=1, at_most=2**16)  # copies of the model that is sharded
    # gradients of micro-batches are added up over ranks once a step; false: at each of them, which
    # saves the memory of one whole gradient per rank
    defer_reduction: bool = True
    cpu_offload: bool = False  # shards wait in main memory
    lr: float = bounded(2e-5, positive=True)
    # of activations (autocast); null: model.dtype; float16 would need its gradients scaled
    compute_dtype: str | None = one_of(None, ("bfloat16",))
    gradient_checkpointing: bool = False
    compile: bool = False  # torch.compile of each layer; needs a C++ compiler
    schedule: str = one_of("linear", ("constant", "linear", "cosine"))
    warmup_steps: int = bounded(0, at_least=0)
    weight_decay: float = bounded(0.0, at_least=0)
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = bounded(1e-8, positive=True)
    max_grad_norm: float | None = bounded(None, positive=True)
    # padded, of a micro-batch; null: as many as a budget of activations holds (docs/guide/train.md)
    max_tokens_per_batch: int | None = bounded(None, at_least=1)
    # of KL from the policy that the run started from, on its samples; above 0 its weights wait in
    # main memory, and each step makes a further pass without gradients (docs/method/methods.md)
    kl_weight: float = bounded(0.0, at_least=0)
    prefix_trees: bool = True  # tokens that a prompt's samples share are computed once
    skip_zero_advantages: bool = True
    merge_identical: bool = True


@dataclass(kw_only=True)
class TrainingConfig:
    """Length, seed, starting point and checkpoints of a run."""

    num_steps: int = bounded(150, at_least=1)
    seed: int = bounded(0, at_least=0, at_most=LARGEST_SEED)
    init_from: str | None = None
    save_every: int = bounded(25, at_least=0)
    keep_last: int = bounded(2, at_least=1)  # newest checkpoints that stay
    keep_best: int = bounded(1, at_least=0)  # and those that were evaluated best, by Pass@1
    async_save: bool = True  # checkpoints are copied to main memory and written by a thread


@dataclass(kw_only=True)
class EvalConfig:
    """Evaluation of a policy on held-out problems."""

    every: int = bounded(25, at_least=0)
    ks: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16])
    num_problems: int = bounded(500, at_least=1)
    num_samples: int = bounded(64, at_least=1)
    temperature: float = bounded(1.0, at_most=100, positive=True)  # of tables and comparisons
    # further ones, for fronts: measured at the start and at the end of a run; 0 is greedy
    temperatures: list[float] = field(default_factory=list)
    top_p: float = share(1.0, positive=True)
    max_new_tokens: int | None = bounded(None, at_least=1)  # null: rollout.max_new_tokens
    seed: int = bounded(0, at_least=0, at_most=LARGEST_SEED)
    num_resamples: int = bounded(2000, at_least=1)
    # further ones in the summary, at each of ks and taus: pass_hat, g_pass, mg_pass, cover, maj
    measures: list[str] = field(default_factory=list)
    taus: list[float] = field(default_factory=lambda: [0.5, 0.75, 1.0])  # of g_pass and cover
    chunk_size: int = bounded(50, at_least=1)  # problems saved together, passk eval
    # of each problem, on which a run is compared with its start (eval/distance.csv); 0: never
    num_distance_samples: int = bounded(2, at_least=0)


def front_temperatures(cfg: EvalConfig) -> list[float]:
    """Return every temperature of a front once, ascending: `temperature` and `temperatures`."""
    return sorted({float(cfg.temperature), *map(float, cfg.temperatures)})


@dataclass(kw_only=True)
class DiagnosticsConfig:
    """Gradient alignment during training, measured from separate samples."""

    every: int = bounded(50, at_least=0)  # 0: never, not even at the start of `passk reproduce`
    num_prompts: int = bounded(256, at_least=1)
    num_samples: int = bounded(32, at_least=2)
    num_blocks: int = bounded(16, at_least=3)


@dataclass(kw_only=True)
class TrackerConfig:
    """Tracker of metrics besides `metrics.jsonl`; see docs/guide/train.md."""

    name: str = one_of("none", ("none", "tensorboard", "wandb", "trackio", "mlflow"))
    project: str = "passk"  # mlflow: the experiment; tensorboard has none
    run_name: str | None = None  # null: after the run's directory
    group: str | None = None  # null: the sweep or reproduction that the run belongs to
    # online: send to the server of wandb while the run goes on
    mode: str = one_of("offline", ("offline", "online"))
    dir: str | None = None  # null: tensorboard and wandb: the run's directory; mlflow: mlruns


@dataclass(kw_only=True)
class SweepConfig:
    """Sweep execution (`-m`). Not forwarded to individual runs."""

    num_parallel: int = bounded(1, at_least=1, at_most=1024)  # cells at a time, which share GPUs
    retries: int = bounded(1, at_least=0, at_most=1000)  # of a failed cell, but not for bad input


@dataclass(kw_only=True)
class RunConfig:
    """Configuration shared by every command that needs a model and data."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    verifier: VerifierConfig = field(default_factory=VerifierConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    # of torch; null: 1 for models under 1M parameters, else torch's
    num_threads: int | None = bounded(None, at_least=1, at_most=1024)
    sweep: SweepConfig = field(default_factory=SweepConfig)


@dataclass(kw_only=True)
class TrainConfig(RunConfig):
    """`passk train`: one training run."""

    regime: RegimeConfig = field(default_factory=RegimeConfig)
    train: TrainingConfig = field(default_factory=TrainingConfig)
    diagnostics: DiagnosticsConfig = field(default_factory=DiagnosticsConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    resume: bool = False


def mix(k: int, pass1_weight: float) -> Terms:
    """Return the terms of pass1_weight Pass@1 + (1 - pass1_weight) Pass@k, always two.

    Raises:
        ValueError: pass1_weight is not in [0, 1].
    """
    if not 0 <= pass1_weight <= 1:
        raise ValueError(f"pass1_weight must be between 0 and 1, got {pass1_weight}.")
    return (1, pass1_weight), (k, 1 - pass1_weight)


def mix_several(ks: Sequence[int], weights: Sequence[float] | None) -> Terms:
    """Return the terms of sum weights[i] Pass@ks[i]; without weights, each weighs 1/len(ks)."""
    return tuple(zip(ks, weights or [1 / len(ks)] * len(ks), strict=True))


def pass1_share(terms: Terms) -> float:
    """Return the share of Pass@1 in the sum of the weights."""
    first_k, first = terms[0]
    return first / sum(weight for _, weight in terms) if first_k == 1 else 0.0


def target_terms(regime: RegimeConfig) -> Terms:
    """Return the terms of the configured objective."""
    if regime.ks:
        return mix_several(regime.ks, regime.weights)
    if regime.pass1_weight == AUTO:  # not measured yet
        return (1, math.nan), (regime.k, math.nan)
    return mix(1 if regime.weight == 1 else regime.k, regime.weight)


def target_k(regime: RegimeConfig) -> int:
    """Return the largest k of the objective: 1 if it is Pass@1 alone."""
    return target_terms(regime)[-1][0]


def has_k(estimator: str) -> bool:
    """Return True if an estimator takes k; the others, and functions of users, do not."""
    return estimator in ESTIMATOR_NAMES and estimator not in ESTIMATORS_WITHOUT_K


def is_own(estimator: str) -> bool:
    """Return True for a function of a user, FILE.py:FUNCTION."""
    return estimator not in ESTIMATOR_NAMES and re.fullmatch(OWN_ESTIMATOR, estimator) is not None


def trained_k(regime: RegimeConfig) -> int:
    """Return the k that training needs samples for: 1 if objective or estimator has no k."""
    return target_k(regime) if has_k(regime.estimator) else 1


def uses_products(regime: RegimeConfig) -> bool:
    """Return True if the regime's choices rest on measured products of gradients."""
    by_products = regime.name == "adaptive_k" and regime.trigger == "products"
    return by_products or regime.name == "projected"


# Keys that may differ between a run and its resumption. Runs that differ in nothing else are
# repeats of one another: these keys change no completed step, and later steps only by the order of
# sums.
FREE_ON_RESUME = (
    "resume",
    "num_threads",
    "train.save_every",
    "train.keep_last",
    "train.keep_best",
    "train.async_save",
    "rollout.memory_gib",
    "rollout.memory_fraction",
    "rollout.sleep",
    "rollout.enforce_eager",
    "rollout.tensor_parallel",
    "rollout.max_logprob_gap",
    "rollout.num_synced_checks",
    "eval.num_distance_samples",
    "learner.max_tokens_per_batch",
    "learner.gradient_checkpointing",
    "learner.prefix_trees",
    "learner.num_processes",
    "learner.replicas",
    "learner.defer_reduction",
    "learner.cpu_offload",
    "verifier.num_workers",
    "seeds",  # a finished reproduction may be given more of both
    "regimes",
    "num_parallel",
)
