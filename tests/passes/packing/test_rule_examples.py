"""Each rule reads like its own example: a line above it, or its docstring, shows shapes in and out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from passes.packing.isolation.rules import RULES as ISOLATION_RULES
from passes.packing.opening.baked_rules import RULES as BAKED_RULES
from passes.packing.tokens.token_wise import _RULES as TOKEN_RULES
from passes.packing.within_rows.row_rules import ROW_RULES

FUNCTIONS: list[Callable[..., Any]] = [
    *TOKEN_RULES.values(),
    *ROW_RULES.values(),
    *BAKED_RULES.values(),
    *ISOLATION_RULES.values(),
]
RULES = {f"{rule.__module__.rpartition('.')[2]}.{rule.__name__}": rule for rule in FUNCTIONS}


@pytest.mark.parametrize("name", sorted(RULES))
def test_a_rule_shows_shapes_in_and_out(name: str) -> None:
    said = f"{inspect.getcomments(RULES[name])}{RULES[name].__doc__}"
    example = next((line for line in said.splitlines() if "[" in line), "")
    assert "->" in example or ":" in example, f"{name} has no example such as [B, S, H] -> [H, B, S]: token-wise"
