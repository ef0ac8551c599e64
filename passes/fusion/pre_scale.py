"""The factor of attention's scores, in its queries."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.arithmetic import scalar
from passes.fusion.attention import Projection, attention_of, projection_of, scale_of
from passes.node_values import constant
from passes.refusal import refused
from passes.registry import register
from passes.rewriting import NodeRewrite, Site


@register("pre_scale")
class PreScale(NodeRewrite):
    """Scales the queries of attention in the place of its scores: softmax(q k / sqrt(d)) is softmax((q / sqrt(d)) k).

    The scores [B, heads, S, S] are not touched again, and float16 does not overflow in them. The factor goes into the
    matrix [H, H] and the bias [H] of the queries' projection, where nothing else reads these and what is between; else
    the queries [B, heads, S, d] are multiplied. Leaves alone, with a reason: scores that are not scaled first of all,
    whose factor is computed, or that something else reads. Local functions are left alone.
    """

    operators = ("Softmax",)
    what = "scales moved into queries"

    def rewrite(self, node: gs.Node, site: Site) -> None:
        """Move the factor; see the class."""
        attention = attention_of(node)
        scores, scaling = attention.scores, attention.before[0] if attention.before else None
        scale = scale_of(scaling) if scaling is not None else None
        if scaling is None or scale is None:
            raise refused("its scores are not scaled by a constant number as they come from the product")
        if not site.is_free(scores.outputs[0]):
            raise refused(f"its scores {scores.outputs[0].name!r} are read elsewhere too")
        query, key = scores.inputs
        projection = projection_of(query, site)
        if query is not key and projection is not None and _is_free(projection, site):
            _scale_projection(projection, scale, site)
        else:
            make = site.builder(scores)
            query = make.add(
                "Mul", "query_scaled", [query, make.constant("scale", scale, _dtype(scaling))], query.dtype
            )
        make = site.builder(scores)
        site.release(scores)
        make.add("MatMul", "of_scaled", [query, key], into=site.release(scaling))


def _dtype(scaling: gs.Node) -> np.dtype:
    """The type of the number that ``scaling`` multiplies by."""
    tensors = [tensor for tensor in scaling.inputs if scalar(tensor, 1) is not None]
    values = constant(tensors[-1]) if tensors else None
    return np.dtype(np.float32) if values is None else values.dtype


def _is_free(projection: Projection, site: Site) -> bool:
    """Whether nothing but the queries depends on the projection and its constants."""
    nodes = [projection.product, projection.last, *projection.between]
    weights = [projection.product.inputs[1], *_bias_of(projection)]
    return all(site.is_free(node.outputs[0]) for node in nodes) and all(site.is_free(tensor) for tensor in weights)


def _bias_of(projection: Projection) -> list[gs.Tensor]:
    return [] if projection.bias is None else [t for t in projection.bias.inputs if constant(t) is not None]


def _scale_projection(projection: Projection, scale: float, site: Site) -> None:
    for reader, tensor in [
        (projection.product, projection.product.inputs[1]),
        *((projection.last, bias) for bias in _bias_of(projection)),
    ]:
        values = constant(tensor)
        assert values is not None, "projections have constant matrices and biases"
        scaled = gs.Constant(site.name(f"{tensor.name}_scaled"), (values * scale).astype(values.dtype))
        index = next(place for place, item in enumerate(reader.inputs) if item is tensor)
        reader.inputs[index] = scaled
