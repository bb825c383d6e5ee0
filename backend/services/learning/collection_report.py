"""What a collection did, and that its counts add up."""

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from services.rl.errors import AtmrError

from .chain import Tally


class CollectionError(AtmrError):
    """A collection whose counts do not add up, or that took longer than its lease."""


@dataclass
class CollectionReport:
    """What a run did; `check` holds it to its sum.

    Attributes:
        company_id: Whose.
        since: Begin of the window.
        until: The moment of the run.
        decisions: Rows of the log that were looked at; the sum of the next five.
        assigned: Have an experience.
        folded: Deferrals that are part of their epoch's WAIT.
        provisional: Not known yet what came of them.
        shadow: Not acted on.
        left_out: Without an experience for good, by reason.
        waits: Epochs' ends that have an experience.
        waits_provisional: Not known yet.
        waits_left_out: By reason.
        reconstructed: Assignments from before the log that have an experience.
        reconstruction_provisional: Not known yet.
        not_reconstructed: By reason.
        experiences: Written to the store: assigned, waits and reconstructed.
        removed: Taken out of the store: they were there, and are not valid any more.
        kept: In the store in the end.
        rebuilt: The store had lost experiences, or was to be filled anew.
        advanced: The mark moved on.
        seconds: It took.
    """

    company_id: int
    since: datetime
    until: datetime
    decisions: int = 0
    assigned: int = 0
    folded: int = 0
    provisional: int = 0
    shadow: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    waits: int = 0
    waits_provisional: int = 0
    waits_left_out: dict[str, int] = field(default_factory=dict)
    reconstructed: int = 0
    reconstruction_provisional: int = 0
    not_reconstructed: dict[str, int] = field(default_factory=dict)
    experiences: int = 0
    removed: int = 0
    kept: int = 0
    rebuilt: bool = False
    advanced: bool = False
    seconds: float = 0.0

    def check(self) -> None:
        """Hold the counts to their sums.

        Raises:
            CollectionError: If they do not add up.
        """
        fates = self.assigned + self.folded + self.provisional + self.shadow
        fates += sum(self.left_out.values())
        if fates != self.decisions:
            raise CollectionError(
                f"company {self.company_id}: {self.decisions} decisions were logged, "
                f"{fates} have a fate"
            )
        made = self.assigned + self.waits + self.reconstructed
        if made != self.experiences:
            raise CollectionError(
                f"company {self.company_id}: {made} experiences were made, {self.experiences} "
                "written"
            )

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        moments = {"since": self.since.isoformat(), "until": self.until.isoformat()}
        return {**asdict(self), **moments}

    def take(self, tally: Tally) -> None:
        """The counts of the run."""
        for name in (
            "assigned", "folded", "provisional", "shadow", "waits", "waits_provisional",
            "reconstructed", "reconstruction_provisional",
        ):  # fmt: skip
            setattr(self, name, getattr(tally, name))
        for name in ("left_out", "waits_left_out", "not_reconstructed"):
            counted = getattr(tally, name)
            setattr(self, name, {key: counted[key] for key in sorted(counted) if counted[key]})
