"""Find nodes by how they are connected, described in strings. See :mod:`passes.pattern.language` for the language."""

from passes.pattern.language import Pattern, parse_pattern
from passes.pattern.matcher import MatchedNode, PatternMatcher

__all__ = ["MatchedNode", "Pattern", "PatternMatcher", "parse_pattern"]
