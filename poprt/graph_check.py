"""What a graph that anybody may have written must not hold: data of other files, and what brings the engine down.

Only what can be told from the graph alone is refused, and nothing that ordinary models have. ``docs/security.md`` says
what is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from poprt.errors import UnsafeGraphError
from poprt.graph_reader import BOOL, INT32, INT64, GraphReader, Node, Scope, Tensor
from poprt.manifest import WeightSpec
from poprt.wire import WireError

#: Nodes that local functions may bring, each counted as often as it is called. The engine takes 0.5 ms for one.
MOST_CALLED_NODES = 20_000
#: Bytes that they may bring, besides twice the graph's own.
MOST_CALLED_BYTES = 64 << 20

#: onnx.TensorProto.DataType of the types that weights may have in the engine.
_DATA_TYPES = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": INT32,
    "int64": INT64,
    "bool": BOOL,
    "float16": 10,
    "float64": 11,
    "uint32": 12,
    "uint64": 13,
}
_WEIGHTS = "weights.bin"
_ORT_FORMAT = b"ORTM"  # at offset 4: onnxruntime's own format, which it would read instead
_ENDLESS = 1 << 31  # a loop that runs so often and cannot stop earlier is as good as endless

_Key = tuple[str, str, str]


def check_graph(data: bytes, weights: Iterable[WeightSpec]) -> None:
    """Check a serialised model before the engine sees it.

    Args:
        data: the model.
        weights: the weights that lie beside it; the constant ones may be external initializers of the main graph.

    Raises:
        UnsafeGraphError: a tensor has its data in another file, a node is known to crash or block the engine, local
            functions expand beyond bounds, or it is no ONNX model; the message names the tensor or node.
    """
    if data[4:8] == _ORT_FORMAT:
        raise UnsafeGraphError("its graph is in onnxruntime's own format; expected an ONNX model")
    dangers = _Dangers({spec.name: spec for spec in weights if spec.constant})
    try:
        GraphReader(data, dangers).read()
    except WireError as error:
        raise UnsafeGraphError(f"its graph is not one that is loaded: {error}") from error
    dangers.check_constants()
    dangers.check_calls(MOST_CALLED_BYTES + 2 * len(data))


class _Dangers:
    """Looks at each tensor and node. Checks that need the whole model come after the walk."""

    def __init__(self, weights: dict[str, WeightSpec]) -> None:
        self._weights = weights
        self._waiting: list[tuple[Node, Scope]] = []
        self._own: dict[_Key | None, tuple[int, int]] = {None: (0, 0)}
        self._calls: dict[_Key | None, Counter[_Key]] = {None: Counter()}

    def tensor(self, tensor: Tensor, main: bool) -> None:
        """Refuse external data that is not a weight of the executable."""
        if tensor.external is None:
            return
        spec = self._weights.pop(tensor.name, None) if main else None
        if spec is None or {place for key, place in tensor.external if key == "location"} != {_WEIGHTS}:
            places = " ".join(place for key, place in tensor.external if key == "location")
            raise UnsafeGraphError(
                f"tensor {tensor.name!r} of its graph takes its data from the file {places!r}; expected one of the "
                f"weights that the manifest lists, in {_WEIGHTS}, once"
            )
        if tensor.dims != spec.shape or tensor.data_type != _DATA_TYPES[spec.engine_dtype]:
            raise UnsafeGraphError(
                f"tensor {tensor.name!r} of its graph has shape {list(tensor.dims)} and ONNX type {tensor.data_type}, "
                f"its weight has {list(spec.shape)} and {spec.engine_dtype}"
            )

    def function(self, key: _Key) -> None:
        """Begin to count what a local function holds."""
        if key in self._own:
            raise UnsafeGraphError(f"its local function {key[1]!r} is defined twice")
        self._own[key] = (0, 0)
        self._calls[key] = Counter()

    def node(self, node: Node, scope: Scope, function: _Key | None, size: int) -> None:
        """Refuse what one node shows by itself."""
        nodes, total = self._own[function]
        self._own[function] = (nodes + 1, total + size)
        self._calls[function][node.key] += 1
        if node.key[0]:
            return
        operator = node.key[1]
        if operator in ("Split", "Loop") and node.nameless:
            raise UnsafeGraphError(f"{node} has an output without a name, which crashes onnxruntime; name all outputs")
        if operator in ("Div", "Loop"):
            self._waiting.append((node, scope))

    def check_constants(self) -> None:
        """Refuse what constants show: they come after the nodes in the file.

        The smallest whole number divided by -1 is a trap of the processor.
        """
        for node, scope in self._waiting:
            if node.key[1] == "Loop" and _is_endless(node, scope):
                raise UnsafeGraphError(f"{node} never ends: nothing bounds its turns or changes its condition")
            divisor = scope.constant(node.inputs[1]) if node.key[1] == "Div" and len(node.inputs) > 1 else None
            if divisor is not None and bool((divisor == -1).any()):
                raise UnsafeGraphError(f"{node} divides whole numbers by -1, which can crash onnxruntime; use Neg")

    def check_calls(self, most_bytes: int) -> None:
        """Refuse local functions that call themselves, or that grow beyond bounds when each call gets its own copy."""
        grown: dict[_Key | None, tuple[int, int]] = {}
        started: set[_Key | None] = set()
        waiting: list[_Key | None] = [None, *self._own]
        while waiting:
            key = waiting[-1]
            called = [name for name in self._calls[key] if name in self._own]
            missing = [name for name in called if name not in grown]
            if not missing:
                grown[key] = self._grown(key, called, grown, most_bytes)
                waiting.pop()
            elif key in started:
                raise UnsafeGraphError(f"its local function {missing[0][1]!r} calls itself")
            else:
                started.add(key)
                waiting.extend(missing)

    def _grown(
        self, key: _Key | None, called: list[_Key], grown: dict[_Key | None, tuple[int, int]], most_bytes: int
    ) -> tuple[int, int]:
        """Nodes and bytes of a function, or of the model, with a copy of what it calls in place of each call."""
        count = self._calls[key]
        nodes = sum(count[name] * grown[name][0] for name in called)
        total = sum(count[name] * grown[name][1] for name in called)
        if nodes > MOST_CALLED_NODES or total > most_bytes:
            raise UnsafeGraphError(
                f"its local functions grow to {nodes} nodes and {total} bytes when each call is written out; at most "
                f"{MOST_CALLED_NODES} and {most_bytes} are loaded"
            )
        return nodes + self._own[key][0], total + self._own[key][1]


def _is_endless(loop: Node, scope: Scope) -> bool:
    """Whether a Loop has no bound on its turns and a condition that stays true."""
    body = loop.graphs.get("body")
    count, condition = ([*loop.inputs, "", ""])[:2]
    bound = scope.constant(count) if count else None
    if count and (bound is None or bound.size != 1 or int(bound.reshape(-1)[0]) < _ENDLESS):
        return False
    if not condition:
        return True
    if body is None or not body.outputs or scope.constant(condition) is None:
        return False
    said = body.outputs[0]
    while said in body.passes_on:
        said = body.passes_on.pop(said)
    constant = body.constant(said)
    return (len(body.inputs) > 1 and said == body.inputs[1]) or (constant is not None and bool(constant.all()))
