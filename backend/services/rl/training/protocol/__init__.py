"""The fast-tuning protocol: offline fits on one hashed data set, phases, and a declared verdict."""
