"""Rate limits: per API key, and per address for those who come without one.

In memory by default (each process counts for itself); in Redis where a URL is set. A Redis that is
gone limits nobody: bookings must go on being dispatched.
"""

import logging
import threading
import time

from limits import RateLimitItem, parse_many
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string
from limits.strategies import FixedWindowRateLimiter

from config import Config
from metrics import Metrics

FAILED_KEYS = "30 per minute"
_LOG = logging.getLogger("atmr.limits")
_RETRY_STORE_S = 5.0


class RateLimits:
    """Counts requests; the store is opened at first use, so that a fork does not share it."""

    def __init__(self, config: Config, metrics: Metrics) -> None:
        self._items = parse_many(config.rate_limit)
        self._failed_items = parse_many(FAILED_KEYS)
        url = config.redis_url
        self._url = "memory://" if url is None else url.get_secret_value()
        self._timeout_s = config.database_timeout_s
        self._metrics = metrics
        self._limiter: FixedWindowRateLimiter | None = None
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

    def _opened(self) -> FixedWindowRateLimiter:
        with self._lock:
            if self._limiter is None:
                options = {} if self._url == "memory://" else {"socket_timeout": 0.25}
                self._limiter = FixedWindowRateLimiter(
                    storage_from_string(self._url, wrap_exceptions=True, **options)
                )
            return self._limiter
