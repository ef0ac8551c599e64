"""Which tensors a served model takes and gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from poprt.executable import Manifest, PackingSpec, TensorSpec
from poprt.serve.kserve.datatypes import DATATYPES, Datatype, datatype_of
from poprt.text.facts import CLASSIFICATION, QUESTION_ANSWERING, RERANKING, TextFacts

#: The output with the scores that the model's activation makes of its logits.
SCORES = "scores"
#: An extent that the request chooses.
OPEN = -1


@dataclass(frozen=True)
class TensorFacts:
    """A tensor as a client sees it.

    Attributes:
        shape: its extents; :data:`OPEN` where the request chooses.
        optional: whether a request may leave it out.
        of_run: whether it has one value for all samples of a request, and no axis that counts them.
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    optional: bool = False
    of_run: bool = False


@dataclass(frozen=True)
class Signature:
    """The tensors of a model by name.

    A request sends texts or arrays, never both. It gets ``outputs``; for texts those of ``text_outputs`` alone.
    """

    texts: Mapping[str, TensorFacts]
    arrays: Mapping[str, TensorFacts]
    outputs: Mapping[str, TensorFacts]
    text_outputs: tuple[str, ...]

    @property
    def inputs(self) -> tuple[TensorFacts, ...]:
        """All inputs, texts first. Where there are both kinds, a request may leave out each."""
        return (*self.texts.values(), *self.arrays.values())


def signature_of(manifest: Manifest, text: TextFacts | None) -> Signature:
    """The tensors of an executable; ``text`` is what it says of its texts, None without a tokenizer."""
    packing = manifest.packing
    arrays = _packed_inputs(manifest, packing) if packing else [_plain(manifest, spec) for spec in manifest.inputs]
    outputs = [_packed_output(packing, spec) if packing else _plain(manifest, spec) for spec in manifest.outputs]
    if text is None:
        return Signature({}, _by_name(arrays), _by_name(outputs), ())
    answers = _text_outputs(text, outputs)
    return Signature(
        texts=_by_name(_text_inputs(text)),
        arrays=_by_name(arrays),
        outputs={**_by_name(outputs), **_by_name(answers)},
        text_outputs=tuple(item.name for item in answers),
    )


def _by_name(items: Iterable[TensorFacts]) -> dict[str, TensorFacts]:
    return {item.name: item for item in items}


def _packed_inputs(manifest: Manifest, packing: PackingSpec) -> list[TensorFacts]:
    """The inputs of tokens and pairs, as padded rows, of samples and of runs. Lengths are the runner's business."""
    return [
        TensorFacts(
            spec.name,
            datatype_of(spec.dtype),
            _fed_shape(packing, spec),
            optional=spec.name == packing.position_ids,
            of_run=spec.name in packing.run_inputs,
        )
        for spec in manifest.inputs
        if spec.name != packing.unpack_info
    ]


def _fed_shape(packing: PackingSpec, spec: TensorSpec) -> tuple[int, ...]:
    if spec.name in packing.dynamic_inputs:
        return (OPEN, OPEN, *spec.shape[2:])
    if spec.name in packing.pair_inputs:
        return (OPEN, *packing.pair_shape(spec.name, spec.shape, OPEN)[1:])
    if spec.name in packing.sample_inputs:
        return (OPEN, *spec.shape[1:])
    return tuple(extent or OPEN for extent in spec.shape)


def _packed_output(packing: PackingSpec, spec: TensorSpec) -> TensorFacts:
    if packing.outputs[spec.name] == "sample":
        grown = packing.token_axes.get(spec.name, ())
        tail = [OPEN if axis in grown else extent for axis, extent in enumerate(spec.shape)][1:]
    else:
        tail = [OPEN, *spec.shape[2:]]
    return TensorFacts(spec.name, datatype_of(spec.dtype), (OPEN, *tail))


def _plain(manifest: Manifest, spec: TensorSpec) -> TensorFacts:
    axis = manifest.batch_axes.get(spec.name)
    shape = [OPEN if extent == 0 or number == axis else extent for number, extent in enumerate(spec.shape)]
    return TensorFacts(spec.name, datatype_of(spec.dtype), (OPEN,) if spec.any_rank else tuple(shape))


def _text_inputs(text: TextFacts) -> list[TensorFacts]:
    names = ["question", "context"] if text.task == QUESTION_ANSWERING else ["text"]
    if text.task in (CLASSIFICATION, RERANKING):
        names.append("text_pair")
    return [TensorFacts(name, DATATYPES["BYTES"], (OPEN,), optional=name == "text_pair") for name in names]


def _text_outputs(text: TextFacts, outputs: Iterable[TensorFacts]) -> list[TensorFacts]:
    """The outputs that hold the task's answer, in float32 as the text model gives them, and the scores of labels."""
    float32 = DATATYPES["FP32"]
    answers = [TensorFacts(item.name, float32, item.shape) for item in outputs if item.name in text.outputs]
    if text.task in (CLASSIFICATION, RERANKING) and SCORES not in {item.name for item in outputs}:
        answers.append(TensorFacts(SCORES, float32, answers[0].shape))
    return answers
