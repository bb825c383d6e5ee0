"""What the pages say, in both languages; sentences live in the other files named `words_...`."""

from typing import Any

from services.dispatching.situation import BookingNow

from .formats import Formats
from .words_experiment import EXPERIMENT
from .words_pages import PAGES
from .words_records import RECORDS

_ALL: dict[str, tuple[str, str]] = {**PAGES, **RECORDS, **EXPERIMENT}
_PLACE = {"fr": 0, "en": 1}


class Words:
    """Sentences of one language, by name.

    Args:
        language: ``fr`` or ``en``.
    """

    def __init__(self, language: str) -> None:
        self.language = language
        self._place = _PLACE[language]

    def __call__(self, key: str, /, *, missing: str | None = None, **values: Any) -> str:
        """The sentence of this name, with values filled in.

        Args:
            key: Its name.
            missing: Name to take where there is none; an empty one: an empty sentence.
            values: For the sentence's places.

        Raises:
            KeyError: If there is no such sentence: an error of ours, found by the tests.
        """
        if key not in _ALL and missing is not None:
            if not missing:
                return ""
            key = missing
        return _ALL[key][self._place].format(**values)

    def urgency(self, booking: BookingNow, fmt: Formats) -> str:
        """How urgent an open booking is, in words."""
        kind = booking.urgency
        if kind == "overdue" and booking.slack_min > -1.0:  # nobody can be there, but not late yet
            kind = "unreachable"
        return self(
            f"urgent.{kind}",
            minutes=fmt.minutes(booking.slack_min),
            by=fmt.time(booking.must_decide_by),
        )

    def needs(self, booking: Any) -> str:
        """Priority, wheelchair, and a driver whom a person has fixed."""
        told = [self("priority.n", n=booking.priority)]
        if booking.wheelchair:
            told.append(self("wheelchair"))
        if booking.pinned_to is not None:
            told.append(self("pinned", n=booking.pinned_to))
        return ", ".join(told)

    def fallback(self, reason: str) -> str:
        """Why the heuristic had to answer."""
        kind, _, name = reason.partition(":")
        return self(f"fallback.{kind}", missing="fallback.other", name=name or kind)


_BOTH: dict[str, Words] = {language: Words(language) for language in _PLACE}


def words_of(language: str) -> Words:
    """The words of a language."""
    return _BOTH[language]
