"""The table of rules: domain and operator -> what the operator makes of what is known of its inputs."""

from __future__ import annotations

from collections.abc import Callable

from passes.packing.isolation.proof import Rule

RULES: dict[tuple[str, str], Rule] = {}


def rule(*ops: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register a rule for operators; a node without one is not proved."""

    def decorate(function: Rule) -> Rule:
        RULES.update({(domain, op): function for op in ops})
        return function

    return decorate
