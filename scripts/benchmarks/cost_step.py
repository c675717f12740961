"""What a step takes: collectives, floating-point operations, bytes moved, and seconds of hardware.

Counts (collectives, operations, bytes) are exact and tested; seconds divide them by the speeds in
`Hardware`, of which only a measurement on the machine itself can tell how many are reached.
"""

import math
from dataclasses import dataclass

from cost_terms import Job, Shape, Terms, learned_rows, micro_batches, resident

GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """Speeds of one GPU and its surroundings; the defaults are an H100 (SXM), at list values.

    `*_use` are the shares of a speed that are reached: assumptions, to be replaced by what
    `metrics.jsonl` of a short run says.
    """

    gpu_gib: float = 80.0
    reserved_gib: float = 3.0  # CUDA context, NCCL and cuBLAS buffers, fragmentation
    flops: float = 989e12  # dense bfloat16 a second
    learner_use: float = 0.35
    sampler_use: float = 0.5
    memory_bytes: float = 3.35e12  # a second
    memory_use: float = 0.6
    link_bytes: float = 300e9  # a second and GPU, as collectives within a node reach
    node_link_bytes: float = 300e9  # a second and node, between nodes
    gpus_per_node: int = 8
    host_bytes: float = 25e9  # a second and GPU, between GPU and main memory
    disk_bytes: float = 2e9  # a second, all ranks together
    verify_seconds: float = 0.005  # of one check on one core
    verify_workers: int = 8  # per rank


@dataclass(frozen=True, slots=True)
class Collectives:
    """Collectives of one learner step on one rank: how many, and the bytes of the whole tensors.

    `gathered` counts the output of all-gathers, `scattered` the input of reduce-scatters, `reduced`
    what replicas add up. A ring moves (S-1)/S of the first two over each link, and twice that of
    the last.
    """

    all_gathers: int
    reduce_scatters: int
    all_reduces: int  # one of them is the gradient's norm
    gathered: float
    scattered: float
    reduced: float


def collectives(shape: Shape, job: Job) -> Collectives:
    """Of one update of all weights, up to the padding of what does not divide by the shards.

    Layers are gathered in the forward and again in the backward pass, with or without gradient
    checkpointing; embedding, head and last norm are one group, which stays between the two.
    """
    if not job.is_sharded:
        return Collectives(0, 0, 0, 0, 0, 0)
    batches, groups = micro_batches(job), shape.layers + 1
    reductions = 1 if job.defer_reduction else batches
    gathered = batches * (2 * shape.layers * shape.layer + shape.root) * job.compute_bytes
    scattered = 4 * shape.parameters * reductions
    return Collectives(
        all_gathers=batches * (2 * shape.layers + 1),
        reduce_scatters=groups * reductions,
        all_reduces=1 + groups * reductions * (job.replicas > 1),
        gathered=gathered,
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
    again = int(job.gradient_checkpointing)
    passes = (2 if job.lora_rank else 3) + again  # frozen weights have no gradients
    layer = passes * shape.layer_matrices
    if again and not job.lora_rank:
        layer -= shape.hidden * shape.intermediate
    trained_beside = 3 * shape.adapters(job.lora_rank) / shape.layers
    layers = 2 * shape.layers * (layer + trained_beside) * job.row_tokens
    # a backward pass of attention has 5 products where a forward pass has 2
    attention = (3.5 + again) * 2 * shape.layers * shape.queries * job.row_tokens**2
    head = (6 if job.lora_rank else 8) * shape.head * job.answer_tokens
    return rows * (layers + attention + head)


def kv_bytes(shape: Shape, job: Job) -> int:
    """Bytes of the sampler's cache a token."""
    return 2 * shape.layers * shape.keys * job.sampler_bytes


def sampler_memory(shape: Shape, job: Job, hardware: Hardware) -> Terms:
    """Of a GPU while vLLM samples: the engine's share, and what of the learner stays beside it."""
    engine = job.memory_fraction * hardware.gpu_gib * GIB
    weights = job.sampler_bytes * shape.parameters / job.tensor_parallel
    return resident(shape, job) | {
        "sampler's weights": weights,
        "sampler's cache": max(0.0, engine - weights),
    }


def cached_tokens(shape: Shape, job: Job, hardware: Hardware) -> float:
    """How many tokens the cache of one engine (of `tensor_parallel` GPUs) holds."""
    cache = sampler_memory(shape, job, hardware)["sampler's cache"] * job.tensor_parallel
    return cache / kv_bytes(shape, job)


def hand_over_memory(shape: Shape, job: Job) -> Terms:
    """Of a GPU while weights go to a vLLM that wakes: both models and one whole tensor."""
    largest = max(shape.head, shape.hidden * shape.intermediate)
    return resident(shape, job) | {
        "sampler's weights": job.sampler_bytes * shape.parameters / job.tensor_parallel,
        "one whole tensor": job.weight_bytes
        * largest
        * (2 if job.ranks > 1 else 1),  # gathered, then in order
    }


def main_memory(shape: Shape, job: Job, hardware: Hardware) -> Terms:
    """Of a node: engines asleep, and the parts of a checkpoint that is being written."""
    ranks = min(job.ranks, hardware.gpus_per_node)
    trained = shape.adapters(job.lora_rank) if job.lora_rank else shape.parameters
    return {
        "sleeping samplers": ranks * job.sampler_bytes * shape.parameters / job.tensor_parallel,
        "checkpoint in flight": ranks * 12 * trained / job.shards,
    }


def checkpoint_bytes(shape: Shape, job: Job) -> Terms:
    """On disk, of one checkpoint: parts for resuming, and the model in Hugging Face form."""
    trained = shape.adapters(job.lora_rank) if job.lora_rank else shape.parameters
    return {
        "weights": job.weight_bytes * shape.parameters,
        "moments": 8 * trained,
        "weights in parts": 4 * trained,
    }


def rollout_seconds(shape: Shape, job: Job, hardware: Hardware) -> Terms:
    """Prefill by operations, decoding by the bytes that each token step reads or its operations."""
    h, engines = hardware, job.ranks / job.tensor_parallel
    samples = job.num_prompts * job.num_samples / engines
    mean_tokens = job.prompt_tokens / job.num_samples + job.answer_tokens / 2  # prompts are shared
    room = cached_tokens(shape, job, h) / (job.prompt_tokens / job.num_samples + job.answer_tokens)
    at_once = max(1.0, min(samples, room))
    speed = h.flops * h.sampler_use * job.tensor_parallel
    read = shape.parameters * job.sampler_bytes + at_once * mean_tokens * kv_bytes(shape, job)
    a_step = max(
        read / (h.memory_bytes * h.memory_use * job.tensor_parallel),
        2 * shape.parameters * at_once / speed,
    )
    prompts = job.num_prompts / engines
    return {
        "prefill": 2 * shape.parameters * prompts * job.prompt_tokens / speed,
        "decode": samples / at_once * job.answer_tokens * a_step,
    }


def link_speed(job: Job, hardware: Hardware) -> float:
    """Bytes a second that a ring of all shards gets over each link."""
    within = job.shards <= hardware.gpus_per_node
    return hardware.link_bytes if within else min(hardware.link_bytes, hardware.node_link_bytes)


def step_seconds(shape: Shape, job: Job, hardware: Hardware) -> Terms:
    """Of one training step, in the order of the loop; what overlaps counts once."""
    h, moved = hardware, collectives(shape, job)
    per_ring = (job.shards - 1) / job.shards / link_speed(job, h)
    between = min(h.link_bytes, h.node_link_bytes) if job.ranks > h.gpus_per_node else h.link_bytes
    talk = (moved.gathered + moved.scattered) * per_ring
    talk += 2 * moved.reduced * (job.replicas - 1) / job.replicas / between
    rows = learned_rows(job)
    compute = learner_flops(shape, job, rows) / (job.ranks * h.flops * h.learner_use)
    samples = job.num_prompts * job.num_samples
    weights = job.sampler_bytes * shape.parameters / job.tensor_parallel
    return {
        **rollout_seconds(shape, job, h),
        "verify": h.verify_seconds * math.ceil(samples / job.ranks) / h.verify_workers,
        "sleep and wake": 2 * weights / h.host_bytes,
        "learn": max(compute, talk),
        "hand over": job.weight_bytes * shape.parameters * per_ring
        + weights / (h.memory_bytes * h.memory_use),
    }
