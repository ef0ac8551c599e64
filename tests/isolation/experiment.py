"""Whether an answer moves with the neighbours in its pack: convert, compile, run one sample in many packs, compare.

Where a model is accepted, two things are demanded of every sample's answer: that it is the same alone, beside longer
and shorter samples, beside ones that share none of its tokens, first and last in the pack; and that it equals the
original model in onnxruntime on that sample alone, unpadded.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper

from passes.errors import PackingError, RewriteError
from passes.refusal import Refusal
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.runtime import pack_data
from poprt.runtime.declared import DeclaredSession
from tests.isolation.random_models import LOUD, OTHERS, VOCAB, feeds_of, sample
from tests.numerics import Arrays, one_by_one, session

ROWS, COLUMNS, MOST = 3, 24, 6
_IDS = "input_ids"
#: Layouts: samples laid end to end; within rows; within rows with one final Unpack.
LAYOUTS = ("across_rows", "within_rows", "within_rows+unpack")
#: How far a neighbour may move an answer, relative to the answer's size. What rounds to few bits may round otherwise
#: after a product of another shape: by a step of float16, or by a step of an activation in int8.
MOVED = {"fp32": 1e-6, "fp16": 2e-3, "int8": 2e-2}
#: How far an answer may be from the original's; in float32 alone, because accuracy is another matter.
UNEQUAL = 1e-5
#: How much of the original's own rounding noise counts as nothing.
_NOISE = 20
#: A mask's fill, which says nothing of the size of an answer.
_FILL = 1e6


def with_holes(arrays: Arrays) -> Arrays:
    """The sample with zeros in its own mask, among its tokens and at their end."""
    hole = np.arange(len(arrays[_IDS])) % 3 == 2
    return {**arrays, _IDS: np.where(hole, 0, arrays[_IDS]), "attention_mask": np.where(hole, 0, 1)}


SAMPLES: dict[str, Arrays] = {
    "five": sample(5, 1),
    "nine": sample(9, 2),
    "two": sample(2, 3),
    "other": sample(5, 4, OTHERS),
    "one": sample(1, 5),
    "holes": with_holes(sample(6, 7)),
    "loud": sample(7, 6, (LOUD, VOCAB)),
}
#: Packs by the names of their samples. "loud" is a neighbour only: what its own numbers overflow is its own affair.
PACKS: tuple[tuple[str, ...], ...] = (
    *((name,) for name in SAMPLES if name != "loud"),
    ("five", "nine"),
    ("nine", "five"),
    ("two", "five"),
    ("five", "two"),
    ("five", "other"),
    ("other", "five"),
    ("two", "nine", "one", "five"),
    ("five", "other", "two", "nine", "one"),
    ("holes", "nine"),
    ("two", "holes", "five"),
    ("one", "loud", "five"),
    ("loud", "nine", "two"),
)


@dataclass(frozen=True)
class Verdict:
    """What one conversion came to.

    Attributes:
        layout, precision: of the conversion.
        neighbours: what the manifest says; "" where the model was refused.
        refused: the message; "" where the model was accepted.
        cause: what the refusal comes from, without names and numbers, so that refusals can be counted.
        dependent, unequal: the worst case with its figure, relative to the answer; "" where there is none.
        broken: an error that is no refusal.
    """

    layout: str
    precision: str
    neighbours: str = ""
    refused: str = ""
    cause: str = ""
    dependent: str = ""
    unequal: str = ""
    broken: str = ""

    @property
    def failed(self) -> bool:
        """Whether the model was accepted and should not have been, or an error came that is no refusal."""
        return bool(self.dependent or self.unequal or self.broken)

    def __str__(self) -> str:
        said = f"refused: {self.refused}" if self.refused else f"accepted, neighbours: {self.neighbours}"
        findings = [f"{name}: {text}" for name, text in self._found().items() if text]
        return f"{self.layout} {self.precision}: " + "; ".join([said, *findings])

    def _found(self) -> dict[str, str]:
        return {"dependent": self.dependent, "unequal": self.unequal, "broken": self.broken}


class Reference:
    """The original's answers to the samples, each alone, and how far rounding alone moves them.

    Args:
        model: with inputs [batch, sequence] of the names in :func:`tests.isolation.random_models.sample`.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.answers = self._run(model)
        shaken = [self._run(_shaken(model, seed)) for seed in range(2)]
        #: Sample, output -> how far weights that differ in their last bits move the answer.
        self.noise = {
            (name, key): max(float(np.abs(_differences(run[name][key], want)).max()) for run in shaken)
            for name, answer in self.answers.items()
            for key, want in answer.items()
        }

    def _run(self, model: onnx.ModelProto) -> dict[str, Arrays]:
        names = [name for name in SAMPLES if name != "loud"]
        feeds = [feeds_of(model, SAMPLES[name]) for name in names]
        return dict(zip(names, one_by_one(session(model), feeds), strict=True))


def try_layout(reference: Reference, layout: str, precision: str = "fp32") -> Verdict:
    """Convert the model for a layout and try it."""
    try:
        converted = convert(reference.model, layout, precision)
    except RewriteError as error:
        return Verdict(layout, precision, refused=str(error), cause=cause_of(error))
    except Exception as error:  # a bug, whatever it is
        return Verdict(layout, precision, broken=f"the conversion: {error!r:.300}")
    try:
        packs = Packs(converted, layout)
        # Within rows a zero in the mask is nobody's place, so what a sample hides of itself is not defined.
        answers = {pack: packs.run(pack) for pack in PACKS if layout == "across_rows" or "holes" not in pack}
    except Exception as error:
        return Verdict(layout, precision, broken=f"the run: {error!r:.300}")
    moved, unequal = _Worst(reference, MOVED[precision]), _Worst(reference, UNEQUAL)
    for pack, pack_answers in answers.items():
        for name, answer in pack_answers.items():
            for key, got in answer.items():
                if precision != "fp32" and got.dtype.kind != "f":
                    continue  # which place is largest is not a matter of degree
                label = f"{key} of {name!r} in [{', '.join(pack)}]"
                moved.see(name, key, got, answers[name,][name][key], label)
                if precision == "fp32":
                    unequal.see(name, key, got, reference.answers[name][key], label)
    return Verdict(layout, precision, packs.neighbours, dependent=moved.text, unequal=unequal.text)


def convert(model: onnx.ModelProto, layout: str, precision: str = "fp32") -> onnx.ModelProto:
    """The model converted for a layout, without the converter's own experiment: here its proof alone is judged."""
    options: dict[str, Any] = {"input_shape": {value.name: [ROWS, COLUMNS] for value in model.graph.input}}
    if layout != "within_rows":
        options["pack_args"] = {"max_valid_num": MOST, "segment_max_size": COLUMNS}
    if layout != "across_rows":
        options["used_passes"] = ["insert_attention_mask"]
    if "skip_isolation_check" in inspect.signature(Converter).parameters:
        options["skip_isolation_check"] = True
    return Converter(precision=precision, disable_progress_bar=True, **options).convert(model)


class Packs:
    """Runs packs of the samples on a converted model.

    Args:
        converted: the model.
        layout: what it was converted for.
    """

    def __init__(self, converted: onnx.ModelProto, layout: str) -> None:
        executable = Compiler.compile(converted, None)
        assert executable.packing is not None
        self._packing, self._across = executable.packing, layout == "across_rows"
        self.neighbours = self._packing.neighbours
        self._session = DeclaredSession(executable, threads=1)
        self._inputs = [spec.name for spec in executable.inputs]
        self._outputs = [spec.name for spec in executable.outputs]

    def run(self, pack: Sequence[str]) -> dict[str, Arrays]:
        """The answers of a pack, by sample and output. The runtime divides it where the manifest says so."""
        names = list(pack)
        batch = [SAMPLES[name] for name in names]
        packed = pack_data(batch, 0, ROWS, COLUMNS, MOST, 1, across_rows=self._across)
        assert packed.count == len(batch)
        feeds = {**packed.data, "unpack_info": packed.unpack_info}
        results = self._session.run({name: feeds[name] for name in self._inputs})
        return {
            name: {
                key: self._own(key, result, row, packed.specs[row].row, packed.specs[row].start, len(batch[row][_IDS]))
                for key, result in zip(self._outputs, results, strict=True)
            }
            for row, name in enumerate(names)
            if name != "loud"
        }

    def _own(self, key: str, result: NDArray[Any], sample: int, row: int, start: int, length: int) -> NDArray[Any]:
        if self._packing.outputs[key] == "packed":
            return result[row, start : start + length]
        return result[sample]


class _Worst:
    """Keeps the difference that is largest in relation to what is allowed.

    Args:
        reference: knows the size and the noise of each answer.
        tolerance: relative to the size.
    """

    def __init__(self, reference: Reference, tolerance: float) -> None:
        self._reference, self._tolerance = reference, tolerance
        self.text, self._worst = "", 1.0

    def see(self, name: str, key: str, got: NDArray[Any], want: NDArray[Any], label: str) -> None:
        """Compare what a sample got for an output; either may be larger than the original's answer."""
        original = self._reference.answers[name][key]
        if got.ndim != original.ndim or any(a < b for a, b in zip(got.shape, original.shape, strict=True)):
            self._keep(float("inf"), f"{label}: shape {got.shape} for {original.shape}")
            return
        inside = tuple(map(slice, original.shape))
        gap = np.abs(_differences(got[inside], want[inside]))
        values = np.abs(original.astype(np.float64))
        size = float(values[values < _FILL].max(initial=0.0)) or 1.0
        allowed = self._tolerance * (size + np.where(np.isfinite(values), values, 0.0))
        excess = gap / (allowed + _NOISE * self._reference.noise[name, key])
        if excess.size:
            place = np.unravel_index(int(excess.argmax()), excess.shape)
            self._keep(float(excess[place]), f"{label}: {gap[place] / size:.1e}")

    def _keep(self, excess: float, text: str) -> None:
        if excess > self._worst:
            self._worst, self.text = excess, text


def _differences(got: NDArray[Any], want: NDArray[Any]) -> NDArray[np.float64]:
    """Zero where both are the same infinity or no number, too; infinite where one of them alone is."""
    with np.errstate(invalid="ignore"):
        gap = got.astype(np.float64) - want.astype(np.float64)
    same = (got == want) | (np.isnan(got.astype(float)) & np.isnan(want.astype(float)))
    gap = np.where(same, 0.0, gap)
    return np.where(np.isnan(gap), np.inf, gap)


def _shaken(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """The model with float weights that differ from its own in their last bits."""
    rng = np.random.default_rng(seed)
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in copy.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.name.startswith(("weight", "words")):
            values = numpy_helper.to_array(tensor)
            moved = values * (1 + rng.uniform(-1.2e-7, 1.2e-7, values.shape)).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(moved.astype(np.float32), tensor.name))
    return copy


_DETAIL = re.compile(r"'[^']*'|\[[^\]]*\]|\d+(\.\d+)?")


def cause_of(error: BaseException) -> str:
    """The first refusal behind an error, or else its message, without names and numbers."""
    refusals = refusals_behind(error)
    node = refusals[0].node if refusals else None
    text = refusals[0].reason if refusals else str(_first(error))
    return (f"{node.op}: " if node else "") + _DETAIL.sub("…", text)[:100]


def refusals_behind(error: BaseException) -> tuple[Refusal, ...]:
    """The refusals of the error that was raised first; those that name the pass or the step were raised from it."""
    first = _first(error)
    return first.refusals if isinstance(first, PackingError) else ()


def _first(error: BaseException) -> BaseException:
    return error if not isinstance(error.__cause__, RewriteError) else _first(error.__cause__)


ort.set_default_logger_severity(4)
