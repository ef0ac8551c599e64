"""The rewrites: each file holds one pass, named after what it does. See docs/architecture.md."""

from passes.base import GraphPass, Pass, PassResult
from passes.manager import PassManager, PassRecord
from passes.refusal import Refusal
from passes.registry import get_pass, get_registered_passes, register

__all__ = [
    "GraphPass",
    "Pass",
    "PassManager",
    "PassRecord",
    "PassResult",
    "Refusal",
    "get_pass",
    "get_registered_passes",
    "register",
]
