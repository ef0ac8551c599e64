"""The field of a throughput case: baselines, peers and poprt over one model, each at its best batch size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks import ours, peer_ctranslate2, peer_openvino
from benchmarks.contenders import Contender, Engine, OnnxRuntime, Padded, Result
from benchmarks.quantise import quantise
from benchmarks.rounds import TOLERANCE, Report, difference, fastest
from benchmarks.workloads import ROWS, Lengths, Requests, build, compile_packed, config_of
from poprt.engine.cpu import usable_cores

CHECKED = 8  # requests whose numbers are compared before anything is timed
SEARCH_TOKENS = 4096  # of the requests that batch sizes are tried on, at most
SEARCH_SECONDS = 1.0  # of a batch size's trial, about


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
    """

    contender: Contender
    kind: str
    offline: bool
    difference: float


@dataclass
class Field:
    """The contenders of a case that run, and why the others do not, by name."""

    entries: list[Entry] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)


def batch_sizes(lengths: Lengths) -> list[int]:
    """Batch sizes worth trying for a distribution."""
    return [4, 8, 16, 32] if lengths.mean < 64 else [2, 4, 8]


class FieldBuilder:
    """Makes the field of a case.

    Args:
        case: what is measured.
        requests: the case's requests.
        report: takes lines of progress.
    """

    def __init__(self, case: Case, requests: Requests, report: Report) -> None:
        self.case = case
        self._requests = requests
        self._report = report
        self._model = build(case.size)
        plain = quantise(self._model) if case.precision == "int8" else self._model
        self._plain: bytes = plain.SerializeToString()
        self._config = config_of(case.size)
        self._searched = max(ROWS, round(SEARCH_TOKENS / case.lengths.mean))
        self._reference = self._run_reference()
        self._field = Field()

    def build(self) -> Field:
        """Make, check and tune every contender."""
        self._add_baselines()
        self._try("CTranslate2", peer_ctranslate2.HOW_TO, self._add_ctranslate2)
        self._try("OpenVINO", peer_openvino.HOW_TO, self._add_openvino)
        if ours.precision_available(self.case.precision):
            self._add_ours()
        else:
            self._field.absent["poprt"] = f"not available: this version does not convert to {self.case.precision}"
        return self._field

    def _run_reference(self) -> list[Result]:
        """The float32 model as it is written, each request alone."""
        engine = OnnxRuntime(self._model.SerializeToString(), optimise=False)
        return Padded("reference", engine, 1).run(self._requests.take(0, CHECKED))

    def _add_baselines(self) -> None:
        engine = OnnxRuntime(self._plain)
        longest = self.case.lengths.longest
        name = f"onnxruntime: padded to {ROWS} x {longest}"
        self._add(Padded(name, engine, ROWS, columns=longest), "baseline")
        self._add(self._best("onnxruntime: padded to the longest", engine, batch_sizes(self.case.lengths)), "baseline")
        self._add_sorted("onnxruntime", engine, "baseline")
        self._add(Padded("onnxruntime: one at a time, unpadded", engine, 1), "baseline")
        if (cores := usable_cores()) > 1:
            name = "onnxruntime: one at a time on each core, unpadded"
            self._add(Padded(name, OnnxRuntime(self._plain, threads=1), 1, workers=cores), "baseline")

    def _add_ctranslate2(self) -> None:
        def engine(workers: int) -> Engine:
            return peer_ctranslate2.CTranslate2(self._model, self._config, self.case.precision, workers)

        together = engine(1)
        self._add_fastest_peer("CTranslate2: order of arrival", together, engine)
        self._add_sorted("CTranslate2", together, "peer")

    def _add_openvino(self) -> None:
        def engine(streams: int) -> Engine:
            return peer_openvino.OpenVINO(self._plain, streams)

        self._add_fastest_peer("OpenVINO: order of arrival", engine(1), engine)

    def _add_fastest_peer(self, name: str, together: Engine, engine: Callable[[int], Engine]) -> None:
        """Add a peer at its best batch size, with all cores at one batch or a batch on each core."""
        sizes = [1, *batch_sizes(self.case.lengths)]
        forms = self._forms(name, together, sizes)
        if (cores := usable_cores()) > 1:
            forms += self._forms(name, engine(cores), sizes[:3], workers=cores)  # small batches: each has one core
        self._add(self._fastest(forms), "peer")

    def _add_ours(self) -> None:
        executable = compile_packed(self._model, self.case.lengths.longest, self.case.precision)
        self._add(ours.runner_contender(executable), "poprt")
        self._add(ours.OfflinePacks(executable), "poprt", offline=True)
        name = "OpenVINO: poprt's packed graph, sorted"

        def packed_openvino() -> None:
            session = peer_openvino.OpenVINO(peer_openvino.engine_model(executable))
            self._add(ours.OfflinePacks(executable, name, session), "poprt", offline=True)

        self._try(name, peer_openvino.HOW_TO, packed_openvino)

    def _add_sorted(self, label: str, engine: Engine, kind: str) -> None:
        sizes = batch_sizes(self.case.lengths)
        self._add(self._best(f"{label}: sorted by length", engine, sizes, sort=True), kind, offline=True)

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

    def _add(self, contender: Contender, kind: str, offline: bool = False) -> None:
        """Check the numbers, and let the contender in if they are right."""
        results = contender.run(self._requests.take(0, CHECKED))
        distance = difference(results, self._reference, self.case.precision)
        limit = TOLERANCE[self.case.precision]
        if distance > limit:
            self._field.absent[contender.name] = f"wrong numbers: {distance:.1e} from the reference, allowed {limit}"
        else:
            self._field.entries.append(Entry(contender, kind, offline, distance))

    def _try(self, name: str, how_to: str, add: Callable[[], None]) -> None:
        """Add a peer that may be missing, or that may refuse the model."""
        try:
            add()
        except ImportError as error:
            self._field.absent[name] = f"not installed ({error.name}): {how_to}"
        except RuntimeError as error:
            self._field.absent[name] = f"refuses the model: {str(error).strip().splitlines()[-1]}"
