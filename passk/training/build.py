"""Build the objects of a run from its configuration, and check them before the run's work.

Only this module chooses engines.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import date
from importlib.util import find_spec

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

from passk.config.schema import (
    LearnerConfig,
    RolloutConfig,
    RunConfig,
    TrainConfig,
    VerifierConfig,
)
from passk.console import working
from passk.data.problems import Data, load_data
from passk.data.prompts import (
    PromptEncoder,
    check_characters,
    check_room,
    check_shown,
    check_solutions,
    check_vocabulary,
)
from passk.errors import UserError
from passk.learner.layers import freeze_outside
from passk.learner.learner import Learner
from passk.learner.logprobs import FLEX
from passk.learner.lora import add_adapters
from passk.learner.micro_batches import NO_TREES
from passk.learner.policy import (
    Tokenizer,
    context_length,
    end_ids,
    load_policy,
    load_sharded,
    load_tokenizer,
    model_name,
    vocabulary_size,
)
from passk.learner.reference import Reference
from passk.objectives.advantages import as_configured
from passk.ranks import from_rank_0, num_ranks
from passk.rollout.base import Sampler
from passk.rollout.rollout import Actor
from passk.rollout.torch_sampler import TorchSampler
from passk.rollout.vllm_sampler import VLLMSampler
from passk.types import Problem
from passk.verifiers.base import (
    ConventionsVerifier,
    GoldCheck,
    Verifier,
    check_gold,
    self_test,
)
from passk.verifiers.code.verifier import PythonVerifier
from passk.verifiers.exact import ExactVerifier
from passk.verifiers.math.verifier import MathVerifier
from passk.verifiers.noise import with_noise

# Below this size threads cost more than they bring: a step of the shipped model takes 0.18 s with
# one thread and 0.20 s with two (docs/research/benchmarks.md).
SINGLE_THREADED_PARAMETERS = 1_000_000

VERIFIERS: dict[str, Callable[[VerifierConfig], Verifier]] = {
    "conventions": lambda _: ConventionsVerifier(),
    "exact": ExactVerifier,
    "math": MathVerifier,
    "python": PythonVerifier,
}


@dataclass(frozen=True, slots=True)
class Parts:
    """The objects of a run, built once and shared by every phase."""

    data: Data
    tokenizer: Tokenizer
    encoder: PromptEncoder
    sampler: Sampler
    verifier: Verifier
    training_verifier: Verifier  # the same verifier, or one that errs on purpose
    learner: Learner
    engine: str
    reference: Reference | None = None  # the start's weights, of a run with learner.kl_weight
    origin: str | None = None  # of a run: the weights that it started from, to compare with

    @property
    def actor(self) -> Actor:
        """The policy as it is measured."""
        return Actor(self.sampler, self.verifier, self.encoder)

    @property
    def training_actor(self) -> Actor:
        """The policy as training sees it: verdicts may err on purpose."""
        return Actor(self.sampler, self.training_verifier, self.encoder)

    @property
    def facts(self) -> dict[str, str]:
        """Facts about these objects for the manifest."""
        device = str(self.learner.model.device)
        facts = {"device": device, "engine": self.engine} | self.data.digests
        return facts | self.encoder.facts(self.data.heldout)


@contextmanager
def open_parts(
    cfg: TrainConfig,
    start: str,
    *,
    day: date,
    needs_training: bool = True,
    parameters: str = "all",
) -> Iterator[Parts]:
    """Load the data, and the policy at `start` twice: once to learn with, once to sample from.

    `start` is a folder, a hub id, or `tiny`. `day` is the date that chat templates write. The
    learner computes gradients of `parameters` only, see `layers.freeze_outside`. The engine and the
    worker processes end with the block.
    """
    _try_estimator(cfg, needs_training)
    if not needs_training:  # measured models have merged adapters and are not compiled
        model_cfg = replace(cfg.model, lora_rank=0)
        cfg = replace(cfg, model=model_cfg, learner=replace(cfg.learner, compile=False))
    data = load_data(cfg.data, cfg.eval, needs_training=needs_training)
    if needs_training and cfg.regime.name == "sft" and not data.corpus:
        raise UserError(
            f"regime=sft needs worked solutions: no row of data.path={cfg.data.path} has one "
            "(data.solution_column)"
        )
    engine = sampling_engine(cfg.rollout)
    _check_groups(cfg.rollout, engine)
    # vLLM loads its own weights; where nothing is trained, these would only take GPU memory.
    measures = engine == "vllm" and not needs_training
    device = torch.device("cpu") if measures else _device(cfg.learner)
    if cfg.model.attn_implementation == FLEX and device.type == "cpu" and needs_training:
        raise UserError(
            f"model.attn_implementation={FLEX} needs a GPU: torch computes no gradients with it on "
            "a CPU; use sdpa"
        )
    with working(f"loading {model_name(start)}"):
        tokenizer = load_tokenizer(start, trust_remote_code=cfg.model.trust_remote_code)
        model = (
            load_sharded(cfg.model, start, device, cfg.learner, cfg.train.seed, parameters)
            if num_ranks() > 1
            else load_policy(cfg.model, start, device)
        )
    if cfg.num_threads is None and model.num_parameters() < SINGLE_THREADED_PARAMETERS:
        torch.set_num_threads(1)
    encoder = PromptEncoder(
        tokenizer, cfg.data.prompt, data.shots, end_ids(model), from_rank_0(day)
    )
    data = replace(data, notes=(*data.notes, *encoder.notes))
    max_model_len = _needed_length(cfg, data, encoder, model, needs_training)
    with ExitStack() as opened:
        sampler = _open_sampler(cfg, engine, start, tokenizer, model, max_model_len)
        opened.callback(sampler.close)
        if isinstance(sampler, TorchSampler) and _can_share(cfg, model, sampler, needs_training):
            _share_weights(model, sampler.model)
        verifier = build_verifier(cfg.verifier)
        opened.callback(verifier.close)
        if num_ranks() == 1:  # on several ranks load_sharded did both
            add_adapters(model, cfg.model, cfg.train.seed)
            freeze_outside(model, parameters)
        learner = Learner(
            model,
            cfg.learner,
            cfg.train.num_steps,
            cfg.rollout.temperature,
            importance_cap=cfg.rollout.importance_cap,
            max_logprob_gap=cfg.rollout.max_logprob_gap,
        )
        if needs_training and cfg.learner.prefix_trees and learner.tree_limits == NO_TREES:
            data = replace(data, notes=(*data.notes, _no_trees(model)))
        erring = with_noise(verifier, cfg.verifier)
        yield Parts(data, tokenizer, encoder, sampler, verifier, erring, learner, engine)


def _try_estimator(cfg: TrainConfig, needs_training: bool) -> None:
    """Raise UserError if the estimator fails on a group of each count, one sample not judged."""
    if not needs_training or cfg.regime.name == "sft":
        return
    n = cfg.rollout.num_samples
    rewards_PG = np.tril(np.ones((n + 1, n)), -1)
    rewards_PG[n // 2, 0] = np.nan
    as_configured(cfg.regime).advantages(rewards_PG)


def _no_trees(model: PreTrainedModel) -> str:
    return (
        f"note: {type(model).__name__} with {model.config._attn_implementation} attention reads no "
        "prefix trees (learner.prefix_trees): the learner computes each sample by itself"
    )


@working("starting the sampler")
def _open_sampler(
    cfg: TrainConfig,
    engine: str,
    start: str,
    tokenizer: Tokenizer,
    model: PreTrainedModel,
    max_model_len: int,
) -> Sampler:
    """Open the engine with its own copy of the weights; `model` is the one that learns."""
    if engine == "vllm":
        return VLLMSampler(
            start,
            tokenizer,
            cfg.model,
            cfg.rollout,
            max_model_len=max_model_len,
            end_ids=end_ids(model),
        )
    loaded = model if num_ranks() == 1 else load_policy(cfg.model, start, _device(cfg.learner))
    # Copy even where nothing is shared: tensors in a memory-mapped file are unaligned, and products
    # then round differently than in a run that read its weights elsewhere.
    copied = copy.deepcopy(loaded).to(getattr(torch, cfg.rollout.dtype or cfg.model.dtype))
    if cfg.model.attn_implementation == FLEX:  # made for long inputs, not for one token at a time
        copied.set_attn_implementation("sdpa")
    return TorchSampler(copied, tokenizer, memory_gib=cfg.rollout.memory_gib)


def _can_share(
    cfg: TrainConfig, model: PreTrainedModel, sampler: TorchSampler, needs_training: bool
) -> bool:
    """Return True if learner and sampler may use the same weights in memory.

    Adapters and shards are merged and gathered into the sampler's own copy. A policy that learns
    keeps its dtype; one that is only measured takes the sampler's.
    """
    if num_ranks() > 1 or cfg.model.lora_rank:
        return False
    return not needs_training or model.dtype == sampler.model.dtype


def _share_weights(model: PreTrainedModel, copied: PreTrainedModel) -> None:
    """Let `model` use the weights of its copy, so that they are in memory once."""
    for parameter, other in zip(model.parameters(), copied.parameters(), strict=True):
        parameter.data = other.data


def build_verifier(cfg: VerifierConfig) -> Verifier:
    """Build the verifier named by `verifier.name`. Raises UserError if it is unknown."""
    if cfg.name not in VERIFIERS:
        raise UserError(f"verifier.name={cfg.name} is unknown; allowed: {', '.join(VERIFIERS)}")
    return VERIFIERS[cfg.name](cfg)


def sampling_engine(cfg: RolloutConfig) -> str:
    """Return the engine that `rollout.engine` selects on this machine: `torch` or `vllm`."""
    if cfg.engine != "auto":
        return cfg.engine
    return "vllm" if torch.cuda.is_available() and find_spec("vllm") else "torch"


def _check_groups(cfg: RolloutConfig, engine: str) -> None:
    """Raise UserError if the engine or the number of ranks rules out `rollout.tensor_parallel`."""
    size = cfg.tensor_parallel
    if size > 1 and engine == "torch":
        raise UserError(
            f"rollout.tensor_parallel={size} needs rollout.engine=vllm: the torch sampler holds "
            "the whole model on each rank"
        )
    if num_ranks() % size:
        raise UserError(
            f"rollout.tensor_parallel={size} does not divide the number of ranks of the run, "
            f"{num_ranks()}; see learner.num_processes"
        )


@working("checking the prompts")
def _needed_length(
    cfg: TrainConfig, data: Data, encoder: PromptEncoder, model: PreTrainedModel, training: bool
) -> int:
    """Return the largest number of prompt and answer tokens to be sampled.

    Raises UserError for data that do not fit.
    """
    context = context_length(model)
    room = (cfg.rollout.max_new_tokens, context, cfg.rollout.max_model_len)
    eval_room, key = room, "rollout.max_new_tokens"
    if cfg.eval.max_new_tokens is not None:
        eval_room, key = (cfg.eval.max_new_tokens, *room[1:]), "eval.max_new_tokens"
    for problems in (data.heldout, data.train):
        check_shown(encoder, problems)
        check_characters(encoder, problems, cfg.model.path)
    size = vocabulary_size(model)
    check_vocabulary(encoder, data.heldout, size)
    if training:
        is_sft = cfg.regime.name == "sft"
        trained = data.corpus if is_sft else data.train
        check_vocabulary(encoder, trained, size, with_solutions=is_sft)
    needed = check_room(encoder, data.heldout, *eval_room, key)
    if training and cfg.regime.name == "sft":
        check_solutions(encoder, data.corpus, context)
    elif training:
        needed = max(needed, check_room(encoder, data.train, *room))
    return needed


def prepare_torch(num_threads: int | None, seed: int = 0) -> None:
    """Set the seed (for dropout) and the threads of torch, and silence its libraries."""
    torch.manual_seed(seed)
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _device(cfg: LearnerConfig) -> torch.device:
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise UserError("learner.device=cuda, but torch sees no GPU here; use cpu or auto")
    if cfg.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(cfg.device)


def print_notes(data: Data) -> None:
    """Print what was left out of the data, one line each."""
    print(*data.notes, sep="\n", end="\n" if data.notes else "", flush=True)


def require_weights(cfg: TrainConfig, data: Data) -> None:
    """Raise UserError if every training problem has weight 0, so that nothing would be trained."""
    source = data.corpus if cfg.regime.name == "sft" else data.train
    if source and not any(problem.weight for problem in source):
        raise UserError(
            f"all {len(source)} training problems have weight 0, so nothing would be trained; give "
            "some a weight above 0, or leave the weights out with data.weight_column=null"
        )


def run_preflight(
    cfg: RunConfig, parts: Parts, train: Sequence[Problem]
) -> tuple[Parts, GoldCheck]:
    """Test the verifier; return the parts without training problems that it can never reward.

    `train` are the training problems whose gold answers are checked with the held-out ones.
    """
    self_test(parts.verifier)
    if not cfg.data.check_gold:
        return parts, GoldCheck(0, ())
    gold = check_gold(parts.verifier, train, parts.data.heldout)
    kept = gold.kept(parts.data.train)
    if gold.refused:
        print(gold.sentence(len(parts.data.train) - len(kept)), flush=True)
    return replace(parts, data=replace(parts.data, train=kept)), gold
