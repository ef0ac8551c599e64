"""Our way against one other on the same input: the numbers first, then pairs of slices, then memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx

from benchmarks.contenders import Contender, OnnxRuntime, Packed, Padded, Result, Sample
from benchmarks.memory import forget_peak, memory
from benchmarks.pairs import Paired, repeated, run_pairs
from benchmarks.processes import run_alone
from benchmarks.rounds import check_numbers
from benchmarks.workloads import compile_packed
from models.bert import BertConfig, build_bert
from poprt import runtime
from poprt.engine.cpu import usable_cores

#: Makes a contender; picklable, for a process of its own.
Maker = Callable[[], Contender]


@dataclass(frozen=True)
class Comparison:
    """One line of a table.

    Attributes:
        case: what was run.
        paired: our way against plain onnxruntime; rates are in runs a second.
        difference: of any number from that of plain onnxruntime, the largest.
        peaks: bytes of memory, ours and of plain onnxruntime, each in a process of its own; None: not measured.
    """

    case: str
    paired: Paired
    difference: float
    peaks: tuple[int, int] | None = None


def compare(
    case: str, ours: Callable[[], list[Result]], theirs: Callable[[], list[Result]], seconds: float, pairs: int
) -> Comparison:
    """Check the numbers, and time both in slices of about ``seconds``, one run at least.

    Raises:
        WrongNumbersError: the numbers differ too far.
    """
    distance = check_numbers(case, ours(), theirs(), "fp32")
    return Comparison(case, run_pairs(repeated(ours, seconds), repeated(theirs, seconds), pairs), distance)


def compare_alone(
    case: str, ours: Maker, theirs: Maker, samples: Sequence[Sample], seconds: float, pairs: int
) -> Comparison:
    """The same for contenders that run ``samples``, in a process of its own that takes their memory along."""
    return run_alone(_compare_contenders, case, ours, theirs, samples, seconds, pairs)


def _compare_contenders(
    case: str, ours: Maker, theirs: Maker, samples: Sequence[Sample], seconds: float, pairs: int
) -> Comparison:
    mine, other = ours(), theirs()
    return compare(case, partial(mine.run, samples), partial(other.run, samples), seconds, pairs)


def peak_alone(make: Maker, samples: Sequence[Sample], runs: int = 2) -> tuple[int, int]:
    """Bytes that a process of its own has in memory: with the contender loaded and one token run, and at most while it
    runs ``samples``, ``runs`` times. What loading took for a moment is in neither."""
    return run_alone(_peak, make, samples, runs)


def _peak(make: Maker, samples: Sequence[Sample], runs: int) -> tuple[int, int]:
    contender = make()
    contender.run([{name: values[:1] for name, values in samples[0].items()}])
    forget_peak()
    loaded, _ = memory()
    for _ in range(runs):
        contender.run(samples)
    return loaded, memory()[1]


@dataclass(frozen=True)
class Files:
    """A model and its packed executable, for processes that load them."""

    model: Path
    executable: Path

    @staticmethod
    def write(config: BertConfig, longest: int, folder: Path) -> Files:
        """Build the model, compile it for samples of up to ``longest`` tokens, and write both."""
        files = Files(folder / "model.onnx", folder / "packed.popef")
        model = build_bert(config)
        onnx.save(model, str(files.model))
        compile_packed(model, longest).save(files.executable)
        return files

    def packed(self, token_budget: int | None = None) -> Maker:
        """A pack runner with this budget."""
        return partial(_open_packed, self.executable, token_budget)

    def plain(self) -> Maker:
        """Plain onnxruntime, one sample at a time with all cores."""
        return partial(_open_plain, self.model, 0, 1)

    def plain_on_each_core(self) -> Maker:
        """Plain onnxruntime, one sample at a time on each core."""
        return partial(_open_plain, self.model, 1, usable_cores())


def _open_packed(path: Path, token_budget: int | None) -> Contender:
    config = runtime.PackRunnerConfig(token_budget=token_budget, queue_limit=1 << 16)
    return Packed("poprt: pack runner", runtime.PackRunner(path, config))


def _open_plain(path: Path, threads: int, workers: int) -> Contender:
    return Padded("onnxruntime", OnnxRuntime(str(path), threads=threads), 1, workers=workers)
