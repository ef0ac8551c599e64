"""Images of many sizes, packed as patches: ``python -m examples.patches [--size base]``.

An encoder of patches with seeded random weights gets pictures of 64 to 576 patches, each at its own aspect ratio as
NaViT and Siglip2's NaFlex take them, and its packed time is shown beside that of padding, of resizing all to 24 x 24
patches, and of one image at a time, in plain onnxruntime. It ends with the largest difference between a packed answer
and that of the image alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from benchmarks.contenders import Contender, OnnxRuntime, Packed, Padded, Result, Sample, sample_length
from benchmarks.rounds import check_numbers
from benchmarks.workloads import compile_packed
from examples.timing import comparison, measure
from models.images import MOST, Image, cut, pictures, resize
from models.vectors import PATCH, SIZES, build_vectors, patch_config
from poprt import runtime
from poprt.engine.cpu import usable_cores

BATCH = 8
SQUARE = 24  # patches of a side, where every image is resized: 24 x 24 = 576, so that none gets smaller


@dataclass(frozen=True)
class Resized:
    """Every image resized to the same square: nothing to pad, and more patches than most images have.

    Attributes:
        name: of the contender.
        batches: runs them.
        squares: the samples that the images become.
    """

    name: str
    batches: Padded
    squares: Sequence[Sample]

    def run(self, samples: Sequence[Sample]) -> list[Result]:
        """Run the squares of the first images, as many as there are samples."""
        return self.batches.run(self.squares[: len(samples)])

    def fed(self, lengths: Sequence[int]) -> int:
        """How many patches are fed to the engine for images of these numbers of patches."""
        return self.batches.fed([SQUARE * SQUARE] * len(lengths))

    def engine_seconds(self) -> float | None:
        """Nobody counts them."""
        return None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(prog="python -m examples.patches", description=__doc__)
    parser.add_argument("--size", choices=list(SIZES), default="small", help="of the encoder; base is that of ViT-B")
    parser.add_argument("--images", type=int, default=32, help="how many")
    parser.add_argument("--rounds", type=int, default=3, help="times that each way is run; the median counts")
    options = parser.parse_args(arguments)
    console, start = Console(highlight=False), time.perf_counter()

    def report(line: str) -> None:
        console.print(f"[dim]{time.perf_counter() - start:6.1f} s[/dim]  {line}")

    images = pictures(options.images)
    samples = [cut(image) for image in images]
    model = build_vectors(patch_config(options.size))
    with runtime.PackRunner(compile_packed(model, MOST), runtime.PackRunnerConfig()) as runner:
        ways = make_ways(OnnxRuntime(model.SerializeToString()), runner, images)
        report(f"the encoder of size {options.size} is packed; {usable_cores()} cores")
        for way in ways:
            way.run(samples[:BATCH])  # warm up: thread pools and memory arenas
        seconds, results = measure(ways, samples, options.rounds, report, budget=60)
    console.print(comparison(ways, seconds, [sample_length(sample) for sample in samples], "images", "patches"))
    difference = check_numbers(ways[-1].name, results[ways[-1].name], results[ways[0].name], "fp32")
    console.print(
        f"Largest difference between a packed image and that image alone, unpadded: [bold]{difference:.1e}[/bold] "
        "(embeddings have length 1).\n"
        "Images that are resized have other answers; their padding is the patches that they did not have before."
    )


def make_ways(engine: OnnxRuntime, runner: runtime.PackRunner, images: Sequence[Image]) -> list[Contender]:
    """One image at a time first, then padded, then resized, and packed last."""
    square = f"resized to {SQUARE} x {SQUARE} patches, batches of {BATCH}"
    squares = [cut(resize(image, SQUARE * PATCH, SQUARE * PATCH)) for image in images]
    return [
        Padded("one image at a time, unpadded", engine, 1),
        Padded(f"padded to the longest of {BATCH}, in order of arrival", engine, BATCH),
        Resized(square, Padded(square, engine, BATCH), squares),
        Packed("packed with poprt, in order of arrival", runner),
    ]


if __name__ == "__main__":
    main()
