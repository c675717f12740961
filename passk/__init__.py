"""Measure what optimising Pass@k does to Pass@1, on which prompts, and what helps against it."""

__version__ = "0.1.0"
