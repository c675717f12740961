"""Evaluation: samples of held-out problems and the Pass@1/Pass@k tables computed from them."""
