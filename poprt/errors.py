"""Errors that are the caller's to mend. Each message names the tensor, file or option and says how to fix it."""

from __future__ import annotations


class PoprtError(Exception):
    """Base of every error that poprt raises on purpose."""


class InputError(PoprtError):
    """A request with a missing, unknown, mistyped or misshapen input.

    Attributes:
        sample: number of the sample, from 0, where several were submitted together; its own error is the cause.
    """

    sample: int | None = None

    def of_sample(self, number: int) -> InputError:
        """Return this error with the number of its sample in the message."""
        error = type(self)(f"sample {number}: {self}")
        error.sample = number
        return error


class RequestTooLongError(InputError):
    """A request with more tokens than the model takes. Only this request fails."""


class RunnerClosedError(PoprtError):
    """The runner was closed, or one of its lanes died, before this request was answered."""


class QueueFullError(PoprtError):
    """Requests that were not queued because too many wait. None of those that were submitted together is queued.

    Attributes:
        can_retry: whether they may fit later. False where they are more than the queue ever takes at once.
    """

    def __init__(self, message: str, can_retry: bool = True) -> None:
        super().__init__(message)
        self.can_retry = can_retry


class CompileError(PoprtError):
    """A model that the engine cannot run; the message names the node."""


class ExecutableError(PoprtError):
    """A file that cannot be loaded as an executable."""


class NotAnExecutableError(ExecutableError):
    """The file is something else."""


class NewerFormatError(ExecutableError):
    """The file was written by a newer version of poprt."""


class DamagedExecutableError(ExecutableError):
    """The file is truncated or altered, or its manifest does not describe it."""


class UnsafeGraphError(ExecutableError):
    """The file's graph would read other files, or is known to crash, block or bloat the engine."""


class UnsupportedOperatorError(ExecutableError):
    """The file needs an operator that the installed engine lacks."""
