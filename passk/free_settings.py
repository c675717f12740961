"""Settings that say how a run is carried out, not what it computes."""

# They may differ between a run and its resumption, and runs that differ in nothing else are repeats
# of one another: they change no completed step, and the steps to come by no more than the order of
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
