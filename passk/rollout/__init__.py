"""Rollout: engines that sample, and the phase that turns problems into judged groups."""
