"""The machine's roof: the fastest matrix products of any engine on an encoder's shapes, and the cores' arithmetic peak.

The roof is what an encoder could reach if it were products alone. The peak is what no program can exceed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from benchmarks import peak, peer_openvino
from benchmarks.contenders import Array, Engine, OnnxRuntime
from benchmarks.pairs import repeated
from benchmarks.peak import Peak
from benchmarks.products import Chain
from benchmarks.rounds import Report
from models.bert import BertConfig
from poprt.engine.cpu import usable_cores

#: Rows of a product that are tried.
ROWS = (256, 512, 1024)
PRECISIONS = ("fp32", "bf16", "int8")
#: What the peak is called where it is absent.
PEAK = "arithmetic peak"
_TRIAL_LAYERS = 2  # of an encoder: they choose the way that all of them are run

#: Runs the chain of products: float32 [rows, hidden] in and out.
Run = Callable[[Array], Array]


@dataclass(frozen=True)
class Way:
    """A way to run products.

    Attributes:
        name: the engine, and how it multiplies.
        open: makes it for so many runs at the same time, which share the cores.
        alone: it always takes all cores for one run.
    """

    name: str
    open: Callable[[Chain, int], Run]
    alone: bool = False


@dataclass(frozen=True)
class Rate:
    """How fast the products are one way.

    Attributes:
        way: the engine, and how it multiplies.
        streams: runs at the same time.
        rows: of a run's input.
        flops: operations a second, two for each multiply-add, of all runs together.
    """

    way: str
    streams: int
    rows: int
    flops: float

    def __str__(self) -> str:
        return f"{self.way}, {self.rows} rows, {self.streams} at a time"


@dataclass(frozen=True)
class RoofResult:
    """The roof and the peak of one precision.

    Attributes:
        peak: None where ``absent`` says why there is none.
        rates: every way with its rows and streams; none where no engine here computes in the precision.
        absent: why a way, or the peak, was not measured, by name.
    """

    precision: str
    peak: Peak | None
    rates: list[Rate]
    absent: dict[str, str]


def ways(precision: str, config: BertConfig) -> list[Way]:
    """The ways to multiply in a precision, "fp32", "bf16" or "int8", those of engines that are not installed too.

    int8 with a fixed scale is the fastest, as nothing is measured on the way. It suits no encoder as it is.
    """
    if precision == "fp32":
        return [
            Way("onnxruntime", _onnxruntime),
            Way("numpy", _numpy, alone=True),
            Way("OpenVINO f32", _openvino("f32")),
        ]
    if precision == "bf16":
        return [Way("OpenVINO bf16", _openvino("bf16"))]
    return [
        Way("onnxruntime, dynamic int8", _dynamic_onnxruntime),
        Way("OpenVINO, int8 with a fixed scale", _openvino("f32", static=True)),
        *(
            Way(f"OpenVINO, int8 in groups of {group}, {inside} inside", _openvino(inside, group))
            for group in dict.fromkeys((64, config.hidden))
            for inside in ("f32", "bf16")
        ),
    ]


def _onnxruntime(chain: Chain, streams: int) -> Run:
    return _by_name(OnnxRuntime(chain.float_model().SerializeToString(), threads=usable_cores() // streams))


def _dynamic_onnxruntime(chain: Chain, streams: int) -> Run:
    return _by_name(OnnxRuntime(chain.dynamic_model().SerializeToString(), threads=usable_cores() // streams))


def _openvino(precision: str, group: int | None = None, static: bool = False) -> Callable[[Chain, int], Run]:
    def open_way(chain: Chain, streams: int) -> Run:
        model = chain.int8_model(static) if group or static else chain.float_model()
        return _by_name(peer_openvino.OpenVINO(model.SerializeToString(), streams, precision, group))

    return open_way


def _by_name(engine: Engine) -> Run:
    return lambda x: engine({"x": x})["y"]


def _numpy(chain: Chain, streams: int) -> Run:
    def run(x: Array) -> Array:
        for weight in chain.weights:
            x = x @ weight
        return x

    return run


class Products:
    """An encoder's products, opened one way.

    Raises:
        ImportError: the engine is not installed.
        RuntimeError: the engine refuses them, or the precision.
    """

    def __init__(self, chain: Chain, way: Way, streams: int) -> None:
        self._chain, self._way, self._streams = chain, way, streams
        self._run = way.open(chain, streams)

    def rate(self, rows: int, seconds: float) -> Rate:
        """Run for about ``seconds``, in as many threads as there are streams."""
        side = repeated(partial(self._run, self._chain.input(rows)), seconds)
        with ThreadPoolExecutor(self._streams) as pool:
            runs = sum(pool.map(side, range(self._streams)))
        return Rate(self._way.name, self._streams, rows, runs * self._chain.flops(rows))


def measure_products(config: BertConfig, precision: str, seconds: float) -> tuple[list[Rate], dict[str, str]]:
    """Every way with each number of rows, alone and with a run on each core; and why a way was left out.

    Engines are open one at a time. Each rate takes about ``seconds``.
    """
    chain, cores = Chain(config), usable_cores()
    rates: list[Rate] = []
    absent: dict[str, str] = {}
    for way in ways(precision, config):
        try:
            for streams in (1,) if way.alone or cores == 1 else (1, cores):
                opened = Products(chain, way, streams)
                for rows in ROWS:
                    opened.rate(rows, 0)  # warm
                    rates.append(opened.rate(rows, seconds))
                del opened  # before the next one
        except ImportError as error:
            absent[way.name] = f"not installed ({error.name}): {peer_openvino.HOW_TO}"
        except RuntimeError as error:
            absent[way.name] = f"refused: {str(error).strip().splitlines()[-1]}"
    return rates, absent


def fastest(rates: Sequence[Rate]) -> Rate:
    """The best rate: the roof."""
    return max(rates, key=lambda rate: rate.flops)


def measure_roof(config: BertConfig, precision: str, seconds: float, report: Report) -> RoofResult:
    """Every way's products, and the peak: the better of one before them and one after."""
    before, reason = try_peak(precision, seconds)
    rates, absent = measure_products(config, precision, seconds)
    peak_of_both = higher(before, try_peak(precision, seconds)[0])
    if peak_of_both is None:
        absent[PEAK] = reason
        report(f"{precision}: no peak, {reason}")
    else:
        report(f"{precision}: peak {peak_of_both.flops / 1e9:.0f} GFLOP/s ({peak_of_both.name})")
    report(f"{precision}: {f'best product {fastest(rates)}' if rates else 'no engine here computes in it'}")
    return RoofResult(precision, peak_of_both, rates, absent)


def try_peak(precision: str, seconds: float) -> tuple[Peak | None, str]:
    """The peak, or None and why there is none."""
    try:
        measured = peak.measure_peak(precision, seconds)
    except ImportError as error:
        return None, f"not installed ({error.name}): {peak.HOW_TO}"
    return measured, "" if measured else f"this CPU has no instruction that multiplies and adds {precision}"


def higher(before: Peak | None, after: Peak | None) -> Peak | None:
    """The higher of two: what else ran on the machine meanwhile lowers a peak, and nothing raises it."""
    return max((each for each in (before, after) if each), key=lambda each: each.flops, default=None)


class Roof:
    """The fastest products of a precision, opened for the whole encoder.

    Where no engine here computes in it, they are those of float32, as is what a runner does then.

    Args:
        config: the encoder.
        precision: "fp32", "bf16" or "int8".
        seconds: of the trial of each way with each number of rows, about.
    """

    def __init__(self, config: BertConfig, precision: str, seconds: float) -> None:
        trial = replace(config, layers=min(config.layers, _TRIAL_LAYERS))
        rates = measure_products(trial, precision, seconds)[0] or measure_products(trial, "fp32", seconds)[0]
        #: The way, rows and streams that were fastest in the trial.
        self.best = fastest(rates)
        every = [way for each in PRECISIONS for way in ways(each, config)]
        (way,) = [way for way in every if way.name == self.best.way]
        self._products = Products(Chain(config), way, self.best.streams)
        self.rate(0)  # warm

    def rate(self, seconds: float) -> float:
        """Floating-point operations a second, over about ``seconds``."""
        return self._products.rate(self.best.rows, seconds).flops
