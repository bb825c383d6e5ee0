"""Column types for tables that another team owns: tolerant of what stands in them."""

from typing import Any

from sqlalchemy import Boolean, Integer
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, UserDefinedType


class Word(UserDefinedType[str]):
    """A short word, sent without a cast.

    A host's column may be a PostgreSQL enum, and ``status = 'PENDING'::varchar``, which ``String``
    would say, is refused there.
    """

    cache_ok = True

    def __init__(self, length: int) -> None:
        self.length = length

    def get_col_spec(self, **_: Any) -> str:
        """What our own migrations create."""
        return f"VARCHAR({self.length})"


class Flag(TypeDecorator[bool]):
    """A boolean; NULL, as in rows from before the column was added, is False."""

    impl = Boolean
    cache_ok = True

    def process_result_value(
        self,
        value: bool | None,
        dialect: Dialect,  # noqa: ARG002 - SQLAlchemy's signature
    ) -> bool:
        """The flag."""
        return bool(value)


class Priority(TypeDecorator[int]):
    """1 (can wait) .. 5 (urgent); NULL is 3, and what lies outside is the nearest of them."""

    impl = Integer
    cache_ok = True

    def process_result_value(
        self,
        value: int | None,
        dialect: Dialect,  # noqa: ARG002 - SQLAlchemy's signature
    ) -> int:
        """The priority."""
        return 3 if value is None else min(5, max(1, value))
