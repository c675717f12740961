"""Configuration schema: plain dataclasses, standard library only, so bad input is refused at once.

Hydra composes YAML from `conf/` over these (`passk.config.compose`); `passk.config.rules` checks
the rules between fields. `null` in YAML is None here. Paths are strings, as the user typed them.
"""

from dataclasses import dataclass, field
from typing import Any

REMEDIES = ("adaptive_k", "curriculum", "projected")  # objectives chosen while training
REGIMES = ("sft", "pass1", "passk", "hybrid", *REMEDIES)
ESTIMATOR_NAMES = ("mixture", "grpo", "dr_grpo", "s", "s_loo", "s_loo_minus_1", "chen", "maxrl")
VERIFIER_OF_DATA = {"conventions": "conventions", "gsm8k": "math", "math": "math"}
ESTIMATORS_WITHOUT_K = ("grpo", "dr_grpo", "maxrl")


@dataclass(kw_only=True)
class ModelConfig:
    """Causal language model to start from."""

    path: str = "tiny"  # `tiny` (shipped in the package), a folder, or a Hugging Face hub id
    dtype: str = "float32"  # of the weights that are trained
    attn_implementation: str = "sdpa"
    trust_remote_code: bool = False  # run code that comes with the model
    lora_rank: int = 0  # 0 trains all weights; above, adapters of this rank (needs peft)
    lora_alpha: int = 32
    lora_targets: str = "all-linear"  # or names of modules, separated by spaces


@dataclass(kw_only=True)
class PromptConfig:
    """Format of prompts, made from problems, and of completions, made from worked solutions."""

    style: str = "plain"  # chat (the tokenizer's chat template), plain, or auto: chat if it has one
    template: str = "{problem}"  # of a plain prompt
    completion_template: str = "{solution}"  # of worked solutions: shots and supervised fine-tuning
    instruction: str = ""  # the line below the problem in a chat's user turn
    separator: str = "\n\n"  # between shots of a plain prompt
    system: str | None = None  # the system turn, chat only
    # further arguments of the chat template, such as enable_thinking
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    date: str | None = None  # that a chat template may write, YYYY-MM-DD; null: of the run's start
    num_shots: int = 0  # worked training problems shown first; they are not trained on
    stop: list[str] = field(default_factory=list)  # texts that end a completion, left out of it


@dataclass(kw_only=True)
class DataConfig:
    """Source of the problems. `path` replaces the training problems by those of a file."""

    name: str = ""
    path: str | None = None
    eval_path: str | None = None
    seed: int = 0
    prompt: PromptConfig = field(default_factory=PromptConfig)
    answer_tokens: int = 32  # room for an answer; rollout.max_new_tokens follows it
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
    gold_in: str = (
        "whole"  # the answer is the whole field, after_hash (####), or in_box (\\boxed{})
    )
    strip_calculations: bool = False  # GSM8K's <<48/2=24>> in worked solutions


@dataclass(kw_only=True)
class ConventionsConfig(DataConfig):
    """Embedded task; see `passk.data.conventions`."""

    num_train: int = 4096
    num_corpus: int = 65536
    calculator_fraction: float = 0.2
    skill_fraction: float = 0.42
    cue: float = 0.0
    corpus_calculator_fraction: float = 0.08
    corpus_skill_fraction: float = 0.1
    corpus_cue: float = 0.0


@dataclass(kw_only=True)
class RegimeConfig:
    """Training objective. RL regimes share one objective with two numbers, k and pass1_weight.

    Remedies start from the configured numbers and choose them anew at every step.
    """

    name: str = ""
    estimator: str = "mixture"
    k: int = 8
    pass1_weight: float = 0.7
    num_demonstrations: int = 256  # worked solutions a step, for `sft` only
    # Of the regimes that choose k or pass1_weight anew at every step (docs/research/remedies.md).
    # f(k) is the product of the gradients of Pass@k and Pass@1.
    window: int = 20  # last measurements of f that are pooled; steps that a slope is fitted to
    measure_every: int = 2  # steps between measurements of f, of adaptive_k and projected
    num_blocks: int = 8  # of a batch's prompts; a prompt meets the gradient over the other blocks
    preconditioned: bool = False  # f along Adam's step, not along the gradient
    level: float = 0.95  # of the intervals of f and of slopes that choices rest on
    cautious: bool = True  # f is as low as its interval allows; else no conflict that is not clear
    trigger: str = "products"  # what lowers k, adaptive_k: products (f below 0), slope (of Pass@1)
    min_success: float = 0.0  # share of right samples that a prompt needs at first, of curriculum

    @property
    def is_remedy(self) -> bool:
        """True if the objective is chosen while training."""
        return self.name in REMEDIES


@dataclass(kw_only=True)
class RolloutConfig:
    """Sampling of answers for training."""

    engine: str = "auto"  # auto: vllm where a GPU and vLLM are there, else torch
    num_prompts: int = 64
    num_samples: int = 16
    temperature: float = 1.0
    top_p: float = 1.0  # below 1, passk diagnose only: the nucleus of the distribution
    max_new_tokens: int = 32
    max_model_len: int | None = None  # prompt and answer; null: what the data needs
    save_every: int = 1  # steps between rollout files; 0 writes none
    dtype: str | None = None  # of the sampler's weights; null: model.dtype
    max_batch_samples: int = 2048  # in flight at once, torch engine
    # ranks in a row that share one engine, which holds a part of the model on each; vllm engine
    tensor_parallel: int = 1
    memory_fraction: float = 0.4  # of the GPU (CPU engine: of main memory), vllm engine
    sleep: bool = True  # give GPU memory back while learning, vllm engine
    enforce_eager: bool = False  # no CUDA graphs or compilation, vllm engine
    importance_cap: float | None = 2.0  # truncated importance weights; null: none
    max_logprob_gap: float = 0.05  # mean |sampler - learner| a token, nats; above it a run stops
    num_synced_checks: int = 8  # tensors compared after each hand-over of weights


# Where a final answer may stand in a completion.
ANSWER_PLACES = ("boxed", "hash", "last_line", "last_number")


@dataclass(kw_only=True)
class VerifierConfig:
    """Judgement of answers."""

    name: str = "auto"  # auto: the one that belongs to the data
    answer_in: list[str] = field(default_factory=lambda: ["boxed", "hash", "last_number"])
    timeout_seconds: float = 5.0  # of one check, wall clock
    num_workers: int | None = None  # null: one per core, at most 8
    max_memory_mib: int = 2048  # of one check
    max_file_mib: int = 16  # written by one check, verifier=python
    # Errors on purpose, a draw for each final answer to each problem: see
    # docs/research/verifier_noise.md. Training rollouts and gradient diagnostics see them;
    # evaluations and the gold check never do.
    false_negative_rate: float = 0.0  # of right answers: refused
    false_positive_rate: float = 0.0  # of wrong ones: accepted
    noise_seed: int = 0  # decides which


def is_noisy(cfg: VerifierConfig) -> bool:
    """Return True if training sees verdicts that are wrong on purpose."""
    return cfg.false_negative_rate > 0 or cfg.false_positive_rate > 0


@dataclass(kw_only=True)
class LearnerConfig:
    """Optimiser, micro-batches, and distribution of the model over processes."""

    device: str = "auto"
    num_processes: int | str = "auto"  # ranks on this machine; auto: one per GPU
    replicas: int = 1  # copies of the sharded model; 1: every rank holds a shard of one
    # gradients of micro-batches are added up over ranks once a step; false: at each of them, which
    # saves the memory of one whole gradient per rank
    defer_reduction: bool = True
    cpu_offload: bool = False  # shards wait in main memory
    lr: float = 2e-4
    compute_dtype: str | None = None  # of activations (autocast); null: model.dtype
    gradient_checkpointing: bool = False
    compile: bool = False  # torch.compile of each layer; needs a C++ compiler
    schedule: str = "linear"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    max_grad_norm: float | None = None
    max_tokens_per_batch: int = 2048  # padded; small ones stay in a CPU's cache
    skip_zero_advantages: bool = True
    merge_identical: bool = True


@dataclass(kw_only=True)
class TrainingConfig:
    """Length, seed, starting point and checkpoints of a run."""

    num_steps: int = 150
    seed: int = 0
    init_from: str | None = None
    save_every: int = 25
    keep_last: int = 2  # newest checkpoints that stay
    keep_best: int = 1  # and those of the evaluated steps that have the best Pass@1
    async_save: bool = True  # checkpoints are copied to main memory and written by a thread


@dataclass(kw_only=True)
class EvalConfig:
    """Evaluation of a policy on held-out problems."""

    every: int = 25
    ks: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16])
    num_problems: int = 500
    num_samples: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    greedy: bool = False  # one more answer per problem, at temperature 0
    max_new_tokens: int | None = None  # null: rollout.max_new_tokens
    seed: int = 0
    num_resamples: int = 2000
    chunk_size: int = 50  # problems whose samples are saved together, passk eval


@dataclass(kw_only=True)
class DiagnosticsConfig:
    """Gradient alignment during training, measured from separate samples."""

    every: int = 50  # 0: never, not even at the start of `passk reproduce`
    num_prompts: int = 256
    num_samples: int = 32
    num_blocks: int = 16


@dataclass(kw_only=True)
class TrackerConfig:
    """Tracker of metrics besides `metrics.jsonl`; see docs/guide/train.md."""

    name: str = "none"  # none, tensorboard, wandb, trackio or mlflow
    project: str = "passk"  # mlflow: the experiment; tensorboard has none
    run_name: str | None = None  # null: after the run's directory
    group: str | None = None  # null: the sweep or reproduction that the run belongs to
    mode: str = "offline"  # online: send to the server of wandb while the run goes on
    dir: str | None = None  # null: tensorboard and wandb: the run's directory; mlflow: mlruns


@dataclass(kw_only=True)
class SweepConfig:
    """Sweep execution (`-m`). Not forwarded to individual runs."""

    num_parallel: int = 1  # cells at a time on this machine; each gets its share of the GPUs
    retries: int = 1  # further attempts at a cell that failed, but not for bad input


@dataclass(kw_only=True)
class RunConfig:
    """Configuration shared by every command that needs a model and data."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    verifier: VerifierConfig = field(default_factory=VerifierConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    num_threads: int | None = None  # of torch; null: 1 for models under 1M parameters, else torch's
    sweep: SweepConfig = field(default_factory=SweepConfig)


@dataclass(kw_only=True)
class TrainConfig(RunConfig):
    """`passk train`: one training run."""

    regime: RegimeConfig = field(default_factory=RegimeConfig)
    train: TrainingConfig = field(default_factory=TrainingConfig)
    diagnostics: DiagnosticsConfig = field(default_factory=DiagnosticsConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    resume: bool = False


def target_k(regime: RegimeConfig) -> int:
    """Return the k of the objective: 1 if it is Pass@1 alone."""
    return regime.k if regime.pass1_weight < 1 else 1


def trained_k(regime: RegimeConfig) -> int:
    """Return the k that training needs samples for: 1 if objective or estimator has no k."""
    return target_k(regime) if regime.estimator not in ESTIMATORS_WITHOUT_K else 1


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
    "rollout.max_batch_samples",
    "rollout.memory_fraction",
    "rollout.sleep",
    "rollout.enforce_eager",
    "rollout.tensor_parallel",
    "rollout.max_logprob_gap",
    "rollout.num_synced_checks",
    "learner.max_tokens_per_batch",
    "learner.gradient_checkpointing",
    "learner.num_processes",
    "learner.replicas",
    "learner.defer_reduction",
    "learner.cpu_offload",
    "verifier.num_workers",
    "seeds",  # a finished reproduction may be given more of both
    "regimes",
)
