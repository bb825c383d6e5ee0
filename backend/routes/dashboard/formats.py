"""Times, numbers and shares as people of a language write them; times in the configured zone."""

from datetime import date, datetime
from zoneinfo import ZoneInfo

_MONTHS = {
    "fr": (
        "janv.", "févr.", "mars", "avril", "mai", "juin",
        "juil.", "août", "sept.", "oct.", "nov.", "déc.",
    ),
    "en": ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
}  # fmt: skip
_THIN = "\u202f"  # narrow no-break space: before % and : in French, in both between thousands


class Formats:
    """Formats of one language.

    Args:
        language: ``fr`` or ``en``.
        zone: Of all times shown.
    """

    def __init__(self, language: str, zone: ZoneInfo) -> None:
        self._language = language
        self.zone = zone

    def time(self, at: datetime | None) -> str:
        """Hours and minutes."""
        return "–" if at is None else at.astimezone(self.zone).strftime("%H:%M")

    def moment(self, at: datetime | None) -> str:
        """Day, hours and minutes."""
        if at is None:
            return "–"
        local = at.astimezone(self.zone)
        return f"{self.day(local.date())} {local:%H:%M}"

    def since(self, at: datetime | None, now: datetime) -> str:
        """The time alone if it is of today, else with its day."""
        if at is None:
            return "–"
        same = at.astimezone(self.zone).date() == now.astimezone(self.zone).date()
        return self.time(at) if same else self.moment(at)

    def iso(self, at: datetime) -> str:
        """For ``<time datetime>``."""
        return at.isoformat(timespec="seconds")

    def day(self, on: date) -> str:
        """A date without its year."""
        return f"{on.day} {_MONTHS[self._language][on.month - 1]}"

    def date(self, on: date) -> str:
        """A date."""
        return f"{self.day(on)} {on.year}"

    def number(self, value: float, digits: int = 0) -> str:
        """A number with its decimals."""
        text = f"{value:,.{digits}f}".replace(",", _THIN).replace("-", "−")
        return text.replace(".", ",") if self._language == "fr" else text

    def percent(self, share: float, digits: int = 1) -> str:
        """A share as per cent."""
        gap = "\u00a0" if self._language == "fr" else ""
        return f"{self.number(100 * share, digits)}{gap}%"

    def points(self, share: float) -> str:
        """A difference of shares, with its sign."""
        sign = "+" if share >= 0 else ""
        unit = "points" if abs(share) >= 0.02 or self._language == "en" else "point"
        return f"{sign}{self.number(100 * share, 1)} {unit}"

    def milliseconds(self, value: float) -> str:
        """A round duration for an axis: seconds from one second on."""
        if value >= 1000:
            return f"{self.number(value / 1000)} s"
        return f"{self.number(value, 0 if value >= 1 else 1)} ms"

    def minutes(self, value: float) -> str:
        """A duration: minutes, from an hour and a half on hours too."""
        whole = round(abs(value))
        if whole < 90:
            return f"{whole} min"
        hours, rest = divmod(whole, 60)
        return f"{hours} h {rest:02d}"
