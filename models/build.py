"""Write a model to disk: ``python -m models.build --model bert-base --head qa out.onnx``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from models.bert import HEADS, SIZES, BertConfig, build_bert
from models.dialects import DIALECTS
from models.minilm import MiniLMNotFoundError, load_minilm
from poprt.atomic_file import replacing

_REAL_MINILM = "all-MiniLM-L6-v2"


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the model that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m models.build", description="Write an encoder as an ONNX file.")
    parser.add_argument("output", type=Path, help="the file to write")
    parser.add_argument(
        "--model",
        choices=[*SIZES, _REAL_MINILM],
        default="bert-base",
        help="a size with random weights, or the real MiniLM, which brings its own head and weights",
    )
    parser.add_argument("--head", choices=list(HEADS), default="qa")
    parser.add_argument("--labels", type=int, default=2, help="classes of the sequence and token heads")
    parser.add_argument("--dialect", choices=list(DIALECTS), default="old-torch", help="the exporter to imitate")
    parser.add_argument("--position_ids", action="store_true", help="take positions as an input")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    options = parser.parse_args(arguments)
    if options.model == _REAL_MINILM:
        ignored = [
            f"--{name}"
            for name in ("head", "labels", "position_ids", "seed")
            if getattr(options, name) != parser.get_default(name)
        ]
        if ignored:
            parser.error(f"{', '.join(ignored)} cannot be chosen for {_REAL_MINILM}")
        try:
            model = load_minilm(options.dialect).model
        except MiniLMNotFoundError as error:
            parser.exit(1, f"{error}\n")
    else:
        model = build_bert(
            BertConfig(
                **SIZES[options.model],
                head=options.head,
                labels=options.labels,
                dialect=options.dialect,
                position_ids=options.position_ids,
            ),
            options.seed,
        )
    try:
        with replacing(options.output) as file:
            file.write(model.SerializeToString())
    except OSError as error:
        parser.exit(1, f"{options.output} cannot be written: {error.strerror or error}\n")
    print(f"{options.output}: {len(model.graph.node)} nodes, {options.output.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
