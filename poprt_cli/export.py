"""Write the executable (`--export_popef`). What the isolation trial compiled is not compiled again."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from passes.parted import PartedModel
from poprt.errors import PoprtError
from poprt.executable import Executable


class PopefExporter:
    """Compiles a model once, and once more only where it was changed in between.

    Args:
        options: fields of CompilerOptions, as words of the command line.
        progress: whether to show progress on a terminal.
    """

    def __init__(self, options: Mapping[str, str], progress: bool) -> None:
        self._options = {name: _literal(text) for name, text in options.items()}
        self._options.setdefault("show_compilation_progress_bar", progress)
        self._made: tuple[dict[str, str], Executable] | None = None

    def compile(self, model: onnx.ModelProto | PartedModel) -> Executable:
        """Compile ``model`` and keep the executable.

        Raises:
            PoprtError: the model cannot be compiled, or the folder of a compiler's option cannot be written to.
        """
        from poprt.compiler import Compiler, CompilerOptions

        try:
            executable = Compiler.compile(model, None, CompilerOptions.from_dict(self._options))
        except OSError as error:
            raise PoprtError(f"compiler_options: {str(error.filename)!r}: {error.strerror or error}") from error
        self._made = _metadata(model.model if isinstance(model, PartedModel) else model), executable
        return executable

    def executable_of(self, model: onnx.ModelProto) -> Executable:
        """The executable of ``model``: the one that was compiled before, where the model says the same since."""
        kept = self._made is not None and self._made[0] == _metadata(model)
        return self._made[1] if self._made is not None and kept else self.compile(model)

    def export(self, model: onnx.ModelProto, path: Path) -> Executable:
        """Write the executable of ``model``, and return it.

        Raises:
            PoprtError: the file cannot be written.
        """
        executable = self.executable_of(model)
        try:
            executable.save(path)
        except OSError as error:
            raise PoprtError(f"{str(path)!r} cannot be written: {error.strerror or error}") from error
        return executable


def _metadata(model: onnx.ModelProto) -> dict[str, str]:
    """All that changes in a converted model after its compilation: what the isolation trial found."""
    return {item.key: item.value for item in model.metadata_props}


def _literal(text: str) -> Any:
    """A Python literal, or the bare word itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # literal_eval on odd or deep texts
        return text
