"""Answers other than 200. Each API writes them in its own form."""

from __future__ import annotations

import logging
from typing import ClassVar

from starlette.requests import ClientDisconnect

from poprt.errors import InputError, QueueFullError, RequestTooLongError, RunnerClosedError

logger = logging.getLogger("poprt")

#: Seconds after which one who was refused because the queue is full may try again.
RETRY_AFTER = 1.0


class ServeError(Exception):
    """A request that is not answered as it was asked.

    Attributes:
        status: of HTTP; an API may have another one for the same thing.
        code: one word for programs.
        message: one line for people.
        param: the field of the request that is wrong.
        retry_after: seconds after which it may be tried again.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"

    def __init__(self, message: str, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after


class BadRequest(ServeError):  # noqa: N818  # here and below: they are called as HTTP calls them
    """The request is wrong; the message says where."""

    status = 400
    code = "bad_request"


class EmptyBatch(BadRequest):
    """A list without a text."""

    code = "empty"


class WrongTask(BadRequest):
    """The model is for another task than the route."""

    code = "wrong_task"


class Unauthorized(ServeError):  # noqa: N818
    """The key is missing or wrong."""

    status = 401
    code = "unauthorized"


class NotFound(ServeError):  # noqa: N818
    """There is no such model or route."""

    status = 404
    code = "not_found"


class PayloadTooLarge(ServeError):  # noqa: N818
    """The request is more than the server ever takes at once."""

    status = 413
    code = "payload_too_large"


class BatchTooLarge(PayloadTooLarge):
    """More texts than one request may have."""

    code = "batch_too_large"


class TooLong(ServeError):  # noqa: N818
    """A text with more tokens than the model takes."""

    status = 413
    code = "too_long"


class Unprocessable(ServeError):  # noqa: N818
    """JSON that is not what the route takes."""

    status = 422
    code = "unprocessable"


class QueueFull(ServeError):  # noqa: N818
    """Too many requests wait. Nothing of this one is queued."""

    status = 429
    code = "queue_full"


class ClientGone(ServeError):  # noqa: N818
    """Nobody waits for the answer any more. The status is for logs and metrics."""

    status = 499
    code = "client_gone"


class Internal(ServeError):  # noqa: N818
    """The server or the model is at fault."""

    status = 500
    code = "internal"


class Unavailable(ServeError):  # noqa: N818
    """The model does not run (any more)."""

    status = 503
    code = "unavailable"


class DeadlineExceeded(ServeError):  # noqa: N818
    """The answer did not come in time."""

    status = 504
    code = "timeout"


def from_exception(error: BaseException) -> ServeError:
    """What an exception means for whoever sent the request. What nobody expects is logged, and not told."""
    if isinstance(error, ServeError):
        return error
    if isinstance(error, RequestTooLongError):
        return TooLong(str(error))
    if isinstance(error, InputError):
        return BadRequest(str(error))
    if isinstance(error, QueueFullError):
        return QueueFull(str(error), retry_after=RETRY_AFTER) if error.can_retry else PayloadTooLarge(str(error))
    if isinstance(error, RunnerClosedError):
        return Unavailable("the model does not run any more")
    if isinstance(error, TimeoutError):
        return DeadlineExceeded("the request was not answered in time")
    if isinstance(error, ClientDisconnect):
        return ClientGone("the client went away")
    logger.error("a request failed", exc_info=error)
    return Internal("internal error; the server's log has the details")
