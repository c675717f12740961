"""Objectives: Pass@k from counts, advantages, implied weights, the paper's theory. NumPy only."""
