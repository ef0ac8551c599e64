"""The pattern matcher, under the name that scripts import."""

from passes.pattern import PatternMatcher

__all__ = ["PatternMatcher"]
