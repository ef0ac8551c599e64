"""``TextModel.encode`` against sentence-transformers on the same folder and the same texts, in pairs of calls."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from benchmarks.contenders import Array
from benchmarks.pairs import Paired, Side, run_pairs
from benchmarks.rounds import Report
from benchmarks.serve.contenders import LEAST_COSINE
from benchmarks.serve.encoders import EncoderMaker, RemoteEncoder, other_encoders, our_encoders, reference_vectors
from benchmarks.serve.sources import Sources, one_call
from benchmarks.serve.vectors import check_cosine

_SEARCH_SECONDS = 0.5  # of a batch size that is tried


@dataclass(frozen=True)
class EncodeRate:
    """One of ours against one other, on one list of texts.

    Attributes:
        texts: the list's name.
        batch: of the other, its best.
        cosine: the least of our vectors to the reference's.
        paired: ours over the other; rates in texts a second.
        absent: why it was not measured; "" where it was.
    """

    texts: str
    ours: str
    theirs: str
    batch: int = 0
    cosine: float = 0.0
    paired: Paired | None = None
    absent: str = ""


def measure_encode(
    sources: Sources, names: Sequence[str], backends: Sequence[str], seconds: float, pairs: int, report: Report
) -> list[EncodeRate]:
    """Compare each precision of ours with each backend on each list of texts.

    Args:
        sources: the folder and its executables.
        names: of the lists of texts.
        backends: of sentence-transformers.
        seconds: of a slice, about; one call at least.
        pairs: of slices.
        report: takes lines of progress.
    """
    rates = []
    with ExitStack() as running:
        ours = [running.enter_context(RemoteEncoder(maker)) for maker in our_encoders(sources)]
        for name in names:
            texts = one_call(name)
            comparison = _Comparison(name, texts, reference_vectors(sources, texts, report), seconds, pairs, report)
            cosines = [comparison.check(encoder) for encoder in ours]
            for maker in other_encoders(sources, backends):
                rates += comparison.against(maker, ours, cosines)
    return rates


class _Comparison:
    """All on one list of texts."""

    def __init__(
        self, name: str, texts: list[str], reference: Array, seconds: float, pairs: int, report: Report
    ) -> None:
        self._name, self._texts, self._reference = name, texts, reference
        self._seconds, self._pairs, self._report = seconds, pairs, report

    def check(self, encoder: RemoteEncoder) -> float:
        """The least cosine of its vectors to the reference."""
        maker = encoder.maker
        return check_cosine(maker.name, encoder.encode(self._texts), self._reference, LEAST_COSINE[maker.precision])

    def against(self, maker: EncoderMaker, ours: Sequence[RemoteEncoder], cosines: Sequence[float]) -> list[EncodeRate]:
        """Each of ours against one other, which is asked for its best batch size first."""
        try:
            with RemoteEncoder(maker) as other:
                self.check(other)
                other.choose_batch(self._texts, min(_SEARCH_SECONDS, self._seconds))
                return [self._pair(mine, other, cosine) for mine, cosine in zip(ours, cosines, strict=True)]
        except (ImportError, OSError) as error:  # OSError: the folder lacks what the backend reads
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            return [EncodeRate(self._name, mine.maker.name, maker.name, absent=reason) for mine in ours]

    def _pair(self, mine: RemoteEncoder, other: RemoteEncoder, cosine: float) -> EncodeRate:
        sides = [self._side(encoder) for encoder in (mine, other)]
        for side in sides:
            side(0)  # warm
        paired = run_pairs(sides[0], sides[1], self._pairs)
        names = mine.maker.name, other.maker.name
        self._report(f"{self._name}: {names[0]} {paired.ratio.median:.2f} x {names[1]}")
        return EncodeRate(self._name, *names, other.batch, cosine, paired)

    def _side(self, encoder: RemoteEncoder) -> Side:
        return partial(self._rate, encoder)

    def _rate(self, encoder: RemoteEncoder, _turn: int) -> float:
        return encoder.rate(self._texts, self._seconds)
