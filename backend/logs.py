"""Logs as JSON lines: what was asked and how long it took, never a body, a query or a key."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, TextIO

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonLines(logging.Formatter):
    """One JSON object a line, with what was given as ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _OWN}
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            # The type and the places only: messages of database drivers repeat the row's values.
            line["error"] = type(error).__name__
            frames = traceback.extract_tb(error.__traceback__)
            line["trace"] = [f"{frame.name}:{frame.lineno}" for frame in frames][-12:]
        return json.dumps(line, default=str)


def log_as_json(level: str, stream: TextIO | None = None) -> None:
    """Send what ``atmr.*`` loggers say to a stream (standard error) as JSON lines."""
    logger = logging.getLogger("atmr")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False
