"""Reads a serialised ONNX model node by node, without onnx: what a look for dangers needs of it, and no more.

Every tensor and node of the main graph, of subgraphs and of local functions is given to a :class:`Visitor`. The numbers
of the fields are those of ``onnx.proto``. A field that comes twice is read twice, where protobuf joins the two.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from poprt.wire import Field, WireError, WireReader

#: onnx.TensorProto.DataType of the whole numbers whose values are read.
INT32, INT64, BOOL = 6, 7, 9
_WHOLE: dict[int, np.dtype[Any]] = {INT32: np.dtype("<i4"), INT64: np.dtype("<i8"), BOOL: np.dtype("u1")}

#: Far more than the largest encoders have. Each node and tensor takes up to 300 bytes here, however short it is.
_MOST_ITEMS = 1 << 17
_MOST_FIELDS = 2_000_000
_DEEPEST = 32  # protobuf itself reads 100 messages deep, and a graph in a graph takes three
_LONGEST_NAME = 1 << 16
_MOST_VALUES = 1 << 16  # of a tensor whose values are packed
_KEPT = 3  # names of a node or graph that are kept; none of those that checks ask for comes later


class _Model:
    GRAPH, FUNCTIONS = 7, 25


class _Graph:
    NODE, INITIALIZER, INPUT, OUTPUT, SPARSE_INITIALIZER = 1, 5, 11, 12, 15


class _Function:
    NAME, NODE, DOMAIN, OVERLOAD = 1, 7, 10, 13


class _Node:
    INPUT, OUTPUT, NAME, OP_TYPE, ATTRIBUTE, DOMAIN, OVERLOAD = 1, 2, 3, 4, 5, 7, 8


class _Attribute:
    NAME, INT, TENSOR, GRAPH, INTS, TENSORS, GRAPHS, SPARSE, SPARSES = 1, 3, 5, 6, 8, 10, 11, 22, 23


class _Tensor:
    DIMS, DATA_TYPE, INT32_DATA, INT64_DATA, NAME, RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 1, 2, 5, 7, 8, 9, 13, 14


Ints = npt.NDArray[Any]


@dataclass
class Tensor:
    """A tensor that the model holds.

    Attributes:
        external: what is said of a file that holds the data, as pairs of key and value; None where no file is meant.
        values: the contents of an int32, int64 or bool tensor that lie in the model; None for all others.
    """

    name: str = ""
    data_type: int = 0
    dims: tuple[int, ...] = ()
    external: list[tuple[str, str]] | None = None
    values: Ints | None = None


@dataclass
class Scope:
    """A graph or function body, and what encloses it.

    Attributes:
        constants: whole numbers that initializers and Constant nodes hold, by name.
        passes_on: output of an Identity -> its input.
        inputs, outputs: the first names, for subgraphs alone.
    """

    parent: Scope | None = None
    constants: dict[str, Ints] = field(default_factory=dict)
    passes_on: dict[str, str] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)

    def constant(self, name: str) -> Ints | None:
        """The constant ``name`` as seen from here; None where it is none, or not of whole numbers."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.constants:
                return scope.constants[name]
            scope = scope.parent
        return None


@dataclass
class Node:
    """A node.

    Attributes:
        key: domain, operator and overload.
        inputs, outputs: the first names.
        nameless: whether any output has no name.
        graphs: the scopes of its subgraphs, by attribute.
    """

    key: tuple[str, str, str]
    name: str
    inputs: list[str]
    outputs: list[str]
    nameless: bool
    graphs: dict[str, Scope]

    def __str__(self) -> str:
        return f"{self.key[1]} node {(self.name or next(filter(None, self.outputs), ''))!r}"


class Visitor(Protocol):
    """What is told of the model, in the order of the file."""

    def tensor(self, tensor: Tensor, main: bool) -> None:
        """A tensor; ``main`` for an initializer of the main graph."""

    def node(self, node: Node, scope: Scope, function: tuple[str, str, str] | None, size: int) -> None:
        """A node of ``size`` bytes, in a local function or, where that is None, in the main graph."""

    def function(self, key: tuple[str, str, str]) -> None:
        """A local function. Its nodes were told of with an index; see :meth:`node`."""


class GraphReader:
    """Walks over one model.

    Raises:
        WireError: it is no ONNX model, or one of more nodes and graphs in graphs than any model needs.
    """

    def __init__(self, data: bytes, visitor: Visitor) -> None:
        self._wire = WireReader(data, _MOST_FIELDS)
        self._visitor = visitor
        self._function: tuple[str, str, str] | None = None
        self._left = _MOST_ITEMS

    def read(self) -> None:
        """Walk over the model once."""
        for item in self._parts(Field(0, 0, len(self._wire.data))):
            if item.number == _Model.GRAPH:
                self._graph(item, None, 0)
            elif item.number == _Model.FUNCTIONS:
                self._read_function(item)

    def _parts(self, within: Field) -> Iterator[Field]:
        """The fields of a message that hold bytes, texts or messages."""
        return (item for item in self._wire.fields(within.start, within.end) if item.end >= 0)

    def _text(self, item: Field) -> str:
        if item.end - item.start > _LONGEST_NAME:
            raise WireError(f"it has a name of {item.end - item.start} bytes")
        return self._wire.bytes_of(item).decode("utf-8", "replace")

    def _count_item(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise WireError(f"it has more than {_MOST_ITEMS} nodes and tensors")

    def _read_function(self, within: Field) -> None:
        texts = {_Function.NAME: "", _Function.DOMAIN: "", _Function.OVERLOAD: ""}
        texts.update({item.number: self._text(item) for item in self._parts(within) if item.number in texts})
        self._function = (texts[_Function.DOMAIN], texts[_Function.NAME], texts[_Function.OVERLOAD])
        self._visitor.function(self._function)
        scope = Scope()
        for item in self._parts(within):
            if item.number == _Function.NODE:
                self._node(item, scope, 0)
        self._function = None

    def _graph(self, within: Field, parent: Scope | None, depth: int) -> Scope:
        if depth > _DEEPEST:
            raise WireError(f"it has graphs within graphs, more than {_DEEPEST} deep")
        scope = Scope(parent)
        for item in self._parts(within):
            if item.number == _Graph.NODE:
                self._node(item, scope, depth)
            elif item.number == _Graph.INITIALIZER:
                self._constant(self._tensor(item, main=depth == 0), scope)
            elif item.number == _Graph.SPARSE_INITIALIZER:
                self._sparse(item)
            elif depth and item.number in (_Graph.INPUT, _Graph.OUTPUT):
                names = scope.inputs if item.number == _Graph.INPUT else scope.outputs
                if len(names) < _KEPT:
                    names.append(next((self._text(part) for part in self._parts(item) if part.number == 1), ""))
        return scope

    def _node(self, within: Field, scope: Scope, depth: int) -> None:
        self._count_item()
        texts = {_Node.DOMAIN: "", _Node.OP_TYPE: "", _Node.OVERLOAD: "", _Node.NAME: ""}
        node = Node(("", "", ""), "", [], [], False, {})
        tensors: list[Tensor] = []
        for item in self._parts(within):
            if item.number in (_Node.INPUT, _Node.OUTPUT):
                names = node.inputs if item.number == _Node.INPUT else node.outputs
                node.nameless |= item.number == _Node.OUTPUT and item.start == item.end
                if len(names) < _KEPT:
                    names.append(self._text(item))
            elif item.number == _Node.ATTRIBUTE:
                self._attribute(item, node, tensors, scope, depth)
            elif item.number in texts:
                texts[item.number] = self._text(item)
        domain = texts[_Node.DOMAIN]
        node.key = ("" if domain == "ai.onnx" else domain, texts[_Node.OP_TYPE], texts[_Node.OVERLOAD])
        node.name = texts[_Node.NAME]
        self._note(node, tensors, scope)
        self._visitor.node(node, scope, self._function, within.end - within.start)

    def _note(self, node: Node, tensors: list[Tensor], scope: Scope) -> None:
        """Keep what later checks ask for: constants, and names that pass a value on."""
        if node.key[:2] == ("", "Constant") and tensors and node.outputs:
            tensors[0].name = node.outputs[0]
            self._constant(tensors[0], scope)
        elif node.key[:2] == ("", "Identity") and node.inputs and node.outputs:
            scope.passes_on[node.outputs[0]] = node.inputs[0]

    def _constant(self, tensor: Tensor, scope: Scope) -> None:
        if tensor.values is not None:
            scope.constants[tensor.name] = tensor.values

    def _attribute(self, within: Field, node: Node, tensors: list[Tensor], scope: Scope, depth: int) -> None:
        name = ""
        numbers: list[int] = []
        for item in self._wire.fields(within.start, within.end):
            if item.number == _Attribute.NAME and item.end >= 0:
                name = self._text(item)
            elif item.number in (_Attribute.INT, _Attribute.INTS):
                numbers.extend(self._numbers(item))
            elif item.end < 0:
                continue
            elif item.number in (_Attribute.TENSOR, _Attribute.TENSORS):
                tensors.append(self._tensor(item, main=False))
            elif item.number in (_Attribute.SPARSE, _Attribute.SPARSES):
                self._sparse(item)
            elif item.number in (_Attribute.GRAPH, _Attribute.GRAPHS):
                node.graphs[name] = self._graph(item, scope, depth + 1)
        if name in ("value_int", "value_ints"):
            tensors.append(Tensor(values=_signed(numbers)))

    def _sparse(self, within: Field) -> None:
        for item in self._parts(within):
            if item.number in (1, 2):  # values, indices
                self._tensor(item, main=False)

    def _tensor(self, within: Field, main: bool) -> Tensor:
        self._count_item()
        tensor, raw = Tensor(), None
        dims: list[int] = []
        numbers: list[int] = []
        for item in self._wire.fields(within.start, within.end):
            if item.number == _Tensor.DIMS:
                dims.extend(self._numbers(item))
            elif item.number == _Tensor.DATA_TYPE and item.end < 0:
                tensor.data_type = item.start
            elif item.number == _Tensor.DATA_LOCATION and item.end < 0:
                tensor.external = (tensor.external or []) if item.start else tensor.external
            elif item.number in (_Tensor.INT32_DATA, _Tensor.INT64_DATA):
                numbers.extend(self._numbers(item))
            elif item.end < 0:
                continue
            elif item.number == _Tensor.NAME:
                tensor.name = self._text(item)
            elif item.number == _Tensor.RAW_DATA:
                raw = item
            elif item.number == _Tensor.EXTERNAL_DATA:
                tensor.external = [*(tensor.external or []), self._pair(item)]
        tensor.dims = tuple(dims)
        tensor.values = self._values(tensor, raw, numbers)
        self._visitor.tensor(tensor, main)
        return tensor

    def _numbers(self, item: Field) -> Iterator[int]:
        return itertools.islice(self._wire.numbers(item), _MOST_VALUES)

    def _pair(self, within: Field) -> tuple[str, str]:
        texts = {item.number: self._text(item) for item in self._parts(within)}
        return texts.get(1, ""), texts.get(2, "")

    def _values(self, tensor: Tensor, raw: Field | None, numbers: list[int]) -> Ints | None:
        dtype = _WHOLE.get(tensor.data_type)
        if dtype is None:
            return None
        if raw is not None:
            count = (raw.end - raw.start) // dtype.itemsize
            return np.frombuffer(self._wire.data, dtype, count, raw.start)
        return _signed(numbers)


def _signed(numbers: list[int]) -> Ints:
    return np.array(numbers, np.uint64).astype(np.int64)
