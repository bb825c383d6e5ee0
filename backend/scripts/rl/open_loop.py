"""An open-loop HTTP generator: requests leave by the clock, whatever became of those before.

A request's time counts from the moment it was meant to leave. A generator that waits for answers
asks less exactly when the server is slow, and hides the worst times (coordinated omission).
"""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

_LIMIT: Final = 1 << 20


@dataclass
class Timed:
    """What came of requests.

    Attributes:
        due_s: When each was meant to leave, seconds after the start.
        took_ms: From that moment to the last byte of its answer.
        statuses: Of the answers; 0: none came.
    """

    due_s: list[float] = field(default_factory=list)
    took_ms: list[float] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)


class Connection:
    """One kept-alive connection."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, key: str, body: Any, once: str) -> tuple[int, bytes]:
        """Status and body of a POST; 0 if there was no answer.

        A connection that the server had closed meanwhile is opened again: the idempotency key
        makes asking twice safe.
        """
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nAuthorization: Bearer {key}\r\n"
            f"Idempotency-Key: {once}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        )
        for _ in range(2):
            try:
                if self._writer is None or self._reader is None:
                    self._reader, self._writer = await asyncio.open_connection(
                        self._host, self._port, limit=_LIMIT
                    )
                self._writer.write(head.encode() + data)
                return await self._answer(self._reader)
            except (OSError, asyncio.IncompleteReadError, ValueError):
                self.close()
        return 0, b""

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.split("content-length:", 1)[1].split("\r\n", 1)[0])
        body = await reader.readexactly(length)
        if "\r\nconnection: close" in head:
            self.close()
        return int(head.split(" ", 2)[1]), body

    def close(self) -> None:
        """Close it; the next request opens another."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


class Connections:
    """Kept-alive connections in turn; another is opened where all are busy, up to a limit."""

    def __init__(self, host: str, port: int, *, kept: int, most: int) -> None:
        self._idle: asyncio.Queue[Connection] = asyncio.Queue()
        self._host, self._port = host, port
        self._free = most - kept
        for _ in range(kept):
            self._idle.put_nowait(Connection(host, port))

    async def post(self, path: str, key: str, body: Any, once: str) -> tuple[int, bytes]:
        """See `Connection.post`."""
        if self._idle.empty() and self._free > 0:
            self._free -= 1
            connection = Connection(self._host, self._port)
        else:
            connection = await self._idle.get()
        try:
            return await connection.post(path, key, body, once)
        finally:
            self._idle.put_nowait(connection)

    def close(self) -> None:
        """Close those that are idle."""
        while not self._idle.empty():
            self._idle.get_nowait().close()


async def at_rate(
    rate: float, seconds: float, ask: Callable[[int], Any], *, drain_s: float = 30.0
) -> Timed:
    """Start ``ask(i)`` every 1/rate seconds; wait for the answers at the end.

    Args:
        rate: Per second.
        seconds: For how long.
        ask: Makes the coroutine of request ``i``; it returns the status.
        drain_s: Answers that take longer than this after the end count as none.
    """
    count = round(rate * seconds)
    result = Timed([i / rate for i in range(count)], [0.0] * count, [0] * count)
    begun = time.perf_counter()
    tasks = []

    async def one(i: int) -> None:
        try:
            result.statuses[i] = await ask(i)
        finally:
            result.took_ms[i] = 1e3 * (time.perf_counter() - begun - result.due_s[i])

    for i in range(count):
        wait = result.due_s[i] - (time.perf_counter() - begun)
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(one(i)))
    _, late = await asyncio.wait(tasks, timeout=drain_s)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    for task in set(tasks) - late:
        task.result()  # raises what went wrong in the generator itself
    return result
