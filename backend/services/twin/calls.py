"""Requests to the API: in this process, or to a server on the loopback; the same to the twin."""

import http.client
import json
from typing import Any, Protocol

from flask import Flask

API = "/api/v1"


class Calls(Protocol):
    """One company's way to the API."""

    def call(
        self, method: str, path: str, body: dict[str, Any] | None, once: str
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON of an answer; status 0: no answer came.

        Args:
            method: Of the request.
            path: Below the API's.
            body: JSON.
            once: Idempotency key: the same for the same deed, however often it is tried.
        """
        ...


class InProcess:
    """The app of this process.

    Args:
        app: As served.
        key: Of the company.
    """

    def __init__(self, app: Flask, key: str) -> None:
        self._client = app.test_client()
        self._headers = {"Authorization": f"Bearer {key}"}

    def call(
        self, method: str, path: str, body: dict[str, Any] | None, once: str
    ) -> tuple[int, dict[str, Any]]:
        """See `Calls`."""
        headers = self._headers | ({"Idempotency-Key": once} if method == "POST" else {})
        answer = self._client.open(f"{API}{path}", method=method, json=body, headers=headers)
        return answer.status_code, answer.get_json(silent=True) or {}


class OverHttp:
    """A server; connections are kept, and opened again where they broke.

    Args:
        address: Host and port.
        key: Of the company.
        tries: How often a request is sent before the twin gives up on it.
    """

    def __init__(self, address: tuple[str, int], key: str, *, tries: int = 3) -> None:
        self._address = address
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._link: http.client.HTTPConnection | None = None
        self._tries = tries

    def call(
        self, method: str, path: str, body: dict[str, Any] | None, once: str
    ) -> tuple[int, dict[str, Any]]:
        """See `Calls`."""
        text = None if body is None else json.dumps(body)
        headers = self._headers | ({"Idempotency-Key": once} if method == "POST" else {})
        for _ in range(self._tries):
            try:
                if self._link is None:
                    self._link = http.client.HTTPConnection(*self._address, timeout=30)
                self._link.request(method, f"{API}{path}", text, headers)
                answer = self._link.getresponse()
                content = answer.read()
                return answer.status, json.loads(content) if content else {}
            except (OSError, http.client.HTTPException, ValueError):
                if self._link is not None:
                    self._link.close()
                self._link = None
        return 0, {}

    def close(self) -> None:
        """Close the connection."""
        if self._link is not None:
            self._link.close()
            self._link = None
