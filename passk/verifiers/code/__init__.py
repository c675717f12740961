"""Run model-written code in confined processes; see docs/sandbox.md."""
