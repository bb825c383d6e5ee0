"""Experiences in this process's memory: the store of embedded mode, and the twin of Redis.

It keeps the same bytes as `RedisReplayStore` would and answers in the same order, so that both
give the same samples and fingerprints; what ends with the process is filled again from SQL.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence

from services.rl.errors import UsageError

from .experience import Experience
from .experience_codec import decode, encode, moment_of
from .replay_order import draws, fingerprint_of, rank_of
from .replay_store import CAPACITY, StoreCounts


class _Namespace:
    """One company's."""

    def __init__(self) -> None:
        self.items: dict[str, tuple[int, bytes]] = {}  # id: moment, encoded
        self.order: list[tuple[int, str]] | None = []  # None: not known now

    def in_order(self) -> list[tuple[int, str]]:
        """(moment, id), the oldest first."""
        if self.order is None:
            self.order = sorted((at, name) for name, (at, _) in self.items.items())
        return self.order


class MemoryReplayStore:
    """A `ReplayStore` without a server; threads may share it.

    Args:
        capacity: Experiences kept per company.

    Raises:
        UsageError: If the capacity is below 1.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        if capacity < 1:
            raise UsageError(f"the replay store's capacity must be at least 1, got {capacity}")
        self._capacity = capacity
        self._companies: dict[int, _Namespace] = {}
        self._lock = threading.Lock()

    def put(self, company_id: int, experiences: Iterable[Experience]) -> int:
        """See `ReplayStore`."""
        given = 0
        for experience in experiences:
            at, data = moment_of(experience.at), encode(experience)
            with self._lock:
                self._put(company_id, experience.id, at, data)
            given += 1
        with self._lock:
            self._trim(company_id, self._capacity)
        return given

    def _put(self, company_id: int, name: str, at: int, data: bytes) -> None:
        space = self._companies.setdefault(company_id, _Namespace())
        before = space.items.get(name)
        space.items[name] = at, data
        if before is None or before[0] != at:
            if space.order and before is None and space.order[-1] < (at, name):
                space.order.append((at, name))
            else:
                space.order = None
        if len(space.items) >= 2 * self._capacity:  # memory stays bounded within a long put
            self._trim(company_id, self._capacity)

    def _trim(self, company_id: int, capacity: int) -> None:
        space = self._companies.get(company_id)
        if space is None or len(space.items) <= capacity:
            return
        order = space.in_order()
        surplus = len(order) - capacity
        for _, name in order[:surplus]:
            del space.items[name]
        del order[:surplus]

    def remove(self, company_id: int, ids: Sequence[str]) -> int:
        """See `ReplayStore`."""
        with self._lock:
            space = self._companies.get(company_id)
            if space is None:
                return 0
            removed = sum(space.items.pop(name, None) is not None for name in ids)
            if removed:
                space.order = None
            return removed

    def ids(self, company_id: int) -> set[str]:
        """See `ReplayStore`."""
        with self._lock:
            space = self._companies.get(company_id)
            return set(space.items) if space else set()

    def read(self, company_id: int, *, batch: int = 1000) -> Iterator[Experience]:  # noqa: ARG002
        """See `ReplayStore`; what is put or removed meanwhile is not seen."""
        for data in self._encoded(company_id):
            yield decode(data)

    def _encoded(self, company_id: int) -> list[bytes]:
        with self._lock:
            space = self._companies.get(company_id)
            return [space.items[name][1] for _, name in space.in_order()] if space else []

    def sample(self, company_id: int, count: int, seed: int) -> list[Experience]:
        """See `ReplayStore`."""
        with self._lock:
            space = self._companies.get(company_id)
            if space is None or not space.items:
                return []
            order = space.in_order()
            ranks = [rank_of(draw, len(order)) for draw in draws(count, seed)]
            drawn = [space.items[order[rank][1]][1] for rank in ranks]
        return [decode(data) for data in drawn]

    def fingerprint(self, company_id: int) -> str:
        """See `ReplayStore`."""
        return fingerprint_of(self._encoded(company_id))

    def counts(self, company_id: int) -> StoreCounts:
        """See `ReplayStore`; nothing unreadable gets in here."""
        with self._lock:
            space = self._companies.get(company_id)
            return StoreCounts(len(space.items) if space else 0)

    def clear(self, company_id: int) -> None:
        """See `ReplayStore`."""
        with self._lock:
            self._companies.pop(company_id, None)
