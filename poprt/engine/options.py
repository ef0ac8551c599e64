"""The options that all sessions of onnxruntime share."""

from __future__ import annotations

import onnxruntime as ort

from poprt.engine.cpu import usable_cores

#: How severe a message must be for onnxruntime to print it by itself.
ERRORS, NOTHING = 3, 4


def session_options(threads: int | None = None, log_severity: int = ERRORS) -> ort.SessionOptions:
    """New options, to be added to.

    Args:
        threads: for one operator; None takes the usable cores.
        log_severity: the least severe messages that onnxruntime prints by itself.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = usable_cores() if threads is None else threads
    options.log_severity_level = log_severity
    return options
