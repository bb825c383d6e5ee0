"""Types that requests and answers are made of: strict, finite, bounded, without free text.

Everything is bounded: a number that the database cannot hold or an instant that cannot be moved
to UTC would otherwise pass here and fail there, as a 500.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
)

_ISO = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d(:\d\d([.]\d{1,9})?)?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_FIRST, _LAST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
MAX_ID = 2**31 - 1


def parse_instant(value: Any) -> datetime:
    """An instant in UTC from ISO 8601 text with an offset, between 2000 and 2100.

    Raises:
        ValueError: If it is anything else.
    """
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("a time needs a time zone")
        return value.astimezone(UTC)
    if not isinstance(value, str) or not _ISO.fullmatch(value):
        raise ValueError("must be a time with its offset, such as 2026-03-02T09:30:00+01:00")
    try:
        # Python 3.11 takes at most six decimals of a second.
        moment = datetime.fromisoformat(re.sub(r"([.]\d{6})\d+", r"\1", value.upper()))
    except ValueError:
        raise ValueError("is no time that exists") from None
    if not _FIRST.year < moment.year < _LAST.year - 1:
        raise ValueError("must lie between 2001 and 2098")
    return moment.astimezone(UTC)


def show_instant(value: datetime) -> str:
    """ISO 8601 in UTC, ending in Z."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


Instant = Annotated[
    datetime,
    PlainValidator(parse_instant),
    PlainSerializer(show_instant, return_type=str, when_used="json-unless-none"),
    WithJsonSchema(
        {"type": "string", "format": "date-time", "description": "ISO 8601 with offset"}
    ),
]
Latitude = Annotated[float, Field(ge=-90, le=90, description="WGS-84 degrees")]
Longitude = Annotated[float, Field(ge=-180, le=180, description="WGS-84 degrees")]
Id = Annotated[int, Field(ge=1, le=MAX_ID)]
Priority = Annotated[int, Field(ge=1, le=5, description="1 (can wait) to 5 (urgent)")]
ServiceMinutes = Annotated[float, Field(ge=0, le=240)]
Share = Annotated[float, Field(ge=0, le=1)]
Slug = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,59}$"),
    Field(description="a code, no free text: a-z, 0-9, underscore, dot, dash"),
]


class Body(BaseModel):
    """What a request sends: unknown fields, wrong types, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class Query(BaseModel):
    """Parameters after the question mark: text that is converted, else as strict as a body."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class Answer(BaseModel):
    """What a request gets."""

    model_config = ConfigDict(from_attributes=True)


class Place(Body):
    """A place on the map."""

    lat: Latitude
    lon: Longitude


class PageQuery(Query):
    """Which part of a long list."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    after: Annotated[int, Field(ge=0, le=MAX_ID, description="the last id already read")] = 0
