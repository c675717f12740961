"""Verifiers of completions: `math/` uses computer algebra, `code/` a sandbox. No torch."""
