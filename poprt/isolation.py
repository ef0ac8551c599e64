"""Try a packed model before it is handed over: does a sample get the same answer alone and in company?

The analysis of the packing pass says which samples may share a run. This experiment asks the compiled model itself, on
the engine and in the precision that will serve it. What it finds is a fault of the analysis, never of the model.
"""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx

from passes.errors import PackingError
from passes.packed_model import PackedModel
from passes.parted import PartedModel
from poprt.comparison import differences
from poprt.compiler.versions import versions
from poprt.errors import PoprtError
from poprt.executable import Executable, PackingSpec
from poprt.isolation_bench import Answers, Bench, Finding, Sample, operators
from poprt.sample_data import InputInfo, other_array
from poprt.sizes import weight_bytes
from poprt.verify_packed import draw_run, draw_sample
from poprt.verify_served import compile_quietly
from poprt_format.packing import ANY, NONE, SAME_LENGTH

#: Set on the log record of a failed trial, so that a program (and the test suite) can tell it from other warnings.
FAILED = "isolation_trial_failed"

#: Makes an executable of a converted model, as ``Compiler.compile`` does.
Compile = Callable[[PartedModel], Executable]

#: What to try next where samples turn out to depend on their neighbours.
_STRICTER = {ANY: SAME_LENGTH, SAME_LENGTH: NONE}

#: Places of the answer to each sample, fewer where the model takes fewer.
_LENGTHS = {"sample": 5, "longer": 12, "shorter": 3, "other": 5}
_DRAWS = 3  # samples to try where one rounding that tips over moves an answer: a fault moves those of each
_LARGE = 2**26  # bytes of weights that are worth looking for garbage


@dataclass(frozen=True)
class _Plan:
    """One pack, and which of its samples run alone to compare them with."""

    alone: tuple[str, ...]
    pack: tuple[str, ...]
    company: str


_PLANS = {
    ANY: _Plan(
        ("sample", "longer"),
        ("sample", "longer", "shorter", "sample"),
        "beside longer and shorter ones",
    ),
    SAME_LENGTH: _Plan(("sample",), ("sample", "other", "other", "sample"), "beside others of its length"),
}


@dataclass(frozen=True)
class IsolationTrial:
    """What came of the trial.

    Attributes:
        neighbours: which samples may share a run now (:attr:`poprt.executable.PackingSpec.neighbours`).
        findings: one entry an experiment, in the order in which they were made.
        not_tried: why nothing was tried, "" where something was.
    """

    neighbours: str
    findings: tuple[Finding, ...] = ()
    not_tried: str = ""

    @property
    def fell_back(self) -> bool:
        """Whether the trial changed which samples may share a run."""
        return not all(finding.passed for finding in self.findings)


def try_isolation(
    model: PartedModel,
    packed: PackedModel,
    inputs: Sequence[InputInfo],
    *,
    compile_model: Compile | None = None,
    logger: logging.Logger | None = None,
) -> IsolationTrial:
    """Compile ``model`` and try whether samples of one run leave each other's answers alone.

    Where they do not, the model's metadata is changed in place: packs of one length, or one sample a run. A warning
    says what to report.

    Args:
        model: a converted model that is packed. Its weights are shared with the executable, not copied.
        packed: how it says that it is packed.
        inputs: the inputs of the original model; they say which values mean something.
        compile_model: how to compile; the default has the compiler's default options.
        logger: where the warning goes; default is the logger "poprt".

    Raises:
        PackingError: samples share rows and do not leave each other alone. There is no stricter way to pack these.
    """
    logger = logger or logging.getLogger("poprt")
    if packed.neighbours not in _PLANS or packed.max_valid_num < 2:
        return IsolationTrial(packed.neighbours, not_tried="each sample runs by itself")
    if weight_bytes(model.model) > _LARGE:
        gc.collect()  # graphs of the passes refer to themselves: their weights would stay beside the engine's
    try:
        bench = Bench((compile_model or compile_quietly)(model))
        trial = _try(bench, packed.neighbours, inputs)
    except PoprtError as error:
        logger.warning("whether samples of one run are independent could not be tried: %s", error)
        return IsolationTrial(packed.neighbours, not_tried=str(error))
    if trial.fell_back:
        _fall_back(model.model, packed, trial, operators(bench.executable), logger)
    return trial


def _try(bench: Bench, neighbours: str, inputs: Sequence[InputInfo]) -> IsolationTrial:
    """Try with ``neighbours``, and where that fails with stricter ones, until something holds."""
    findings: list[Finding] = []
    while neighbours in _PLANS:
        for seed in range(_DRAWS if bench.rounding_is_coarse else 1):
            of_draw = bench.judge(partial(_experiments, bench, _PLANS[neighbours], inputs, seed))
            if all(finding.passed for finding in of_draw):
                break
        findings += of_draw
        if all(finding.passed for finding in of_draw) or bench.shares_rows:
            break
        neighbours = _STRICTER[neighbours]
    return IsolationTrial(neighbours, tuple(findings), "" if findings else "a pack holds one sample")


def _experiments(
    bench: Bench, plan: _Plan, inputs: Sequence[InputInfo], seed: int, packing: PackingSpec
) -> list[Finding]:
    """Run the packs of one plan and compare."""
    samples = _draw(packing, inputs, seed)
    in_order = plan.pack
    if bench.shares_rows:  # go on to the next row: rows may mix too
        in_order += ("longer",) * (packing.columns // int(samples["longer"].lengths.sum()) + 1)
    pack = bench.fitting(packing, [samples[name] for name in in_order])
    names = in_order[: len(pack)]
    if len(pack) < 2:
        return []
    alone = {name: bench.run(packing, [samples[name]])[0] for name in plan.alone}
    together = bench.run(packing, pack)
    changed = bench.run(packing, [samples[name if name == "sample" else f"{name}, other tokens"] for name in names])
    company = f"alone, then {plan.company}, first and last"
    in_company = [
        _compare(company, alone[name], answers, bench.rounding, bench.rounding_is_coarse)
        for name, answers in zip(names, together, strict=True)
        if name in alone
    ]
    beside_others = [
        _compare("beside other tokens", before, after, bench.repeated, False)
        for name, before, after in zip(names, together, changed, strict=True)
        if name == "sample"
    ]
    return [max(findings, key=lambda finding: finding.difference) for findings in (in_company, beside_others)]


def _draw(packing: PackingSpec, inputs: Sequence[InputInfo], seed: int) -> dict[str, Sample]:
    """The samples by name, and for each one of the same length with other tokens at every place, in the same run."""
    rng = np.random.default_rng(seed)
    names = (*packing.dynamic_inputs, *packing.sample_inputs, *packing.pair_inputs)
    of_sample = [info for info in inputs if info.name in names]
    of_run = draw_run(inputs, packing, rng)
    longest = np.minimum(packing.segment_max_size, packing.columns // len(packing.segment_max_size) or 1)
    samples = {}
    for name, places in _LENGTHS.items():
        lengths = np.minimum(longest, packing.tokens(places) + packing.subsampling[1] // 2)
        feeds = draw_sample(of_sample, packing, lengths, rng)
        others = {info.name: other_array(info, feeds[info.name], rng) for info in of_sample}
        samples[name] = Sample({**feeds, **of_run}, lengths)
        samples[f"{name}, other tokens"] = Sample({**others, **of_run}, lengths)
    return samples


def _compare(experiment: str, expected: Answers, got: Answers, tolerance: float, coarse: bool) -> Finding:
    """The output that moved most between two runs. ``coarse``: whole numbers are not judged, they may tip over."""
    moved = [(0.0, "")]
    for name, mine in expected.items():
        theirs = got[name][tuple(map(slice, mine.shape))]  # a row is as long as the longest of its pack
        if mine.dtype.kind in "biu" and coarse:
            continue
        difference = float(differences(mine.astype(np.float64), theirs.astype(np.float64)).max(initial=0.0))
        moved.append((difference / _magnitude(mine) if difference else 0.0, name))
    difference, output = max(moved)
    return Finding(experiment, output, difference, tolerance)


#: An output below this magnitude counts as this large: what is left of values that cancel is rounding alone.
_LEAST_MAGNITUDE = 1e-2


def _magnitude(values: np.ndarray) -> float:
    """What a difference is relative to; next to nothing for whole numbers, of which each difference is too large."""
    if values.dtype.kind in "biu":
        return 1e-9
    finite = np.abs(values[np.isfinite(values)].astype(np.float64))
    return max(_LEAST_MAGNITUDE, float(finite.max(initial=0.0)))


def _fall_back(
    model: onnx.ModelProto, packed: PackedModel, trial: IsolationTrial, ops: Sequence[str], logger: logging.Logger
) -> None:
    worst = max((finding for finding in trial.findings if not finding.passed), key=lambda finding: finding.difference)
    moved = (
        f"output {worst.output!r} moved by {worst.difference:.3g} of its size (tolerance {worst.tolerance:.3g}) "
        f"between two runs: {worst.experiment}"
    )
    if packed.within_rows:
        raise PackingError(
            f"samples that share a row do not leave each other alone: {moved}. Pack with --pack_args alone, without "
            "insert_attention_mask, which can fall back to samples of one length; and please report this model"
        )
    now = {SAME_LENGTH: "a run takes samples of one length only", NONE: "each sample runs by itself"}
    replace(packed, neighbours=trial.neighbours, isolation=f"tried on the compiled model, {moved}").write(model)
    logger.warning(
        "samples of one run are not independent, against what the analysis says: %s. From now on %s. This is a fault "
        "of poprt; please report it with this line: versions %s, operators %s",
        moved,
        now[trial.neighbours],
        json.dumps(versions(), sort_keys=True),
        " ".join(ops),
        extra={FAILED: True},
    )
