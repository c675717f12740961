"""Evaluation: samples of held-out problems turned into Pass@1/Pass@k tables."""
