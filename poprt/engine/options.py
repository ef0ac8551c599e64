"""The options that all sessions of onnxruntime share."""

from __future__ import annotations

import logging

import onnxruntime as ort

from poprt.engine.cpu import usable_cores
from poprt.engine.custom_ops import registered_libraries

#: How severe a message must be for onnxruntime to print it by itself.
WARNINGS, NOTHING = 2, 4

logger = logging.getLogger("poprt")


def session_options(threads: int | None = None) -> ort.SessionOptions:
    """New options, to be added to. The libraries of custom operators that are in force are registered.

    Args:
        threads: for one operator; None takes the usable cores.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = usable_cores() if threads is None else threads
    options.log_severity_level = log_severity()
    for path in registered_libraries():
        options.register_custom_ops_library(path)
    return options


def log_severity() -> int:
    """What onnxruntime prints by itself: its warnings and errors at the level DEBUG, nothing else.

    It prints errors in red about what it then does another way: shapes that it merges, rewrites that it leaves out. A
    real failure is an exception that tells the cause.
    """
    return WARNINGS if logger.isEnabledFor(logging.DEBUG) else NOTHING
