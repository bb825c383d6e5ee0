"""Training: configuration, trainer, sanity checks, checkpoints, teachers. The room with Torch."""
