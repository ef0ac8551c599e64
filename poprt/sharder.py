"""Dividing a model between IPUs: accepted, and nothing is divided."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import onnx

from passes.base import Pass

logger = logging.getLogger("poprt")


class Sharder(Pass):
    """Passes a model through, and says so: there is one engine here, and it has all of the model.

    Args:
        sharding_info, pipelining_info: node name -> number of the IPU, or of the stage.
    """

    name = "sharder"

    def __init__(
        self,
        sharding_info: Mapping[str, int] | None = None,
        pipelining_info: Mapping[str, int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        logger.warning("Sharder has no effect here: it divides a model between IPUs, and the engine has all of it")

    def run(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """The model as it is."""
        return model
