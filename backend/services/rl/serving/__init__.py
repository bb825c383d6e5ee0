"""Serving: model bundles, the inference engine, the registry. Nothing here imports Torch."""
