"""Run model-written code in confined processes; see docs/reference/verifiers.md."""
