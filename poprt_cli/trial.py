"""Run the converted model once (`--run`)."""

from __future__ import annotations

import logging
import time

import numpy as np
import onnx

from passes.packed_model import PackedModel
from poprt.sample_data import model_inputs, sample_feeds, sample_shapes
from poprt.verify import engine_session, run_session
from poprt.verify_packed import pack_samples

logger = logging.getLogger("poprt")


def run_once(original: onnx.ModelProto, converted: onnx.ModelProto) -> None:
    """Run ``converted`` on random data after one warm-up run and log batch size, latency and throughput.

    A packed model's batch size is the number of samples in the pack.
    """
    rng = np.random.default_rng(0)
    meaning = {info.name: info for info in model_inputs(original)}
    packed = PackedModel.read(converted)
    if packed is not None:
        most = packed.max_valid_num
        case = pack_samples(packed, model_inputs(original), model_inputs(converted), rng, most_samples=most)
        feeds, size = case.converted_feeds, len(case.original_feeds)
    else:
        infos = model_inputs(converted)
        meant = [meaning.get(info.name, info) for info in infos]
        arrays = sample_feeds(meant, sample_shapes(infos), rng)
        feeds = {info.name: arrays[info.name].astype(info.dtype) for info in infos}
        size = next((array.shape[0] for array in feeds.values() if array.ndim), 1)
    session = engine_session(converted, optimise=True)
    names = [value.name for value in converted.graph.output]
    run_session(session, names, feeds)
    start = time.perf_counter()
    run_session(session, names, feeds)
    seconds = time.perf_counter() - start
    logger.info("Bs: %d, Latency: %.3f ms, Tput: %.1f samples/s", size, seconds * 1e3, size / seconds)
