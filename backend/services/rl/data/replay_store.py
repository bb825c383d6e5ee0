"""Where experiences wait to be learned from: one small protocol, whatever is behind it.

SQL is the truth: a store may be emptied at any time and filled again from the log. A namespace
per company; within it an experience is known by its id, so that writing twice changes nothing and
a late outcome overwrites an earlier one. The oldest (by ``at``, then id) go first when it is full.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from services.rl.errors import AtmrError

from .experience import Experience

CAPACITY = 100_000
"""Experiences kept per company."""


class ReplayStoreError(AtmrError):
    """A store that does not answer, is full, or refuses to be written to; SQL still has it all."""


@dataclass(frozen=True)
class StoreCounts:
    """What is in a company's namespace.

    Attributes:
        kept: Experiences that can be read.
        unreadable: Entries that were moved aside because this code cannot read them, by reason
            (``foreign``, ``schema``, ``damaged``).
    """

    kept: int
    unreadable: dict[str, int] = field(default_factory=dict)


class ReplayStore(Protocol):
    """Keeps experiences."""

    def put(self, company_id: int, experiences: Iterable[Experience]) -> int:
        """Write or overwrite, then trim to the capacity; how many were given.

        Raises:
            ReplayStoreError: If it cannot; what was written stays written, writing again is safe.
        """
        ...

    def remove(self, company_id: int, ids: Sequence[str]) -> int:
        """Take out what is there of these; how many were."""
        ...

    def ids(self, company_id: int) -> set[str]:
        """Ids of all experiences."""
        ...

    def read(self, company_id: int, *, batch: int = 1000) -> Iterator[Experience]:
        """All experiences, the oldest first; what cannot be read is moved aside and counted."""
        ...

    def sample(self, company_id: int, count: int, seed: int) -> list[Experience]:
        """Drawn uniformly with replacement; fewer (none) if the store is empty."""
        ...

    def fingerprint(self, company_id: int) -> str:
        """SHA-256 over ids and contents in order: two stores with equal ones hold the same."""
        ...

    def counts(self, company_id: int) -> StoreCounts:
        """How many."""
        ...

    def clear(self, company_id: int) -> None:
        """Forget a company's experiences; what was moved aside stays."""
        ...
