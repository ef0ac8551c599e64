"""Runs chosen packs on a compiled model, in either layout, and gives each sample its answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from passes.rounding import rounds_to_8_bits
from poprt.engine.choice import open_main_graph
from poprt.engine.protocol import Session
from poprt.engine.providers import has_fast_half, runs_on_cpu
from poprt.errors import PoprtError
from poprt.executable import Executable, PackingSpec
from poprt.runtime.across_rows_session import AcrossRowsSession
from poprt.runtime.buffers import stacked
from poprt.sample_data import Array, InputInfo
from poprt.smaller_extents import extents_to_try, resized
from poprt.verify_packed import answer_columns, lay_out, sample_columns

logger = logging.getLogger("poprt")

#: The outputs of one sample, by name.
Answers = dict[str, Array]

#: How far an answer may move with the shape of a run, relative to the largest value of its output. The engine adds in
#: another order at another length or place: 1e-6 was seen with float32 inside, on MiniLM and random models. A true
#: float16 run has 11 bits. Where values are rounded to 8 bits, one bit at the end of a float tips one over: 1e-6 was
#: seen in most draws, and 6e-2 in one of 30, on MiniLM within rows.
_FLOAT, _HALF, _QUANTISED = 2e-5, 1e-2, 5e-2


@dataclass(frozen=True)
class Finding:
    """How much one experiment moved an answer.

    Attributes:
        experiment: what was done to the sample's company.
        output: the output that moved most.
        difference: by how much, relative to the largest magnitude of the output.
        tolerance: what rounding may do.
    """

    experiment: str
    output: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether it may be rounding."""
        return self.difference <= self.tolerance


@dataclass(frozen=True)
class Sample:
    """One sample.

    Attributes:
        feeds: its inputs, [1, width, ...] or, without tokens, [1, ...]; and the inputs of its run.
        lengths: its tokens by segment, int [segments].
    """

    feeds: dict[str, Array]
    lengths: Array


class Bench:
    """A compiled model to try packs on.

    Args:
        executable: the compiled model, which is packed.

    Attributes:
        rounding: how far the engine's rounding may move an answer from one shape of a run to another.
        repeated: how far it may move an answer between two runs of the same shape: not at all on a CPU.
        rounding_is_coarse: whether rounding may move a whole number to the next.
    """

    def __init__(self, executable: Executable) -> None:
        assert executable.packing is not None, "a packed model was compiled"
        self.executable, self._packing = executable, executable.packing
        self._open: tuple[PackingSpec, Session] | None = None
        quantised = any(map(rounds_to_8_bits, onnx.load_model_from_string(executable.graph).graph.node))
        self.rounding = _QUANTISED if quantised else _HALF if _computes_in_half(executable) else _FLOAT
        self.rounding_is_coarse = self.rounding > _FLOAT
        self.repeated = 0.0 if runs_on_cpu() else self.rounding

    @property
    def shares_rows(self) -> bool:
        """Whether samples share rows, instead of being laid end to end."""
        return self._packing.within_rows

    def judge(self, experiments: Callable[[PackingSpec], list[Finding]]) -> list[Finding]:
        """What ``experiments`` find, at the smallest extents that the graph runs at.

        What fails there is tried again at larger ones: the declared extents decide.

        Raises:
            PoprtError: the graph cannot be run at the declared extents.
        """
        *smaller, declared = extents_to_try(self._packing)
        for packing in smaller:
            try:
                findings = experiments(packing)
            except PoprtError as error:  # something inside depends on the declared extents
                logger.debug("samples are tried at larger extents: %s", error)
                continue
            if all(finding.passed for finding in findings):
                return findings
        return experiments(declared)

    def _session(self, packing: PackingSpec) -> Session:
        """A session at these extents; one is open at a time."""
        if self._open is None or self._open[0] != packing:
            self._open = None  # first: each holds a copy of the weights
            self._open = packing, open_main_graph(resized(self.executable, packing))
        return self._open[1]

    def fitting(self, packing: PackingSpec, samples: Sequence[Sample]) -> list[Sample]:
        """The leading samples that one pack holds."""
        chosen: list[Sample] = []
        row = used = 0
        for sample in samples[: packing.max_valid_num]:
            tokens = int(sample.lengths.sum())
            if self.shares_rows and used + tokens > packing.columns:
                row, used = row + 1, 0
            used += tokens
            if row * packing.columns + used > packing.rows * packing.columns:
                break
            chosen.append(sample)
        return chosen

    def run(self, packing: PackingSpec, samples: Sequence[Sample]) -> list[Answers]:
        """Run one pack; for each sample its own part of each output.

        Raises:
            PoprtError: the engine cannot run the graph on these samples.
        """
        try:
            return self._in_rows(packing, samples) if self.shares_rows else self._laid_out(packing, samples)
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise PoprtError(f"the compiled model cannot be run on sample data: {error}") from error

    def _laid_out(self, packing: PackingSpec, samples: Sequence[Sample]) -> list[Answers]:
        across_rows = AcrossRowsSession(self._session(packing), self.executable.manifest, packing)
        columns = [sample_columns(sample.lengths, packing.segment_max_size) for sample in samples]
        streams = {
            name: np.concatenate([s.feeds[name][0, own] for s, own in zip(samples, columns, strict=True)])
            for name in packing.dynamic_inputs
        }
        others = {name: np.concatenate([s.feeds[name] for s in samples]) for name in packing.sample_inputs}
        others |= {name: samples[0].feeds[name] for name in packing.run_inputs}
        longest = max(int(sample.lengths.sum()) for sample in samples)
        for name in packing.pair_inputs:
            parts = [sample.feeds[name][0] for sample in samples]
            others[name] = stacked(parts, packing.pair_shape(name, (1, *parts[0].shape), longest)[1:], parts[0].dtype)
        lengths = np.array([sample.lengths for sample in samples], np.int32)
        names = list(packing.outputs)
        answers: list[Answers] = [{} for _ in samples]
        for name, result in zip(names, across_rows.run(streams, lengths, names, others), strict=True):
            tokens = packing.outputs[name] == "tokens"
            rows = across_rows.sample_tokens(result, lengths) if tokens else result
            for mine, row, own in zip(answers, rows, columns, strict=False):
                mine[name] = row[answer_columns(own, packing)] if tokens else _own_tokens(row, packing, own)
        return answers

    def _in_rows(self, packing: PackingSpec, samples: Sequence[Sample]) -> list[Answers]:
        inputs = [InputInfo(s.name, np.dtype(s.engine_dtype), s.shape, "") for s in self.executable.inputs]
        lengths = np.array([sample.lengths for sample in samples])
        case = lay_out(packing, [sample.feeds for sample in samples], lengths, inputs)
        names = list(packing.outputs)
        results = dict(zip(names, self._session(packing).run(case.converted_feeds, names), strict=True))
        answers: list[Answers] = []
        for index, (places, own) in enumerate(zip(case.places, case.columns, strict=True)):
            answers.append({name: _share(results[name], index, packing, name, places, own) for name in names})
        return answers


def operators(executable: Executable) -> list[str]:
    """The types of the operators in the engine's graph, each once."""
    graph = onnx.load_model_from_string(executable.graph).graph
    return sorted({node.op_type for node in graph.node})


def _computes_in_half(executable: Executable) -> bool:
    return has_fast_half() and any("float16" in (spec.dtype, spec.engine_dtype) for spec in executable.manifest.weights)


def _share(result: Array, index: int, packing: PackingSpec, name: str, places: Array, own: Array) -> Array:
    kind = packing.outputs[name]
    if kind == "packed":
        taken: Array = result.reshape(-1, *result.shape[2:])[places]
    else:
        taken = result[index][own] if kind == "tokens" else _own_tokens(result[index], packing, own)
    return taken


def _own_tokens(row: Array, packing: PackingSpec, own: Array) -> Array:
    """A sample's row, without the padded places of an axis that counts tokens."""
    if packing.ragged:  # alone, the axis ends with the sample
        return row
    for axis, extent in enumerate(row.shape):
        if extent == packing.width:
            row = row.take(own, axis)
    return row
