"""The base class of passes, under the name that scripts import."""

from passes.base import Pass

__all__ = ["Pass"]
