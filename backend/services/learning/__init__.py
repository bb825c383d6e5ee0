"""The loop that learns: collection, retraining, gate, rollout; what tasks and commands call."""
