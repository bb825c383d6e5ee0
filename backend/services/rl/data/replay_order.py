"""What every replay store does alike: take in, draw a sample, sum up what it holds.

Experiences are ordered by (moment, id); stores with the same contents then give the same samples
and the same fingerprint, whatever is behind them.
"""

import hashlib
from collections.abc import Iterable

import numpy as np

from services.rl.errors import DataError

from .experience import Experience
from .experience_codec import encode


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


def encode_for(company_id: int, experience: Experience) -> bytes:
    """The bytes that a company's namespace keeps.

    Raises:
        DataError: If the experience is another company's, or cannot be kept.
    """
    if experience.company_id != company_id:
        raise DataError(
            f"experience {experience.id!r} of company {experience.company_id} cannot be kept "
            f"among those of company {company_id}"
        )
    return encode(experience)
