"""Telling people that an experiment was stopped: a webhook, called in the background."""

import http.client
import ipaddress
import json
import threading
from collections.abc import Mapping
from typing import Any, Final, Protocol
from urllib.parse import SplitResult, urlsplit

from .config import ExperimentError

TIMEOUT_S: Final = 3.0


class Notifier(Protocol):
    """Who is told."""

    def notify(self, message: Mapping[str, Any]) -> None:
        """Tell; never raises and never blocks."""
        ...


class NullNotifier:
    """Tells nobody; remembers.

    Attributes:
        messages: What would have been told.
    """

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def notify(self, message: Mapping[str, Any]) -> None:
        """Remember the message."""
        self.messages.append(dict(message))


class WebhookNotifier:
    """Posts messages as JSON to a URL: https, or http on this machine only.

    Redirects are not followed and proxies not used: the message goes where the configuration
    says, or nowhere.

    Args:
        url: Where to.
        timeout_s: For connecting and for the answer.

    Attributes:
        sent: Messages that were answered with 2xx.
        failed: Messages that were not.
        last_error: Why the last failure.

    Raises:
        ExperimentError: If the URL is not allowed.
    """

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self._url = checked_url(url)
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.sent = 0
        self.failed = 0
        self.last_error: str | None = None

    def notify(self, message: Mapping[str, Any]) -> None:
        """Post the message from a thread of its own."""
        body = json.dumps(dict(message), allow_nan=False).encode()
        thread = threading.Thread(target=self._post, args=(body,), name="webhook", daemon=True)
        with self._lock:
            self._threads = [t for t in self._threads if t.is_alive()]
            self._threads.append(thread)
            thread.start()

    def wait(self, timeout_s: float = 2 * TIMEOUT_S) -> None:
        """Wait until what was told has arrived or failed."""
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(timeout_s)

    def _post(self, body: bytes) -> None:
        error: str | None = None
        connection = self._connection()
        try:
            path = self._url.path or "/"
            target = f"{path}?{self._url.query}" if self._url.query else path
            connection.request("POST", target, body, {"Content-Type": "application/json"})
            status = connection.getresponse().status
            if not 200 <= status < 300:
                error = f"answered {status}"
        except (OSError, http.client.HTTPException) as problem:
            error = f"{type(problem).__name__}: {problem}"
        finally:
            connection.close()
        with self._lock:
            self.sent += error is None
            self.failed += error is not None
            self.last_error = error if error is not None else self.last_error

    def _connection(self) -> http.client.HTTPConnection:
        host = self._url.hostname or ""
        kind = (
            http.client.HTTPSConnection
            if self._url.scheme == "https"
            else http.client.HTTPConnection
        )
        return kind(host, self._url.port, timeout=self._timeout_s)


def checked_url(url: str) -> SplitResult:
    """The parts of a webhook's URL.

    Raises:
        ExperimentError: If it is malformed, holds credentials, or is neither https nor on this
            machine.
    """
    try:
        parts = urlsplit(url)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError as error:
        raise ExperimentError(f"webhook: the URL is malformed: {error}") from error
    if not parts.hostname or not port_is_fine:
        raise ExperimentError("webhook: the URL names no host")
    if parts.username is not None or parts.password is not None:
        raise ExperimentError("webhook: the URL must not hold credentials")
    if any(ord(c) <= 32 or ord(c) == 127 for c in url):
        raise ExperimentError("webhook: the URL holds blanks or control characters")
    if parts.scheme != "https" and not (parts.scheme == "http" and _loopback(parts.hostname)):
        raise ExperimentError("webhook: the URL must be https, or http on this machine")
    return parts


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def notifier_for(url: str | None) -> Notifier:
    """The notifier of an experiment's ``webhook_url``.

    Raises:
        ExperimentError: If the URL is not allowed.
    """
    return NullNotifier() if url is None else WebhookNotifier(url)
