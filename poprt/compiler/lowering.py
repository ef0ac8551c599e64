"""From a converted model to the graph of one engine: the passes, in order, and what they found."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt
import onnx
from onnx.inliner import inline_local_functions

from passes.base import GraphPass
from passes.batch.open_batch import OpenBatch
from passes.fusion.erf_gelu_pattern import ErfGeluPattern
from passes.ipu_operators import AttachBodies
from passes.manager import PassLike, PassManager
from passes.precision.float_to_bfloat16 import COMPUTE_KEY
from passes.precision.float_to_int8 import METADATA_KEY as INT8_KEY
from passes.precision.unsign_dequantised import UnsignDequantised
from passes.precision.unsign_weights import UnsignWeights
from poprt.compiler.dequantise_products import DequantiseProducts, activation_group
from poprt.compiler.full_packs.fuse import FuseFullPacks, with_full_packs
from poprt.compiler.fuse_int8 import FuseInt8
from poprt.compiler.head_gathers import GatherHeads
from poprt.compiler.interface import ReadInterface
from poprt.compiler.key_flips import FlipKeys
from poprt.compiler.large_constants import ClampLargeConstants
from poprt.compiler.lower_bfloat16 import LowerBfloat16
from poprt.compiler.lower_half import LowerHalf
from poprt.compiler.mask_products import KeepMaskProducts
from poprt.compiler.mend_types import MendTypes
from poprt.compiler.normalise import KeepOutputs, NameNodes, WidenNarrowArithmetic
from poprt.compiler.options import CompilerOptions
from poprt.compiler.packing_spec import read_packing, widened
from poprt.compiler.progress import Progress
from poprt.compiler.ragged import LowerPacking
from poprt.compiler.source import Source
from poprt.engine.cpu import lacks_int8_dot_products
from poprt.engine.providers import has_fast_half
from poprt.executable import PackingSpec
from poprt.foreign_operators import custom_operators
from poprt.manifest import OPENVINO, OtherGraph

logger = logging.getLogger("poprt")

#: OpenVINO's attention takes 16 places at a time, and the rest of a row one by one: 63 cost a third more than 64
#: (docs/engines.md).
OPENVINO_WIDTH = 16


@dataclass(frozen=True)
class Lowered:
    """The graph of one engine.

    Attributes:
        model: the graph; large weights are initializers there that hold no data.
        weights: these weights, by name.
        packing: how samples share its runs.
        interface: the inputs and outputs as they were declared.
        opening: whether the batch axis was opened; None where that was not tried.
        activation_group: as in the manifest.
    """

    engine: str
    model: onnx.ModelProto
    weights: Mapping[str, npt.NDArray[Any]]
    packing: PackingSpec | None
    interface: ReadInterface
    opening: OpenBatch | None
    activation_group: int = 0


def lower(source: Source, outputs: Sequence[str], options: CompilerOptions, engine: str, progress: Progress) -> Lowered:
    """Lower a model for an engine. ``source`` stays as it is."""
    own = replace(source, weights=dict(source.weights))  # some passes store weights anew
    packing = read_packing(source.model)
    if packing is not None and engine == OPENVINO:
        packing = widened(packing, OPENVINO_WIDTH)
    interface = ReadInterface()
    rows_apart = packing is None or packing.rows_apart
    opening = OpenBatch(weights=own.weights) if rows_apart and not source.variable else None
    manager = PassManager(
        _lowerings(own, outputs, packing, interface, opening, engine),
        dump_dir=options.dump_passes or None,
        on_pass=lambda name: progress.step(f"lowering ({name})"),
        weights_elsewhere=True,
    )
    model = manager.run(source.model)
    changed = {record.name for record in manager.records if record.result.modified}
    if changed & {UnsignWeights.name, UnsignDequantised.name}:
        logger.warning(
            "this CPU has no 8-bit dot products: int8 weights are stored unsigned, exact here and slow on other CPUs"
        )
    if packing is not None:
        packing = replace(packing, outputs={name: kind for name, kind in packing.outputs.items() if name in outputs})
        if FuseFullPacks.name in changed:
            packing = with_full_packs(packing, model)
    group = activation_group(model) if DequantiseProducts.name in changed else 0
    return Lowered(engine, model, own.weights, packing, interface, opening, group)


def _lowerings(
    source: Source,
    outputs: Sequence[str],
    packing: PackingSpec | None,
    interface: ReadInterface,
    opening: OpenBatch | None,
    engine: str,
) -> list[PassLike]:
    """The passes from a converted model to the engine's graph, in order."""
    steps: list[GraphPass] = [
        KeepOutputs(list(outputs)),
        AttachBodies(),
        NameNodes(),
        WidenNarrowArithmetic(),
        MendTypes(),
        interface,
    ]
    steps += [opening] if opening is not None else []
    steps += [LowerPacking(packing), LowerBfloat16()]
    if engine == OPENVINO or not has_fast_half():
        steps.append(LowerHalf())
    if packing is not None and packing.ragged:
        steps += [FlipKeys(), GatherHeads()]  # in this order: the first looks at reshapes that the second takes out
    steps.append(ErfGeluPattern())  # the engine knows GELU in fewer spellings than exporters have
    return [*steps, *(_for_openvino() if engine == OPENVINO else _for_onnxruntime(source, packing))]


def _for_openvino() -> list[PassLike]:
    return [inline_functions, ClampLargeConstants(), KeepMaskProducts(), DequantiseProducts()]


def inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """The bodies of local functions in the place of their calls: OpenVINO knows none, and AttentionMask is one."""
    return inline_local_functions(model) if model.functions else model


def _for_onnxruntime(source: Source, packing: PackingSpec | None) -> list[GraphPass]:
    steps: list[GraphPass] = []
    if lacks_int8_dot_products():
        steps += [UnsignWeights(source.weights), UnsignDequantised(source.weights)]
    steps.append(FuseInt8())
    if packing is not None and not has_fast_half():
        steps.append(FuseFullPacks(packing))
    return steps


def why_onnxruntime_alone(source: Source) -> str:
    """Why no other engine can run a model; "" where another may."""
    if source.variable:
        return "replaceable weights (constant_weights=False) are onnxruntime's"
    values = (*source.model.graph.input, *source.model.graph.output)
    if any(value.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE for value in values):
        return "it takes or gives float64, and OpenVINO computes in float32 at most"
    foreign = custom_operators(source.model)
    return f"its operators {', '.join(foreign)} come from a library for onnxruntime" if foreign else ""


def why_not_together(main: Lowered, other: Lowered) -> str:
    """Why two graphs cannot share one executable; "" where they can."""
    for name, array in other.weights.items():
        if name in main.weights and main.weights[name] is not array:
            return f"the weight {name!r} is stored in another way for {main.engine}"
    types, others = ({v.name: v.type.tensor_type.elem_type for v in g.model.graph.input} for g in (main, other))
    return "" if types == others else f"its inputs have other types than for {main.engine}"


def other_graph(graph: Lowered) -> OtherGraph:
    """What the manifest says of a graph that is not the main one."""
    packing = graph.packing
    if packing is None:
        return OtherGraph()
    return OtherGraph(
        packing.equal_lengths_cheaper, packing.full_pair_bytes, packing.pair_bytes, packing.width_multiple
    )


def compute_type(metadata: Mapping[str, str]) -> str:
    """The type that an engine may compute in: what the conversion says, and for int8 bfloat16 around the integers."""
    return metadata.get(COMPUTE_KEY, "bfloat16" if INT8_KEY in metadata else "float32")
