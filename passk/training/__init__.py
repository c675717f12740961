"""Training: the assembly of a run from its configuration, and the training loop."""
