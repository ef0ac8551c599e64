"""What a server prints on stderr, as text or as JSON. Never a text of a request, never a key."""

from __future__ import annotations

import datetime
import logging
import sys
from typing import Any

import orjson

_FORMAT = "%(asctime)s %(levelname)s poprt %(message)s"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time``, ``level``, ``logger``, ``message``, and ``exception`` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        fields: dict[str, Any] = {
            "time": utc(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(fields).decode()


def utc(seconds: float) -> str:
    """A time as RFC 3339 has it, to the millisecond."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]  # generic only for type checkers
    """The handler of a server."""


def configure(log_format: str) -> None:
    """Send what poprt and uvicorn have to say to stderr; warnings and worse of uvicorn."""
    handler = _StderrHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter(_FORMAT))
    for name, level in (("poprt", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [item for item in logger.handlers if not isinstance(item, _StderrHandler)]
        logger.addHandler(handler)
        logger.setLevel(level)
