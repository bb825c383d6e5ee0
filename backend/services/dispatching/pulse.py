"""How the engine has answered lately: answers, fallbacks and latency in blocks of time.

One answer of an arm decides many bookings, and the log has a row for each: rows are counted once
per snapshot and arm. Blocks that are over change no more and are remembered in the process, so
that a page that is looked at all day does not read a day's log every ten seconds.
"""

import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from models import Decision
from services.rl.ab_dispatcher import RL

BLOCK: Final = timedelta(minutes=30)
_SETTLED: Final = timedelta(minutes=5)  # a transaction may commit a little after its `decided_at`
_MOST_ANSWERS: Final = 20_000
_MOST_KEPT: Final = 5_000


@dataclass(frozen=True)
class Block:
    """One block of time.

    Attributes:
        begin: Of the block.
        answers: Of any arm.
        learned: Answers asked of the learned arm.
        fallbacks: Of those, how many the heuristic had to give.
        reasons: Fallbacks by reason.
        latencies_ms: Of all answers, sorted.
        learned_ms: Of the learned arm's answers.
    """

    begin: datetime
    answers: int
    learned: int
    fallbacks: int
    reasons: tuple[tuple[str, int], ...]
    latencies_ms: tuple[float, ...]
    learned_ms: tuple[float, ...] = ()

    def percentile_ms(self, share: float) -> float | None:
        """Nearest-rank percentile of the latency; None without an answer."""
        if not self.latencies_ms:
            return None
        rank = min(len(self.latencies_ms) - 1, int(share * len(self.latencies_ms)))
        return self.latencies_ms[rank]


class Pulse:
    """Blocks per company, remembered once they are over."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, datetime], Block] = {}
        self._lock = threading.Lock()

    def last_day(self, session: Session, company_id: int, now: datetime) -> list[Block]:
        """The 48 half-hours up to now, oldest first."""
        last = now.replace(minute=30 * (now.minute // 30), second=0, microsecond=0)
        return self.blocks(session, company_id, last - 47 * BLOCK, last + BLOCK, now)

    def blocks(
        self, session: Session, company_id: int, begin: datetime, end: datetime, now: datetime
    ) -> list[Block]:
        """Blocks from ``begin`` (a block's) to ``end``, oldest first."""
        wanted = [begin + i * BLOCK for i in range(int((end - begin) / BLOCK))]
        with self._lock:
            known = {at: self._kept.get((company_id, at)) for at in wanted}
        missing = [at for at in wanted if known[at] is None]
        if missing:
            read = _read(session, company_id, missing[0], min(end, missing[-1] + BLOCK))
            with self._lock:
                if len(self._kept) > _MOST_KEPT:
                    self._kept.clear()
                for at in missing:
                    known[at] = block = _block(at, read.get(at, []))
                    if at + BLOCK + _SETTLED <= now:
                        self._kept[company_id, at] = block
        return [block for block in known.values() if block is not None]


_Answer = tuple[str, float, str | None]  # arm, latency, fallback reason


def _read(
    session: Session, company_id: int, begin: datetime, end: datetime
) -> dict[datetime, list[_Answer]]:
    rows = session.execute(
        select(
            func.min(Decision.decided_at),
            Decision.arm,
            func.max(Decision.latency_ms),
            func.max(Decision.fallback_reason),
        )
        .where(
            Decision.company_id == company_id,
            Decision.decided_at >= begin,
            Decision.decided_at < end,
            Decision.source == "policy",
        )
        .group_by(Decision.snapshot_id, Decision.arm)
        .limit(_MOST_ANSWERS)
    )
    found: dict[datetime, list[_Answer]] = {}
    for at, arm, latency, reason in rows:
        start = begin + int((at - begin) / BLOCK) * BLOCK
        found.setdefault(start, []).append((arm, latency, reason))
    return found


def _block(begin: datetime, answers: list[_Answer]) -> Block:
    learned = [reason for arm, _, reason in answers if arm == RL]
    fallbacks = [reason for reason in learned if reason is not None]
    return Block(
        begin=begin,
        answers=len(answers),
        learned=len(learned),
        fallbacks=len(fallbacks),
        reasons=tuple(sorted((r, fallbacks.count(r)) for r in set(fallbacks))),
        latencies_ms=tuple(sorted(latency for _, latency, _ in answers)),
        learned_ms=tuple(latency for arm, latency, _ in answers if arm == RL),
    )
