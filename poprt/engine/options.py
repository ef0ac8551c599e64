"""The options that all sessions of onnxruntime share, and none by which the engine trades precision for speed."""

from __future__ import annotations

import logging

import onnxruntime as ort

from poprt.engine.cpu import usable_cores
from poprt.engine.custom_ops import registered_libraries
from poprt.graph_reader import GraphReader, Node, Scope, Tensor
from poprt.wire import WireError

#: How severe a message must be for onnxruntime to print it by itself.
WARNINGS, NOTHING = 2, 4

logger = logging.getLogger("poprt")

#: Products of float32 are computed in bfloat16, on Arm CPUs that have it.
BFLOAT16_PRODUCTS = "mlas.enable_gemm_fastmath_arm64_bfloat16"
#: The engine computes what the graph says. Some of these are its defaults, and are said so that they stay.
PRECISE = {
    # A DequantizeLinear of a weight and the product that reads it become one MatMulNBits. By default (4) that rounds
    # the other operand to 8 bits, which the model did not ask for; 1 computes in float32.
    "session.qdq_matmulnbits_accuracy_level": "1",
    "session.enable_quant_qdq_cleanup": "0",  # takes out a rounding that the model has
    "session.set_denormal_as_zero": "0",
    "optimization.enable_gelu_approximation": "0",
    BFLOAT16_PRODUCTS: "0",
    "mlas.use_lut_gemm": "0",  # rounds the other operand of a MatMulNBits
}
#: onnx.TensorProto.DataType of weights of 4 bits and fewer.
_FEW_BITS = frozenset({21, 22, 25, 26})


def session_options(threads: int | None = None, *, spin_between_runs: bool = True) -> ort.SessionOptions:
    """New options, to be added to. The libraries of custom operators that are in force are registered.

    Args:
        threads: for one operator; None takes the usable cores.
        spin_between_runs: whether the threads wait busily for the next run, as onnxruntime's do by default: each keeps
            a core for some 50 ms. A text that comes meanwhile is answered sooner, all else on these cores later.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = usable_cores() if threads is None else threads
    options.log_severity_level = log_severity()
    for name, value in PRECISE.items():
        options.add_session_config_entry(name, value)
    if not spin_between_runs:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    for path in registered_libraries():
        options.register_custom_ops_library(path)
    return options


def log_severity() -> int:
    """What onnxruntime prints by itself: its warnings and errors at the level DEBUG, nothing else.

    It prints errors in red about what it then does another way: shapes that it merges, rewrites that it leaves out. A
    real failure is an exception that tells the cause.
    """
    return WARNINGS if logger.isEnabledFor(logging.DEBUG) else NOTHING


def unfold_weights(options: ort.SessionOptions, graph: bytes) -> None:
    """Let the engine compute, once while it loads, the floats that int8 weights stand for, where only weights are int8.

    A product by such a weight in float32 takes 2 to 10 times as long when it reads the int8 values in each run. The
    weights take 4 times the memory of the file then. Left alone: a graph that rounds activations too, for its products
    are those of integers, and weights of 4 bits, which are chosen for their memory.

    Args:
        options: get the entry.
        graph: a serialised model.
    """
    quantisation = _Quantisation()
    try:
        GraphReader(graph, quantisation).read()
    except WireError:  # more nodes than any encoder has; the engine will say what it thinks of it
        return
    if quantisation.operators == {"DequantizeLinear"} and not quantisation.few_bits & quantisation.dequantised:
        options.add_session_config_entry("session.disable_quant_qdq", "1")


class _Quantisation:
    """Notes the quantising operators of a graph, and what is dequantised."""

    def __init__(self) -> None:
        self.operators: set[str] = set()
        self.dequantised: set[str] = set()
        self.few_bits: set[str] = set()

    def tensor(self, tensor: Tensor, main: bool) -> None:
        if tensor.data_type in _FEW_BITS:
            self.few_bits.add(tensor.name)

    def node(self, node: Node, scope: Scope, function: tuple[str, str, str] | None, size: int) -> None:
        if node.key[1].endswith("QuantizeLinear") or node.key[1] == "DequantizeLinear":
            self.operators.add(node.key[1])
            self.dequantised.update(node.inputs[:1])

    def function(self, key: tuple[str, str, str]) -> None: ...
