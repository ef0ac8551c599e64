"""The compiled model as it will be served, run in its declared shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx

from passes.parted import PartedModel
from poprt.compiler import Compiler, CompilerOptions
from poprt.engine.choice import open_main_graph
from poprt.executable import Executable
from poprt.runtime.declared import DeclaredSession
from poprt.sample_data import Array


def compile_quietly(model: onnx.ModelProto | PartedModel) -> Executable:
    """Compile ``model`` with the compiler's default options.

    Raises:
        CompileError: the engine cannot run it, or the model is not valid.
    """
    return Compiler.compile(model, None, CompilerOptions.from_dict({"show_compilation_progress_bar": False}))


def run_served(executable: Executable, names: Sequence[str], feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Run once as a runner does: the engine's rewrites on, packs of the samples that may share a run; outputs by name.

    Args:
        executable: what to run.
        names: the outputs to return.
        feeds: the converted model's inputs, in its declared shapes.

    Raises:
        PoprtError: the engine cannot load the graph, or run it on this data.
    """
    served = _of_extents(executable, feeds)
    session = DeclaredSession(served, session=open_main_graph(served))
    return dict(zip(names, session.run(feeds, list(names)), strict=True))


def _of_extents(executable: Executable, feeds: Mapping[str, Array]) -> Executable:
    """``executable`` with the rows and columns of ``feeds``, where it leaves them open. Its weights are shared."""
    packing = executable.packing
    if packing is None or (packing.rows and packing.columns):
        return executable
    rows, columns = feeds[packing.dynamic_inputs[0]].shape[:2]
    return executable.variant(packing=replace(packing, rows=rows, columns=columns))
