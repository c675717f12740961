"""Verifiers: judge completions, `math/` by computer algebra and `code/` in a sandbox. No torch."""
