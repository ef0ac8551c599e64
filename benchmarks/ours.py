"""poprt's own contenders: the pack runner, and packs laid offline."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from benchmarks.contenders import Packed, Result, Sample, sample_length
from passes.errors import RewriteError
from poprt import runtime
from poprt.converter import Converter
from poprt.executable import Executable
from poprt.runtime.session import EngineSession
from poprt.runtime.stream import Session, StreamSession

OFFLINE_TOKENS = 512  # of an offline pack, at most


def precision_available(precision: str) -> bool:
    """Whether this version of poprt converts to ``precision``."""
    try:
        Converter(precision=precision)
    except RewriteError:
        return False
    return True


def runner_contender(executable: Executable) -> Packed:
    """The pack runner, fed in order of arrival."""
    config = runtime.PackRunnerConfig(timeout_microseconds=2000, queue_limit=1 << 16)
    return Packed("poprt: pack runner, order of arrival", runtime.PackRunner(executable, config))


class OfflinePacks:
    """All samples sorted by length, laid in packs by ``pack_data``, and run straight on a session.

    Args:
        executable: packed in style A.
        name: of the contender.
        session: runs the executable's graph; None opens one of onnxruntime.
    """

    def __init__(
        self,
        executable: Executable,
        name: str = "poprt: packs laid offline, sorted",
        session: Session | None = None,
    ) -> None:
        self.name = name
        packing = executable.packing
        assert packing is not None, "the executable is not packed"
        self._packing = packing
        self._outputs = list(packing.outputs)
        self._stream = StreamSession(session or EngineSession(executable), executable.manifest, packing)
        self._seconds = 0.0

    def run(self, samples: Sequence[Sample]) -> list[Result]:
        """Run all samples and return the result of each, in their order."""
        order = sorted(range(len(samples)), key=lambda i: sample_length(samples[i]))
        ordered = [samples[i] for i in order]
        found: list[Result] = [{} for _ in samples]
        done = 0
        while done < len(ordered):
            done = self._run_pack(ordered, order, done, found)
        return found

    def _run_pack(self, ordered: Sequence[Sample], order: Sequence[int], start: int, found: list[Result]) -> int:
        packing = self._packing
        rows = max(1, OFFLINE_TOKENS // packing.columns)
        pack = runtime.pack_data(ordered, start, rows, packing.columns, packing.max_valid_num, 1, True)
        lengths = np.array([[place.length] for place in pack.specs], np.int32)
        streams = {name: pack.data[name].reshape(-1)[: lengths.sum()] for name in packing.dynamic_inputs}
        streams[packing.mask] = np.ones_like(streams[packing.mask])
        begin = time.perf_counter()
        outputs = self._stream.run(streams, lengths, self._outputs)
        self._seconds += time.perf_counter() - begin
        for name, output in zip(self._outputs, outputs, strict=True):
            values = self._stream.sample_tokens(output, lengths) if packing.outputs[name] == "tokens" else list(output)
            for position, row in zip(range(start, pack.count), values, strict=False):
                found[order[position]][name] = row
        return pack.count

    def fed(self, lengths: Sequence[int]) -> int:
        """The samples' own tokens: none is added."""
        return sum(lengths)

    def engine_seconds(self) -> float | None:
        """Seconds spent in the engine's run call so far."""
        return self._seconds
