"""Prometheus metrics: base units, ``_total`` on counters, no company or patient in a label.

With ``PROMETHEUS_MULTIPROC_DIR`` set (gunicorn's settings do that) every process writes its values
to files there, and whichever process is asked for ``/metrics`` adds them up.
"""

import os

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

# Decisions take from tens of microseconds to their budget; requests that and a database.
_DECISION_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25)
_REQUEST_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """The counters of one app."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._shared: list[Collector] = []
        self.requests = Counter(
            "atmr_http_requests_total",
            "Requests answered",
            ("method", "route", "status"),
            registry=registry,
        )
        self.request_seconds = Histogram(
            "atmr_http_request_duration_seconds",
            "Time to answer a request",
            ("route",),
            buckets=_REQUEST_S,
            registry=registry,
        )
        self.refused_keys = Counter(
            "atmr_auth_failures_total", "Requests without a valid API key", registry=registry
        )
        self.rate_limited = Counter(
            "atmr_rate_limited_total", "Requests refused with 429", registry=registry
        )
        self.rate_limit_errors = Counter(
            "atmr_rate_limit_store_errors_total",
            "Requests let through because the store of rate limits did not answer",
            registry=registry,
        )
        self.replays = Counter(
            "atmr_idempotent_replays_total",
            "Requests answered with the stored answer of an earlier one",
            registry=registry,
        )
        self.decisions = Counter(
            "atmr_decisions_total",
            "Decisions made",
            ("policy", "arm", "action"),
            registry=registry,
        )
        self.fallbacks = Counter(
            "atmr_fallbacks_total",
            "Decisions that the heuristic made in place of the learned policy",
            ("reason",),
            registry=registry,
        )
        self.decision_seconds = Histogram(
            "atmr_decision_duration_seconds",
            "Time to decide, without HTTP and database",
            ("policy",),
            buckets=_DECISION_S,
            registry=registry,
        )

    def add(self, collector: Collector) -> None:
        """Add what is the same whichever process is asked (read from the database)."""
        self._shared.append(collector)

    def exposition(self) -> tuple[bytes, str]:
        """All metrics as Prometheus reads them, and their content type."""
        registry = self.registry
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        shared = CollectorRegistry()
        for collector in self._shared:
            shared.register(collector)
        return generate_latest(registry) + generate_latest(shared), CONTENT_TYPE_LATEST
