"""Errors that a rewrite raises because of what the user gave it.

Each message names the tensor, node or option, says what was expected and how to fix it. Anything else that
escapes a pass is a bug of ours and keeps its traceback.
"""


class RewriteError(Exception):
    """The model or an option makes a rewrite impossible; the message says why and what to do."""


class UnknownPassError(RewriteError):
    """A pass name that is not registered; the message offers the nearest known ones."""


class PackingError(RewriteError):
    """A model or `pack_args` that cannot be packed."""
