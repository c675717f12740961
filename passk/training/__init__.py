"""Training: assemble a run from its configuration, and the loop."""
