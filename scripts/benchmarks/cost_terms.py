"""What a training job needs, term by term: memory of a GPU, collectives, floating-point operations.

Pure functions of a model's shape and a job's settings; `cost_model.py` prints them,
docs/method/scaling.md explains them, and `cost_check.py` and tests/scripts/test_cost_model.py hold
them against what the learner does. Bytes are bytes, not GiB. `M` below counts the micro-batches of
a rank.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from passk.learner.logprobs import LOGITS_PER_CHUNK
from passk.objectives.advantages import estimate_advantages

Terms = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A decoder of the Llama and Qwen2 kind: grouped attention, a gated MLP, RMS norms."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    tied: bool
    attention_bias: bool = False  # of queries, keys and values
    head_dim: int | None = None  # None: hidden / heads

    @property
    def queries(self) -> int:
        """Width of all heads' queries."""
        return self.heads * (self.head_dim or self.hidden // self.heads)

    @property
    def keys(self) -> int:
        """Width of all heads' keys, and of their values."""
        return self.kv_heads * (self.head_dim or self.hidden // self.heads)

    @property
    def layer_matrices(self) -> int:
        """Parameters of a layer that a token is multiplied with."""
        mlp = 3 * self.hidden * self.intermediate
        return 2 * self.hidden * (self.queries + self.keys) + mlp

    @property
    def layer(self) -> int:
        """Parameters of a layer."""
        bias = (self.queries + 2 * self.keys) * self.attention_bias
        return self.layer_matrices + bias + 2 * self.hidden

    @property
    def head(self) -> int:
        """Parameters of the output head, which are the embedding's where the two are tied."""
        return self.vocabulary * self.hidden

    @property
    def root(self) -> int:
        """Parameters outside the layers: embedding, head and last norm, gathered together."""
        return self.head * (1 if self.tied else 2) + self.hidden

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.layers * self.layer + self.root

    def adapters(self, rank: int) -> int:
        """Parameters of LoRA of this rank on every linear map of the layers."""
        ends = 6 * self.hidden + 2 * self.queries + 2 * self.keys + 3 * self.intermediate
        return self.layers * rank * (ends + self.hidden)


MODELS = {  # the shapes of Qwen2.5
    "0.5b": Shape(
        hidden=896,
        layers=24,
        heads=14,
        kv_heads=2,
        intermediate=4864,
        vocabulary=151936,
        tied=True,
        attention_bias=True,
    ),
    "7b": Shape(
        hidden=3584,
        layers=28,
        heads=28,
        kv_heads=4,
        intermediate=18944,
        vocabulary=152064,
        tied=False,
        attention_bias=True,
    ),
    "70b": Shape(
        hidden=8192,
        layers=80,
        heads=64,
        kv_heads=8,
        intermediate=29568,
        vocabulary=152064,
        tied=False,
        attention_bias=True,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The settings that cost something, under the names of passk's keys where there is one."""

    ranks: int = 1
    replicas: int = 1
    num_prompts: int = 64
    num_samples: int = 16
    k: int = 8
    pass1_weight: float = 0.7
    estimator: str = "mixture"
    # probabilities of a right answer, equally common among prompts
    success: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95)
    distinct: float = 1.0  # completions that are left after identical ones are merged
    prompt_tokens: int = 200
    answer_tokens: int = 800
    max_tokens_per_batch: int = 16384
    gradient_checkpointing: bool = False
    defer_reduction: bool = True
    compute_bytes: int = 2  # 2: compute_dtype=bfloat16 or float16; 4: none
    weight_bytes: int = 4  # of model.dtype
    lora_rank: int = 0
    sampler_bytes: int = 2  # of rollout.dtype
    memory_fraction: float = 0.4
    tensor_parallel: int = 1
    sharded: bool = False  # a single rank under FSDP2 too, as `cost_check.py` measures it

    @property
    def is_sharded(self) -> bool:
        """Whether FSDP2 holds the model: on several ranks."""
        return self.ranks > 1 or self.sharded

    @property
    def is_autocast(self) -> bool:
        """Whether autocast makes bfloat16 copies of float32 weights; FSDP2 gathers them as such."""
        return not self.is_sharded and self.compute_bytes == 2 and self.weight_bytes == 4

    @property
    def shards(self) -> int:
        """Ranks that share one copy of the model."""
        return self.ranks // self.replicas

    @property
    def row_tokens(self) -> int:
        """Tokens of a prompt with its answer."""
        return self.prompt_tokens + self.answer_tokens


def learned_share(job: Job) -> float:
    """The share of samples whose weight is not zero: only these are learned from.

    Exact, with the advantages that training uses: every count c of right answers among n, with
    its binomial probability at each success rate.
    """
    n = job.num_samples
    right_PG = (np.arange(n) < np.arange(n + 1)[:, None]).astype(float)  # prompt c has c right
    advantages_PG = estimate_advantages(right_PG, job.estimator, job.k, job.pass1_weight)
    share_P = (advantages_PG != 0).mean(axis=1)
    chance_SP = binom.pmf(np.arange(n + 1), n, np.array(job.success)[:, None])
    return float((chance_SP @ share_P).mean())


def learned_rows(job: Job) -> float:
    """Rows of a step that all ranks learn from together, on average."""
    return job.num_prompts * job.num_samples * job.distinct * learned_share(job)


def micro_batches(job: Job) -> int:
    """M: the passes of each rank, from rows of average length."""
    per_batch = max(1, job.max_tokens_per_batch // job.row_tokens)
    return max(1, math.ceil(math.ceil(learned_rows(job) / job.ranks) / per_batch))


def activation_bytes(shape: Shape, job: Job) -> float:
    """Bytes a token leaves for the backward pass in one layer, without gradient checkpointing."""
    s, b, d = shape, job.compute_bytes, shape.hidden
    # queries, keys, values and the output of attention; gate, up, their product, silu of the gate
    kept = b * (2 * s.queries + 2 * s.keys + 4 * s.intermediate)
    if job.lora_rank:  # frozen norms keep their input alone, adapters a copy of theirs in bfloat16
        return kept + (16 * d if b == 4 else 8 * d + b * (5 * d + s.queries))
    if b == 4:  # twice: what enters a norm, what leaves it, before and after its weight
        return kept + 24 * d
    if job.is_autocast:  # the stream is float32, and each linear map casts its input
        return kept + 26 * d
    return kept + 16 * d  # the norm's input in float32, what leaves it before and after its weight


def layer_input_bytes(shape: Shape, job: Job) -> float:
    """Bytes a token leaves for the backward pass in one layer with gradient checkpointing."""
    return shape.hidden * (4 if job.is_autocast else job.compute_bytes)


def learner_memory(shape: Shape, job: Job) -> tuple[str, Terms]:
    """The phase of a step whose memory is largest on a GPU that learns, and what makes it up."""
    phases = learner_phases(shape, job)
    largest = max(phases, key=lambda phase: sum(phases[phase].values()))
    return largest, phases[largest]


def resident(shape: Shape, job: Job) -> Terms:
    """What lies on a learner's GPU through the whole step but the gradient: also while sampling."""
    held = shape.parameters / job.shards
    trained = (shape.adapters(job.lora_rank) if job.lora_rank else shape.parameters) / job.shards
    adapters = 4 * trained if job.lora_rank else 0
    weight_bytes = job.weight_bytes if job.lora_rank else 4
    return {"weights": weight_bytes * held + adapters, "Adam's moments": 8 * trained}


def learner_phases(shape: Shape, job: Job) -> dict[str, Terms]:
    """Memory of a GPU at the moments of a step that can be its peak."""
    s, b, lora = shape, job.compute_bytes, job.lora_rank > 0
    tokens, batches = job.max_tokens_per_batch, micro_batches(job)
    trained = s.adapters(job.lora_rank) if lora else s.parameters
    base = resident(s, job) | {"gradient": 4 * trained / job.shards}
    sharded = job.is_sharded
    deferred = 4 * trained * (sharded and job.defer_reduction and batches > 1)
    everywhere = base | {"gradient not yet reduced": deferred}
    if sharded:
        everywhere["gathered embedding and head"] = b * s.root
    one = activation_bytes(s, job) * tokens
    stays = layer_input_bytes(s, job) * tokens if job.gradient_checkpointing else one
    # copies of the weights that autocast makes, kept for the backward pass
    copies = 2 * s.layers * s.layer_matrices * job.is_autocast
    kept_copies = 0 if job.gradient_checkpointing else copies
    kept = {"activations": s.layers * stays}
    stream = 4 if job.is_autocast else b
    tail = tokens * s.hidden * (4 + 2 * stream + 2 * b)  # last norm; hidden states, their gradient
    head_copy = b * s.head * job.is_autocast
    chunk = LOGITS_PER_CHUNK * (4 + (b if b == 2 else 0))
    head_gradient = 0 if lora else (4 + (b if b == 2 else 0)) * s.head
    at_head = {"head": head_gradient + head_copy + chunk + tail, "autocast copies": kept_copies}
    left = 0 if lora else (b if sharded else 4) * s.head  # the head's gradient, until it is reduced
    rest = 0 if lora else (b if sharded else 4) * (s.root - s.head)
    working = tokens * b * (2 * s.intermediate + 2 * s.hidden)
    again = one if job.gradient_checkpointing else 0
    layer = 2 * b * s.layer + (0 if lora or deferred else 4 * s.layer)
    layer = layer if sharded else (2 * b + 4) * s.layer * job.is_autocast
    at_layer = {
        "one layer at work": again + working + layer,
        "head": left,
        "autocast copies": kept_copies,
    }
    tied = b * s.head * (s.tied and not lora)
    reduced = {"gradient not yet reduced": min(deferred, 4 * s.root)} if deferred else {}
    buffers = 0 if lora else 4 * s.root + 4 * s.layer
    phases = {
        "end of the forward pass": everywhere | kept | {"autocast copies": copies},
        "backward pass of the head": everywhere | kept | at_head,
        "backward pass of a layer": everywhere | kept | at_layer,
        "optimiser": base | {"square roots": 4 * trained / job.shards},
    }
    if sharded:
        end = {"head": left + rest + tied}
        phases["backward pass of the embedding"] = everywhere | end
        # gathered weights are dropped before gradients are reduced
        phases["reduction of the embedding"] = base | end | reduced | {"buffers": buffers}
    return {phase: {k: v for k, v in terms.items() if v} for phase, terms in phases.items()}
