"""The data on which two models are compared."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort

from passes.packed_model import PackedModel
from poprt.branch_sizes import named_extents, sizes_for_other_branches
from poprt.errors import PoprtError
from poprt.sample_data import InputInfo, model_inputs, sample_feeds, sample_shapes
from poprt.verify_joined import join_feeds, joined_of, separate_inputs
from poprt.verify_packed import PackedCase, pack_samples

#: Sizes of some open extents, by name; lists of them hold alternatives, the likeliest first.
Sizes = Mapping[str, int]

logger = logging.getLogger("poprt")


def sample_case(originals: list[InputInfo], converted: onnx.ModelProto, seed: int) -> PackedCase:
    """Random data for both models. Of ``converted`` only the inputs and the metadata are read."""
    rng = np.random.default_rng(seed)
    packed = PackedModel.read(converted)
    if packed is not None:
        return pack_samples(packed, originals, model_inputs(converted), rng)
    case = _plain_case(originals, separate_inputs(converted), rng)
    return replace(case, converted_feeds=join_feeds(case.converted_feeds, joined_of(converted)))


def other_sizes(original: onnx.ModelProto, converted: onnx.ModelProto) -> list[list[dict[str, int]]]:
    """For each comparison of an open extent in ``original``, sizes for which it comes out otherwise."""
    originals = model_inputs(original)
    infos = (
        originals if PackedModel.read(converted) is not None else _fixed_as_in(originals, separate_inputs(converted))
    )
    return sizes_for_other_branches(original, named_extents(infos))


def cases_of_sizes(
    session: ort.InferenceSession,
    originals: list[InputInfo],
    converted: onnx.ModelProto,
    tries: Sequence[Sequence[Sizes]],
    seed: int,
) -> Iterator[PackedCase]:
    """Data of the first of each list of sizes that the original runs with; none where it runs with no such sizes.

    Args:
        session: over the original.
        originals: its inputs.
        converted: the converted model; its inputs and metadata are read.
        tries: of :func:`other_sizes`.
        seed: of the data.
    """
    inputs, packed, joined = separate_inputs(converted), PackedModel.read(converted), joined_of(converted)
    for alternatives in tries:
        for sizes in alternatives:
            case = _case_of_sizes(originals, inputs, packed, sizes, seed)
            if case is not None and _runs(session, case):
                logger.debug("the check tries %s too, for another branch", sizes)
                yield replace(case, converted_feeds=join_feeds(case.converted_feeds, joined))
                break


def _case_of_sizes(
    originals: list[InputInfo],
    converted: list[InputInfo],
    packed: PackedModel | None,
    sizes: Sizes,
    seed: int,
) -> PackedCase | None:
    """Data of these sizes; None where they are too large, or a packed model has no such samples."""
    rng = np.random.default_rng(seed)
    if packed is None:
        try:
            return _plain_case(originals, converted, rng, sizes)
        except PoprtError as error:
            logger.debug("the check leaves %s out: %s", sizes, error)
            return None
    lengths = {info.shape[1] for info in named_extents(originals) if info.name in packed.dynamic_inputs}
    length = next((size for name, size in sizes.items() if name in lengths), None)
    if length is None or len(packed.segment_max_size) > 1 or length > packed.segment_max_size[0]:
        return None
    return pack_samples(packed, originals, converted, rng, length=length)


def _runs(session: ort.InferenceSession, case: PackedCase) -> bool:
    try:
        for feeds in case.original_feeds:
            session.run(None, feeds)
    except Exception as error:  # onnxruntime's exceptions share no base class; the model does not take these sizes
        logger.debug("the original does not run with other sizes: %s", error)
        return False
    return True


def _plain_case(
    originals: list[InputInfo],
    converted: list[InputInfo],
    rng: np.random.Generator,
    sizes: Sizes | None = None,
) -> PackedCase:
    """One batch for both models; the converted one says the extents that it fixes, ``sizes`` those of some names."""
    declared = {info.name: info for info in converted}
    infos = _fixed_as_in(originals, converted)
    shapes = sample_shapes(named_extents(infos) if sizes else infos, sizes)
    feeds = sample_feeds(originals, shapes, rng)
    for info in originals:
        if info.name in declared and declared[info.name].dtype == np.float16:
            feeds[info.name] = feeds[info.name].astype(np.float16).astype(info.dtype)  # both see what fp16 can say
    cast = {name: array.astype(declared[name].dtype) for name, array in feeds.items() if name in declared}
    return PackedCase([feeds], cast, {})


def _fixed_as_in(originals: list[InputInfo], converted: list[InputInfo]) -> list[InputInfo]:
    declared = {info.name: info for info in converted}
    return [_with_shape_of(info, declared.get(info.name)) for info in originals]


def _with_shape_of(info: InputInfo, declared: InputInfo | None) -> InputInfo:
    return info if declared is None else replace(info, shape=declared.shape, any_rank=declared.any_rank)
