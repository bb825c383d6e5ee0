"""Whether a replay store holds what SQL says: the check behind every claim that nothing is lost."""

from dataclasses import dataclass
from datetime import datetime

from services.rl.data.experience_codec import encode

from .collector import expected
from .loop import Loop


@dataclass(frozen=True)
class Verdict:
    """Whether a store holds what SQL says.

    Attributes:
        expected: How many should be there.
        kept: How many are.
        missing: Ids that are not there (the first ones).
        unexpected: Ids that should not be there.
        different: Ids whose contents differ.
        older: In the store, from before the log as it is now (purged): not counted as differences.
    """

    expected: int
    kept: int
    missing: list[str]
    unexpected: list[str]
    different: list[str]
    older: int

    @property
    def same(self) -> bool:
        """Nothing differs."""
        return not (self.missing or self.unexpected or self.different)


def verify(loop: Loop, company_id: int, *, most: int = 10) -> Verdict:
    """Compare the company's store with what SQL says, experience by experience.

    Args:
        loop: Database, store.
        company_id: Whose.
        most: Ids that are named, of each kind of difference.
    """
    wanted: dict[str, tuple[datetime, int]] = {}
    for experience in expected(loop, company_id):
        wanted[experience.id] = (experience.at, hash(encode(experience)))
    newest = sorted(wanted, key=lambda id_: (wanted[id_][0], id_))
    total = len(newest)
    newest = newest[-loop.config.replay_capacity :]
    first = wanted[newest[0]][0] if newest else None
    left = set(newest)
    unexpected: list[str] = []
    different: list[str] = []
    kept = older = 0
    for experience in loop.store.read(company_id):
        kept += 1
        if experience.id not in left:
            purged = experience.id not in wanted and (first is None or experience.at < first)
            older += purged
            if not purged:
                unexpected.append(experience.id)
            continue
        left.discard(experience.id)
        if hash(encode(experience)) != wanted[experience.id][1]:
            different.append(experience.id)
    missing = sorted(left)
    if total > len(newest) or older:  # full: what is older than the oldest may have gone
        missing = [id_ for id_ in missing if kept < loop.config.replay_capacity]
    return Verdict(len(newest), kept, missing[:most], unexpected[:most], different[:most], older)
