"""Learner: model, log-probabilities, update, FSDP2, LoRA, checkpoints."""
