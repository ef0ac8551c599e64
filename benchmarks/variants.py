"""What packing brings to each form in which people ship one encoder, over batches padded to their longest."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from benchmarks.contenders import Contender, OnnxRuntime, Padded
from benchmarks.field import SEARCH_SECONDS, batch_sizes
from benchmarks.ours import runner_contender
from benchmarks.pairs import Paired, run_pairs
from benchmarks.rounds import Report, fastest, pair_sides
from benchmarks.workloads import DISTRIBUTIONS, ROWS, Requests
from models.variants import CONVERTER_OPTIONS, FIXED, FIXED_SHAPE, Source, make, open_source
from passes.errors import RewriteError
from poprt.compiler import Compiler
from poprt.converter import Converter
from poprt.errors import PoprtError
from poprt.executable import Executable

_LENGTHS = DISTRIBUTIONS["short"]
_VOCAB = 30522
_SEARCHED = 256  # requests that batch sizes are tried on, at most


@dataclass(frozen=True)
class VariantRate:
    """One form of the model.

    Attributes:
        megabytes: of the file that is shipped, and of the executable.
        baseline: how plain onnxruntime runs it best.
        paired: packed over padded; rates in tokens a second, without padding.
        absent: why it was not measured; "" where it was.
    """

    name: str
    megabytes: tuple[float, float] = (0.0, 0.0)
    baseline: str = ""
    paired: Paired | None = None
    absent: str = ""


def measure_variants(names: Sequence[str], seconds: float, pairs: int, report: Report) -> list[VariantRate]:
    """Time each variant packed and in plain onnxruntime, in pairs of slices of about ``seconds``."""
    requests = Requests(_LENGTHS, _VOCAB)
    rates = []
    with tempfile.TemporaryDirectory() as folder:
        source = open_source(Path(folder))
        for name in names:
            report(f"{name}: made, converted, compiled and timed")
            try:
                rates.append(_measure(name, source, requests, seconds, pairs, report))
            except ImportError as error:
                rates.append(VariantRate(name, absent=f"not installed: {error.name}"))
            except (PoprtError, RewriteError) as error:
                rates.append(VariantRate(name, absent=str(error).splitlines()[0]))
    return rates


def _measure(name: str, source: Source, requests: Requests, seconds: float, pairs: int, report: Report) -> VariantRate:
    model = onnx.load(str(make(name, source)))
    shipped = model.ByteSize()
    executable = _packed(name, model)
    padded = _padded(name, model, requests, report)
    packed = runner_contender(executable)
    del model
    paired = run_pairs(*pair_sides(packed, padded, requests, seconds), pairs)
    packed.runner.close()
    weights = sum(executable.weight(spec.name).nbytes for spec in executable.manifest.weights)
    compiled = len(executable.graph) + weights
    return VariantRate(name, (shipped / 1e6, compiled / 1e6), padded.name, paired)


def _packed(name: str, model: onnx.ModelProto) -> Executable:
    fixed = name == FIXED
    longest = FIXED_SHAPE[1] if fixed else _LENGTHS.longest
    converter = Converter(
        input_shape={} if fixed else {value.name: [ROWS, longest] for value in model.graph.input},
        pack_args={"max_valid_num": (FIXED_SHAPE[0] if fixed else ROWS) * longest // 4, "segment_max_size": longest},
        disable_progress_bar=True,
        **CONVERTER_OPTIONS.get(name, {}),
    )
    return Compiler.compile(converter.convert(model))


def _padded(name: str, model: onnx.ModelProto, requests: Requests, report: Report) -> Contender:
    """Plain onnxruntime at its best batch size; the variant of fixed shape takes that shape alone."""
    engine = OnnxRuntime(model.SerializeToString())
    if name == FIXED:
        return Padded(f"padded to {FIXED_SHAPE[0]} x {FIXED_SHAPE[1]}", engine, *FIXED_SHAPE)
    forms = [Padded(f"padded to the longest of {rows}", engine, rows) for rows in batch_sizes(_LENGTHS)]
    return fastest(forms, requests, _SEARCHED, max(form.rows for form in forms), SEARCH_SECONDS, report)
