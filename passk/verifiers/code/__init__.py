"""Code that a model wrote, run in confined processes: see docs/sandbox.md."""
