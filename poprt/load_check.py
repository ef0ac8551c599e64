"""Load a converted model before it is handed over: what onnxruntime refuses is of no use to anyone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from passes.parted import PartedModel
from poprt.engine.custom_ops import how_to_register, registered_libraries
from poprt.engine.plain import plain_session
from poprt.errors import PoprtError
from poprt.foreign_operators import foreign_operators

logger = logging.getLogger("poprt")


def check_loads(model: PartedModel) -> None:
    """Open a session on ``model``, with the optimiser off and no weight copied into it.

    A model with operators that onnxruntime does not have is left alone, with a warning, where no library of custom
    operators is in force.

    Raises:
        PoprtError: onnxruntime refuses the model.
    """
    foreign = foreign_operators(model.model)
    if foreign and not registered_libraries():
        logger.warning(
            "it was not tried whether the converted model loads: onnxruntime has no operator %s; %s",
            ", ".join(foreign),
            how_to_register(foreign),
        )
        return
    try:
        plain_session(model.model.SerializeToString(), optimise=False, weights=_outside(model))
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        lacking = f" (of {', '.join(foreign)}, it knows what the given libraries bring)" if foreign else ""
        raise PoprtError(
            f"onnxruntime does not load the converted model, so nothing is written: {error}{lacking}. See whether it "
            "loads the original, and report this if it does; --skip_check_load writes the model all the same"
        ) from error


def _outside(model: PartedModel) -> Mapping[str, npt.NDArray[Any]]:
    """The weights beside the model, as the engine takes them."""
    return {name: np.ascontiguousarray(array) for name, array in model.weights.items()}
