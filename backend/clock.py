"""The one source of the present moment: injected, so that a day can be replayed at any speed.

``datetime.now`` anywhere else fails lint.
"""

import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from services.rl.errors import UsageError


class Clock(Protocol):
    """Tells the present moment."""

    def now(self) -> datetime:
        """The present moment, aware and in UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """The machine's time in UTC."""
        return datetime.now(UTC)


class FixedClock:
    """A clock that stands still until it is told otherwise (tests, replays step by step)."""

    def __init__(self, start: datetime) -> None:
        self._now = _aware(start)
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """The moment it stands at."""
        with self._lock:
            return self._now

    def set(self, moment: datetime) -> None:
        """Stand at another moment."""
        with self._lock:
            self._now = _aware(moment)

    def advance(self, *, minutes: float = 0.0, seconds: float = 0.0) -> datetime:
        """Move on (or back, for clocks that were set) and tell the new moment."""
        with self._lock:
            self._now += timedelta(minutes=minutes, seconds=seconds)
            return self._now


class SteppedClock(FixedClock):
    """A clock that moves on by a step each time it is read: no two moments are equal."""

    def __init__(self, start: datetime, step_s: float = 1.0) -> None:
        super().__init__(start)
        self._step_s = step_s

    def now(self) -> datetime:
        """The moment it stood at; then it moves on."""
        return self.advance(seconds=self._step_s) - timedelta(seconds=self._step_s)


class FileClock:
    """The moment that stands in a file, as ISO 8601: one clock for all processes of a twin.

    Whoever plays the twin moves it on by `FileClock.set`; readers see the old or the new moment.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: tuple[int, datetime] | None = None

    def now(self) -> datetime:
        """The moment in the file.

        Raises:
            UsageError: If there is none.
        """
        try:
            changed = self._path.stat().st_mtime_ns
            if self._known is None or self._known[0] != changed:
                moment = datetime.fromisoformat(self._path.read_text(encoding="utf-8").strip())
                self._known = (changed, _aware(moment))
        except (OSError, ValueError) as error:
            raise UsageError(f"clock file {self._path} holds no moment: {error}") from error
        return self._known[1]

    def set(self, moment: datetime) -> None:
        """Move all readers to a moment."""
        hidden = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        hidden.write_text(_aware(moment).isoformat(), encoding="utf-8")
        hidden.replace(self._path)


class ScaledClock:
    """Runs from a moment of choice, ``speed`` times as fast as the machine's clock."""

    def __init__(self, start: datetime, speed: float) -> None:
        if not speed > 0:
            raise UsageError(f"a clock's speed is above 0, got {speed}")
        self._start = _aware(start)
        self._speed = speed
        self._began_s = time.monotonic()

    def now(self) -> datetime:
        """The replayed moment."""
        passed_s = (time.monotonic() - self._began_s) * self._speed
        return self._start + timedelta(seconds=passed_s)


def _aware(moment: datetime) -> datetime:
    """The moment in UTC.

    Raises:
        UsageError: If it has no time zone.
    """
    if moment.tzinfo is None:
        raise UsageError(f"{moment.isoformat()} has no time zone: a clock needs an aware time")
    return moment.astimezone(UTC)
