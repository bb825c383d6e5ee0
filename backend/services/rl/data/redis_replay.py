"""Experiences in Redis: a hash and a sorted set per company, written together or not at all.

Redis is a cache of what SQL can say again; it may be emptied, full, read-only, gone, or hold
another program's data under our names. Whatever it is, a caller gets an answer or one sentence
(`ReplayStoreError`). Keys, for a prefix and a company::

    {prefix}:{company}:items        hash        id: encoded experience
    {prefix}:{company}:times        sorted set  id, by microseconds since 1970
    {prefix}:{company}:aside        hash        id: bytes that could not be read (at most 1,000)
    {prefix}:{company}:unreadable   hash        reason: how often something was set aside
    {prefix}:{company}:foreign:{n}  what lay under one of these names and was not ours

Redis 6.2 or later.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from services.rl.errors import UsageError

from . import replay_scripts as scripts
from .experience import Experience
from .experience_codec import ExperienceUnreadable, decode_each, encode, moment_of
from .replay_order import draws, fingerprint_of
from .replay_store import CAPACITY, ReplayStoreError, StoreCounts

T = TypeVar("T")

MOST_ASIDE = 1000
"""Unreadable entries kept per company; further ones are counted and dropped."""

_BATCH_ITEMS = 500
_BATCH_BYTES = 1 << 20
_SCAN = 1000
_MOST_SWEEPS = 5


class RedisReplayStore:
    """A `ReplayStore` on a Redis server; threads and processes may share it.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``; a password in it never shows in a message.
        prefix: Of all keys.
        capacity: Experiences kept per company.
        timeout_s: For connecting, and for each answer.

    Raises:
        UsageError: If the URL, the capacity or the time-out cannot be used. Nothing is connected
            to before the first call.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "atmr:replay",
        capacity: int = CAPACITY,
        timeout_s: float = 10.0,
    ) -> None:
        if capacity < 1:
            raise UsageError(f"the replay store's capacity must be at least 1, got {capacity}")
        if not timeout_s > 0:
            raise UsageError(f"the replay store's time-out must be positive, got {timeout_s}")
        try:
            self._redis: Any = redis.Redis.from_url(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                # Once more for a link that went stale; every command here can be repeated.
                retry=Retry(NoBackoff(), 1),
            )
        except (ValueError, TypeError):  # its text may show the URL
            raise UsageError(
                "the replay store's URL cannot be used: expected redis://, rediss:// or unix://"
            ) from None
        link = self._redis.connection_pool.connection_kwargs
        self._where = str(
            link.get("path") or f"{link.get('host', 'localhost')}:{link.get('port', 6379)}"
        )
        self._prefix = prefix
        self._capacity = capacity
        self._put_script = self._redis.register_script(scripts.PUT)
        self._remove_script = self._redis.register_script(scripts.REMOVE)
        self._sample_script = self._redis.register_script(scripts.SAMPLE)
        self._aside_script = self._redis.register_script(scripts.SET_ASIDE)
        self._relink_script = self._redis.register_script(scripts.RELINK)
        self._move_script = self._redis.register_script(scripts.MOVE_FOREIGN)

    # --- the protocol ----------------------------------------------------------------------------

    def put(self, company_id: int, experiences: Iterable[Experience]) -> int:
        """See `ReplayStore`; in batches of bounded size, each written as a whole or not."""
        given, size = 0, 0
        batch: list[Any] = []
        for experience in experiences:
            data = encode(experience)
            batch += (experience.id, moment_of(experience.at), data)
            given += 1
            size += len(data)
            if len(batch) >= 3 * _BATCH_ITEMS or size >= _BATCH_BYTES:
                self._write(company_id, batch)
                batch, size = [], 0
        if batch:
            self._write(company_id, batch)
        return given

    def _write(self, company_id: int, batch: list[Any]) -> None:
        agree = self._run(self._put_script, company_id, [self._capacity, *batch])
        if not agree:
            self.repair(company_id)

    def remove(self, company_id: int, ids: Sequence[str]) -> int:
        """See `ReplayStore`."""
        return sum(
            int(self._run(self._remove_script, company_id, list(ids[first : first + _SCAN])))
            for first in range(0, len(ids), _SCAN)
        )

    def ids(self, company_id: int) -> set[str]:
        """See `ReplayStore`."""
        return {_text(name) for name in self._in_order(company_id)}

    def read(self, company_id: int, *, batch: int = 1000) -> Iterator[Experience]:
        """See `ReplayStore`; what is put meanwhile is not seen."""
        for experience, _ in self._entries(company_id, batch):
            yield experience

    def sample(self, company_id: int, count: int, seed: int) -> list[Experience]:
        """See `ReplayStore`; drawn by the server, in one exchange."""
        chosen = draws(count, seed)
        for _ in range(_MOST_SWEEPS):
            found = self._run(self._sample_script, company_id, chosen)
            pairs = list(zip(found[::2], found[1::2], strict=True))
            drawn = [experience for experience, _ in self._readable(company_id, pairs)]
            if len(drawn) == len(pairs):
                return drawn
            for _ in self._entries(company_id, _SCAN):  # sets aside whatever else is unreadable
                pass
        raise self._complaint("unreadable entries keep appearing under its keys")

    def fingerprint(self, company_id: int) -> str:
        """See `ReplayStore`."""
        return fingerprint_of(data for _, data in self._entries(company_id, _SCAN))

    def counts(self, company_id: int) -> StoreCounts:
        """See `ReplayStore`."""
        _, times, _, unreadable = self._keys(company_id)

        def ask() -> tuple[int, dict[bytes, bytes]]:
            return self._redis.zcard(times), self._redis.hgetall(unreadable)

        kept, reasons = self._healing(company_id, ask)
        return StoreCounts(
            int(kept), {_text(name): int(number) for name, number in sorted(reasons.items())}
        )

    def clear(self, company_id: int) -> None:
        """See `ReplayStore`; another program's data under our names is moved, not forgotten."""
        self._move_foreign(company_id)
        self._asked(lambda: self._redis.unlink(*self._keys(company_id)[:2]))

    # --- healing ---------------------------------------------------------------------------------

    def repair(self, company_id: int) -> int:
        """Make hash and sorted set agree again where another program took from one of them.

        Returns:
            Entries that stood in one only.
        """
        items = self._keys(company_id)[0]
        timed = set(self._in_order(company_id))
        lone: list[tuple[bytes, Any]] = []
        cursor = 0
        while True:
            ask = partial(self._redis.hscan, items, cursor, count=_SCAN)
            cursor, page = self._asked(ask)
            orphans = [(name, data) for name, data in page.items() if name not in timed]
            for experience, _ in self._readable(company_id, orphans):
                lone.append((experience.id.encode(), moment_of(experience.at)))
            timed.difference_update(page)
            if cursor == 0:
                break
        lone += [(name, "") for name in timed]
        for first in range(0, len(lone), _SCAN):
            pairs = [part for pair in lone[first : first + _SCAN] for part in pair]
            self._run(self._relink_script, company_id, pairs)
        return len(lone)

    def _entries(self, company_id: int, batch: int) -> Iterator[tuple[Experience, bytes]]:
        """Experiences and their bytes, the oldest first."""
        items = self._keys(company_id)[0]
        names = self._in_order(company_id)
        for first in range(0, len(names), batch):
            page = names[first : first + batch]
            found = self._healing(company_id, partial(self._redis.hmget, items, page))
            yield from self._readable(company_id, list(zip(page, found, strict=True)))

    def _in_order(self, company_id: int) -> list[bytes]:
        times = self._keys(company_id)[1]
        names: list[bytes] = self._healing(company_id, lambda: self._redis.zrange(times, 0, -1))
        return names

    def _readable(
        self, company_id: int, pairs: Sequence[tuple[bytes, bytes | None]]
    ) -> list[tuple[Experience, bytes]]:
        """Those that can be read; the others are set aside and counted."""
        there = [(name, data) for name, data in pairs if data is not None]
        good: list[tuple[Experience, bytes]] = []
        outcomes = decode_each([data for _, data in there])
        for (name, data), outcome in zip(there, outcomes, strict=True):
            if isinstance(outcome, ExperienceUnreadable):
                self._set_aside(company_id, name, data, outcome.reason)
            elif outcome.id.encode() != name or outcome.company_id != company_id:
                self._set_aside(company_id, name, data, "foreign")
            else:
                good.append((outcome, data))
        gone = [part for name, data in pairs if data is None for part in (name, "")]
        if gone:  # removed meanwhile, or by somebody else from the hash alone
            self._run(self._relink_script, company_id, gone)
        return good

    def _set_aside(self, company_id: int, name: bytes, data: bytes, reason: str) -> None:
        arguments = [name, data, reason, MOST_ASIDE]
        self._run(self._aside_script, company_id, arguments, self._keys(company_id))

    def _move_foreign(self, company_id: int) -> int:
        """Give another program's data under our names a name of its own; how many there were."""
        items, times, aside, unreadable = self._keys(company_id)
        moved = 0
        for key, kind in ((items, "hash"), (times, "zset"), (aside, "hash"), (unreadable, "hash")):
            keys = [key, f"{self._prefix}:{company_id}:foreign:"]
            number = self._asked(partial(self._move_script, keys, [kind]))
            moved += bool(number)
        if moved:
            self._asked(lambda: self._redis.hincrby(unreadable, "foreign", moved))
        return moved

    # --- asking the server -----------------------------------------------------------------------

    def _keys(self, company_id: int) -> tuple[str, str, str, str]:
        start = f"{self._prefix}:{company_id}"
        return f"{start}:items", f"{start}:times", f"{start}:aside", f"{start}:unreadable"

    def _run(
        self,
        script: Callable[..., Any],
        company_id: int,
        arguments: list[Any],
        keys: tuple[str, ...] | None = None,
    ) -> Any:
        """Run a script on a company's keys; if they are not ours, move them and run it again."""
        keys = keys or self._keys(company_id)[:2]
        answer = self._asked(lambda: script(list(keys), arguments))
        if answer == scripts.NOT_OURS:
            self._heal(company_id)
            answer = self._asked(lambda: script(list(keys), arguments))
        if answer == scripts.NOT_OURS:
            raise self._complaint("another program keeps writing under its keys")
        return answer

    def _healing(self, company_id: int, ask: Callable[[], T]) -> T:
        try:
            return self._asked(ask)
        except _ForeignKeyError:
            self._heal(company_id)
            return self._asked(ask)

    def _heal(self, company_id: int) -> None:
        if self._move_foreign(company_id):
            self.repair(company_id)

    def _asked(self, ask: Callable[[], T]) -> T:
        """The server's answer.

        Raises:
            ReplayStoreError: With one sentence about what is wrong.
        """
        try:
            return ask()
        except redis.AuthenticationError:
            raise self._complaint("it refuses the password or the user") from None
        except redis.TimeoutError as error:
            raise self._complaint("it does not answer in time") from error
        except redis.ConnectionError as error:
            raise self._complaint("it cannot be reached") from error
        except redis.RedisError as error:
            text = str(error)
            if "WRONGTYPE" in text:
                raise _ForeignKeyError(self._sentence("a key is not ours")) from error
            for sign, what in _REFUSALS.items():
                if sign in text:
                    raise self._complaint(what) from error
            raise self._complaint(f"it answers: {text}") from error

    def _complaint(self, what: str) -> ReplayStoreError:
        return ReplayStoreError(self._sentence(what))

    def _sentence(self, what: str) -> str:
        return f"replay store at {self._where}: {what}; experiences stay in the database"


_REFUSALS = {
    "OOM ": "its memory is full (maxmemory), nothing more can be written",
    "READONLY": "it is a read-only replica, nothing can be written",
    "MISCONF": "it cannot save to its disk and takes no writes",
    "LOADING": "it is still loading its data",
    "NOAUTH": "it wants a password",
    "NOPERM": "its user may not do this",
}


class _ForeignKeyError(ReplayStoreError):
    """A key under our name holds another program's data."""


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
