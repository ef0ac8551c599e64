"""Errors that are the caller's to mend. Each message names the tensor, file or option and says how to fix it."""


class PoprtError(Exception):
    """Base of every error that poprt raises on purpose."""


class InputError(PoprtError):
    """A request with a missing, unknown, mistyped or misshapen input."""


class RequestTooLongError(InputError):
    """A request with more tokens than the model takes. Only this request fails."""


class RunnerClosedError(PoprtError):
    """The runner was closed, or one of its lanes died, before this request was answered."""


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
