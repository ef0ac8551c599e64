"""The graph that Triton's onnxruntime backend runs: the executable's, with steps before and behind it.

Before it, inputs become one row of tokens, requests are checked, and positions are counted. Behind it, outputs of one
row a token lose their padding where requests are ragged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from passes.node_protos import walk_graphs, walk_nodes
from poprt.executable import Executable, PackingSpec
from poprt.triton.interface import Interface, Port

_PREFIX = "poprt_triton_"
_TOKENS, _SAMPLES = "tokens", "samples"


def serving_graph(executable: Executable, interface: Interface) -> onnx.ModelProto:
    """The model to be served; its weights are marked as external and hold no data.

    Inputs and outputs are those of ``interface``. Where requests are ragged, inputs are [tokens], their lengths
    [samples, 1], and outputs by token [tokens, ...]; elsewhere [samples, tokens] and [samples, tokens, ...].
    """
    packing = executable.packing
    assert packing is not None, "the interface was read from a packed executable"
    model = onnx.load_model_from_string(executable.graph)
    graph = model.graph
    steps = _Steps(_names(graph))
    moved = {name: steps.name(f"{name}_inside") for name in (*packing.dynamic_inputs, packing.unpack_info)}
    if interface.ragged:
        moved |= {name: steps.name(f"{name}_padded") for name in sorted(interface.by_token)}
    _rename(graph, moved)
    lengths = _lengths(steps, packing, interface)
    check = _check(steps, lengths, interface, executable)
    _checked(steps, lengths, check, np.int32, moved[packing.unpack_info])
    dtypes = {spec.name: spec.engine_dtype for spec in executable.inputs}
    _feed(steps, interface, check, moved, dtypes)
    places = _Places(steps, moved[packing.unpack_info])
    if packing.position_ids in packing.dynamic_inputs:
        places.positions(moved[packing.position_ids], dtypes[packing.position_ids])
    before, steps.nodes = steps.nodes, []
    for port in interface.outputs if interface.ragged else ():
        if port.name in interface.by_token:
            places.stream(moved[port.name], port)
    nodes = [*before, *graph.node, *steps.nodes]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*steps.constants, *_variable_weights(executable)])
    graph.input.extend(_inputs(interface))
    graph.output.extend(_outputs(interface))
    return model


class _Steps:
    """Nodes under way, and the small constants that they read. Each gets a name that the graph has not."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = taken
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def name(self, wish: str) -> str:
        """A name of its own."""
        name = _PREFIX + wish.removeprefix(_PREFIX)
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def add(self, op: str, inputs: Iterable[str], output: str = "", node: str = "", **attributes: Any) -> str:
        """Append a node; return the name of its output."""
        output = output or self.name(op.lower())
        label = self.name(node or f"{output}_node")
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=label, **attributes))
        return output

    def cast(self, values: str, dtype: Any) -> str:
        """The values in another type; return the name."""
        return self.add("Cast", [values], to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        """A constant; return its name."""
        array: npt.NDArray[Any] = np.asarray(values, dtype)
        self.constants.append(numpy_helper.from_array(array, self.name("constant")))
        return self.constants[-1].name


def _lengths(steps: _Steps, packing: PackingSpec, interface: Interface) -> str:
    """The length of each sample, int32 [samples, 1]."""
    if interface.ragged:
        return packing.unpack_info
    extents = steps.add("Shape", [interface.inputs[0].name])
    count = steps.add("Gather", [extents, steps.constant([0])])
    length = steps.add("Gather", [extents, steps.constant([[1]])])
    rows = steps.add("Concat", [count, steps.constant([1])], axis=0)
    return steps.cast(steps.add("Expand", [length, rows]), np.int32)


def _check(steps: _Steps, lengths: str, interface: Interface, executable: Executable) -> str:
    """The number 1, made by steps that fail where a request is wrong.

    Triton knows neither limit and does not compare a request's inputs. Laid end to end, one that is too short would
    shift the samples behind it, and be answered with their tokens.
    """
    limits = {spec.name: spec.id_limit for spec in executable.inputs if spec.id_limit}
    first = interface.inputs[0].name
    faults = {f"{first}_must_have_1_to_{interface.longest}_values": _out_of_range(steps, lengths, 1, interface.longest)}
    for port in interface.inputs:
        if port.name != first:
            faults[f"{port.name}_must_be_as_long_as_{first}"] = _differs(steps, lengths, first, port.name, interface)
        if port.name in limits:
            most = limits[port.name] - 1
            faults[f"{port.name}_must_be_0_to_{most}"] = _out_of_range(steps, port.name, 0, most, np.dtype(port.dtype))
    ones, check = steps.constant([1]), steps.constant(1)
    for message, fault in faults.items():
        index = steps.add("ReduceSum", [steps.cast(fault, np.int64)], keepdims=0)
        # There is no row but 0: the client gets an error that names the node.
        check = steps.add("Mul", [check, steps.add("Gather", [ones, index], node=message)])
    return check


def _checked(steps: _Steps, values: str, check: str, dtype: Any, output: str = "") -> str:
    """The same values, that are there when the check has passed."""
    return steps.add("Mul", [values, steps.cast(check, dtype)], output)


def _out_of_range(steps: _Steps, values: str, least: int, most: int, dtype: Any = np.int32) -> str:
    low = steps.add("Less", [values, steps.constant(least, dtype)])
    high = steps.add("Greater", [values, steps.constant(most, dtype)])
    return steps.add("Or", [low, high])


def _differs(steps: _Steps, lengths: str, first: str, name: str, interface: Interface) -> str:
    if interface.ragged:
        return steps.add("Not", [steps.add("Equal", [lengths, interface.lengths[name]])])
    shapes = [steps.add("Shape", [tensor]) for tensor in (first, name)]
    return steps.add("Not", [steps.add("Equal", shapes)])


def _feed(steps: _Steps, interface: Interface, check: str, moved: Mapping[str, str], dtypes: Mapping[str, str]) -> None:
    """Each input as one row of tokens. Numbers wait for the check: a table of embeddings has an error of its own."""
    row = steps.constant([1, -1])
    for port in interface.inputs:
        values = _checked(steps, port.name, check, port.dtype) if port.dtype == "int64" else port.name
        steps.add("Reshape", [steps.cast(values, dtypes[port.name]), row], moved[port.name])


class _Places:
    """Where tokens lie in a table [samples, longest], numbered row by row. The steps are made when they are needed."""

    def __init__(self, steps: _Steps, lengths: str) -> None:
        self._steps = steps
        self._lengths = lengths
        self._cached: tuple[str, str] | None = None

    def _places(self) -> tuple[str, str]:
        """The numbers of the places that hold a token, [tokens], and the longest sample."""
        if self._cached is None:
            steps = self._steps
            flat = steps.constant([-1])
            lengths = steps.cast(self._lengths, np.int64)
            width = steps.add("ReduceMax", [lengths], keepdims=0)
            columns = steps.add("Range", [steps.constant(0), width, steps.constant(1)])
            occupied = steps.add("Reshape", [steps.add("Less", [columns, lengths]), flat])
            places = steps.add("Reshape", [steps.add("NonZero", [occupied]), flat])
            self._cached = places, width
        return self._cached

    def positions(self, output: str, dtype: str) -> None:
        """``output`` becomes the position of each token in its sample, [1, tokens]."""
        steps, (places, width) = self._steps, self._places()
        positions = steps.cast(steps.add("Mod", [places, width]), dtype)
        steps.add("Reshape", [positions, steps.constant([1, -1])], output)

    def stream(self, padded: str, port: Port) -> None:
        """``port`` becomes the rows of ``padded`` that hold a token, [tokens, ...]."""
        steps, (places, _) = self._steps, self._places()
        rows = steps.add("Reshape", [padded, steps.constant([-1, *port.dims[1:]])])
        steps.add("Gather", [rows, places], port.name, axis=0)


def _variable_weights(executable: Executable) -> list[onnx.TensorProto]:
    """The weights that a runner may replace, which are inputs of the executable's graph; here they are constant."""
    return [
        onnx.TensorProto(
            name=spec.name,
            dims=spec.shape,
            data_type=helper.np_dtype_to_tensor_dtype(np.dtype(spec.engine_dtype)),
            data_location=onnx.TensorProto.EXTERNAL,
        )
        for spec in executable.manifest.weights
        if not spec.constant
    ]


def _names(graph: onnx.GraphProto) -> set[str]:
    """Every name of a tensor or node in ``graph`` and in the graphs inside its nodes."""
    names = {name for node in walk_nodes(graph.node) for name in (node.name, *node.input, *node.output)}
    for scope in walk_graphs(graph):
        names |= {item.name for item in (*scope.initializer, *scope.input, *scope.output, *scope.value_info)}
    return names


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Give tensors of the main graph other names, wherever they are read. Graphs inside reuse no name from outside."""
    for node in walk_nodes(graph.node):
        for tensors in (node.input, node.output):
            for index, name in enumerate(tensors):
                tensors[index] = names.get(name, name)
    for scope in walk_graphs(graph):
        for item in (*scope.value_info, *(scope.output if scope is not graph else ())):
            item.name = names.get(item.name, item.name)


def _inputs(interface: Interface) -> list[onnx.ValueInfoProto]:
    lead = [] if interface.ragged else [_SAMPLES]
    fed = [_value(port, [*lead, f"{port.name}_{_TOKENS}"]) for port in interface.inputs]
    return [*fed, *(_value(Port(name, "int32", ()), [_SAMPLES, 1]) for name in interface.lengths.values())]


def _outputs(interface: Interface) -> list[onnx.ValueInfoProto]:
    return [_value(port, _output_shape(port, interface)) for port in interface.outputs]


def _output_shape(port: Port, interface: Interface) -> list[int | str]:
    if port.name not in interface.by_token:
        return [_SAMPLES, *port.dims]
    lead = [_TOKENS] if interface.ragged else [_SAMPLES, _TOKENS]
    return [*lead, *port.dims[1:]]


def _value(port: Port, shape: list[int | str]) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(port.dtype))
    return helper.make_tensor_value_info(port.name, kind, shape)
