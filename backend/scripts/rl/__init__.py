"""Command lines of the reinforcement-learning services."""
