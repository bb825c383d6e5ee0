"""What a model registry is: immutable versions, aliases per company, a log of every change.

A promotion makes the champion ``previous`` and the promoted version ``champion`` in one atomic
step; rolling back exchanges the two. A company without a champion of its own has that of all
companies. The backend's `services.model_registry` keeps this in its database; this library, which
knows no database, asks through the Protocol.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol, get_args

from .bundle import Bundle

Alias = Literal["champion", "candidate", "previous"]
ALIASES: Final[tuple[Alias, ...]] = get_args(Alias)
CHAMPION: Final = "champion"
CANDIDATE: Final = "candidate"
PREVIOUS: Final = "previous"


@dataclass(frozen=True)
class ModelEvent:
    """One change of an alias.

    Attributes:
        at: When, ISO 8601 in UTC.
        who: A person or a job.
        why: Their reason.
        company_id: Whose alias; None: the default of all.
        alias: Which.
        from_version: In force before; None: nothing.
        to_version: After; None: nothing.
        gate_report: Name of the report that allowed it, if any.
    """

    at: str
    who: str
    why: str
    company_id: int | None
    alias: str
    from_version: str | None
    to_version: str | None
    gate_report: str | None = None


class Registry(Protocol):
    """What deployment, the API and the nightly loop ask of a registry."""

    def register(self, folder: Path, who: str, why: str) -> str:
        """Take in a bundle as candidate of all companies; its version."""
        ...

    def get(self, version: str) -> Bundle:
        """A version's bundle, checked; a BundleError if it is unknown or damaged."""
        ...

    def alias(self, company: int | None, name: Alias) -> str | None:
        """The version of a company's alias, or of the default where it has none of its own."""
        ...

    def promote(
        self,
        version: str,
        who: str,
        why: str,
        company: int | None = None,
        gate_report: str | None = None,
    ) -> None:
        """Make a version champion; the champion becomes previous."""
        ...

    def rollback(
        self, who: str, why: str, company: int | None = None, *, champion: str | None = None
    ) -> str:
        """Make the previous version champion again; which. ``champion``: only if it still is."""
        ...

    def history(self, company: int | None = None) -> list[ModelEvent]:
        """Changes of a company's aliases and of the default's, the oldest first."""
        ...

    def versions(self) -> list[str]:
        """Registered versions, the oldest first."""
        ...
