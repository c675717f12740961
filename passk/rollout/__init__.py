"""Rollout: engines that sample, and prompts turned into judged groups of completions."""
