"""What every replay store does alike: draw a sample, and sum up what it holds.

Experiences are ordered by (moment, id); stores with the same contents then give the same samples
and the same fingerprint, whatever is behind them.
"""

import hashlib
from collections.abc import Iterable

import numpy as np


def draws(count: int, seed: int) -> list[int]:
    """``count`` uniform integers below 2**32; `rank_of` makes places of them."""
    return [int(draw) for draw in np.random.default_rng(seed).integers(0, 2**32, count)]


def rank_of(draw: int, kept: int) -> int:
    """A place in the order of ``kept`` experiences (the script in Redis says the same)."""
    return draw * kept >> 32


def fingerprint_of(encoded: Iterable[bytes]) -> str:
    """SHA-256 over encoded experiences in order; each names its id and moment itself."""
    digest = hashlib.sha256()
    for data in encoded:
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()
