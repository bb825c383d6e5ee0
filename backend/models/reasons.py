"""Why a person acted: codes only, so that no free text about a patient is ever stored."""

from typing import Final, Literal, get_args

ReasonCode = Literal[
    "patient_request",
    "continuity_of_care",
    "vehicle",
    "driver_unavailable",
    "traffic",
    "medical",
    "other",
]
REASON_CODES: Final[tuple[str, ...]] = get_args(ReasonCode)


def one_of(column: str, values: tuple[str, ...]) -> str:
    """SQL condition that a text column holds one of ``values`` (our own words, never input)."""
    listed = ", ".join(f"'{value}'" for value in values)
    return f"{column} IN ({listed})"
