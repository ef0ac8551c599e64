"""Answers a request, whichever way it came: texts or arrays in, arrays out."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from poprt.runtime.buffers import stacked
from poprt.serve.calls import Call
from poprt.serve.errors import BadRequest, DeadlineExceeded, Internal
from poprt.serve.kserve.arrays import Array
from poprt.serve.kserve.datatypes import datatype_of
from poprt.serve.kserve.metadata import entry_of
from poprt.serve.kserve.parameters import Parameters
from poprt.serve.kserve.requests import InferRequest, InferResponse
from poprt.serve.kserve.signature import OPEN, SCORES, Signature, TensorFacts
from poprt.serve.models import ServedModel
from poprt.serve.options import ServeOptions
from poprt.text.facts import EMBEDDING
from poprt.text.inputs import Text
from poprt.text.model import TextModel
from poprt.text.scores import activate


async def counted(model: ServedModel, request: InferRequest, call: Call, options: ServeOptions) -> InferResponse:
    """:func:`answer`, within the time that the request says, and counted."""
    call.model = model.name
    statistics = entry_of(model).statistics
    if request.parameters.timeout is not None:
        call.deadline = min(call.deadline, asyncio.get_running_loop().time() + request.parameters.timeout)
    try:
        async with asyncio.timeout_at(call.deadline):
            response = await answer(model, request, call, options)
    except TimeoutError:
        statistics.failed(call)
        raise DeadlineExceeded("the request was not answered in time") from None
    except BaseException:
        statistics.failed(call)
        raise
    statistics.answered(call, call.texts)
    return response


async def answer(model: ServedModel, request: InferRequest, call: Call, options: ServeOptions) -> InferResponse:
    """What a model answers.

    Raises:
        BadRequest: a tensor is missing, not one of the model's, or of another type or shape than it takes.
        ServeError: it cannot be answered now, or in time.
    """
    signature = entry_of(model).signature
    texts = not signature.texts.keys().isdisjoint(request.inputs)
    _check_inputs(signature.texts if texts else signature.arrays, signature, request.inputs)
    count = _count(signature, request.inputs)
    if options.max_client_batch and count > options.max_client_batch:
        raise BadRequest(f"the request has {count} samples, at most {options.max_client_batch} are taken at once")
    names = _output_names(signature, texts, request.outputs)
    call.texts = count
    if not count:
        outputs = {name: _empty(signature.outputs[name]) for name in names}
    elif texts:
        outputs = await _of_texts(model, request, call, options.auto_truncate)
    else:
        _check_parameters(request.parameters)
        outputs = dict(await model.tensors(request.inputs, _engine_outputs(model, names), call))
    outputs = _completed(model, outputs, names)
    return InferResponse(model.name, model.version, request.id, _checked(signature, outputs, names))


def _check_inputs(inputs: Mapping[str, TensorFacts], signature: Signature, arrays: Mapping[str, Array]) -> None:
    for name, array in arrays.items():
        if name not in inputs:
            raise _unknown_input(name, inputs, signature)
        item = inputs[name]
        if not _converts(array.dtype, item.datatype.dtype):
            sent = datatype_of(array.dtype).name
            raise BadRequest(f"input {name!r} is {sent}, the model takes {item.datatype.name}")
        if not _fits(item, array.shape):
            raise BadRequest(
                f"input {name!r}: shape {list(array.shape)}, expected {list(item.shape)} where {OPEN} is any extent"
            )
    for name, item in inputs.items():
        if name not in arrays and not item.optional:
            raise BadRequest(f"missing input {name!r} ({item.datatype.name}, shape {list(item.shape)})")


def _unknown_input(name: str, inputs: Mapping[str, TensorFacts], signature: Signature) -> BadRequest:
    names = ", ".join(item.name for item in signature.inputs)
    if name in signature.arrays or name in signature.texts:
        return BadRequest(f"input {name!r} does not go with {', '.join(inputs)}: send texts or token ids, not both")
    return BadRequest(f"unknown input {name!r}: the model has {names}")


def _converts(dtype: np.dtype[Any], declared: np.dtype[Any]) -> bool:
    """Whether values of a type are taken for another: whole numbers of any size, which are checked, and floats."""
    if object in (dtype, declared):
        return dtype == declared
    return (dtype.kind in "iu" and declared.kind in "iu") or np.can_cast(dtype, declared, "same_kind")


def _fits(item: TensorFacts, shape: Sequence[int]) -> bool:
    if item.datatype.dtype == object and len(shape) == 2 and shape[1] == 1:
        return True  # Triton's clients send texts as a column
    return len(shape) == len(item.shape) and all(
        extent in (OPEN, got) for extent, got in zip(item.shape, shape, strict=True)
    )


def _count(signature: Signature, arrays: Mapping[str, Array]) -> int:
    """How many samples there are: extent 0 of every input that leaves it open."""
    facts = {item.name: item for item in signature.inputs}
    counts = {
        name: array.shape[0]
        for name, array in arrays.items()
        if facts[name].shape[:1] == (OPEN,) and not facts[name].of_run
    }
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name!r} has {count}" for name, count in counts.items())
        raise BadRequest(f"inputs differ in the number of samples: {listed}")
    return next(iter(counts.values()), 1)


def _output_names(signature: Signature, texts: bool, asked: Collection[str]) -> list[str]:
    offered = signature.text_outputs if texts else tuple(signature.outputs)
    for name in asked:
        if name not in signature.outputs:
            raise BadRequest(f"unknown output {name!r}: the model has {', '.join(signature.outputs)}")
        if name not in offered:
            raise BadRequest(
                f"output {name!r} is not computed of texts, which have {', '.join(offered)}; send token ids"
            )
    return list(asked or offered)


def _check_parameters(parameters: Parameters) -> None:
    """Refuse what says how texts are read, where there are none."""
    for name in ("truncate", "prompt_name"):
        if getattr(parameters, name) is not None:
            raise BadRequest(f"parameter {name!r} goes with texts, and the request has none")


def _empty(item: TensorFacts) -> Array:
    return np.empty([0 if extent == OPEN else extent for extent in item.shape], item.datatype.dtype)


async def _of_texts(model: ServedModel, request: InferRequest, call: Call, truncate: bool) -> dict[str, Array]:
    """Output name -> one row a text; rows of tokens are filled up with zeros to the longest."""
    assert model.text is not None
    asked = request.parameters
    submission = await model.texts(
        _texts(model.text, request),
        call,
        truncate=truncate if asked.truncate is None else asked.truncate,
    )
    rows = {name: [buffer[name] for buffer in submission.buffers] for name in model.text.facts.outputs}
    return {name: stacked(buffers, _largest(buffers), buffers[0].dtype) for name, buffers in rows.items()}


def _texts(text: TextModel, request: InferRequest) -> list[Text]:
    columns = {name: array.ravel().tolist() for name, array in request.inputs.items()}
    if "question" in columns:
        order = ("question", "context") if text.facts.question_first else ("context", "question")
        return list(zip(*(columns[name] for name in order), strict=True))
    if text.task == EMBEDDING:
        return list(text.with_prompt(columns["text"], request.parameters.prompt_name))
    if request.parameters.prompt_name is not None:
        raise BadRequest(f"parameter 'prompt_name' goes with embeddings, the model is for {text.task}")
    return list(zip(columns["text"], columns["text_pair"], strict=True)) if "text_pair" in columns else columns["text"]


def _largest(rows: Sequence[Array]) -> list[int]:
    """The extents that hold each of the rows."""
    return [max(extents) for extents in zip(*(row.shape for row in rows), strict=True)]


def _engine_outputs(model: ServedModel, names: Sequence[str]) -> list[str]:
    """The outputs that the executable has to compute."""
    outputs = [spec.name for spec in model.executable.outputs]
    needed = [*names, *(model.text.facts.outputs if model.text is not None and SCORES in names else ())]
    return [name for name in outputs if name in needed]


def _completed(model: ServedModel, outputs: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
    """With the scores, where they are asked for."""
    if SCORES not in names or SCORES in outputs or model.text is None:
        return dict(outputs)
    facts = model.text.facts
    logits = outputs[facts.outputs[0]].astype(np.float32, copy=False)
    return {**outputs, SCORES: activate(logits, facts.activation)}


def _checked(signature: Signature, outputs: Mapping[str, Array], names: Sequence[str]) -> dict[str, Any]:
    """The outputs that are asked for, in the types that the model says it gives; raise Internal for a NaN."""
    answers = {name: outputs[name].astype(signature.outputs[name].datatype.dtype, copy=False) for name in names}
    for name, array in answers.items():
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise Internal(f"output {name!r} holds NaN")
    return answers
