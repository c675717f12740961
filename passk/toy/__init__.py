"""The paper's contextual bandit, computed exactly."""
