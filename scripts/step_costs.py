"""What a training job needs, term by term: memory of a GPU, collectives, operations, seconds.

Pure functions of a model's shape, a job's settings and speeds of hardware. `sizing.py` prints them,
docs/method/scaling.md explains them, and tests/scripts/test_sizing.py holds them against what the
learner does. Bytes are bytes, not GiB. Counts are exact; seconds divide them by the speeds in
`Hardware`, of which only a measurement on the machine itself can say how many are reached.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import binom

from passk.config.schema import mix
from passk.learner.logprobs import LOGITS_PER_CHUNK
from passk.objectives.advantages import estimate_advantages

GIB = 2**30
Terms = dict[str, float]  # bytes, or seconds, by name


@dataclass(frozen=True)
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
        return self.queries // self.heads * self.kv_heads

    @property
    def layer_matrices(self) -> int:
        """Parameters of a layer that a token is multiplied with."""
        return self.hidden * (2 * (self.queries + self.keys) + 3 * self.intermediate)

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

    def trained(self, lora_rank: int) -> int:
        """Parameters that are trained: all, or adapters on every linear map of the layers."""
        widths = 7 * self.hidden + 2 * (self.queries + self.keys) + 3 * self.intermediate
        return self.layers * lora_rank * widths if lora_rank else self.parameters


MODELS = {  # of Qwen2.5
    "0.5b": Shape(896, 24, 14, 2, 4864, 151936, tied=True, attention_bias=True),
    "7b": Shape(3584, 28, 28, 4, 18944, 152064, tied=False, attention_bias=True),
    "70b": Shape(8192, 80, 64, 8, 29568, 152064, tied=False, attention_bias=True),
}
SMOLLM2 = Shape(576, 30, 9, 3, 1536, 49152, tied=True)


def option(default: Any, text: str) -> Any:
    """A field that is an option of `sizing.py job`, and its help."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class Job:
    """The settings that cost something, under the names of passk's keys where there is one."""

    ranks: int = option(1, "GPUs that learn")
    replicas: int = option(1, "copies of the model among them")
    num_prompts: int = option(64, "of a step")
    num_samples: int = option(16, "of a prompt")
    k: int = option(8, "of Pass@k")
    pass1_weight: float = option(0.7, "share of Pass@1 in the objective")
    estimator: str = option("mixture", "of the advantages")
    success: tuple[float, ...] = option((0.05, 0.25, 0.5, 0.75, 0.95), "rates, equally common")
    distinct: float = option(1.0, "share of completions left after identical ones are merged")
    prompt_tokens: int = option(200, "of a prompt, on average")
    answer_tokens: int = option(800, "of an answer, on average")
    max_tokens_per_batch: int = option(16384, "of a micro-batch")
    gradient_checkpointing: bool = option(False, "compute layers again in the backward pass")
    defer_reduction: bool = option(True, "reduce the gradient once a step")
    compute_bytes: int = option(2, "2 with learner.compute_dtype=bfloat16, else 4")
    weight_bytes: int = option(4, "of model.dtype; 2 with LoRA alone")
    lora_rank: int = option(0, "0: all weights are trained")
    sampler_bytes: int = option(2, "of rollout.dtype")
    memory_fraction: float = option(0.4, "of a GPU, for the sampler")
    tensor_parallel: int = option(1, "GPUs of one sampler")
    sharded: bool = False  # a single rank under FSDP2 too, as `check --gpu` measures it

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


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Speeds of one GPU and its surroundings: an H100 (SXM), at list values.

    `*_use` are the shares of a speed that are reached: assumptions, to be replaced by what
    `metrics.jsonl` of a short run says.
    """

    gpu_gib: float = option(80.0, "memory of a GPU")
    reserved_gib: float = option(3.0, "CUDA context, NCCL and cuBLAS buffers, fragmentation")
    flops: float = option(989e12, "dense bfloat16 operations a second")
    learner_use: float = option(0.35, "share of --flops that the learner reaches")
    sampler_use: float = option(0.5, "share of --flops that the sampler reaches")
    memory_bytes: float = option(3.35e12, "a second, of a GPU's memory")
    memory_use: float = option(0.6, "share of --memory-bytes that decoding reaches")
    link_bytes: float = option(300e9, "a second and GPU, of collectives within a node")
    node_link_bytes: float = option(300e9, "a second and node, between nodes")
    gpus_per_node: int = option(8, "GPUs of a node")
    host_bytes: float = option(25e9, "a second and GPU, between GPU and main memory")
    disk_bytes: float = option(2e9, "a second, all ranks together")
    verify_seconds: float = option(0.005, "of one check on one core")
    verify_workers: int = option(8, "per rank")


def learned_share(job: Job) -> float:
    """The share of samples whose weight is not zero: only these are learned from.

    Exact, with the advantages that training uses: every count c of right answers among n, with
    its binomial probability at each success rate.
    """
    n = job.num_samples
    right_PG = (np.arange(n) < np.arange(n + 1)[:, None]).astype(float)  # prompt c has c right
    advantages_PG = estimate_advantages(right_PG, job.estimator, mix(job.k, job.pass1_weight))
    share_P = (advantages_PG != 0).mean(axis=1)
    chance_SP = binom.pmf(np.arange(n + 1), n, np.array(job.success)[:, None])
    return float((chance_SP @ share_P).mean())


def learned_rows(job: Job) -> float:
    """Rows of a step that all ranks learn from together, on average."""
    return job.num_prompts * job.num_samples * job.distinct * learned_share(job)


def micro_batches(job: Job) -> int:
    """The passes of each rank, from rows of average length."""
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


def resident(shape: Shape, job: Job) -> Terms:
    """What lies on a learner's GPU through the whole step but the gradient: also while sampling."""
    trained = shape.trained(job.lora_rank) / job.shards
    held = shape.parameters / job.shards
    weights = job.weight_bytes * held + 4 * trained if job.lora_rank else 4 * held
    return {"weights": weights, "Adam's moments": 8 * trained}


def learner_phases(shape: Shape, job: Job) -> dict[str, Terms]:
    """Memory of a GPU at the moments of a step that can be its peak."""
    s, b, sharded, full = shape, job.compute_bytes, job.is_sharded, not job.lora_rank
    tokens, trained = job.max_tokens_per_batch, shape.trained(job.lora_rank)
    base = resident(s, job) | {"gradient": 4 * trained / job.shards}
    waits = sharded and job.defer_reduction and micro_batches(job) > 1
    deferred = 4 * trained * waits
    everywhere = base | {"gradient not yet reduced": deferred}
    everywhere["gathered embedding and head"] = b * s.root * sharded
    one = activation_bytes(s, job) * tokens
    stays = layer_input_bytes(s, job) * tokens if job.gradient_checkpointing else one
    kept = everywhere | {"activations": s.layers * stays}
    # copies of the weights that autocast makes, kept for the backward pass
    copies = {"autocast copies": 2 * s.layers * s.layer_matrices * job.is_autocast}
    kept_copies = {} if job.gradient_checkpointing else copies
    stream = 4 if job.is_autocast else b
    tail = tokens * s.hidden * (4 + 2 * stream + 2 * b)  # last norm; hidden states, their gradient
    number = 4 + (b if b == 2 else 0)  # of logits and of the head's gradient
    head = number * (s.head * full + LOGITS_PER_CHUNK) + b * s.head * job.is_autocast + tail
    left = (b if sharded else 4) * s.head * full  # the head's gradient, until it is reduced
    working = tokens * b * (2 * s.intermediate + 2 * s.hidden) + one * job.gradient_checkpointing
    if sharded:
        working += 2 * b * s.layer + 4 * s.layer * (full and not deferred)
    else:
        working += (2 * b + 4) * s.layer * job.is_autocast
    phases = {
        "end of the forward pass": kept | copies,
        "backward pass of the head": kept | {"head": head} | kept_copies,
        "backward pass of a layer": kept
        | {"one layer at work": working, "head": left}
        | kept_copies,
        "optimiser": base | {"square roots": 4 * trained / job.shards},
    }
    if sharded:
        end = {"head": b * (s.root + s.head * s.tied) * full}
        phases["backward pass of the embedding"] = everywhere | end
        # gathered weights are dropped before gradients are reduced
        reduced = {"gradient not yet reduced": min(deferred, 4 * s.root)}
        buffers = {"buffers": 4 * (s.root + s.layer) * full}
        phases["reduction of the embedding"] = base | end | reduced | buffers
    return {phase: {k: v for k, v in terms.items() if v} for phase, terms in phases.items()}


def learner_memory(shape: Shape, job: Job) -> tuple[str, Terms]:
    """The phase of a step whose memory is largest on a GPU that learns, and what makes it up."""
    return max(learner_phases(shape, job).items(), key=lambda phase: sum(phase[1].values()))


def sampler_weights(shape: Shape, job: Job) -> float:
    """Bytes of the sampler's weights on a GPU."""
    return job.sampler_bytes * shape.parameters / job.tensor_parallel


def sampler_memory(shape: Shape, job: Job, hardware: Hardware) -> Terms:
    """Of a GPU while vLLM samples: the engine's share, and what of the learner stays beside it."""
    weights = sampler_weights(shape, job)
    cache = max(0.0, job.memory_fraction * hardware.gpu_gib * GIB - weights)
    return resident(shape, job) | {"sampler's weights": weights, "sampler's cache": cache}


def kv_bytes(shape: Shape, job: Job) -> int:
    """Bytes of the sampler's cache a token."""
    return 2 * shape.layers * shape.keys * job.sampler_bytes


def cached_tokens(shape: Shape, job: Job, hardware: Hardware) -> float:
    """How many tokens the cache of one engine (of `tensor_parallel` GPUs) holds."""
    cache = sampler_memory(shape, job, hardware)["sampler's cache"] * job.tensor_parallel
    return cache / kv_bytes(shape, job)


def hand_over_memory(shape: Shape, job: Job) -> Terms:
    """Of a GPU while weights go to a vLLM that wakes: both models and one whole tensor."""
    largest = job.weight_bytes * max(shape.head, shape.hidden * shape.intermediate)
    return resident(shape, job) | {
        "sampler's weights": sampler_weights(shape, job),
        "one whole tensor": largest * (2 if job.ranks > 1 else 1),  # gathered, then in order
    }


def main_memory(shape: Shape, job: Job, hardware: Hardware) -> Terms:
    """Of a node: engines asleep, and the parts of a checkpoint that is being written."""
    ranks = min(job.ranks, hardware.gpus_per_node)
    return {
        "sleeping samplers": ranks * sampler_weights(shape, job),
        "checkpoint in flight": ranks * 12 * shape.trained(job.lora_rank) / job.shards,
    }


def checkpoint_bytes(shape: Shape, job: Job) -> Terms:
    """On disk, of one checkpoint: parts for resuming, and the model in Hugging Face form."""
    trained = shape.trained(job.lora_rank)
    weights = job.weight_bytes * shape.parameters
    return {"weights": weights, "moments": 8 * trained, "weights in parts": 4 * trained}


@dataclass(frozen=True)
class Collectives:
    """Collectives of one learner step on one rank: how many, and the bytes of the whole tensors.

    `gathered` counts the output of all-gathers, `scattered` the input of reduce-scatters, `reduced`
    what replicas add up. A ring moves (S-1)/S of the first two over each link, and twice that of
    the last.
    """

    all_gathers: int = 0
    reduce_scatters: int = 0
    all_reduces: int = 0  # one of them is the gradient's norm
    gathered: float = 0
    scattered: float = 0
    reduced: float = 0


def collectives(shape: Shape, job: Job) -> Collectives:
    """Of one update of all weights, up to the padding of what does not divide by the shards.

    Layers are gathered in the forward and again in the backward pass, with or without gradient
    checkpointing; embedding, head and last norm are one group, which stays between the two.
    """
    if not job.is_sharded:
        return Collectives()
    batches = micro_batches(job)
    reductions = 1 if job.defer_reduction else batches
    scatters, scattered = (shape.layers + 1) * reductions, 4 * shape.parameters * reductions
    return Collectives(
        all_gathers=batches * (2 * shape.layers + 1),
        reduce_scatters=scatters,
        all_reduces=1 + scatters * (job.replicas > 1),
        gathered=batches * (2 * shape.layers * shape.layer + shape.root) * job.compute_bytes,
        scattered=scattered,
        reduced=scattered / job.shards * (job.replicas > 1),
    )


def learner_flops(shape: Shape, job: Job, rows: float) -> float:
    """Floating-point operations of an update on so many rows, on all ranks together.

    2 for a multiplication with its addition: forward 2 a parameter and token, backward twice that,
    and with gradient checkpointing the forward again, but for the last product of a layer, which
    nothing needs. The head is computed for the answer's tokens alone, and its logits twice.
    Attention is causal: half of the square.
    """
    again, lora = job.gradient_checkpointing, job.lora_rank > 0
    passes = (2 if lora else 3) + again  # frozen weights have no gradients
    layer = shape.layers * passes * shape.layer_matrices
    layer -= shape.layers * shape.hidden * shape.intermediate * (again and not lora)
    layer += 3 * shape.trained(job.lora_rank) * lora
    # a backward pass of attention has 5 products where a forward pass has 2
    attention = (3.5 + again) * 2 * shape.layers * shape.queries * job.row_tokens**2
    head = (6 if lora else 8) * shape.head * job.answer_tokens
    return rows * (2 * layer * job.row_tokens + attention + head)


def rollout_seconds(shape: Shape, job: Job, hardware: Hardware) -> Terms:
    """Prefill by operations, decoding by the bytes that each token step reads or its operations."""
    h, engines = hardware, job.ranks / job.tensor_parallel
    prompts = job.num_prompts / engines
    samples, shared = prompts * job.num_samples, job.prompt_tokens / job.num_samples
    room = cached_tokens(shape, job, h) / (shared + job.answer_tokens)
    at_once = max(1.0, min(samples, room))
    speed = h.flops * h.sampler_use * job.tensor_parallel
    cache = at_once * (shared + job.answer_tokens / 2) * kv_bytes(shape, job)
    read = shape.parameters * job.sampler_bytes + cache
    a_step = max(
        read / (h.memory_bytes * h.memory_use * job.tensor_parallel),
        2 * shape.parameters * at_once / speed,
    )
    return {
        "prefill": 2 * shape.parameters * prompts * job.prompt_tokens / speed,
        "decode": samples / at_once * job.answer_tokens * a_step,
    }


def step_seconds(shape: Shape, job: Job, hardware: Hardware) -> Terms:
    """Of one training step, in the order of the loop; what overlaps counts once."""
    h, moved = hardware, collectives(shape, job)
    slower = min(h.link_bytes, h.node_link_bytes)
    within, between = (
        slower if ranks > h.gpus_per_node else h.link_bytes for ranks in (job.shards, job.ranks)
    )
    per_ring = (job.shards - 1) / job.shards / within
    talk = (moved.gathered + moved.scattered) * per_ring
    talk += 2 * moved.reduced * (job.replicas - 1) / job.replicas / between
    operations = learner_flops(shape, job, learned_rows(job))
    checks = math.ceil(job.num_prompts * job.num_samples / job.ranks)
    weights, memory_speed = sampler_weights(shape, job), h.memory_bytes * h.memory_use
    return {
        **rollout_seconds(shape, job, h),
        "verify": h.verify_seconds * checks / h.verify_workers,
        "sleep and wake": 2 * weights / h.host_bytes,
        "learn": max(operations / (job.ranks * h.flops * h.learner_use), talk),
        "hand over": job.weight_bytes * shape.parameters * per_ring + weights / memory_speed,
    }
