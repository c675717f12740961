"""Diagnostics: measurements of gradients and their statistics. Data in, data out."""
