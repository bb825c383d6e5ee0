"""Rate limits: per API key, and per address for those who come without one.

In memory by default (each process counts for itself); in Redis where a URL is set. A Redis that is
gone limits nobody: bookings must go on being dispatched.
"""

import logging
import re
import threading
import time
from typing import Protocol

from limits import RateLimitItem, parse_many
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string
from limits.strategies import FixedWindowRateLimiter

from config import Config
from metrics import Metrics

FAILED_KEYS = "30 per minute"
_LOG = logging.getLogger("atmr.limits")
_RETRY_STORE_S = 5.0
_MOST_COUNTS = 10_000


class _Limiter(Protocol):
    def hit(self, item: RateLimitItem, *identifiers: str) -> bool: ...

    def test(self, item: RateLimitItem, *identifiers: str) -> bool: ...


class CountsInMemory:
    """Fixed windows in a dictionary.

    The library's own memory store starts a thread for most requests, to forget old windows; that
    took longer than the rest of a short request.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[str, ...], tuple[int, int]] = {}
        self._lock = threading.Lock()

    def hit(self, item: RateLimitItem, *identifiers: str) -> bool:
        """Count one; False: too many in this window."""
        with self._lock:
            key, window, count = self._now(item, identifiers)
            if len(self._counts) >= _MOST_COUNTS:
                self._counts.clear()  # a flood of addresses: forget, rather than grow
            self._counts[key] = (window, count + 1)
        return count < item.amount

    def test(self, item: RateLimitItem, *identifiers: str) -> bool:
        """Whether one more would be let through."""
        with self._lock:
            return self._now(item, identifiers)[2] < item.amount

    def _now(
        self, item: RateLimitItem, identifiers: tuple[str, ...]
    ) -> tuple[tuple[str, ...], int, int]:
        key = (str(item), *identifiers)
        window = int(time.monotonic() // item.get_expiry())
        last, count = self._counts.get(key, (window, 0))
        return key, window, count if last == window else 0


class RateLimits:
    """Counts requests; the store is opened at first use, so that a fork does not share it."""

    def __init__(self, config: Config, metrics: Metrics) -> None:
        self._items = parse_many(config.rate_limit)
        self._failed_items = parse_many(FAILED_KEYS)
        url = config.redis_url
        # The library knows sockets by another name than redis-py, whose URLs the settings take.
        self._url = None if url is None else re.sub("^unix:", "redis+unix:", url.get_secret_value())
        self._metrics = metrics
        self._limiter: _Limiter | None = None
        self._down_until_s = 0.0
        self._lock = threading.Lock()

    def allow_key(self, key: str) -> bool:
        """Count one request of a key; False: too many."""
        return self._each("hit", self._items, "key", key)

    def allow_address(self, address: str) -> bool:
        """Whether an address may still try keys: it has not failed too often."""
        return self._each("test", self._failed_items, "address", address)

    def count_failure(self, address: str) -> None:
        """Count one wrong key of an address."""
        self._each("hit", self._failed_items, "address", address)

    def _each(self, what: str, items: list[RateLimitItem], *of: str) -> bool:
        if time.monotonic() < self._down_until_s:
            self._metrics.rate_limit_errors.inc()
            return True
        try:
            count = getattr(self._opened(), what)
            # Every limit counts the request, also where an earlier one refuses it.
            return False not in [count(item, *of) for item in items]
        except (StorageError, ConfigurationError) as error:
            self._unreachable(error)
        return True

    def _unreachable(self, error: Exception) -> None:
        self._down_until_s = time.monotonic() + _RETRY_STORE_S
        self._metrics.rate_limit_errors.inc()
        _LOG.warning("rate limits are off", extra={"kind": type(error).__name__})

    def _opened(self) -> _Limiter:
        with self._lock:
            if self._limiter is None:
                self._limiter = (
                    CountsInMemory()
                    if self._url is None
                    else FixedWindowRateLimiter(
                        storage_from_string(self._url, wrap_exceptions=True, socket_timeout=0.25)
                    )
                )
            return self._limiter
