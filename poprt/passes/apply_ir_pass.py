"""Passes of PopRT's own graph library, under the path that scripts import."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from passes.base import Pass
from passes.manager import PassManager

__all__ = ["ApplyIrPass"]


class ApplyIrPass(Pass):
    """Runs the passes of these names in order: ``ApplyIrPass(["unique_name_for_nodes"])(model)``.

    PopRT kept them in a library of its own; here they are passes like all others.
    """

    name = "apply_ir_pass"

    def __init__(self, passes: Sequence[str] = ()) -> None:
        super().__init__()
        self._names = [passes] if isinstance(passes, str) else list(passes)

    def run(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the rewritten model.

        Raises:
            RewriteError: a name is not registered, or a pass finds the model impossible.
        """
        return PassManager(self._names).run(model)
