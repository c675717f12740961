"""Builds the objects a run is made of from its configuration; the one place that picks engines."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers

from passk.config import LearnerConfig, TrainConfig, VerifierConfig
from passk.errors import UserError
from passk.exact_verifier import ExactVerifier
from passk.learner import Learner
from passk.math_verifier import MathVerifier
from passk.policy import Tokenizer, load_policy, load_tokenizer
from passk.problems import Data, load_data
from passk.prompts import PromptEncoder
from passk.sampler import Sampler
from passk.torch_sampler import TorchSampler
from passk.verifiers import ConventionsVerifier, Verifier

# Below this size threads cost more than they bring: a step of the shipped model takes 0.14 s with
# one thread and 0.22 s with two (docs/benchmarks.md).
SINGLE_THREADED_PARAMETERS = 1_000_000

VERIFIERS: dict[str, Callable[[VerifierConfig], Verifier]] = {
    "conventions": lambda _: ConventionsVerifier(),
    "exact": ExactVerifier,
    "math": MathVerifier,
}


@dataclass(frozen=True, slots=True)
class Parts:
    """The objects of a run, built once and shared by every phase."""

    data: Data
    tokenizer: Tokenizer
    encoder: PromptEncoder
    sampler: Sampler
    verifier: Verifier
    learner: Learner


def build_parts(cfg: TrainConfig, start: str, *, needs_training: bool = True) -> Parts:
    """Load data, and the policy at `start` (a folder, a hub id, or `tiny`) twice: to learn with
    and to sample from."""
    data = load_data(cfg.data, cfg.eval, needs_training=needs_training)
    if needs_training and cfg.regime.name == "sft" and not data.corpus:
        raise UserError("regime=sft needs worked solutions: no row of data.path has a 'solution'")
    device = _device(cfg.learner)
    tokenizer = load_tokenizer(start)
    model = load_policy(cfg.model, start, device)
    if cfg.num_threads is None and model.num_parameters() < SINGLE_THREADED_PARAMETERS:
        torch.set_num_threads(1)
    sampler = TorchSampler(copy.deepcopy(model), tokenizer)
    learner = Learner(model, cfg.learner, cfg.train.num_steps, cfg.rollout.temperature)
    encoder = PromptEncoder(tokenizer, cfg.data.prompt)
    return Parts(data, tokenizer, encoder, sampler, build_verifier(cfg.verifier), learner)


def build_verifier(cfg: VerifierConfig) -> Verifier:
    """The verifier that `verifier.name` asks for."""
    if cfg.name not in VERIFIERS:
        raise UserError(f"verifier.name={cfg.name} is unknown; allowed: {', '.join(VERIFIERS)}")
    return VERIFIERS[cfg.name](cfg)


def prepare_torch(num_threads: int | None, seed: int = 0) -> None:
    """Process-wide settings: seed (for dropout), threads, no library chatter between our lines."""
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
