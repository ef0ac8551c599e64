"""Log lines on stderr, in the form that scripts know."""

from __future__ import annotations

import logging
import sys

_FORMAT = "%(asctime)s %(levelname)s poprt %(filename)s:%(lineno)d] %(message)s"


class _StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]  # generic only for type checkers
    """The handler of these commands; one at a time, on the stderr of the moment."""


def configure_logging(level: str) -> None:
    """Send messages of ``level`` and above to stderr."""
    logger = logging.getLogger("poprt")
    for handler in [item for item in logger.handlers if isinstance(item, _StderrHandler)]:
        logger.removeHandler(handler)
    handler = _StderrHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(_FORMAT))
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    _quiet_graphsurgeon()


def _quiet_graphsurgeon() -> None:
    # Its logger prints to stdout, which belongs to results.
    from onnx_graphsurgeon.logger import G_LOGGER

    G_LOGGER.severity = G_LOGGER.CRITICAL
