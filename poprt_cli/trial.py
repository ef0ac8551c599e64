"""Run the converted model once, compiled (`--run`)."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx

from passes.packed_model import PackedModel
from poprt.executable import Executable
from poprt.runtime.declared import DeclaredSession
from poprt.sample_data import model_inputs, sample_feeds, sample_shapes
from poprt.verify_packed import pack_samples

logger = logging.getLogger("poprt")


def run_once(original: onnx.ModelProto, converted: onnx.ModelProto, executable: Executable) -> None:
    """Run ``executable`` on random data after one warm-up run and log batch size, latency and throughput, a line each.

    A packed model's batch size is the number of samples in the pack.

    Args:
        original: tells what its inputs mean.
        converted: tells what they are now, and how they are packed.
        executable: what ``converted`` was compiled to.
    """
    feeds, size = _feeds(original, converted)
    session = DeclaredSession(executable)
    session.run(feeds)
    start = time.perf_counter()
    session.run(feeds)
    seconds = time.perf_counter() - start
    logger.info("Bs: %d", size)
    logger.info("Latency: %.2fms", seconds * 1e3)
    logger.info("Tput: %.0f", size / seconds)


def _feeds(original: onnx.ModelProto, converted: onnx.ModelProto) -> tuple[Mapping[str, npt.NDArray[np.generic]], int]:
    """Random data in the declared shapes, and how many samples they hold."""
    rng = np.random.default_rng(0)
    packed = PackedModel.read(converted)
    if packed is not None:
        most = packed.max_valid_num
        case = pack_samples(packed, model_inputs(original), model_inputs(converted), rng, most_samples=most)
        return case.converted_feeds, len(case.original_feeds)
    meaning = {info.name: info for info in model_inputs(original)}
    infos = model_inputs(converted)
    arrays = sample_feeds([meaning.get(info.name, info) for info in infos], sample_shapes(infos), rng)
    feeds = {info.name: arrays[info.name].astype(info.dtype) for info in infos}
    return feeds, next((array.shape[0] for array in feeds.values() if array.ndim), 1)
