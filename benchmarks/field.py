"""The field of a throughput case: baselines, peers and poprt over one model, each at its best batch size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks import ours, peer_ctranslate2, peer_openvino
from benchmarks.contenders import Contender, Engine, OnnxRuntime, Padded, Result
from benchmarks.quantise import quantise
from benchmarks.rounds import Report, WrongNumbersError, check_numbers, fastest
from benchmarks.workloads import ROWS, Lengths, Requests, build, compile_packed, config_of
from poprt.engine.choice import AUTO, is_installed
from poprt.engine.cpu import usable_cores

CHECKED = 8  # requests whose numbers are compared before anything is timed
SEARCH_TOKENS = 4096  # of the requests that batch sizes are tried on, at most
SEARCH_SECONDS = 1.0  # of a batch size's trial, about
TOLD = 100  # lengths that our runner is told, where the others search for their batch size


@dataclass(frozen=True)
class Case:
    """One table: a model size, a length distribution and a precision."""

    size: str
    lengths: Lengths
    precision: str

    def __str__(self) -> str:
        return f"{self.size}, {self.precision}, {self.lengths.name}"


@dataclass(frozen=True)
class Entry:
    """A contender that runs.

    Attributes:
        kind: "baseline", "peer" or "poprt".
        offline: it needs all requests before it starts.
        difference: of its numbers from the reference.
        unit: requests that it takes at once; a slice has as many at least.
    """

    contender: Contender
    kind: str
    offline: bool
    difference: float
    unit: int


def batch_sizes(lengths: Lengths) -> list[int]:
    """Batch sizes worth trying for a distribution."""
    return [4, 8, 16, 32] if lengths.mean < 64 else [2, 4, 8]


class Field:
    """The contenders of a case, one after the other, so that few engines are in memory at a time.

    Args:
        case: what is measured.
        requests: the case's requests.
        report: takes lines of progress.
    """

    def __init__(self, case: Case, requests: Requests, report: Report) -> None:
        self.case = case
        #: Why a contender does not run, by name.
        self.absent: dict[str, str] = {}
        self._requests = requests
        self._report = report
        self._model = build(case.size)
        plain = quantise(self._model) if case.precision == "int8" else self._model
        self._plain: bytes = plain.SerializeToString()
        self._config = config_of(case.size)
        self._searched = max(ROWS, round(SEARCH_TOKENS / case.lengths.mean))
        self._reference = self._run_reference()
        self._executable = compile_packed(self._model, case.lengths.longest, case.precision, AUTO)
        self._ours = self._executable.manifest.engine

    def ours(self) -> Entry:
        """The pack runner, which each other contender is timed against.

        Raises:
            WrongNumbersError: its numbers are wrong.
        """
        told = self.case.lengths.draw(np.random.default_rng(1), TOLD)
        contender = ours.runner_contender(self._executable, AUTO, typical_lengths=told)
        self._ours = contender.runner.executable.manifest.engine
        return self._entry(contender, "poprt")

    def others(self) -> Iterator[Entry]:
        """Make, tune, check and yield every other contender. None is made before the one before it is asked for."""
        for name, how_to, contenders in (
            ("onnxruntime", "", self._baselines),
            ("CTranslate2", peer_ctranslate2.HOW_TO, self._ctranslate2),
            ("OpenVINO", peer_openvino.HOW_TO, self._openvino),
            ("poprt", "", self._others_of_ours),
        ):
            yield from self._present(name, how_to, contenders())

    def _present(self, name: str, how_to: str, contenders: Iterator[tuple[Contender, str, bool]]) -> Iterator[Entry]:
        """Those of a library that may be missing, that may refuse the model, or whose numbers may be wrong."""
        try:
            for contender, kind, offline in contenders:
                try:
                    yield self._entry(contender, kind, offline)
                except WrongNumbersError as error:
                    self.absent[contender.name] = str(error)
                del contender
        except ImportError as error:
            self.absent[name] = f"not installed ({error.name}): {how_to}"
        except RuntimeError as error:
            self.absent[name] = f"refuses the model: {str(error).strip().splitlines()[-1]}"

    def _run_reference(self) -> list[Result]:
        """The float32 model as it is written, each request alone."""
        engine = OnnxRuntime(self._model.SerializeToString(), optimise=False)
        return Padded("reference", engine, 1).run(self._requests.take(0, CHECKED))

    def _baselines(self) -> Iterator[tuple[Contender, str, bool]]:
        engine = OnnxRuntime(self._plain)
        longest = self.case.lengths.longest
        name = f"onnxruntime: padded to {ROWS} x {longest}"
        yield Padded(name, engine, ROWS, columns=longest), "baseline", False
        sizes = batch_sizes(self.case.lengths)
        yield self._best("onnxruntime: padded to the longest", engine, sizes), "baseline", False
        yield self._sorted("onnxruntime", engine), "baseline", True
        yield Padded("onnxruntime: one at a time, unpadded", engine, 1), "baseline", False
        del engine
        if (cores := usable_cores()) > 1:
            name = "onnxruntime: one at a time on each core, unpadded"
            yield Padded(name, OnnxRuntime(self._plain, threads=1), 1, workers=cores), "baseline", False

    def _ctranslate2(self) -> Iterator[tuple[Contender, str, bool]]:
        def engine(workers: int) -> Engine:
            return peer_ctranslate2.CTranslate2(self._model, self._config, self.case.precision, workers)

        together = engine(1)
        yield self._fastest_peer("CTranslate2: order of arrival", together, engine), "peer", False
        yield self._sorted("CTranslate2", together), "peer", True

    def _openvino(self) -> Iterator[tuple[Contender, str, bool]]:
        def engine(streams: int) -> Engine:
            return peer_openvino.OpenVINO(self._plain, streams, "bf16" if self.case.precision == "bf16" else "f32")

        yield self._fastest_peer("OpenVINO: order of arrival", engine(1), engine), "peer", False

    def _others_of_ours(self) -> Iterator[tuple[Contender, str, bool]]:
        """The pack runner on the engine that was not taken, in float32, and packs that are laid before."""
        for engine in self._executable.manifest.engines:
            if engine != self._ours and is_installed(engine):
                yield ours.runner_contender(self._executable, engine, f"poprt on {engine}"), "poprt", False
        if self.case.precision != "fp32":
            plain = compile_packed(self._model, self.case.lengths.longest)
            yield ours.runner_contender(plain, name="poprt in float32"), "poprt", False
        engine = self._ours
        yield ours.OfflinePacks(self._executable.for_engine(engine), engine=engine), "poprt", True

    def _fastest_peer(self, name: str, together: Engine, engine: Callable[[int], Engine]) -> Contender:
        """A peer at its best batch size, with all cores at one batch or a batch on each core."""
        sizes = [1, *batch_sizes(self.case.lengths)]
        forms = self._forms(name, together, sizes)
        if (cores := usable_cores()) > 1:
            forms += self._forms(name, engine(cores), sizes[:3], workers=cores)  # small batches: each has one core
        return self._fastest(forms)

    def _sorted(self, label: str, engine: Engine) -> Contender:
        return self._best(f"{label}: sorted by length", engine, batch_sizes(self.case.lengths), sort=True)

    def _best(self, name: str, engine: Engine, sizes: Sequence[int], sort: bool = False) -> Contender:
        return self._fastest(self._forms(name, engine, sizes, sort))

    def _forms(
        self, name: str, engine: Engine, sizes: Sequence[int], sort: bool = False, workers: int = 1
    ) -> list[Padded]:
        where = " on each core" if workers > 1 else ""
        return [
            Padded(
                f"{name}, batches of {rows}{where}" if rows > 1 else f"{name}, one at a time{where}",
                engine,
                rows,
                sort=sort,
                workers=workers,
            )
            for rows in sizes
        ]

    def _fastest(self, forms: Sequence[Padded]) -> Contender:
        least = max(form.rows * form.workers for form in forms)
        return fastest(forms, self._requests, self._searched, least, SEARCH_SECONDS, self._report)

    def _entry(self, contender: Contender, kind: str, offline: bool = False) -> Entry:
        """Check the numbers, and let the contender in if they are right."""
        results = contender.run(self._requests.take(0, CHECKED))
        distance = check_numbers(contender.name, results, self._reference, self.case.precision)
        unit = contender.rows * contender.workers if isinstance(contender, Padded) else ROWS
        return Entry(contender, kind, offline, distance, 2 * max(unit, ROWS) if offline else unit)
