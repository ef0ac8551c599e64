"""From the real MiniLM's folder to one executable that takes texts: ``python -m examples.packing FOLDER``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from models.minilm import MiniLMNotFoundError
from models.minilm_folder import write_minilm_folder
from poprt.text import PackOptions, pack

NAME = "minilm"


def pack_minilm(folder: Path, report: Callable[[str], None]) -> Path:
    """Write FOLDER/minilm as sentence-transformers would, and pack it, with fp16 weights.

    Returns:
        The path of the executable, FOLDER/minilm.popef.

    Raises:
        MiniLMNotFoundError: the weights are not installed.
    """
    source = write_minilm_folder(folder / NAME)
    model = (source / "onnx" / "model.onnx").stat().st_size
    report(f"{source}: as sentence-transformers saves it, with an ONNX export of {model / 2**20:.0f} MiB")
    path = folder / f"{NAME}.popef"
    pack(source, path, PackOptions(precision="fp16", progress=False))
    report(f"packed: {path}, {path.stat().st_size / 2**20:.0f} MiB, tokenizer and all")
    return path


def main() -> None:
    """Run the command."""
    try:
        pack_minilm(Path(sys.argv[1]), print)
    except MiniLMNotFoundError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
