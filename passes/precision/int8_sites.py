"""Which nodes of a graph can have their weights in int8."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import PassResult, node_label, subgraphs, walk_graphs
from passes.operators import CONTRIB
from passes.precision.int8_kinds import dtype_name
from passes.precision.int8_values import Floats
from passes.refusal import Refusal, because
from passes.shapes.dtypes import has_dtype

#: Below so many columns it takes longer to quantise the activation than int8 saves (measured with 384 to 768 rows).
LEAST_COLUMNS = 64
#: Smaller tables save too little memory to be worth an error: relative position biases, segment tables.
LEAST_TABLE = 1 << 16


@dataclass(frozen=True)
class Product:
    """A MatMul or Gemm of an activation by a constant matrix.

    Attributes:
        transposed: the constant is [columns, rows].
        bias: what Gemm adds; None where there is nothing.
    """

    node: gs.Node
    activation: gs.Tensor
    weight: gs.Constant
    transposed: bool = False
    bias: gs.Tensor | None = None

    @property
    def label(self) -> str:
        """How reports name it."""
        return node_label(self.node)

    @property
    def weight_key(self) -> tuple[str, bool]:
        """What tells its matrix from others: the weight, and whether that is stored transposed."""
        return self.weight.name, self.transposed

    def matrix(self) -> Floats:
        """The weight as float32 [rows, columns], whatever floats it is stored in."""
        values: Floats = self.weight.values.astype(np.float32, copy=False)
        return values.T if self.transposed else values


@dataclass(frozen=True)
class Table:
    """A Gather of rows from a constant matrix, float32 or float16 [rows, columns]."""

    node: gs.Node
    weight: gs.Constant

    @property
    def label(self) -> str:
        """How reports name it."""
        return node_label(self.node)


def find_products(graph: gs.Graph, result: PassResult) -> list[Product]:
    """The products of the main graph in its order; refusals for those with a constant matrix that stay float."""
    products = []
    for node in graph.nodes:
        if node.op == "Attention" and node.domain == CONTRIB and isinstance(node.inputs[1], gs.Constant):
            result.refuse(node, "the product by its weights lies inside the fused operator")
        if not _is_product(node):
            continue
        refusal = _why_not(node)
        if refusal:
            result.refusals.append(refusal.at(node))
        elif node.op == "MatMul":
            products.append(Product(node, node.inputs[0], node.inputs[1]))
        else:
            bias = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
            products.append(Product(node, node.inputs[0], node.inputs[1], bool(node.attrs.get("transB", 0)), bias))
    return products


def find_tables(graph: gs.Graph) -> list[Table]:
    """The Gathers of whole rows from large tables of the main graph that nothing but such Gathers reads."""
    return [
        Table(node, node.inputs[0])
        for node in graph.nodes
        if _is_lookup(node) and all(_is_lookup(reader) for reader in node.inputs[0].outputs)
    ]


def refuse_nested(graph: gs.Graph, result: PassResult) -> None:
    """Name the products inside subgraphs and local functions: they stay float."""
    nested = [inner for node in graph.nodes for inner in subgraphs(node)]
    for root in [*nested, *graph.functions]:
        for scope in walk_graphs(root, functions=False):
            for node in filter(_is_product, scope.nodes):
                result.refuse(node, "lies in a subgraph or a local function; only the main graph is quantised")


def _is_product(node: gs.Node) -> bool:
    return (
        node.op in ("MatMul", "Gemm")
        and node.domain in (None, "", "ai.onnx")
        and any(isinstance(tensor, gs.Constant) for tensor in node.inputs[:2])
    )


def _why_not(node: gs.Node) -> Refusal | None:
    weight = node.inputs[1]
    if not isinstance(weight, gs.Constant):
        return because("the constant is on the left, where rows would be columns")
    if not _is_quantisable(weight):
        return because(f"its weight is {dtype_name(weight)}")
    if len(weight.shape) != 2:
        return because(f"its weight has {len(weight.shape)} axes, not 2")
    if node.op == "Gemm" and not _is_plain(node):
        return because("only a Gemm with alpha = beta = 1 that does not transpose its activation is quantised")
    columns = weight.shape[0 if node.attrs.get("transB", 0) else 1]
    if columns < LEAST_COLUMNS:
        return because(
            f"{columns} columns: quantising its activation would take longer than int8 saves below {LEAST_COLUMNS}"
        )
    return None


def _is_quantisable(weight: gs.Constant) -> bool:
    return has_dtype(weight, np.float32) or has_dtype(weight, np.float16)


def _is_plain(gemm: gs.Node) -> bool:
    attrs = gemm.attrs
    return attrs.get("alpha", 1.0) == 1.0 and attrs.get("beta", 1.0) == 1.0 and not attrs.get("transA", 0)


def _is_lookup(node: gs.Node) -> bool:
    if node.op != "Gather" or node.domain not in (None, "", "ai.onnx") or node.attrs.get("axis", 0) != 0:
        return False
    table = node.inputs[0]
    return (
        isinstance(table, gs.Constant)
        and _is_quantisable(table)
        and len(table.shape) == 2
        and table.shape[0] * table.shape[1] >= LEAST_TABLE
    )
